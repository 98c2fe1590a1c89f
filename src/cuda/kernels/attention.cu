// Dual attention in 16 bits on tensor cores (src/ops/attention.rs): one online-softmax sweep over tiles of 32 keys by blocks of
// 64 queries of one head, for the primal and G tangents, which share the scores.
//
// Running maximum, ΣP, ΣPv, ΣP(ṡv + v̇) and ΣPṡ are f32 and rescaled together; the T×T matrix is never stored. More than G
// tangents take more sweeps, each of which computes the scores again: (2 + 4G)·T·dim multiply-adds a query in place of 4G.
// FLOPs otherwise as counted in src/encoder/flops.rs; every row of q is read once and k, v once per 64 queries.
//
// Four warps of 16 queries. A thread has (1 + G)·dim/2 sums of outputs and 16·(1 + G) scores: 144 for dim 64 and G = 2, 160 for
// dim 128 and G = 1. Shared memory: (1 + G)·(64 + 2·32)·dim·2 bytes: q; k and then v of a tile, copied while the other is used.
#include "attention.cuh"

namespace {
constexpr u32 QUERIES = 64, KEYS = 32, WARPS = 4, THREADS = 128;

// Eight values, of a row of `dim` that begin at `chunk`·8.
template <u32 dim> DEVICE u32 chunk_of(u32 row, u32 chunk) {
    if (dim == 32) return row * 4 + (chunk ^ (row >> 1 & 3));
    return row * (dim / 8) + (chunk ^ (row & 7));
}

// `count` rows of a head to a tile, padded with zeros to `dim` columns; `row_of` names a row or ~0ull for zeros.
template <class T, u32 dim, u32 count, class Rows>
DEVICE void load_rows(T *tile, const T *from, u64 stride, u32 columns, bool whole, Rows row_of) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < count * (dim / 8); i += THREADS) {
        u32 r = i / (dim / 8), chunk = i % (dim / 8);
        u64 row = row_of(r);
        bool inside = row != ~0ull && chunk * 8 < columns;
        T *to = tile + chunk_of<dim>(r, chunk) * 8;
        const T *source = from + (inside ? row * stride + chunk * 8 : 0);
        if (whole) {
            copy_16(to, source, inside);
        } else {
#pragma unroll 1
            for (u32 e = 0; e < 8; e++) to[e] = inside && chunk * 8 + e < columns ? source[e] : T{0};
        }
    }
}

// scores += queries·keysᵀ of this warp's 16 queries.
template <class T, u32 dim> DEVICE void add_scores(float (&scores)[KEYS / 8][4], const T *queries, const T *keys) {
    u32 lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
#pragma unroll 1
    for (u32 c = 0; c < dim / 8; c += 2) {
        u32 left[4];
        load_matrices<false>(left, queries + chunk_of<dim>(row, c + lane / 16) * 8);
#pragma unroll
        for (u32 j = 0; j < KEYS / 16; j++) {
            u32 right[4], key = j * 16 + lane % 8 + lane / 16 * 8;
            load_matrices<false>(right, keys + chunk_of<dim>(key, c + lane / 8 % 2) * 8);
            u32 low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
            mma<T>(scores[2 * j], left, low);
            mma<T>(scores[2 * j + 1], left, high);
        }
    }
}

// sums += weights·values: weights are this warp's, of 16 queries and all keys of the tile.
template <class T, u32 dim>
DEVICE void add_values(float (&sums)[dim / 8][4], const u32 (&weights)[KEYS / 16][4], const T *values) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 j = 0; j < KEYS / 16; j++) {
#pragma unroll
        for (u32 c = 0; c < dim / 8; c += 2) {
            u32 right[4], key = j * 16 + lane % 16;
            load_matrices<true>(right, values + chunk_of<dim>(key, c + lane / 16) * 8);
            u32 low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
            mma<T>(sums[c], weights[j], low);
            mma<T>(sums[c + 1], weights[j], high);
        }
    }
}

// Scores as the left operand of a product with values.
template <class T> DEVICE void as_weights(u32 (&weights)[KEYS / 16][4], const float (&scores)[KEYS / 8][4]) {
#pragma unroll
    for (u32 j = 0; j < KEYS / 16; j++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float(&s)[4] = scores[2 * j + i / 2];
            weights[j][i] = pack<T>(s[i % 2 * 2], s[i % 2 * 2 + 1]);
        }
}

// Sum over the four lanes that hold a row.
DEVICE float row_sum(float v) {
    v += shuffle_xor(v, 1);
    return v + shuffle_xor(v, 2);
}
DEVICE float row_max(float v) {
    v = fmaxf(v, shuffle_xor(v, 1));
    return fmaxf(v, shuffle_xor(v, 2));
}

