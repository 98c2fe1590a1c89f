// Blocks of threads as fibers: see device.h.
#include "device.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <thread>
#include <vector>

namespace emulator {
thread_local Dim3 thread_index, block_index, block_dim, grid_dim;
thread_local unsigned char *shared_memory;

namespace {
constexpr size_t STACK = 128 << 10;
constexpr unsigned MOST_THREADS = 1024, LANES = 32, EXCHANGED = 64;

enum class State { runs, waits_for_warp, waits_for_block, ended };

struct Fiber {
    void *stack_pointer;
    State state;
    Dim3 index;
    unsigned exchanges;
};

struct Warp {
    unsigned arrived, alive;
    alignas(16) unsigned char values[2][LANES * EXCHANGED];
};

// What runs the blocks of one thread of the system.
struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    unsigned char *stacks;
    std::vector<unsigned char> shared;
    void *scheduler;
    unsigned running, alive, arrived;
    void (*kernel)(void **);
    void **params;

    Block() : fibers(MOST_THREADS), warps(MOST_THREADS / LANES) {
        void *memory = mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        stacks = static_cast<unsigned char *>(memory);
    }
    ~Block() { munmap(stacks, STACK * MOST_THREADS); }
};

thread_local Block *current;

#if !defined(__x86_64__)
#error "the emulator switches stacks on x86-64 only"
#endif
// Saves the callee-saved registers and the stack pointer into *from, and continues where `to` was saved.
extern "C" void emulator_switch(void **from, void *to);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");

void release_block(Block &block) {
    block.arrived = 0;
    for (unsigned i = 0; i < block.fibers.size() && i < block_dim.x * block_dim.y * block_dim.z; i++)
        if (block.fibers[i].state == State::waits_for_block) block.fibers[i].state = State::runs;
}

void release_warp(Block &block, unsigned warp) {
    block.warps[warp].arrived = 0;
    for (unsigned i = warp * LANES; i < (warp + 1) * LANES && i < block.fibers.size(); i++)
        if (block.fibers[i].state == State::waits_for_warp) block.fibers[i].state = State::runs;
}

void yield() {
    Block &block = *current;
    emulator_switch(&block.fibers[block.running].stack_pointer, block.scheduler);
}

void fiber_main() {
    Block &block = *current;
    block.kernel(block.params);
    unsigned i = block.running, warp = i / LANES;
    block.fibers[i].state = State::ended;
    if (--block.warps[warp].alive == block.warps[warp].arrived && block.warps[warp].arrived > 0) release_warp(block, warp);
    if (--block.alive == block.arrived && block.arrived > 0) release_block(block);
    yield();
    std::abort();
}

void run_block(Block &block, Dim3 index) {
    unsigned threads = block_dim.x * block_dim.y * block_dim.z;
    block_index = index;
    // A kernel that reads what it did not write is found out.
    std::memset(block.shared.data(), 0xff, block.shared.size());
    block.alive = threads;
    block.arrived = 0;
    for (unsigned i = 0; i < threads; i++) {
        Fiber &fiber = block.fibers[i];
        unsigned char *top = block.stacks + (i + 1) * STACK;
        void **frame = reinterpret_cast<void **>(top) - 8;
        std::memset(frame, 0, 8 * sizeof(void *));
        frame[6] = reinterpret_cast<void *>(&fiber_main);
        fiber = {frame, State::runs, {i % block_dim.x, i / block_dim.x % block_dim.y, i / block_dim.x / block_dim.y}, 0};
    }
    for (unsigned warp = 0; warp * LANES < threads; warp++) {
        unsigned lanes = threads - warp * LANES;
        block.warps[warp].alive = lanes < LANES ? lanes : LANES;
        block.warps[warp].arrived = 0;
    }
    while (block.alive > 0) {
        bool progress = false;
        for (unsigned i = 0; i < threads; i++) {
            if (block.fibers[i].state != State::runs) continue;
            progress = true;
            block.running = i;
            thread_index = block.fibers[i].index;
            emulator_switch(&block.scheduler, block.fibers[i].stack_pointer);
        }
        if (!progress) {
            std::fprintf(stderr, "emulator: the threads of a block wait for each other for ever\n");
            std::abort();
        }
    }
}
} // namespace

unsigned lane() { return current->running % LANES; }

void block_barrier() {
    Block &block = *current;
    if (++block.arrived == block.alive) return release_block(block);
    block.fibers[block.running].state = State::waits_for_block;
    yield();
}

void warp_barrier() {
    Block &block = *current;
    unsigned warp = block.running / LANES;
    if (++block.warps[warp].arrived == block.warps[warp].alive) return release_warp(block, warp);
    block.fibers[block.running].state = State::waits_for_warp;
    yield();
}

const unsigned char *exchange(const void *value, unsigned size) { return exchange(value, size, nullptr); }

const unsigned char *exchange(const void *value, unsigned size, void (*work)(unsigned char *values)) {
    Block &block = *current;
    Fiber &fiber = block.fibers[block.running];
    Warp &warp = block.warps[block.running / LANES];
    if (size > EXCHANGED) std::abort();
    unsigned char *area = warp.values[fiber.exchanges++ % 2];
    std::memcpy(area + block.running % LANES * size, value, size);
    if (work && warp.arrived + 1 == warp.alive) work(area);
    warp_barrier();
    return area;
}

void launch(void (*kernel)(void **params), void **params, Dim3 grid, Dim3 block, unsigned shared_bytes) {
    unsigned long long blocks = 1ull * grid.x * grid.y * grid.z;
    std::atomic<unsigned long long> next{0};
    auto work = [&] {
        static thread_local Block state;
        current = &state;
        block_dim = block;
        grid_dim = grid;
        state.kernel = kernel;
        state.params = params;
        state.shared.resize(shared_bytes + 16);
        auto start = reinterpret_cast<uintptr_t>(state.shared.data());
        shared_memory = state.shared.data() + (16 - start % 16) % 16;
        for (unsigned long long i; (i = next++) < blocks;) {
            run_block(state, {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)});
        }
    };
    unsigned workers = std::thread::hardware_concurrency();
    if (workers > blocks) workers = unsigned(blocks);
    std::vector<std::thread> others;
    for (unsigned i = 1; i < workers; i++) others.emplace_back(work);
    work();
    for (std::thread &other : others) other.join();
}
} // namespace emulator
