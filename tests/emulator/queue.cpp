// See queue.h.
#include "queue.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

namespace emulator {
namespace {
constexpr size_t GUARD = 256;
constexpr int PATTERN = 0xa5;

bool within(const std::map<uint8_t *, size_t> &blocks, const void *start, size_t bytes) {
    auto at = const_cast<uint8_t *>(static_cast<const uint8_t *>(start));
    auto after = blocks.upper_bound(at);
    if (after == blocks.begin()) return false;
    auto [first, size] = *--after;
    return bytes <= size && size_t(at - first) <= size - bytes;
}

void check(const uint8_t *start, size_t size) {
    for (size_t i = 0; i < GUARD; i++)
        if (start[-1 - ptrdiff_t(i)] != PATTERN || start[size + i] != PATTERN) {
            std::fprintf(stderr, "emulator: a kernel or copy wrote outside an allocation of %zu bytes\n", size);
            _exit(86);
        }
}
} // namespace

Machine &machine() {
    static Machine machine;
    return machine;
}

long Machine::setting(const char *what, long otherwise) {
    const char *all = std::getenv("FORETUNE_EMULATOR_FAIL");
    std::string text = all ? all : "", name = std::string(what) + ":";
    for (size_t at = 0; at < text.size();) {
        size_t end = text.find(',', at);
        std::string one = text.substr(at, end == std::string::npos ? end : end - at);
        if (one.compare(0, name.size(), name) == 0) return std::atol(one.c_str() + name.size());
        if (end == std::string::npos) break;
        at = end + 1;
    }
    return otherwise;
}

Status Machine::enqueue(Stream *stream, Work work) {
    if (stream->recording) {
        stream->recording->push_back(std::move(work));
        return SUCCESS;
    }
    if (failed) return failed;
    stream->queue.push_back(std::move(work));
    static const bool eager = std::getenv("FORETUNE_EMULATOR_EAGER") != nullptr;
    return eager ? run(stream, stream->issued()) : SUCCESS;
}

Status Machine::run(Stream *stream, uint64_t until) {
    while (!failed && stream->done < until && !stream->queue.empty()) {
        Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->done++;
        if (Status status = work()) failed = status;
    }
    return failed;
}

Status Machine::run_all() {
    for (auto &[stream, owned] : streams) run(stream, stream->issued());
    return failed;
}

Status Machine::wait(Stream *stream, const Event &event) {
    if (!event.stream) return SUCCESS;
    return enqueue(stream, [this, event] { return streams.count(event.stream) ? run(event.stream, event.after) : SUCCESS; });
}

uint64_t Machine::total() const {
    const char *bytes = std::getenv("FORETUNE_EMULATOR_MEMORY");
    return bytes ? std::strtoull(bytes, nullptr, 10) : 8ull << 30;
}

void *Machine::allocate(size_t bytes) {
    if (long(++allocations) == setting("alloc", -1) || live_bytes + bytes > total()) return nullptr;
    size_t whole = (bytes + 2 * GUARD + 255) / 256 * 256;
    auto memory = static_cast<uint8_t *>(std::aligned_alloc(256, whole));
    if (!memory) return nullptr;
    std::memset(memory, PATTERN, whole);
    std::memset(memory + GUARD, 0xff, bytes);
    blocks[memory + GUARD] = bytes;
    live_bytes += bytes;
    if (live_bytes > peak_bytes) peak_bytes = live_bytes;
    return memory + GUARD;
}

bool Machine::release(void *start) {
    auto found = blocks.find(static_cast<uint8_t *>(start));
    if (found == blocks.end()) return false;
    check(found->first, found->second);
    live_bytes -= found->second;
    std::free(found->first - GUARD);
    blocks.erase(found);
    return true;
}

bool Machine::contains(const void *start, size_t bytes) const { return within(blocks, start, bytes); }
bool Machine::pinned(const void *start, size_t bytes) const { return within(pinned_blocks, start, bytes); }

void *Machine::pin(size_t bytes) {
    void *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (memory) pinned_blocks[static_cast<uint8_t *>(memory)] = bytes;
    return memory;
}

bool Machine::unpin(void *start) {
    auto found = pinned_blocks.find(static_cast<uint8_t *>(start));
    if (found == pinned_blocks.end()) return false;
    std::free(start);
    pinned_blocks.erase(found);
    return true;
}

void Machine::check_guards() const {
    for (auto &[start, size] : blocks) check(start, size);
}

Machine::~Machine() {
    check_guards();
    if (const char *path = std::getenv("FORETUNE_EMULATOR_REPORT")) {
        if (FILE *file = std::fopen(path, "w")) {
            std::fprintf(file, "{\"device_bytes_live\": %llu, \"device_bytes_peak\": %llu, \"pinned_live\": %zu, ",
                         (unsigned long long)live_bytes, (unsigned long long)peak_bytes, pinned_blocks.size());
            std::fprintf(file, "\"launches\": %llu, \"allocations\": %llu}\n", (unsigned long long)launches,
                         (unsigned long long)allocations);
            std::fclose(file);
        }
    }
}
} // namespace emulator
