// CUresult, as far as the emulator returns it, with the driver's texts.
#pragma once

#define EMULATOR_STATUSES(_)                                                                                           \
    _(INVALID_VALUE, 1, "invalid argument")                                                                            \
    _(OUT_OF_MEMORY, 2, "out of memory")                                                                               \
    _(NOT_INITIALIZED, 3, "initialization error")                                                                      \
    _(DEVICE_UNAVAILABLE, 46, "CUDA-capable device(s) is/are busy or unavailable")                                     \
    _(NO_DEVICE, 100, "no CUDA-capable device is detected")                                                            \
    _(INVALID_DEVICE, 101, "invalid device ordinal")                                                                   \
    _(INVALID_IMAGE, 200, "device kernel image is invalid")                                                            \
    _(INVALID_CONTEXT, 201, "invalid device context")                                                                  \
    _(NO_BINARY_FOR_GPU, 209, "no kernel image is available for execution on the device")                              \
    _(INVALID_PTX, 218, "a PTX JIT compilation failed")                                                                \
    _(UNSUPPORTED_PTX_VERSION, 222, "the provided PTX was compiled with an unsupported toolchain.")                    \
    _(INVALID_HANDLE, 400, "invalid resource handle")                                                                  \
    _(NOT_FOUND, 500, "named symbol not found")                                                                        \
    _(NOT_READY, 600, "device not ready")                                                                              \
    _(ILLEGAL_ADDRESS, 700, "an illegal memory access was encountered")                                                \
    _(CONTEXT_IS_DESTROYED, 709, "context is destroyed")                                                               \
    _(LAUNCH_FAILED, 719, "unspecified launch failure")                                                                \
    _(NOT_SUPPORTED, 801, "operation not supported")                                                                   \
    _(SYSTEM_NOT_READY, 802, "system not yet initialized")                                                             \
    _(SYSTEM_DRIVER_MISMATCH, 803, "system has unsupported display driver / cuda driver combination")                  \
    _(STREAM_CAPTURE_UNSUPPORTED, 900, "operation not permitted when stream is capturing")                             \
    _(STREAM_CAPTURE_INVALIDATED, 901, "operation failed due to a previous error during capture")                      \
    _(STREAM_CAPTURE_ISOLATION, 905, "dependency created on uncaptured work in another stream")                        \
    _(UNKNOWN, 999, "unknown error")

namespace emulator {
enum Status : int {
    SUCCESS = 0,
#define EMULATOR_STATUS(name, code, text) name = code,
    EMULATOR_STATUSES(EMULATOR_STATUS)
#undef EMULATOR_STATUS
};
} // namespace emulator
