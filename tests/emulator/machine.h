// The one emulated device, and what every function of the driver begins with.
#pragma once

#include "memory.h"
#include "queue.h"
#include "settings.h"
#include "status.h"

#include <map>
#include <memory>
#include <mutex>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace emulator {
using Handle = void *;
using Address = uint64_t;

inline void *pointer(Address address) { return reinterpret_cast<void *>(address); }

// What lives behind handles of one kind.
template <class T> class Registry {
  public:
    Handle add(T value) {
        auto owned = std::make_unique<T>(std::move(value));
        Handle handle = owned.get();
        all[handle] = std::move(owned);
        return handle;
    }
    T *find(Handle handle) const {
        auto found = all.find(handle);
        return found == all.end() ? nullptr : found->second.get();
    }
    bool remove(Handle handle) { return all.erase(handle) == 1; }
    template <class F> void remove_if(F drop) {
        for (auto at = all.begin(); at != all.end();) at = drop(*at->second) ? all.erase(at) : std::next(at);
    }
    void clear() { all.clear(); }

  private:
    std::map<Handle, std::unique_ptr<T>> all;
};

struct Event {
    bool timed;
    Moment recorded = {};
    // Milliseconds at which it was reached.
    std::shared_ptr<double> at = nullptr;
};

struct Module;
struct Function;
struct Graph;

// The device's primary context; all but the lock is of it alone.
struct Context {
    unsigned holders = 0;
    bool alive = true;
};

struct Machine {
    std::recursive_mutex lock;
    bool started = false;
    // Null while nobody holds it.
    Context *context = nullptr;
    Memory memory;
    Queues queues;
    Registry<Event> events;

    Status retain(Handle *out);
    Status release();
    void write_report() const;
};

Machine &machine();

int capability();
// Bytes of shared memory that a block may ask for.
int most_shared();
constexpr int USUAL_SHARED = 48 << 10;

// Contexts that are current on this thread, the last one on top.
class CurrentContexts {
  public:
    static Context *top();
    static bool push(Context *context);
    static Context *pop();
};

// A call of one of the driver's functions: holds the device's lock. `status` is what the call has to return before it
// looks at anything else; `usable` says whether there is at least a context, in which things can be given back.
struct Call {
    Machine &m = machine();
    std::unique_lock<std::recursive_mutex> guard{m.lock};
    bool usable = false;
    Status status = SUCCESS;

    Call();
};

// A call with a stream.
struct StreamCall : Call {
    StreamRef stream;

    explicit StreamCall(Handle handle);
    Status enqueue(Work work) { return m.queues.enqueue(stream, std::move(work)); }
    // Runs the stream to its end.
    Status finish() { return m.queues.run(Queues::now(stream)); }
};

// Forget what a context's end takes along.
void clear_modules();
void clear_graphs();
} // namespace emulator
