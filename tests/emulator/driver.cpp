// The functions of NVIDIA's driver that Foretune calls, on the emulated device: a stand-in for libcuda on machines without one.
// Wrong handles, sizes and launches are refused as the driver refuses them.
#include "device.h"
#include "queue.h"

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <string>

using namespace emulator;
using Handle = void *;

namespace {
std::vector<Handle> &contexts() {
    static thread_local std::vector<Handle> stack;
    return stack;
}
int context; // its address is the device's primary context
bool started;

struct Module {
    std::string ptx;
};
struct Function {
    void (*kernel)(void **);
    unsigned argument_bytes, most_threads, most_shared;
};
struct Graph {
    std::vector<Work> works;
};

int capability() { return int(Machine::setting("capability", 80)); }
unsigned opt_in_shared() { return capability() >= 80 ? 99 << 10 : 64 << 10; }

struct Locked {
    Machine &m = machine();
    std::unique_lock<std::recursive_mutex> guard{m.lock};
    Status status;
    Locked() : status(contexts().empty() ? INVALID_CONTEXT : m.failed) {}
};

Stream *stream_of(Locked &locked, Handle handle) {
    auto found = locked.m.streams.find(static_cast<Stream *>(handle));
    return found == locked.m.streams.end() ? nullptr : found->first;
}

Status device_range(Machine &m, uint64_t start, size_t bytes) {
    return m.contains(reinterpret_cast<void *>(start), bytes) ? SUCCESS : INVALID_VALUE;
}
} // namespace

extern "C" {
Status cuInit(unsigned) {
    started = true;
    return Status(Machine::setting("init", SUCCESS));
}
Status cuDriverGetVersion(int *version) {
    *version = int(Machine::setting("driver", 12000));
    return SUCCESS;
}
Status cuDeviceGetCount(int *count) {
    *count = int(Machine::setting("devices", 1));
    return started ? (*count ? SUCCESS : NO_DEVICE) : Status(3);
}
Status cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal < Machine::setting("devices", 1) ? SUCCESS : Status(101);
}
Status cuDeviceGetName(char *name, int len, int) {
    std::snprintf(name, size_t(len), "emulated GPU");
    return SUCCESS;
}
Status cuDeviceTotalMem_v2(size_t *bytes, int) {
    *bytes = machine().total();
    return SUCCESS;
}
Status cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case 16: *value = 4; return SUCCESS;                          // multiprocessors
    case 75: *value = capability() / 10; return SUCCESS;          // compute capability
    case 76: *value = capability() % 10; return SUCCESS;
    case 97: *value = int(opt_in_shared()); return SUCCESS;       // shared memory a block can ask for
    default: return INVALID_VALUE;
    }
}
Status cuDevicePrimaryCtxRetain(Handle *out, int) {
    *out = &context;
    return Status(Machine::setting("context", SUCCESS));
}
Status cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Status cuCtxPushCurrent_v2(Handle handle) {
    if (handle != &context) return INVALID_CONTEXT;
    contexts().push_back(handle);
    return SUCCESS;
}
Status cuCtxPopCurrent_v2(Handle *out) {
    if (contexts().empty()) return INVALID_CONTEXT;
    *out = contexts().back();
    contexts().pop_back();
    return SUCCESS;
}
Status cuGetErrorName(Status status, const char **text) {
    switch (status) {
    case OUT_OF_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NO_DEVICE: *text = "CUDA_ERROR_NO_DEVICE"; break;
    case ILLEGAL_ADDRESS: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case LAUNCH_FAILED: *text = "CUDA_ERROR_LAUNCH_FAILED"; break;
    case INVALID_VALUE: *text = "CUDA_ERROR_INVALID_VALUE"; break;
    case INVALID_CONTEXT: *text = "CUDA_ERROR_INVALID_CONTEXT"; break;
    default: *text = "CUDA_ERROR"; break;
    }
    return SUCCESS;
}
Status cuGetErrorString(Status status, const char **text) {
    *text = status == OUT_OF_MEMORY ? "out of memory" : "the emulator refuses";
    return SUCCESS;
}

