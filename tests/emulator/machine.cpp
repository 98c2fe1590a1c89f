// See machine.h.
#include "machine.h"

#include <cstdio>

namespace emulator {
namespace {
constexpr int MOST_CONTEXTS = 64;
// Without a destructor, as threads may end after this library.
thread_local Context *stack[MOST_CONTEXTS];
thread_local int depth;

__attribute__((destructor)) void at_the_end() {
    machine().write_report();
    // A thread that still computes holds the lock, and its guards are not looked at.
    if (machine().lock.try_lock()) machine().memory.check_guards();
}
} // namespace

Machine &machine() {
    static Machine *machine = new Machine;
    return *machine;
}

int capability() { return int(setting("capability", 80)); }

// The least of all devices of that generation, as kernels must run on every one.
int most_shared() { return (capability() >= 90 && capability() < 120 ? 227 : capability() >= 80 ? 99 : 64) << 10; }

Context *CurrentContexts::top() { return depth ? stack[depth - 1] : nullptr; }

bool CurrentContexts::push(Context *context) {
    if (depth == MOST_CONTEXTS) return false;
    stack[depth++] = context;
    return true;
}

Context *CurrentContexts::pop() { return depth ? stack[--depth] : nullptr; }

Status Machine::retain(Handle *out) {
    if (queues.lost) return DEVICE_UNAVAILABLE;
    if (Status status = Status(setting("context", SUCCESS))) return status;
    if (!context) context = new Context;
    context->holders++;
    *out = context;
    return SUCCESS;
}

Status Machine::release() {
    if (!context) return INVALID_CONTEXT;
    if (--context->holders > 0) return SUCCESS;
    // Not deleted: threads may have it current.
    context->alive = false;
    context = nullptr;
    bool lost = queues.lost;
    uint64_t launches = queues.launches, replays = queues.replays;
    queues = Queues();
    queues.lost = lost;
    queues.launches = launches;
    queues.replays = replays;
    memory.abandon();
    events.clear();
    clear_modules();
    clear_graphs();
    return SUCCESS;
}

void Machine::write_report() const {
    FILE *file = report_path() ? std::fopen(report_path(), "w") : nullptr;
    if (!file) return;
    auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
    std::fprintf(file, "{\"device_bytes_live\": %llu, \"device_bytes_peak\": %llu, ", number(memory.never_freed()),
                 number(memory.peak()));
    std::fprintf(file, "\"pinned_live\": %llu, \"launches\": %llu, \"replays\": %llu, \"allocations\": %llu}\n",
                 number(memory.pinned_live()), number(queues.launches), number(queues.replays),
                 number(memory.allocations()));
    std::fclose(file);
}

Call::Call() {
    Context *current = CurrentContexts::top();
    status = !m.started        ? NOT_INITIALIZED
             : !current        ? INVALID_CONTEXT
             : !current->alive ? CONTEXT_IS_DESTROYED
                               : SUCCESS;
    usable = status == SUCCESS;
    if (usable) status = m.queues.failed;
}

StreamCall::StreamCall(Handle handle) : stream(usable ? m.queues.find(handle) : nullptr) {
    if (!status && !stream) status = INVALID_HANDLE;
}
} // namespace emulator
