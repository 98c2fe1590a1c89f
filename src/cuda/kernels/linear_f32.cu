// Matrix products in f32 (see linear.cu), by fused multiply-adds in the order of k: the exact mode. Tiles of 64×64×16 by 256
// threads, 16 sums a thread, 8.5 KB of shared memory.
#include "common.cuh"
#include "linear.cuh"

namespace {
template <bool plain> DEVICE void multiply_f32(const LinearArgs &a) {
    constexpr u32 SIDE = 64, DEPTH = 16, THREADS = 256;
    // In fours, which a thread reads at once.
    __shared__ Few<float, 4> x_tile[DEPTH][SIDE / 4 + 1], w_tile[DEPTH][SIDE / 4 + 1];
    const float *x = static_cast<const float *>(a.x), *w = static_cast<const float *>(a.w);
    Tile tile = tile_of(a, SIDE, SIDE);
    u32 down = threadIdx.x / 16 * 4, across = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    for (u32 first = 0; first < a.k; first += DEPTH) {
#pragma unroll 1
        for (u32 i = threadIdx.x; i < SIDE * DEPTH; i += THREADS) {
            u32 k = i % DEPTH, r = i / DEPTH;
            bool inside = tile.row + r < a.count && first + k < a.k;
            x_tile[k][r / 4].v[r % 4] = inside ? x[(tile.row + r) * a.x_stride + first + k] : 0.0f;
            // Neighbouring threads read neighbouring values of w, however it lies.
            u32 depth = plain ? i / SIDE : k, column = plain ? i % SIDE : r;
            inside = tile.column + column < a.n && first + depth < a.k;
            u64 at = plain ? (first + depth) * a.w_stride + tile.column + column
                           : (tile.column + column) * a.w_stride + first + depth;
            w_tile[depth][column / 4].v[column % 4] = inside ? w[at] : 0.0f;
        }
        sync_block();
#pragma unroll 4
        for (u32 k = 0; k < DEPTH; k++) {
            Few<float, 4> left = x_tile[k][down / 4], right = w_tile[k][across / 4];
            for (u32 i = 0; i < 4; i++)
                for (u32 j = 0; j < 4; j++) sums[i][j] = fmaf(left.v[i], right.v[j], sums[i][j]);
        }
        sync_block();
    }
    const float *bias = static_cast<const float *>(a.bias);
    for (u32 i = 0; i < 4; i++)
        for (u32 j = 0; j < 4; j++) {
            u64 row = tile.row + down + i;
            u32 column = tile.column + across + j;
            if (row >= a.count || column >= a.n) continue;
            float *y = static_cast<float *>(a.y) + row * a.y_stride + column, v = sums[i][j];
            if (bias && row < a.biased) v += bias[column];
            *y = a.accumulate ? *y + v : v;
        }
}
} // namespace

F32_KERNEL(linear_f32, LinearArgs, 256, multiply_f32<false>(args))
F32_KERNEL(linear_vjp_f32, LinearArgs, 256, multiply_f32<true>(args))