Status cuMemGetInfo_v2(size_t *free, size_t *total) {
    Locked locked;
    *total = locked.m.total();
    *free = *total - locked.m.live();
    return locked.status;
}
Status cuMemAlloc_v2(uint64_t *out, size_t bytes) {
    Locked locked;
    if (locked.status) return locked.status;
    if (bytes == 0) return INVALID_VALUE;
    *out = reinterpret_cast<uint64_t>(locked.m.allocate(bytes));
    return *out ? SUCCESS : OUT_OF_MEMORY;
}
Status cuMemFree_v2(uint64_t start) {
    Locked locked;
    locked.m.run_all();
    return locked.m.release(reinterpret_cast<void *>(start)) ? locked.status : INVALID_VALUE;
}
Status cuMemHostAlloc(void **out, size_t bytes, unsigned) {
    Locked locked;
    if (locked.status) return locked.status;
    *out = locked.m.pin(bytes);
    return *out ? SUCCESS : OUT_OF_MEMORY;
}
// Unlike the driver's, does not wait: memory must not be given back while copies use it.
Status cuMemFreeHost(void *start) {
    Locked locked;
    return locked.m.unpin(start) ? locked.status : INVALID_VALUE;
}

Status cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Handle handle) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (locked.status) return locked.status;
    if (!stream) return INVALID_HANDLE;
    if (Status status = device_range(locked.m, to, bytes)) return status;
    if (locked.m.pinned(from, bytes))
        return locked.m.enqueue(stream, [=] {
            if (!machine().pinned(from, bytes)) return ILLEGAL_ADDRESS;
            std::memcpy(reinterpret_cast<void *>(to), from, bytes);
            return SUCCESS;
        });
    auto first = static_cast<const uint8_t *>(from);
    return locked.m.enqueue(stream, [to, copy = std::vector<uint8_t>(first, first + bytes)] {
        std::memcpy(reinterpret_cast<void *>(to), copy.data(), copy.size());
        return SUCCESS;
    });
}
Status cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Handle handle) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (locked.status) return locked.status;
    if (!stream) return INVALID_HANDLE;
    if (Status status = device_range(locked.m, from, bytes)) return status;
    bool pinned = locked.m.pinned(to, bytes);
    Status status = locked.m.enqueue(stream, [=] {
        if (pinned && !machine().pinned(to, bytes)) return ILLEGAL_ADDRESS;
        std::memcpy(to, reinterpret_cast<const void *>(from), bytes);
        return SUCCESS;
    });
    return status || pinned ? status : locked.m.run(stream, stream->issued());
}
Status cuMemsetD8Async(uint64_t start, unsigned char value, size_t bytes, Handle handle) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (locked.status) return locked.status;
    if (!stream) return INVALID_HANDLE;
    if (Status status = device_range(locked.m, start, bytes)) return status;
    return locked.m.enqueue(stream, [=] {
        std::memset(reinterpret_cast<void *>(start), value, bytes);
        return SUCCESS;
    });
}

Status cuStreamCreate(Handle *out, unsigned) {
    Locked locked;
    auto stream = std::make_unique<Stream>();
    *out = stream.get();
    locked.m.streams[stream.get()] = std::move(stream);
    return locked.status;
}
Status cuStreamDestroy_v2(Handle handle) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (!stream) return INVALID_HANDLE;
    locked.m.run(stream, stream->issued());
    locked.m.streams.erase(stream);
    return locked.status;
}
Status cuStreamSynchronize(Handle handle) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->recording) return Status(900);
    return locked.status ? locked.status : locked.m.run(stream, stream->issued());
}
Status cuStreamWaitEvent(Handle handle, Handle event, unsigned) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (!stream || !locked.m.events.count(static_cast<Event *>(event))) return INVALID_HANDLE;
    return locked.status ? locked.status : locked.m.wait(stream, *static_cast<Event *>(event));
}
Status cuEventCreate(Handle *out, unsigned) {
    Locked locked;
    auto event = std::make_unique<Event>();
    *out = event.get();
    locked.m.events[event.get()] = std::move(event);
    return locked.status;
}
Status cuEventDestroy_v2(Handle event) {
    Locked locked;
    return locked.m.events.erase(static_cast<Event *>(event)) ? locked.status : INVALID_HANDLE;
}
Status cuEventRecord(Handle event, Handle handle) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (!stream || !locked.m.events.count(static_cast<Event *>(event))) return INVALID_HANDLE;
    if (stream->recording) return Status(900);
    *static_cast<Event *>(event) = Event{stream, stream->issued()};
    return locked.status;
}
Status cuEventSynchronize(Handle handle) {
    Locked locked;
    auto event = static_cast<Event *>(handle);
    if (!locked.m.events.count(event)) return INVALID_HANDLE;
    if (locked.status || !event->stream || !locked.m.streams.count(event->stream)) return locked.status;
    return locked.m.run(event->stream, event->after);
}

