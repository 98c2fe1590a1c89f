// Memory and streams of the emulated device.
//
// A stream is a queue of work that runs when somebody waits for it and not before: who reuses a buffer too early, or forgets an
// event, gets wrong results here as he may on a GPU. FORETUNE_EMULATOR_EAGER=1 runs everything at once instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace emulator {
// CUresult.
enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
};

using Work = std::function<Status()>;

struct Stream;

// The last record of an event: the stream and how many of its works come before.
struct Event {
    Stream *stream = nullptr;
    uint64_t after = 0;
};

struct Stream {
    std::deque<Work> queue;
    uint64_t done = 0;
    // Works so far, done or not.
    uint64_t issued() const { return done + queue.size(); }
    // While works are recorded for a graph.
    std::vector<Work> *recording = nullptr;
};

// The one device. All functions expect its lock to be held.
struct Machine {
    std::recursive_mutex lock;
    std::map<Stream *, std::unique_ptr<Stream>> streams;
    std::map<Event *, std::unique_ptr<Event>> events;
    // Once something has gone wrong, everything fails with it.
    Status failed = SUCCESS;
    uint64_t launches = 0;

    Status enqueue(Stream *stream, Work work);
    // Runs a stream up to its `until`th work.
    Status run(Stream *stream, uint64_t until);
    Status run_all();
    Status wait(Stream *stream, const Event &event);

    void *allocate(size_t bytes);
    bool release(void *start);
    // Whether the range lies within one allocation.
    bool contains(const void *start, size_t bytes) const;
    bool pinned(const void *start, size_t bytes) const;
    void *pin(size_t bytes);
    bool unpin(void *start);
    uint64_t total() const;
    uint64_t live() const { return live_bytes; }

    // The number that FORETUNE_EMULATOR_FAIL has for `what`, or `otherwise`: "alloc:3,capability:75".
    static long setting(const char *what, long otherwise);
    void check_guards() const;
    ~Machine();

  private:
    // Start → size, within guards.
    std::map<uint8_t *, size_t> blocks, pinned_blocks;
    uint64_t live_bytes = 0, peak_bytes = 0, allocations = 0;
};

Machine &machine();
} // namespace emulator
