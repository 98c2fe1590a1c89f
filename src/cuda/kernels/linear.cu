// Matrix products in 16 bits on tensor cores, where cuBLASLt is absent (src/ops/linear.rs):
//
//     linear      y[r, n] = Σ_k x[r, k]·w[n, k] + b[n] for r < biased
//     linear_vjp  y[r, n] (+)= Σ_k x[r, k]·w[k, n]
//
// 2·count·n·k FLOPs. Tiles of 128×128×32 by 256 threads (64 f32 sums a thread) or, where those would leave multiprocessors idle,
// 64×64×32 by 128 (32 sums); three stages of asynchronous copies, 48 and 24 KB of dynamic shared memory, swizzled so that
// ldmatrix meets no bank twice. A result is one chain of products over k in steps of 16, whatever the tile, so that its bits
// depend on its own row and column alone.
#include "common.cuh"
#include "linear.cuh"

namespace {
constexpr u32 DEPTH = 32, STAGES = 3, CHUNK = 8;

// 16-byte chunks of a row-major tile in shared memory: of rows of 32 values, which are 64 bytes apart, or of `width`.
template <u32 width> DEVICE u32 chunk_at(u32 row, u32 chunk) {
    if (width == DEPTH) return row * (width / CHUNK) + (chunk ^ (row >> 1 & 3));
    return row * (width / CHUNK) + (chunk ^ (row & 7));
}

// Rows first_row.. and columns first_column.. of a row-major matrix [rows, columns] to a tile; zeros beyond its edges.
template <class T, u32 height, u32 width, u32 threads>
DEVICE void load_tile(T *tile, const T *from, u64 stride, u64 first_row, u32 first_column, u64 rows, u32 columns, bool whole) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < height * (width / CHUNK); i += threads) {
        u32 row = i / (width / CHUNK), chunk = i % (width / CHUNK), column = first_column + chunk * CHUNK;
        T *to = tile + chunk_at<width>(row, chunk) * CHUNK;
        bool inside = first_row + row < rows && column < columns;
        const T *source = from + (inside ? (first_row + row) * stride + column : 0);
        if (whole) {
            copy_16(to, source, inside);
        } else {
#pragma unroll 1
            for (u32 e = 0; e < CHUNK; e++) to[e] = inside && column + e < columns ? source[e] : T{0};
        }
    }
}

// Whether all chunks of 8 values can be copied whole.
template <class T> DEVICE bool whole_chunks(const T *from, u64 stride, u32 columns) {
    return (reinterpret_cast<u64>(from) & 15) == 0 && stride % CHUNK == 0 && columns % CHUNK == 0;
}

// Stores one or `both` of two neighbours; as a `pair`, they are aligned like one u32.
template <class T> DEVICE void give(T *to, float (&v)[2], bool both, bool pair, bool accumulate) {
    if (accumulate) {
        v[0] += to_float(to[0]);
        if (both) v[1] += to_float(to[1]);
    }
    if (pair) {
        *reinterpret_cast<u32 *>(to) = pack<T>(v[0], v[1]);
    } else {
        to[0] = from_float<T>(v[0]);
        if (both) to[1] = from_float<T>(v[1]);
    }
}

