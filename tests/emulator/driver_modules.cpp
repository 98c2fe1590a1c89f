// The driver's functions for modules, kernels and launches: see driver.cpp.
//
// A module is PTX, of which only the head and the kernels' declarations are read; the kernels that run are the same
// sources compiled into this library, under the same names (device.h, KERNEL).
#include "device.h"
#include "machine.h"

#include <cstdio>
#include <dlfcn.h>
#include <string>

using namespace emulator;

struct emulator::Module {
    std::string ptx;
};

struct emulator::Function {
    Handle module;
    void (*kernel)(void **);
    unsigned argument_bytes, most_threads;
    int shared = USUAL_SHARED;
};

namespace {
// CUfunction_attribute.
enum { MAX_THREADS = 0, PTX_VERSION = 5, BINARY_VERSION = 6, DYNAMIC_SHARED = 8 };

Registry<Module> &modules() {
    static auto *modules = new Registry<Module>;
    return *modules;
}
Registry<Function> &functions() {
    static auto *functions = new Registry<Function>;
    return *functions;
}

// The newest PTX that a driver reads, as 10·major + minor: CUDA 11.8 has 7.8, 12.0 has 8.0, some later ones one less.
int newest_ptx() {
    int driver = int(setting("driver", 12000));
    return (driver / 1000 - 4) * 10 + driver % 1000 / 10;
}

Status check_head(const std::string &ptx) {
    int major = 0, minor = 0, target = 0;
    size_t version = ptx.find(".version "), architecture = ptx.find(".target sm_");
    if (version == std::string::npos || architecture == std::string::npos || version > architecture) return INVALID_PTX;
    if (std::sscanf(ptx.c_str() + version, ".version %d.%d", &major, &minor) != 2) return INVALID_PTX;
    if (std::sscanf(ptx.c_str() + architecture, ".target sm_%d", &target) != 1) return INVALID_PTX;
    if (major * 10 + minor > newest_ptx()) return UNSUPPORTED_PTX_VERSION;
    return target > capability() ? NO_BINARY_FOR_GPU : SUCCESS;
}

void *own_symbol(const std::string &name) {
    static void *self = [] {
        Dl_info info;
        dladdr(reinterpret_cast<void *>(&machine), &info);
        return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }();
    return dlsym(self, name.c_str());
}

// Whether `declaration`, from its name to its body, has sizes other than those here; PTX from other sources would.
bool differs(const std::string &declaration, const std::string &name, const Function &function) {
    auto is_other = [&](const std::string &before, unsigned expected) {
        size_t at = declaration.find(before);
        return at != std::string::npos && std::atol(declaration.c_str() + at + before.size()) != long(expected);
    };
    return is_other(name + "_param_0[", function.argument_bytes) || is_other(".maxntid ", function.most_threads);
}
} // namespace

void emulator::clear_modules() {
    functions().clear();
    modules().clear();
}

EXPORT Status cuModuleLoadData(Handle *out, const void *image) {
    Call call;
    if (call.status) return call.status;
    if (!out || !image) return INVALID_VALUE;
    std::string ptx = static_cast<const char *>(image);
    if (Status status = check_head(ptx)) return status;
    *out = modules().add(Module{std::move(ptx)});
    return SUCCESS;
}
EXPORT Status cuModuleLoadDataEx(Handle *out, const void *image, unsigned, int *, void **) {
    return cuModuleLoadData(out, image);
}
EXPORT Status cuModuleUnload(Handle handle) {
    Call call;
    if (!call.usable) return call.status;
    functions().remove_if([=](const Function &function) { return function.module == handle; });
    return modules().remove(handle) ? call.status : INVALID_HANDLE;
}
EXPORT Status cuModuleGetFunction(Handle *out, Handle handle, const char *name) {
    Call call;
    if (call.status) return call.status;
    Module *module = modules().find(handle);
    if (!module) return INVALID_HANDLE;
    std::string entry = std::string(".entry ") + name + "(";
    size_t start = module->ptx.find(entry);
    auto kernel = reinterpret_cast<void (*)(void **)>(own_symbol(name));
    auto argument_bytes = static_cast<const unsigned *>(own_symbol(std::string(name) + "_args"));
    auto most_threads = static_cast<const unsigned *>(own_symbol(std::string(name) + "_threads"));
    if (start == std::string::npos || !kernel || !argument_bytes || !most_threads) return NOT_FOUND;
    Function function{handle, kernel, *argument_bytes, *most_threads};
    if (differs(module->ptx.substr(start, module->ptx.find('{', start) - start), name, function)) {
        std::fprintf(stderr, "emulator: the PTX of %s is not of the sources that the emulator was built from\n", name);
        return INVALID_IMAGE;
    }
    *out = functions().add(function);
    return SUCCESS;
}

EXPORT Status cuFuncSetAttribute(Handle handle, int attribute, int value) {
    Call call;
    if (call.status) return call.status;
    Function *function = functions().find(handle);
    if (!function) return INVALID_HANDLE;
    if (attribute != DYNAMIC_SHARED || value < 0 || value > most_shared()) return INVALID_VALUE;
    function->shared = value;
    return SUCCESS;
}
EXPORT Status cuFuncGetAttribute(int *value, int attribute, Handle handle) {
    Call call;
    if (call.status) return call.status;
    Function *function = functions().find(handle);
    if (!function) return INVALID_HANDLE;
    switch (attribute) {
    case MAX_THREADS: *value = int(function->most_threads); return SUCCESS;
    case PTX_VERSION: *value = newest_ptx(); return SUCCESS;
    case BINARY_VERSION: *value = capability(); return SUCCESS;
    case DYNAMIC_SHARED: *value = function->shared; return SUCCESS;
    default: return INVALID_VALUE;
    }
}

// The arguments are copied before it returns.
EXPORT Status cuLaunchKernel(Handle handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                             unsigned bz, unsigned shared, Handle stream, void **params, void **extra) {
    StreamCall call(stream);
    if (call.status) return call.status;
    Function *function = functions().find(handle);
    if (!function) return INVALID_HANDLE;
    if (extra) return NOT_SUPPORTED;
    bool grid_fits = gx && gy && gz && gx <= 0x7fffffff && gy <= 65535 && gz <= 65535;
    bool block_fits = bx && by && bz && bx <= 1024 && by <= 1024 && bz <= 64;
    bool kernel_fits = 1ull * bx * by * bz <= function->most_threads && shared <= unsigned(function->shared);
    if (!grid_fits || !block_fits || !kernel_fits || !params || !params[0]) return INVALID_VALUE;
    auto first = static_cast<const uint8_t *>(params[0]);
    std::vector<uint8_t> arguments(first, first + function->argument_bytes);
    auto kernel = function->kernel;
    return call.enqueue({[=]() mutable {
                             void *list[] = {arguments.data()};
                             launch(kernel, list, {gx, gy, gz}, {bx, by, bz}, shared);
                             return SUCCESS;
                         },
                         true});
}
