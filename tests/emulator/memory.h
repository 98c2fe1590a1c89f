// Device memory, which is memory of the host within guards, and pinned memory.
//
// What is written next to an allocation is found out when it is freed or when the process ends: a message, exit code 86.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace emulator {
class Memory {
  public:
    // Filled with 0xff, so that what is read before it is written is NaN. Null when there is not so much.
    void *allocate(size_t bytes);
    bool release(void *start);
    // Releases all that the owner of a context left behind; the report still counts it.
    void abandon();
    void *pin(size_t bytes);
    bool unpin(void *start);

    // Whether the range lies within one allocation.
    bool on_device(const void *start, size_t bytes) const { return within(blocks, start, bytes); }
    bool pinned(const void *start, size_t bytes) const { return within(pinned_blocks, start, bytes); }
    // Whether the range is the host's, and not partly pinned.
    bool on_host(const void *start, size_t bytes) const;

    void check_guards() const;
    uint64_t live() const { return live_bytes; }
    uint64_t never_freed() const { return live_bytes + abandoned_bytes; }
    uint64_t peak() const { return peak_bytes; }
    uint64_t allocations() const { return count; }
    size_t pinned_live() const { return pinned_blocks.size(); }

  private:
    // Start → size.
    using Blocks = std::map<uintptr_t, size_t>;
    static bool within(const Blocks &blocks, const void *start, size_t bytes);
    static bool touches(const Blocks &blocks, const void *start, size_t bytes);

    Blocks blocks, pinned_blocks;
    uint64_t live_bytes = 0, peak_bytes = 0, abandoned_bytes = 0, count = 0;
};
} // namespace emulator