Status cuModuleLoadData(Handle *out, const void *image) {
    Locked locked;
    std::string ptx = static_cast<const char *>(image);
    int major = 0, minor = 0, target = 0;
    size_t version = ptx.find(".version "), architecture = ptx.find(".target sm_");
    if (version == std::string::npos || architecture == std::string::npos) return INVALID_PTX;
    std::sscanf(ptx.c_str() + version, ".version %d.%d", &major, &minor);
    std::sscanf(ptx.c_str() + architecture, ".target sm_%d", &target);
    if (major * 10 + minor > Machine::setting("ptx", 80)) return UNSUPPORTED_PTX_VERSION;
    if (target > capability()) return NO_BINARY_FOR_GPU;
    *out = new Module{std::move(ptx)};
    return locked.status;
}
Status cuModuleUnload(Handle module) {
    delete static_cast<Module *>(module);
    return SUCCESS;
}
Status cuModuleGetFunction(Handle *out, Handle module, const char *name) {
    Locked locked;
    std::string entry = std::string(".entry ") + name + "(";
    static void *self = [] {
        Dl_info info;
        dladdr(reinterpret_cast<void *>(&cuInit), &info);
        return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }();
    auto own = [&](const char *suffix) { return dlsym(self, (std::string(name) + suffix).c_str()); };
    if (static_cast<Module *>(module)->ptx.find(entry) == std::string::npos || !own("")) return NOT_FOUND;
    *out = new Function{reinterpret_cast<void (*)(void **)>(own("")), *static_cast<const unsigned *>(own("_args")),
                        *static_cast<const unsigned *>(own("_threads")), 48 << 10};
    return locked.status;
}
Status cuFuncSetAttribute(Handle function, int attribute, int value) {
    if (attribute != 8) return INVALID_VALUE; // MAX_DYNAMIC_SHARED_SIZE_BYTES
    if (value < 0 || unsigned(value) > opt_in_shared()) return INVALID_VALUE;
    static_cast<Function *>(function)->most_shared = unsigned(value);
    return SUCCESS;
}
Status cuLaunchKernel(Handle handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, Handle queue, void **params, void **) {
    Locked locked;
    Stream *stream = stream_of(locked, queue);
    auto function = static_cast<Function *>(handle);
    if (locked.status) return locked.status;
    if (!stream) return INVALID_HANDLE;
    bool fits = gx && gy && gz && bx && by && bz && gx <= 0x7fffffff && gy <= 65535 && gz <= 65535 &&
                1ull * bx * by * bz <= function->most_threads && shared <= function->most_shared;
    if (!fits) return INVALID_VALUE;
    uint64_t number = ++locked.m.launches;
    auto first = static_cast<const uint8_t *>(params[0]);
    std::vector<uint8_t> args(first, first + function->argument_bytes);
    Function copy = *function;
    return locked.m.enqueue(stream, [=]() mutable {
        if (long(number) == Machine::setting("launch", -1)) return ILLEGAL_ADDRESS;
        void *list[] = {args.data()};
        emulator::launch(copy.kernel, list, {gx, gy, gz}, {bx, by, bz}, shared);
        return SUCCESS;
    });
}

Status cuStreamBeginCapture_v2(Handle handle, int) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (!stream || stream->recording) return INVALID_HANDLE;
    stream->recording = new std::vector<Work>;
    return locked.status;
}
Status cuStreamEndCapture(Handle handle, Handle *out) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (!stream || !stream->recording) return INVALID_HANDLE;
    auto graph = new Graph{std::move(*stream->recording)};
    delete stream->recording;
    stream->recording = nullptr;
    *out = graph;
    return locked.status;
}
Status cuGraphInstantiateWithFlags(Handle *out, Handle graph, unsigned long long) {
    *out = new Graph(*static_cast<Graph *>(graph));
    return SUCCESS;
}
Status cuGraphDestroy(Handle graph) {
    delete static_cast<Graph *>(graph);
    return SUCCESS;
}
Status cuGraphExecDestroy(Handle graph) { return cuGraphDestroy(graph); }
Status cuGraphLaunch(Handle graph, Handle handle) {
    Locked locked;
    Stream *stream = stream_of(locked, handle);
    if (!stream) return INVALID_HANDLE;
    for (const Work &work : static_cast<Graph *>(graph)->works)
        if (Status status = locked.m.enqueue(stream, work)) return status;
    return SUCCESS;
}

// For libraries that put work of their own into a stream.
void emulator_enqueue(void *handle, void (*work)(void *), void *data) {
    Locked locked;
    if (Stream *stream = stream_of(locked, handle))
        locked.m.enqueue(stream, [=] {
            work(data);
            return SUCCESS;
        });
}
}