template <class T, bool plain, u32 rows, u32 columns, u32 warps_down, u32 warps_across>
DEVICE void multiply(const LinearArgs &a) {
    constexpr u32 threads = 32 * warps_down * warps_across;
    constexpr u32 down = rows / warps_down / 16, across = columns / warps_across / 8;
    // The tile of w: [columns, DEPTH], or [DEPTH, columns] where w is.
    constexpr u32 x_len = rows * DEPTH, w_len = columns * DEPTH;
    SHARED_BYTES(shared);
    T *tiles = reinterpret_cast<T *>(shared);
    const T *x = static_cast<const T *>(a.x), *w = static_cast<const T *>(a.w);
    bool x_whole = whole_chunks(x, a.x_stride, a.k), w_whole = whole_chunks(w, a.w_stride, plain ? a.n : a.k);
    Tile tile = tile_of(a, rows, columns);
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 warp_row = warp / warps_across * (rows / warps_down), warp_column = warp % warps_across * (columns / warps_across);
    float sums[down][across][4] = {};

    u32 steps = (a.k + DEPTH - 1) / DEPTH;
    auto fetch = [&](u32 step) {
        if (step < steps) {
            T *to = tiles + step % STAGES * (x_len + w_len);
            load_tile<T, rows, DEPTH, threads>(to, x, a.x_stride, tile.row, step * DEPTH, a.count, a.k, x_whole);
            if (plain) load_tile<T, DEPTH, columns, threads>(to + x_len, w, a.w_stride, step * DEPTH, tile.column, a.k, a.n, w_whole);
            else load_tile<T, columns, DEPTH, threads>(to + x_len, w, a.w_stride, tile.column, step * DEPTH, a.n, a.k, w_whole);
        }
        commit_copies();
    };
#pragma unroll 1
    for (u32 step = 0; step < STAGES - 1; step++) fetch(step);
    for (u32 step = 0; step < steps; step++) {
        wait_copies<STAGES - 2>();
        sync_block();
        // Into the stage that everybody has just left.
        fetch(step + STAGES - 1);
        const T *x_tile = tiles + step % STAGES * (x_len + w_len), *w_tile = x_tile + x_len;
#pragma unroll 1
        for (u32 k = 0; k < DEPTH; k += 16) {
            u32 left[down][4], right[across / 2][4];
#pragma unroll
            for (u32 i = 0; i < down; i++) {
                u32 row = warp_row + i * 16 + lane % 16, chunk = k / CHUNK + lane / 16;
                load_matrices<false>(left[i], x_tile + chunk_at<DEPTH>(row, chunk) * CHUNK);
            }
#pragma unroll
            for (u32 j = 0; j < across / 2; j++) {
                u32 column = warp_column + j * 16;
                if (plain) {
                    u32 row = k + lane % 16;
                    load_matrices<true>(right[j], w_tile + chunk_at<columns>(row, column / CHUNK + lane / 16) * CHUNK);
                } else {
                    u32 row = column + lane % 8 + lane / 16 * 8, chunk = k / CHUNK + lane / 8 % 2;
                    load_matrices<false>(right[j], w_tile + chunk_at<DEPTH>(row, chunk) * CHUNK);
                }
            }
#pragma unroll
            for (u32 i = 0; i < down; i++)
#pragma unroll
                for (u32 j = 0; j < across; j++) {
                    u32 pair[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
                    mma<T>(sums[i][j], left[i], pair);
                }
        }
    }

    const T *bias = static_cast<const T *>(a.bias);
    T *y = static_cast<T *>(a.y);
    bool pairs = a.y_stride % 2 == 0 && (reinterpret_cast<u64>(y) & 3) == 0;
#pragma unroll
    for (u32 j = 0; j < across; j++) {
        u32 column = tile.column + warp_column + j * 8 + lane % 4 * 2;
        bool one = column < a.n, both = column + 1 < a.n;
        float low = bias && one ? to_float(bias[column]) : 0.0f, high = bias && both ? to_float(bias[column + 1]) : 0.0f;
#pragma unroll
        for (u32 i = 0; i < 2 * down; i++) {
            u64 row = tile.row + warp_row + i * 8 + lane / 4;
            if (row >= a.count || !one) continue;
            float v[2] = {sums[i / 2][j][i % 2 * 2], sums[i / 2][j][i % 2 * 2 + 1]};
            if (row < a.biased) v[0] += low, v[1] += high;
            give(y + row * a.y_stride + column, v, both, both && pairs, a.accumulate);
        }
    }
}
} // namespace

template <class T> DEVICE void linear(const LinearArgs &a) { multiply<T, false, 128, 128, 2, 4>(a); }
HALF_KERNELS(linear, LinearArgs, 256)

template <class T> DEVICE void linear_small(const LinearArgs &a) { multiply<T, false, 64, 64, 2, 2>(a); }
HALF_KERNELS(linear_small, LinearArgs, 128)

template <class T> DEVICE void linear_vjp(const LinearArgs &a) { multiply<T, true, 128, 128, 2, 4>(a); }
HALF_KERNELS(linear_vjp, LinearArgs, 256)

template <class T> DEVICE void linear_vjp_small(const LinearArgs &a) { multiply<T, true, 64, 64, 2, 2>(a); }
HALF_KERNELS(linear_vjp_small, LinearArgs, 128)
