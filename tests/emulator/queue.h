// Streams of the emulated device.
//
// A stream is a queue of work that runs when somebody waits for it and not before: who reuses a buffer too early, or
// forgets an event, gets wrong results here as he may on a GPU. Streams run one after another, in whatever order they
// are waited for.
#pragma once

#include "status.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <vector>

namespace emulator {
struct Work {
    std::function<Status()> run;
    bool is_launch = false;
};

// Recording into a graph, as cuStreamBeginCapture asks for it.
struct Capture {
    int mode;
    std::thread::id thread;
    bool invalidated = false;
    std::vector<Work> works = {};
};

struct Stream {
    // Whether it and the default stream wait for each other.
    bool blocking;
    std::deque<Work> queue = {};
    uint64_t done = 0;
    std::unique_ptr<Capture> capture = nullptr;

    uint64_t issued() const { return done + queue.size(); }
};
using StreamRef = std::shared_ptr<Stream>;

// A point in a stream: after its first `after` works.
struct Moment {
    StreamRef stream = nullptr;
    uint64_t after = 0;

    bool reached() const { return !stream || stream->done >= after; }
};

class Queues {
  public:
    // What went wrong in a work; from then on everything fails with it.
    Status failed = SUCCESS;
    // Whether the device has fallen off the bus.
    bool lost = false;
    uint64_t launches = 0;
    // Of graphs.
    uint64_t replays = 0;

    StreamRef make(bool blocking);
    // Null for what is no stream.
    StreamRef find(void *handle) const;
    // What it still has to do is done all the same.
    void destroy(const StreamRef &stream);
    static Moment now(const StreamRef &stream) { return {stream, stream->issued()}; }

    Status enqueue(const StreamRef &stream, Work work);
    Status wait(const StreamRef &stream, Moment moment);
    Status run(const Moment &moment);
    Status run_all();
    // One work of the stream, for who asks again and again whether it is done.
    void advance(const StreamRef &stream);

    // For calls that a capture does not allow while it goes on: fails and spoils it.
    Status forbid_in_captures();

  private:
    void append(const StreamRef &stream, Work work);
    void order_with_default(const StreamRef &stream);

    StreamRef standard = std::make_shared<Stream>(Stream{true});
    std::set<StreamRef> streams, destroyed;
};
} // namespace emulator
