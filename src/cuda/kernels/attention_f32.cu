// Dual attention in f32 (see attention.cu), by fused multiply-adds: the exact mode. One tangent a sweep, blocks of 32 queries of
// one head, tiles of 32 keys.
//
// Eight warps of four queries. For scores a lane is a key, for outputs a few columns; a warp's weights go through shared memory.
// Shared memory: 2·32·(dim + 1) floats for k, k̇ and then v, v̇ of a tile, and 2·32·32 for weights.
#include "attention.cuh"

namespace {
constexpr u32 ROWS_F32 = 4, WARPS_F32 = 8, KEYS_F32 = 32, COLUMNS_F32 = 4;

struct Softmax {
    float most, total, along;
};

// Rows of a tile, by all threads.
template <class Rows>
DEVICE void load_rows_f32(float *tile, const float *from, u64 stride, u32 dim, Rows row_of) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < KEYS_F32 * dim; i += 32 * WARPS_F32) {
        u32 r = i / dim, c = i % dim;
        u64 row = row_of(r);
        tile[r * (dim + 1) + c] = row != ~0ull ? from[row * stride + c] : 0.0f;
    }
}

DEVICE float warp_max(float v) {
    for (int mask = 16; mask > 0; mask >>= 1) v = fmaxf(v, shuffle_xor(v, mask));
    return v;
}
} // namespace

DEVICE void attention_exact(const AttentionArgs &a) {
    SHARED_BYTES(shared);
    u32 dim = a.dim, width = a.heads * dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float *tile = reinterpret_cast<float *>(shared), *moving_tile = tile + KEYS_F32 * (dim + 1);
    float *weights = moving_tile + KEYS_F32 * (dim + 1) + warp * 2 * ROWS_F32 * KEYS_F32;
    float *moving_weights = weights + ROWS_F32 * KEYS_F32;
    u32 queries = a.q_rows.primal_count, keys = a.kv_rows.primal_count, block = ROWS_F32 * WARPS_F32;
    u32 blocks = (queries + block - 1) / block;
    u32 first_query = blockIdx.x % blocks * block + warp * ROWS_F32, pair = blockIdx.x / blocks;
    u32 head = pair % a.heads, b = pair / a.heads;
    const float *q = static_cast<const float *>(a.q) + head * dim, *k = static_cast<const float *>(a.kv) + head * dim;
    const float *v = k + width;

    // Of every query: its row, its tangent's, and what is being summed.
    const float *row[ROWS_F32], *moving[ROWS_F32];
    Softmax softmax[ROWS_F32];
    float out[ROWS_F32][COLUMNS_F32] = {}, dual[ROWS_F32][COLUMNS_F32] = {};
    for (u32 r = 0; r < ROWS_F32; r++) {
        u32 i = first_query + r;
        u64 tangent = i < queries && a.tangents > 0 ? moving_row(a.q_rows, a.first_tangent, b, i) : ~0ull;
        row[r] = i < queries ? q + a.q_rows.primal_row(b, i) * a.q_stride : nullptr;
        moving[r] = tangent != ~0ull ? q + tangent * a.q_stride : nullptr;
        softmax[r] = {negative_infinity(), 0.0f, 0.0f};
    }
    for (u32 first = 0; first < keys; first += KEYS_F32) {
        auto key_row = [&](u32 j) { return first + j < keys ? a.kv_rows.primal_row(b, first + j) : ~0ull; };
        auto moving_key = [&](u32 j) {
            return first + j < keys && a.tangents > 0 ? moving_row(a.kv_rows, a.first_tangent, b, first + j) : ~0ull;
        };
        sync_block();
        load_rows_f32(tile, k, a.kv_stride, dim, key_row);
        load_rows_f32(moving_tile, k, a.kv_stride, dim, moving_key);
        sync_block();
        const float *key = tile + lane * (dim + 1), *key_dot = moving_tile + lane * (dim + 1);
        float faded[ROWS_F32];
        for (u32 r = 0; r < ROWS_F32; r++) {
            float s = 0.0f, t = 0.0f;
            if (row[r]) {
                for (u32 c = 0; c < dim; c++) s = fmaf(row[r][c], key[c], s), t = fmaf(row[r][c], key_dot[c], t);
            }
            if (moving[r]) {
                for (u32 c = 0; c < dim; c++) t = fmaf(moving[r][c], key[c], t);
            }
            s = first + lane < keys ? s * a.scale : negative_infinity();
            // Finite: the first key of every tile is there.
            float best = fmaxf(softmax[r].most, warp_max(s)), p = expf(s - best);
            faded[r] = expf(softmax[r].most - best);
            weights[r * KEYS_F32 + lane] = p;
            moving_weights[r * KEYS_F32 + lane] = p * t * a.scale;
            softmax[r] = {best, softmax[r].total * faded[r] + p, softmax[r].along * faded[r] + p * t * a.scale};
            // From here on a lane's sums are of its own keys: all fade alike.
        }
        sync_block();
        load_rows_f32(tile, v, a.kv_stride, dim, key_row);
        load_rows_f32(moving_tile, v, a.kv_stride, dim, moving_key);
        sync_block();
        u32 count = keys - first < KEYS_F32 ? keys - first : KEYS_F32;
        for (u32 r = 0; r < ROWS_F32; r++) {
            for (u32 e = 0; e < COLUMNS_F32; e++) {
                u32 c = lane + 32 * e;
                if (c >= dim) break;
                float o = out[r][e] * faded[r], d = dual[r][e] * faded[r];
                for (u32 j = 0; j < count; j++) {
                    float p = weights[r * KEYS_F32 + j], value = tile[j * (dim + 1) + c];
                    o = fmaf(p, value, o);
                    d = fmaf(moving_weights[r * KEYS_F32 + j], value, fmaf(p, moving_tile[j * (dim + 1) + c], d));
                }
                out[r][e] = o, dual[r][e] = d;
            }
        }
    }

    float *y = static_cast<float *>(a.y) + head * dim;
    for (u32 r = 0; r < ROWS_F32; r++) {
        u32 query = first_query + r;
        float total = warp_sum(softmax[r].total), slope = warp_sum(softmax[r].along) / total;
        if (query >= queries) continue;
        u32 pair = a.tangents > 0 && a.out_rows.tangent_count > 0 ? a.out_rows.pair[query] : ~0u;
        for (u32 e = 0; e < COLUMNS_F32; e++) {
            u32 c = lane + 32 * e;
            if (c >= dim) break;
            float o = out[r][e] / total;
            if (a.primal) y[a.out_rows.primal_row(b, query) * width + c] = o;
            if (pair != ~0u) y[a.out_rows.tangent_row(a.first_tangent, b, pair) * width + c] = dual[r][e] / total - slope * o;
        }
    }
}
F32_KERNEL(attention_f32, AttentionArgs, 256, attention_exact(args))
