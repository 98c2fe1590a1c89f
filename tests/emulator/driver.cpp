// The functions of NVIDIA's driver that Foretune calls, on the emulated device, under the driver's names: a stand-in
// for libcuda on machines without a GPU. Wrong handles, sizes and launches are refused as the driver refuses them.
//
// Here: start, devices, contexts and the texts of errors. The rest is in driver_memory.cpp, driver_streams.cpp and
// driver_modules.cpp.
#include "machine.h"

#include <cstdio>
#include <cstring>

using namespace emulator;

namespace {
bool has_device() { return setting("devices", 1) > 0; }

// What a call about a device returns before it looks at anything else.
Status about(int device) {
    if (!machine().started) return NOT_INITIALIZED;
    return device == 0 && has_device() ? SUCCESS : INVALID_DEVICE;
}

bool attribute_value(int attribute, int &value) {
    switch (attribute) {
    case 1: value = 1024; return true;                  // threads of a block
    case 2: case 3: value = 1024; return true;          // its x and y
    case 4: value = 64; return true;                    // and z
    case 5: value = 0x7fffffff; return true;            // a grid's x
    case 6: case 7: value = 65535; return true;         // y and z
    case 8: value = USUAL_SHARED; return true;          // shared memory of a block
    case 9: value = 64 << 10; return true;              // constant memory
    case 10: value = 32; return true;                   // threads of a warp
    case 12: case 82: value = 64 << 10; return true;    // registers of a block, of a multiprocessor
    case 13: value = 1'410'000; return true;            // clock, kHz
    case 14: value = 512; return true;                  // texture alignment
    case 15: value = 1; return true;                    // copies while it computes
    case 16: value = 4; return true;                    // multiprocessors
    case 17: case 18: value = 0; return true;           // limit on run time; integrated
    case 19: value = 1; return true;                    // maps host memory
    case 20: value = 0; return true;                    // compute mode
    case 31: value = 1; return true;                    // concurrent kernels
    case 32: case 33: case 34: case 35: case 50: value = 0; return true; // ECC, PCI numbers, TCC
    case 36: value = 1'215'000; return true;            // memory's clock, kHz
    case 37: value = 256; return true;                  // and bus, bits
    case 38: value = 4 << 20; return true;              // L2 cache
    case 39: value = capability() < 80 ? 1024 : 1536; return true; // threads of a multiprocessor
    case 40: value = 2; return true;                    // copy engines
    case 41: value = 1; return true;                    // unified addresses
    case 75: value = capability() / 10; return true;    // compute capability
    case 76: value = capability() % 10; return true;
    case 78: value = 1; return true;                    // stream priorities
    case 81: value = most_shared() + 1024; return true; // shared memory of a multiprocessor
    case 97: value = most_shared(); return true;        // of a block that asks for it
    case 115: value = 0; return true;                   // memory pools
    default: return false;
    }
}

struct Text {
    Status status;
    const char *name, *text;
};
constexpr Text TEXTS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
#define EMULATOR_TEXT(name, code, text) {name, "CUDA_ERROR_" #name, text},
    EMULATOR_STATUSES(EMULATOR_TEXT)
#undef EMULATOR_TEXT
};

Status text_of(int status, const char **out, const char *Text::*field) {
    *out = nullptr;
    for (const Text &text : TEXTS)
        if (text.status == status) *out = text.*field;
    return *out ? SUCCESS : INVALID_VALUE;
}
} // namespace

EXPORT Status cuInit(unsigned flags) {
    if (flags) return INVALID_VALUE;
    if (Status status = Status(setting("init", SUCCESS))) return status;
    if (!has_device()) return NO_DEVICE;
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    machine().started = true;
    return SUCCESS;
}
EXPORT Status cuDriverGetVersion(int *version) {
    *version = int(setting("driver", 12000));
    return SUCCESS;
}

EXPORT Status cuDeviceGetCount(int *count) {
    *count = has_device();
    return machine().started ? SUCCESS : NOT_INITIALIZED;
}
EXPORT Status cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return about(ordinal);
}
EXPORT Status cuDeviceGetName(char *name, int length, int device) {
    if (Status status = about(device)) return status;
    std::snprintf(name, size_t(length), "emulated GPU");
    return SUCCESS;
}
EXPORT Status cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = memory_bytes();
    return about(device);
}
EXPORT Status cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (Status status = about(device)) return status;
    return attribute_value(attribute, *value) ? SUCCESS : INVALID_VALUE;
}
EXPORT Status cuDeviceGetUuid_v2(char *uuid, int device) {
    std::memcpy(uuid, "foretune\0emulated", 16);
    return about(device);
}
EXPORT Status cuDeviceGetUuid(char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

EXPORT Status cuDevicePrimaryCtxRetain(Handle *out, int device) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Status status = about(device);
    return status ? status : machine().retain(out);
}
EXPORT Status cuDevicePrimaryCtxRelease_v2(int device) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Status status = about(device);
    return status ? status : machine().release();
}
EXPORT Status cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    *flags = 0;
    *active = machine().context != nullptr;
    return about(device);
}

EXPORT Status cuCtxPushCurrent_v2(Handle handle) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    if (!machine().started) return NOT_INITIALIZED;
    if (!handle || handle != machine().context) return INVALID_CONTEXT;
    return CurrentContexts::push(machine().context) ? SUCCESS : INVALID_CONTEXT;
}
EXPORT Status cuCtxPopCurrent_v2(Handle *out) {
    if (!machine().started) return NOT_INITIALIZED;
    Context *context = CurrentContexts::pop();
    if (out) *out = context;
    return context ? SUCCESS : INVALID_CONTEXT;
}
EXPORT Status cuCtxSetCurrent(Handle handle) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    if (!machine().started) return NOT_INITIALIZED;
    if (handle && handle != machine().context) return INVALID_CONTEXT;
    CurrentContexts::pop();
    if (handle) CurrentContexts::push(machine().context);
    return SUCCESS;
}
EXPORT Status cuCtxGetCurrent(Handle *out) {
    *out = CurrentContexts::top();
    return machine().started ? SUCCESS : NOT_INITIALIZED;
}
EXPORT Status cuCtxGetDevice(int *device) {
    Call call;
    *device = 0;
    return call.usable ? SUCCESS : call.status;
}
EXPORT Status cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    Call call;
    *least = 0;
    *greatest = -5;
    return call.status;
}
EXPORT Status cuCtxSynchronize() {
    Call call;
    if (call.status) return call.status;
    Status status = call.m.queues.forbid_in_captures();
    return status ? status : call.m.queues.run_all();
}

EXPORT Status cuGetErrorName(int status, const char **out) { return text_of(status, out, &Text::name); }
EXPORT Status cuGetErrorString(int status, const char **out) { return text_of(status, out, &Text::text); }
