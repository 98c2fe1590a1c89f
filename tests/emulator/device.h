// The device side of CUDA C++ on the host: what src/cuda/kernels/common.cuh has PTX for, and a block of threads.
//
// A block runs on one thread of the system, each of its threads a fiber with a stack of its own; barriers and warp operations
// switch between them. Included ahead of every kernel source when the emulator is built (tests/emulator/build.sh).
#pragma once
#define EMULATED 1

#include <cmath>
#include <cstdint>
#include <cstring>

struct Dim3 {
    unsigned x, y, z;
};

namespace emulator {
// Of the thread that runs.
extern thread_local Dim3 thread_index, block_index, block_dim, grid_dim;
// Dynamic shared memory of the block that runs, filled with NaNs before it starts.
extern thread_local unsigned char *shared_memory;
unsigned lane();
// Each returns when all threads of the block, or of the warp, have called it or ended.
void block_barrier();
void warp_barrier();
// All lanes call with a value of `size` bytes, at most 64, and receive all 32 values, lane by lane: valid until the next call
// but one.
const unsigned char *exchange(const void *value, unsigned size);
// As exchange, after whichever lane came last has let `work` loose on the values.
const unsigned char *exchange(const void *value, unsigned size, void (*work)(unsigned char *values));
// Runs a grid; blocks run on all cores, in no order. Aborts with a message when threads wait for each other for ever.
void launch(void (*kernel)(void **params), void **params, Dim3 grid, Dim3 block, unsigned shared_bytes);
} // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_dim
#define gridDim emulator::grid_dim
#define __global__
#define __device__
#define __restrict__
// Threads of a block share a thread of the system.
#define __shared__ static thread_local
#define __align__(n) alignas(n)
#define DEVICE inline
#define SHARED_BYTES(name) unsigned char *name = emulator::shared_memory
#define KERNEL(name, Args, threads, body)                                                                              \
    extern "C" void name(void **params) {                                                                              \
        const Args &args = *(const Args *)params[0];                                                                   \
        body;                                                                                                          \
    }                                                                                                                  \
    extern "C" const unsigned name##_args = sizeof(Args), name##_threads = threads;

// The bits of one type as another of its size.
template <class To, class From> To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static inline uint32_t float_bits(float v) { return same_bits<uint32_t>(v); }
static inline float bits_float(uint32_t bits) { return same_bits<float>(bits); }
static inline uint64_t double_bits(double v) { return same_bits<uint64_t>(v); }
static inline double bits_double(uint64_t bits) { return same_bits<double>(bits); }
// The emulator is compiled with -ffp-contract=off.
static inline double mul(double a, double b) { return a * b; }
static inline double add(double a, double b) { return a + b; }
static inline float half_float(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return bits_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest < 0x400) return bits_float(sign | float_bits(float(rest) * 0x1p-24f));
    return bits_float(sign | ((rest << 13) + (112u << 23)));
}
static inline uint16_t float_half(float v) {
    uint32_t bits = float_bits(v), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (rest < 0x38800000) {
        // Adding ½ puts the subnormal's last place at the sum's, whose rounding is to nearest even.
        return uint16_t(sign | (float_bits(bits_float(rest) + 0.5f) - 0x3f000000));
    }
    rest += 0xfff + (rest >> 13 & 1);
    return uint16_t(sign | ((rest - (112u << 23)) >> 13));
}

struct f16;
struct bf16;

static inline void sync_block() { emulator::block_barrier(); }
static inline void sync_warp() { emulator::warp_barrier(); }
static inline float shuffle(float v, int lane) {
    float r;
    std::memcpy(&r, emulator::exchange(&v, 4) + 4 * (lane & 31), 4);
    return r;
}
static inline float shuffle_xor(float v, int mask) { return shuffle(v, int(emulator::lane()) ^ mask); }

template <class T> float half_value(uint16_t bits);
template <> inline float half_value<f16>(uint16_t bits) { return half_float(bits); }
template <> inline float half_value<bf16>(uint16_t bits) { return bits_float(uint32_t(bits) << 16); }

// A lane's part of a product of tensor cores.
struct Fragments {
    float d[4];
    unsigned a[4], b[2];
};

// All lanes' parts together: D += A·B, in the order of k.
template <class T> __attribute__((optimize("O3"))) void multiply_fragments(unsigned char *values) {
    auto lanes = reinterpret_cast<Fragments *>(values);
    auto half = [](unsigned word, int high) { return half_value<T>(uint16_t(word >> 16 * high)); };
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; lane++) {
        int group = lane / 4, pair = lane % 4 * 2;
        for (int i = 0; i < 4; i++)
            for (int e = 0; e < 2; e++) a[group + i % 2 * 8][pair + i / 2 * 8 + e] = half(lanes[lane].a[i], e);
        for (int i = 0; i < 2; i++)
            for (int e = 0; e < 2; e++) b[pair + i * 8 + e][group] = half(lanes[lane].b[i], e);
        for (int i = 0; i < 4; i++) d[group + i / 2 * 8][pair + i % 2] = lanes[lane].d[i];
    }
    for (int k = 0; k < 16; k++)
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) lanes[lane].d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

template <class T> void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    Fragments mine = {{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char *all = emulator::exchange(&mine, sizeof mine, multiply_fragments<T>);
    std::memcpy(d, all + emulator::lane() * sizeof mine, sizeof d);
}

template <bool transposed> void load_matrices(unsigned (&r)[4], const void *row) {
    if (uintptr_t(row) % 16 != 0) __builtin_trap();
    const unsigned char *all = emulator::exchange(&row, sizeof row);
    int lane = emulator::lane();
    for (int i = 0; i < 4; i++) {
        uint16_t values[2];
        for (int j = 0; j < 2; j++) {
            int at = transposed ? 2 * (lane % 4) + j : lane / 4, column = transposed ? lane / 4 : 2 * (lane % 4) + j;
            const uint16_t *address;
            std::memcpy(&address, all + (i * 8 + at) * sizeof row, sizeof row);
            values[j] = address[column];
        }
        std::memcpy(&r[i], values, 4);
    }
    // Whoever writes the rows next waits for those who still read them.
    emulator::warp_barrier();
}

static inline void copy_16(void *shared, const void *global, bool valid) {
    if (uintptr_t(shared) % 16 != 0 || (valid && uintptr_t(global) % 16 != 0)) __builtin_trap();
    if (valid) std::memcpy(shared, global, 16);
    else std::memset(shared, 0, 16);
}
static inline void commit_copies() {}
template <int n> void wait_copies() {}