template <class T, u32 dim, u32 G> DEVICE void sweep(const AttentionArgs &a) {
    // What belongs to tangents stands behind what belongs to the primal.
    constexpr u32 q_len = QUERIES * dim, key_len = KEYS * dim;
    SHARED_BYTES(shared);
    T *q_tiles = reinterpret_cast<T *>(shared), *k_tiles = q_tiles + (1 + G) * q_len, *v_tiles = k_tiles + (1 + G) * key_len;
    const T *q = static_cast<const T *>(a.q), *kv = static_cast<const T *>(a.kv);
    u32 queries = a.q_rows.primal_count, keys = a.kv_rows.primal_count, blocks = (queries + QUERIES - 1) / QUERIES;
    u32 first_query = blockIdx.x % blocks * QUERIES, pair = blockIdx.x / blocks, head = pair % a.heads, b = pair / a.heads;
    u32 width = a.heads * a.dim;
    q += head * a.dim;
    const T *k = kv + head * a.dim, *v = k + width;
    bool aligned = ((reinterpret_cast<u64>(q) | reinterpret_cast<u64>(k)) & 15) == 0 && a.dim % 8 == 0 && width % 8 == 0;
    bool q_whole = aligned && a.q_stride % 8 == 0, kv_whole = aligned && a.kv_stride % 8 == 0;
    // Where no token moves, there is nothing to load and nothing to multiply.
    bool q_moves = G > 0 && a.q_rows.tangents > 0 && a.q_rows.tangent_count > 0;
    bool k_moves = G > 0 && a.kv_rows.tangents > 0 && a.kv_rows.tangent_count > 0;

    auto query_row = [&](u32 i) { return first_query + i < queries ? a.q_rows.primal_row(b, first_query + i) : ~0ull; };
    load_rows<T, dim, QUERIES>(q_tiles, q, a.q_stride, a.dim, q_whole, query_row);
    for (u32 g = 0; g < G && q_moves; g++) {
        bool there = g < a.tangents;
        load_rows<T, dim, QUERIES>(q_tiles + (1 + g) * q_len, q, a.q_stride, a.dim, q_whole, [&](u32 i) {
            return there && first_query + i < queries ? moving_row(a.q_rows, a.first_tangent + g, b, first_query + i) : ~0ull;
        });
    }
    // All tokens of a tile move, or some; those that do not are zeros.
    auto load_keys = [&](T *tiles, const T *from, u32 first) {
        if (first < keys) {
            load_rows<T, dim, KEYS>(tiles, from, a.kv_stride, a.dim, kv_whole,
                                    [&](u32 i) { return first + i < keys ? a.kv_rows.primal_row(b, first + i) : ~0ull; });
            for (u32 g = 0; g < G && k_moves; g++) {
                bool there = g < a.tangents;
                load_rows<T, dim, KEYS>(tiles + (1 + g) * key_len, from, a.kv_stride, a.dim, kv_whole, [&](u32 i) {
                    return there && first + i < keys ? moving_row(a.kv_rows, a.first_tangent + g, b, first + i) : ~0ull;
                });
            }
        }
        commit_copies();
    };

    float out[1 + G][dim / 8][4] = {}, most[2] = {negative_infinity(), negative_infinity()}, total[2] = {}, along[G > 0 ? G : 1][2] = {};
    const float to_base_2 = a.scale * 1.44269504f;
    load_keys(k_tiles, k, 0);
    load_keys(v_tiles, v, 0);
    for (u32 first = 0; first < keys; first += KEYS) {
        wait_copies<1>();
        sync_block();
        float scores[KEYS / 8][4] = {}, moved[G > 0 ? G : 1][KEYS / 8][4] = {};
        add_scores<T, dim>(scores, q_tiles, k_tiles);
#pragma unroll
        for (u32 g = 0; g < G; g++) {
            if (q_moves) add_scores<T, dim>(moved[g], q_tiles + (1 + g) * q_len, k_tiles);
            if (k_moves) add_scores<T, dim>(moved[g], q_tiles, k_tiles + (1 + g) * key_len);
        }
        sync_block();
        load_keys(k_tiles, k, first + KEYS);

#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float best = most[half];
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (u32 e = 0; e < 2; e++) {
                    float &s = scores[j][2 * half + e];
                    bool there = first + j * 8 + threadIdx.x % 4 * 2 + e < keys;
                    s = there ? s * to_base_2 : negative_infinity();
                    best = fmaxf(best, s);
                }
            // Finite: the first key of every tile is there.
            best = row_max(best);
            float fade = exp2f(most[half] - best);
            most[half] = best;
            total[half] *= fade;
#pragma unroll
            for (u32 plane = 0; plane <= G; plane++)
#pragma unroll
                for (u32 c = 0; c < dim / 8; c++) out[plane][c][2 * half] *= fade, out[plane][c][2 * half + 1] *= fade;
#pragma unroll
            for (u32 g = 0; g < G; g++) along[g][half] *= fade;
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (u32 e = 2 * half; e < 2 * half + 2; e++) {
                    // Summed as they are multiplied: a rounding then moves the mean by its share of v − o, not of v.
                    scores[j][e] = to_float(from_float<T>(exp2f(scores[j][e] - best)));
                    total[half] += scores[j][e];
#pragma unroll
                    for (u32 g = 0; g < G; g++) {
                        moved[g][j][e] = to_float(from_float<T>(moved[g][j][e] * a.scale * scores[j][e]));
                        along[g][half] += moved[g][j][e];
                    }
                }
        }

        u32 weights[KEYS / 16][4];
        as_weights<T>(weights, scores);
        wait_copies<1>();
        sync_block();
        add_values<T, dim>(out[0], weights, v_tiles);
#pragma unroll
        for (u32 g = 0; g < G; g++) {
            if (k_moves) add_values<T, dim>(out[1 + g], weights, v_tiles + (1 + g) * key_len);
        }
#pragma unroll
        for (u32 g = 0; g < G; g++) {
            as_weights<T>(weights, moved[g]);
            add_values<T, dim>(out[1 + g], weights, v_tiles);
        }
        sync_block();
        load_keys(v_tiles, v, first + KEYS);
    }

    T *y = static_cast<T *>(a.y) + head * a.dim;
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 query = first_query + threadIdx.x / 32 * 16 + half * 8 + lane / 4;
        float rest = 1.0f / row_sum(total[half]), slope[G > 0 ? G : 1];
