// See memory.h.
#include "memory.h"

#include "settings.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

namespace emulator {
namespace {
constexpr size_t GUARD = 256, ALIGN = 256, PAGE = 4096;
constexpr int PATTERN = 0xa5;

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

void check(uintptr_t start, size_t size) {
    auto memory = reinterpret_cast<const uint8_t *>(start);
    auto complain = [&](const char *where, size_t distance) {
        std::fprintf(stderr, "emulator: a kernel wrote to byte %zu %s an allocation of %zu\n", distance, where, size);
        _exit(86);
    };
    for (size_t i = 0; i < GUARD; i++) {
        if (memory[-1 - ptrdiff_t(i)] != PATTERN) complain("before", i + 1);
        if (memory[size + i] != PATTERN) complain("after", i + 1);
    }
}
} // namespace

bool Memory::within(const Blocks &blocks, const void *start, size_t bytes) {
    auto at = reinterpret_cast<uintptr_t>(start);
    auto after = blocks.upper_bound(at);
    if (after == blocks.begin()) return false;
    auto [first, size] = *--after;
    return bytes <= size && at - first <= size - bytes;
}

bool Memory::touches(const Blocks &blocks, const void *start, size_t bytes) {
    auto at = reinterpret_cast<uintptr_t>(start);
    auto after = blocks.lower_bound(at + bytes);
    if (after == blocks.begin()) return false;
    auto [first, size] = *--after;
    return first + size > at;
}

bool Memory::on_host(const void *start, size_t bytes) const {
    return start && !touches(blocks, start, bytes) && (pinned(start, bytes) || !touches(pinned_blocks, start, bytes));
}

void *Memory::allocate(size_t bytes) {
    bool fails = long(++count) == setting("alloc", -1);
    uint64_t total = memory_bytes();
    if (fails || bytes > total || live_bytes > total - bytes) return nullptr;
    size_t whole = rounded(bytes + 2 * GUARD, ALIGN);
    auto memory = static_cast<uint8_t *>(std::aligned_alloc(ALIGN, whole));
    if (!memory) return nullptr;
    uint8_t *start = memory + GUARD;
    std::memset(memory, PATTERN, GUARD);
    std::memset(start, 0xff, bytes);
    std::memset(start + bytes, PATTERN, whole - GUARD - bytes);
    blocks[reinterpret_cast<uintptr_t>(start)] = bytes;
    live_bytes += bytes;
    if (live_bytes > peak_bytes) peak_bytes = live_bytes;
    return start;
}

bool Memory::release(void *start) {
    auto found = blocks.find(reinterpret_cast<uintptr_t>(start));
    if (found == blocks.end()) return false;
    check(found->first, found->second);
    live_bytes -= found->second;
    blocks.erase(found);
    std::free(static_cast<uint8_t *>(start) - GUARD);
    return true;
}

void Memory::abandon() {
    abandoned_bytes += live_bytes;
    while (!blocks.empty()) release(reinterpret_cast<void *>(blocks.begin()->first));
}

void *Memory::pin(size_t bytes) {
    void *memory = std::aligned_alloc(PAGE, rounded(bytes, PAGE));
    if (memory) pinned_blocks[reinterpret_cast<uintptr_t>(memory)] = bytes;
    return memory;
}

bool Memory::unpin(void *start) {
    if (!pinned_blocks.erase(reinterpret_cast<uintptr_t>(start))) return false;
    std::free(start);
    return true;
}

void Memory::check_guards() const {
    for (auto [start, size] : blocks) check(start, size);
}
} // namespace emulator
