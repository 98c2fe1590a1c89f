// See queue.h.
#include "queue.h"

#include "settings.h"

#include <algorithm>

namespace emulator {
namespace {
// Handles that stand for the default stream: none, and CU_STREAM_LEGACY.
bool is_default(void *handle) { return reinterpret_cast<uintptr_t>(handle) <= 1; }
} // namespace

StreamRef Queues::make(bool blocking) { return *streams.insert(std::make_shared<Stream>(Stream{blocking})).first; }

StreamRef Queues::find(void *handle) const {
    if (is_default(handle)) return standard;
    auto is_it = [&](const StreamRef &stream) { return stream.get() == handle; };
    auto found = std::find_if(streams.begin(), streams.end(), is_it);
    return found == streams.end() ? nullptr : *found;
}

void Queues::destroy(const StreamRef &stream) {
    destroyed.insert(stream);
    streams.erase(stream);
}

Status Queues::enqueue(const StreamRef &stream, Work work) {
    if (stream->capture) {
        stream->capture->works.push_back(std::move(work));
        return SUCCESS;
    }
    if (failed) return failed;
    order_with_default(stream);
    append(stream, std::move(work));
    // What goes wrong is for later calls to say.
    if (eager()) run(now(stream));
    return SUCCESS;
}

void Queues::append(const StreamRef &stream, Work work) {
    if (work.is_launch) {
        long number = long(++launches), illegal = setting("launch", 0), lost_at = setting("lost", 0);
        if (lost_at > 0 && number >= lost_at)
            work.run = [this] {
                lost = true;
                return LAUNCH_FAILED;
            };
        else if (illegal > 0 && number >= illegal)
            work.run = [] { return ILLEGAL_ADDRESS; };
    }
    stream->queue.push_back(std::move(work));
}

void Queues::order_with_default(const StreamRef &stream) {
    auto wait_for = [&](const StreamRef &other) {
        Moment moment = now(other);
        if (!moment.reached()) append(stream, {[this, moment] { return run(moment); }});
    };
    if (stream != standard) {
        if (stream->blocking) wait_for(standard);
        return;
    }
    for (const auto *all : {&streams, &destroyed})
        for (const StreamRef &other : *all)
            if (other->blocking) wait_for(other);
}

Status Queues::wait(const StreamRef &stream, Moment moment) {
    if (!moment.stream) return failed;
    return enqueue(stream, {[this, moment] { return run(moment); }});
}

Status Queues::run(const Moment &moment) {
    if (!moment.stream) return failed;
    Stream &stream = *moment.stream;
    while (!failed && !moment.reached()) {
        Work work = std::move(stream.queue.front());
        stream.queue.pop_front();
        // Counted first: a work waits for nothing that was issued after it.
        stream.done++;
        if (Status status = work.run()) failed = status;
    }
    return failed;
}

Status Queues::run_all() {
    for (const auto &all : {streams, destroyed})
        for (const StreamRef &stream : all) run(now(stream));
    destroyed.clear();
    return run(now(standard));
}

void Queues::advance(const StreamRef &stream) {
    if (stream && !stream->queue.empty()) run({stream, stream->done + 1});
}

Status Queues::forbid_in_captures() {
    enum { GLOBAL, THREAD_LOCAL };
    Status status = SUCCESS;
    for (const StreamRef &stream : streams) {
        Capture *capture = stream->capture.get();
        if (!capture) continue;
        bool mine = capture->mode == THREAD_LOCAL && capture->thread == std::this_thread::get_id();
        if (capture->mode != GLOBAL && !mine) continue;
        capture->invalidated = true;
        status = STREAM_CAPTURE_UNSUPPORTED;
    }
    return status;
}
} // namespace emulator
