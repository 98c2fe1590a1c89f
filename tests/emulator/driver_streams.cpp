// The driver's functions for streams, events and graphs: see driver.cpp.
#include "machine.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

using namespace emulator;

// Works in the order in which they were captured.
struct emulator::Graph {
    std::vector<Work> works;
};

namespace {
constexpr unsigned NON_BLOCKING = 1, DISABLE_TIMING = 2;

Registry<Graph> &graphs() {
    static auto *graphs = new Registry<Graph>;
    return *graphs;
}

double milliseconds() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of a capture nothing can be waited for, and whoever tries spoils it.
Status spoil(Stream &stream, Status status) {
    stream.capture->invalidated = true;
    return status;
}

// Looks whether something is done, having it go on a little.
Status query(Machine &m, const Moment &moment) {
    if (moment.reached()) return SUCCESS;
    m.queues.advance(moment.stream);
    return m.queues.failed ? m.queues.failed : NOT_READY;
}

struct EventCall : Call {
    Event *event;

    explicit EventCall(Handle handle) : event(usable ? m.events.find(handle) : nullptr) {
        if (!status && !event) status = INVALID_HANDLE;
    }
};
} // namespace

void emulator::clear_graphs() { graphs().clear(); }

EXPORT Status cuStreamCreate(Handle *out, unsigned flags) {
    Call call;
    if (call.status) return call.status;
    if (!out || flags > NON_BLOCKING) return INVALID_VALUE;
    *out = call.m.queues.make(flags != NON_BLOCKING).get();
    return SUCCESS;
}
EXPORT Status cuStreamCreateWithPriority(Handle *out, unsigned flags, int) { return cuStreamCreate(out, flags); }
EXPORT Status cuStreamDestroy_v2(Handle handle) {
    StreamCall call(handle);
    if (!call.stream || !handle) return call.usable ? INVALID_HANDLE : call.status;
    call.m.queues.destroy(call.stream);
    return call.status;
}
EXPORT Status cuStreamSynchronize(Handle handle) {
    StreamCall call(handle);
    if (call.status) return call.status;
    return call.stream->capture ? spoil(*call.stream, STREAM_CAPTURE_UNSUPPORTED) : call.finish();
}
EXPORT Status cuStreamQuery(Handle handle) {
    StreamCall call(handle);
    if (call.status) return call.status;
    if (call.stream->capture) return spoil(*call.stream, STREAM_CAPTURE_UNSUPPORTED);
    return query(call.m, Queues::now(call.stream));
}
// Waits for the event's latest record so far.
EXPORT Status cuStreamWaitEvent(Handle handle, Handle event_handle, unsigned) {
    StreamCall call(handle);
    if (call.status) return call.status;
    Event *event = call.m.events.find(event_handle);
    if (!event) return INVALID_HANDLE;
    if (call.stream->capture && event->recorded.stream) return spoil(*call.stream, STREAM_CAPTURE_ISOLATION);
    return call.m.queues.wait(call.stream, event->recorded);
}
EXPORT Status cuLaunchHostFunc(Handle handle, void (*function)(void *), void *data) {
    StreamCall call(handle);
    if (call.status) return call.status;
    if (!function) return INVALID_VALUE;
    return call.enqueue({[=] {
        function(data);
        return SUCCESS;
    }});
}