#pragma unroll
        for (u32 g = 0; g < G; g++) slope[g] = row_sum(along[g][half]) * rest;
        if (query >= queries) continue;
        u32 moving = G > 0 && a.out_rows.tangent_count > 0 ? a.out_rows.pair[query] : ~0u;
#pragma unroll
        for (u32 c = 0; c < dim / 8; c++)
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                u32 column = c * 8 + lane % 4 * 2 + e;
                if (column >= a.dim) continue;
                float o = out[0][c][2 * half + e] * rest;
                if (a.primal) y[a.out_rows.primal_row(b, query) * width + column] = from_float<T>(o);
#pragma unroll
                for (u32 g = 0; g < G; g++) {
                    if (moving == ~0u || g >= a.tangents) continue;
                    float value = out[1 + g][c][2 * half + e] * rest - slope[g] * o;
                    y[a.out_rows.tangent_row(a.first_tangent + g, b, moving) * width + column] = from_float<T>(value);
                }
            }
    }
}
} // namespace

template <class T> DEVICE void attention_32_0(const AttentionArgs &a) { sweep<T, 32, 0>(a); }
template <class T> DEVICE void attention_32_1(const AttentionArgs &a) { sweep<T, 32, 1>(a); }
template <class T> DEVICE void attention_32_2(const AttentionArgs &a) { sweep<T, 32, 2>(a); }
template <class T> DEVICE void attention_64_0(const AttentionArgs &a) { sweep<T, 64, 0>(a); }
template <class T> DEVICE void attention_64_1(const AttentionArgs &a) { sweep<T, 64, 1>(a); }
template <class T> DEVICE void attention_64_2(const AttentionArgs &a) { sweep<T, 64, 2>(a); }
template <class T> DEVICE void attention_128_0(const AttentionArgs &a) { sweep<T, 128, 0>(a); }
template <class T> DEVICE void attention_128_1(const AttentionArgs &a) { sweep<T, 128, 1>(a); }
HALF_KERNELS(attention_32_0, AttentionArgs, 128)
HALF_KERNELS(attention_32_1, AttentionArgs, 128)
HALF_KERNELS(attention_32_2, AttentionArgs, 128)
HALF_KERNELS(attention_64_0, AttentionArgs, 128)
HALF_KERNELS(attention_64_1, AttentionArgs, 128)
HALF_KERNELS(attention_64_2, AttentionArgs, 128)
HALF_KERNELS(attention_128_0, AttentionArgs, 128)
HALF_KERNELS(attention_128_1, AttentionArgs, 128)
