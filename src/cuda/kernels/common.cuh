// What every kernel uses: storage types, warp operations, tensor-core and copy primitives, row sets.
//
// The same sources compile with NVRTC for a GPU and, with tests/emulator/device.h included first, as host C++ for the
// emulator: whatever needs PTX is here, and has its counterpart there.
//
// A kernel takes one struct of arguments, whose Rust twin stands in the launcher of the same name, and exists once per
// storage type: KERNELS(norm, NormArgs, 256) defines norm_f32, norm_f16 and norm_bf16 from `template <class T> norm`.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef EMULATED
#define DEVICE __device__ __forceinline__
// Dynamic shared memory, 16-byte aligned.
#define SHARED_BYTES(name) extern __shared__ __align__(16) u8 name[]
#define KERNEL(name, Args, threads, body)                                                                              \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args args) { body; }
#endif

// One module holds the kernels of one storage type: STORAGE_F32, STORAGE_F16 or STORAGE_BF16 says which; the emulator has all.
#if defined(EMULATED) || defined(STORAGE_F32)
#define F32_KERNEL KERNEL
#else
#define F32_KERNEL(name, Args, threads, body)
#endif
#if defined(EMULATED) || defined(STORAGE_F16)
#define F16_KERNEL KERNEL
#else
#define F16_KERNEL(name, Args, threads, body)
#endif
#if defined(EMULATED) || defined(STORAGE_BF16)
#define BF16_KERNEL KERNEL
#else
#define BF16_KERNEL(name, Args, threads, body)
#endif
#define KERNELS(name, Args, threads)                                                                                   \
    F32_KERNEL(name##_f32, Args, threads, name<float>(args))                                                           \
    HALF_KERNELS(name, Args, threads)
#define HALF_KERNELS(name, Args, threads)                                                                              \
    F16_KERNEL(name##_f16, Args, threads, name<f16>(args))                                                             \
    BF16_KERNEL(name##_bf16, Args, threads, name<bf16>(args))

// 16-bit storage; arithmetic is f32.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

#ifdef EMULATED
DEVICE float to_float(f16 v) { return half_float(v.bits); }
DEVICE f16 to_f16(float v) { return f16{float_half(v)}; }
#else
DEVICE float to_float(f16 v) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
    return r;
}
DEVICE f16 to_f16(float v) {
    f16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
}
DEVICE u32 float_bits(float v) { return __float_as_uint(v); }
DEVICE float bits_float(u32 v) { return __uint_as_float(v); }
DEVICE u64 double_bits(double v) { return u64(__double_as_longlong(v)); }
DEVICE double bits_double(u64 v) { return __longlong_as_double((long long)v); }
// Never contracted into a fused multiply-add.
DEVICE double mul(double a, double b) { return __dmul_rn(a, b); }
DEVICE double add(double a, double b) { return __dadd_rn(a, b); }
#endif

DEVICE float negative_infinity() { return bits_float(0xff800000u); }
DEVICE float to_float(float v) { return v; }
DEVICE float to_float(bf16 v) { return bits_float(u32(v.bits) << 16); }
// To nearest, ties to even.
#if defined(EMULATED) || __CUDA_ARCH__ < 800
DEVICE bf16 to_bf16(float v) {
    u32 bits = float_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{u16(bits >> 16 | 0x40)};
    return bf16{u16((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
#else
DEVICE bf16 to_bf16(float v) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
}
#endif

template <class T> DEVICE T from_float(float v);
template <> DEVICE float from_float<float>(float v) { return v; }
template <> DEVICE f16 from_float<f16>(float v) { return to_f16(v); }
template <> DEVICE bf16 from_float<bf16>(float v) { return to_bf16(v); }

// Two neighbours in one register: the lower index in the lower half.
template <class T> DEVICE u32 pack(float low, float high) {
    return u32(from_float<T>(low).bits) | u32(from_float<T>(high).bits) << 16;
}

#ifndef EMULATED
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE float shuffle(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }

// D += A·B for one warp, A 16×16 row-major, B 16×8 column-major, D f32 16×8, in the fragment layout of
// mma.sync.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"). With g = lane/4, t = lane%4:
// a[0] (g, 2t..2t+1), a[1] (g+8, ..), a[2] (g, 2t+8..), a[3] (g+8, 2t+8..); b[0] (k = 2t.., n = g), b[1] (k = 2t+8.., n = g);
// d[0..2] (g, 2t..2t+1), d[2..4] (g+8, ..).
template <class T> DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <> DEVICE void mma<f16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}
#if __CUDA_ARCH__ >= 800
template <> DEVICE void mma<bf16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

DEVICE u32 shared_address(const void *p) { return u32(__cvta_generic_to_shared(p)); }

// Four 8×8 matrices of 16-bit values from shared memory. Lane l gives the 16-byte aligned address of row l%8 of matrix l/8;
// lane l receives (row l/4, columns 2(l%4)..) of matrix i in r[i], of the transposed matrix with `transposed`.
template <bool transposed> DEVICE void load_matrices(u32 (&r)[4], const void *row) {
    if (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row))
                     : "memory");
}

// 16 bytes from global to shared memory, both aligned; zeros where `valid` is false. Complete after commit_copies and
// wait_copies<n>: all but the latest n groups that this thread committed have arrived; other threads see them after sync_block.
DEVICE void copy_16(void *shared, const void *global, bool valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
#else
    *(uint4 *)shared = valid ? *(const uint4 *)global : make_uint4(0, 0, 0, 0);
#endif
}
DEVICE void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int n> DEVICE void wait_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
#endif
}
#endif

DEVICE float warp_sum(float v) {
    for (int mask = 16; mask > 0; mask >>= 1) v += shuffle_xor(v, mask);
    return v;
}

// n neighbours, moved in one access where n > 1; rows and their widths are then multiples of n elements.
template <class T, int n> struct alignas(sizeof(T) * n) Few {
    T v[n];
};
template <class T, int n> DEVICE void load(float (&to)[n], const T *from) {
    Few<T, n> few = *reinterpret_cast<const Few<T, n> *>(from);
    for (int i = 0; i < n; i++) to[i] = to_float(few.v[i]);
}
// Stores the values and leaves in them what was stored.
template <class T, int n> DEVICE void store(T *to, float (&from)[n]) {
    Few<T, n> few;
    for (int i = 0; i < n; i++) few.v[i] = from_float<T>(from[i]), from[i] = to_float(few.v[i]);
    *reinterpret_cast<Few<T, n> *>(to) = few;
}

// Which rows an operation works on: `backend::Rows`, its lists in device memory.
struct RowSet {
    u32 examples, tangents, tokens, primal_count, tangent_count;
    u32 unused;
    const u32 *primal;  // tokens
    const u32 *tangent; // tokens with tangents
    const u32 *pair;    // for each of `primal`, its index in `tangent` or ~0u

    DEVICE u64 primal_row(u64 b, u64 i) const { return b * primal_count + i; }
    DEVICE u64 tangent_row(u64 k, u64 b, u64 i) const {
        return u64(examples) * primal_count + (k * examples + b) * tangent_count + i;
    }
    DEVICE u64 stream_row(u64 plane, u64 b, u64 token) const { return (plane * examples + b) * tokens + token; }
    // Row of the stream that compact row r is.
    DEVICE u64 stream_row(u64 r) const {
        u64 primals = u64(examples) * primal_count;
        if (r < primals) return stream_row(0, r / primal_count, primal[r % primal_count]);
        r -= primals;
        u64 row = r / tangent_count;
        return stream_row(1 + row / examples, row % examples, tangent[r % tangent_count]);
    }
};
