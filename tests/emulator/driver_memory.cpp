// The driver's functions for memory and copies: see driver.cpp.
//
// As the driver does, copies from pageable memory take their bytes at once and copies to it wait; copies from and to
// pinned memory touch it when their stream comes to them.
#include "machine.h"

#include <cstring>

using namespace emulator;

namespace {
// What is allocated and freed is not for captures.
struct AllocatingCall : Call {
    AllocatingCall() {
        if (!status) status = m.queues.forbid_in_captures();
    }
};

// A copy or fill that returns when it is done, in the default stream.
template <class F> Status at_once(F call_async) {
    {
        Call call;
        if (call.status) return call.status;
        if (Status status = call.m.queues.forbid_in_captures()) return status;
    }
    if (Status status = call_async(nullptr)) return status;
    return StreamCall(nullptr).finish();
}

// Copies to or from host memory; it must still be there when the stream comes to it.
Work copy_pinned(void *to, const void *from, const void *pinned, size_t bytes) {
    return {[=] {
        if (!machine().memory.pinned(pinned, bytes)) return ILLEGAL_ADDRESS;
        std::memcpy(to, from, bytes);
        return SUCCESS;
    }};
}
Work copy(void *to, const void *from, size_t bytes) {
    return {[=] {
        std::memcpy(to, from, bytes);
        return SUCCESS;
    }};
}

template <class T> Status fill(Address start, T value, size_t count, Handle handle) {
    StreamCall call(handle);
    if (call.status || count == 0) return call.status;
    if (start % sizeof(T) || count > SIZE_MAX / sizeof(T)) return INVALID_VALUE;
    if (!call.m.memory.on_device(pointer(start), count * sizeof(T))) return INVALID_VALUE;
    return call.enqueue({[=] {
        for (size_t i = 0; i < count; i++) static_cast<T *>(pointer(start))[i] = value;
        return SUCCESS;
    }});
}
} // namespace

EXPORT Status cuMemGetInfo_v2(size_t *free, size_t *total) {
    Call call;
    uint64_t live = call.m.memory.live();
    *total = memory_bytes();
    *free = live < *total ? *total - live : 0;
    return call.status;
}
EXPORT Status cuMemAlloc_v2(Address *out, size_t bytes) {
    AllocatingCall call;
    if (call.status) return call.status;
    if (!out || bytes == 0) return INVALID_VALUE;
    *out = reinterpret_cast<Address>(call.m.memory.allocate(bytes));
    return *out ? SUCCESS : OUT_OF_MEMORY;
}
// Waits for all that may use it. After a failure too it is given back, so that the report tells of what was forgotten.
EXPORT Status cuMemFree_v2(Address start) {
    AllocatingCall call;
    if (!call.usable || call.status == STREAM_CAPTURE_UNSUPPORTED) return call.status;
    Status status = call.m.queues.run_all();
    return call.m.memory.release(pointer(start)) ? status : INVALID_VALUE;
}
EXPORT Status cuMemHostAlloc(void **out, size_t bytes, unsigned flags) {
    AllocatingCall call;
    if (call.status) return call.status;
    if (!out || bytes == 0 || flags > 7) return INVALID_VALUE;
    *out = call.m.memory.pin(bytes);
    return *out ? SUCCESS : OUT_OF_MEMORY;
}
EXPORT Status cuMemAllocHost_v2(void **out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }
// Nothing says that the driver's waits, and this does not: a copy whose memory has gone meets an illegal address.
EXPORT Status cuMemFreeHost(void *start) {
    AllocatingCall call;
    if (!call.usable || call.status == STREAM_CAPTURE_UNSUPPORTED) return call.status;
    return call.m.memory.unpin(start) ? call.status : INVALID_VALUE;
}

EXPORT Status cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Handle handle) {
    StreamCall call(handle);
    if (call.status || bytes == 0) return call.status;
    Memory &memory = call.m.memory;
    if (!memory.on_device(pointer(to), bytes) || !memory.on_host(from, bytes)) return INVALID_VALUE;
    if (memory.pinned(from, bytes)) return call.enqueue(copy_pinned(pointer(to), from, from, bytes));
    // A graph reads the memory when it runs.
    if (call.stream->capture) return call.enqueue(copy(pointer(to), from, bytes));
    auto first = static_cast<const uint8_t *>(from);
    return call.enqueue({[to, bytes = std::vector<uint8_t>(first, first + bytes)] {
        std::memcpy(pointer(to), bytes.data(), bytes.size());
        return SUCCESS;
    }});
}
EXPORT Status cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Handle handle) {
    StreamCall call(handle);
    if (call.status || bytes == 0) return call.status;
    Memory &memory = call.m.memory;
    if (!memory.on_device(pointer(from), bytes) || !memory.on_host(to, bytes)) return INVALID_VALUE;
    if (memory.pinned(to, bytes)) return call.enqueue(copy_pinned(to, pointer(from), to, bytes));
    Status status = call.enqueue(copy(to, pointer(from), bytes));
    return status || call.stream->capture ? status : call.finish();
}
EXPORT Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle handle) {
    StreamCall call(handle);
    if (call.status || bytes == 0) return call.status;
    Memory &memory = call.m.memory;
    if (!memory.on_device(pointer(to), bytes) || !memory.on_device(pointer(from), bytes)) return INVALID_VALUE;
    // Copies over themselves have no defined result.
    if (to < from + bytes && from < to + bytes) return INVALID_VALUE;
    return call.enqueue(copy(pointer(to), pointer(from), bytes));
}
EXPORT Status cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) {
    return at_once([=](Handle stream) { return cuMemcpyHtoDAsync_v2(to, from, bytes, stream); });
}
EXPORT Status cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) {
    return at_once([=](Handle stream) { return cuMemcpyDtoHAsync_v2(to, from, bytes, stream); });
}
EXPORT Status cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) {
    return at_once([=](Handle stream) { return cuMemcpyDtoDAsync_v2(to, from, bytes, stream); });
}

EXPORT Status cuMemsetD8Async(Address start, unsigned char value, size_t count, Handle stream) {
    return fill<uint8_t>(start, value, count, stream);
}
EXPORT Status cuMemsetD32Async(Address start, unsigned value, size_t count, Handle stream) {
    return fill<uint32_t>(start, value, count, stream);
}
EXPORT Status cuMemsetD8_v2(Address start, unsigned char value, size_t count) {
    return at_once([=](Handle stream) { return fill<uint8_t>(start, value, count, stream); });
}
EXPORT Status cuMemsetD32_v2(Address start, unsigned value, size_t count) {
    return at_once([=](Handle stream) { return fill<uint32_t>(start, value, count, stream); });
}