EXPORT Status cuEventCreate(Handle *out, unsigned flags) {
    Call call;
    if (call.status) return call.status;
    if (!out || flags > 7) return INVALID_VALUE;
    *out = call.m.events.add(Event{(flags & DISABLE_TIMING) == 0});
    return SUCCESS;
}
EXPORT Status cuEventDestroy_v2(Handle handle) {
    Call call;
    if (!call.usable) return call.status;
    return call.m.events.remove(handle) ? call.status : INVALID_HANDLE;
}
// Not in captures: nothing of Foretune's forks one.
EXPORT Status cuEventRecord(Handle event_handle, Handle handle) {
    StreamCall call(handle);
    if (call.status) return call.status;
    Event *event = call.m.events.find(event_handle);
    if (!event) return INVALID_HANDLE;
    if (call.stream->capture) return spoil(*call.stream, STREAM_CAPTURE_UNSUPPORTED);
    auto at = std::make_shared<double>(NAN);
    Status status = call.enqueue({[at] {
        *at = milliseconds();
        return SUCCESS;
    }});
    event->recorded = Queues::now(call.stream);
    event->at = at;
    return status;
}
EXPORT Status cuEventSynchronize(Handle handle) {
    EventCall call(handle);
    return call.status ? call.status : call.m.queues.run(call.event->recorded);
}
EXPORT Status cuEventQuery(Handle handle) {
    EventCall call(handle);
    return call.status ? call.status : query(call.m, call.event->recorded);
}
EXPORT Status cuEventElapsedTime(float *out, Handle start, Handle end) {
    Call call;
    if (call.status) return call.status;
    Event *first = call.m.events.find(start), *last = call.m.events.find(end);
    for (Event *event : {first, last})
        if (!event || !event->timed || !event->at) return INVALID_HANDLE;
    if (!first->recorded.reached() || !last->recorded.reached()) return NOT_READY;
    *out = float(*last->at - *first->at);
    return SUCCESS;
}

EXPORT Status cuStreamBeginCapture_v2(Handle handle, int mode) {
    StreamCall call(handle);
    if (call.status) return call.status;
    // The default stream cannot be captured.
    if (!handle || call.stream->capture) return STREAM_CAPTURE_UNSUPPORTED;
    if (mode < 0 || mode > 2) return INVALID_VALUE;
    call.stream->capture = std::make_unique<Capture>(Capture{mode, std::this_thread::get_id()});
    return SUCCESS;
}
EXPORT Status cuStreamIsCapturing(Handle handle, int *out) {
    StreamCall call(handle);
    if (call.status) return call.status;
    *out = !call.stream->capture ? 0 : call.stream->capture->invalidated ? 2 : 1;
    return SUCCESS;
}
EXPORT Status cuStreamEndCapture(Handle handle, Handle *out) {
    StreamCall call(handle);
    if (call.status) return call.status;
    if (!call.stream->capture) return INVALID_VALUE;
    auto capture = std::move(call.stream->capture);
    *out = nullptr;
    if (capture->invalidated) return STREAM_CAPTURE_INVALIDATED;
    *out = graphs().add(Graph{std::move(capture->works)});
    return SUCCESS;
}
EXPORT Status cuGraphGetNodes(Handle handle, Handle *, size_t *count) {
    Call call;
    Graph *graph = graphs().find(handle);
    if (call.status || !graph) return call.status ? call.status : INVALID_VALUE;
    *count = graph->works.size();
    return SUCCESS;
}
EXPORT Status cuGraphInstantiateWithFlags(Handle *out, Handle handle, unsigned long long) {
    Call call;
    Graph *graph = graphs().find(handle);
    if (call.status || !graph) return call.status ? call.status : INVALID_VALUE;
    *out = graphs().add(*graph);
    return SUCCESS;
}
EXPORT Status cuGraphDestroy(Handle handle) {
    Call call;
    if (!call.usable) return call.status;
    return graphs().remove(handle) ? call.status : INVALID_VALUE;
}
EXPORT Status cuGraphExecDestroy(Handle handle) { return cuGraphDestroy(handle); }
EXPORT Status cuGraphUpload(Handle graph, Handle handle) {
    StreamCall call(handle);
    if (call.status) return call.status;
    return graphs().find(graph) ? SUCCESS : INVALID_VALUE;
}
EXPORT Status cuGraphLaunch(Handle handle, Handle stream) {
    StreamCall call(stream);
    if (call.status) return call.status;
    Graph *graph = graphs().find(handle);
    if (!graph) return INVALID_VALUE;
    call.m.queues.replays++;
    for (const Work &work : graph->works)
        if (Status status = call.enqueue(work)) return status;
    return SUCCESS;
}

// For libraries that put work of their own into a stream, as cuBLAS does. It is a launch, as kernels are.
EXPORT void emulator_enqueue(Handle handle, void (*work)(void *), void *data, void (*release)(void *)) {
    StreamCall call(handle);
    std::shared_ptr<void> held(data, release);
    if (call.status) return;
    call.enqueue({[=] {
                      work(held.get());
                      return SUCCESS;
                  },
                  true});
}
