// VJP of attention over all tokens (src/ops/attention.rs), for the exact gradient: a warp takes a row of q, then one of k and v.
//
// With P = softmax(scale·q·kᵀ), dP = dy·vᵀ and D = ΣP dP: dq = scale·P(dP − D)·k, dk = scale·(P(dP − D))ᵀ·q, dv = Pᵀ·dy. The first
// kernel computes dq in one online-softmax sweep and leaves log ΣeS and D of every row, 8 bytes, for the second. Sums are f32
// and in the order of the rows, without atomics. About 20·T²·d FLOPs an example; rows come from cache.
#include "common.cuh"

struct AttentionVjpArgs {
    const void *q;  // [rows, d]
    const void *kv; // [rows, 2d]
    const void *dy; // [rows, d]
    void *dq;       // [rows, d]
    void *dkv;      // [rows, 2d]
    float *statistics; // [B, h, T, 2]
    u64 q_stride, kv_stride;
    u32 examples, tokens, heads, dim;
    float scale;
    u32 unused;
};

namespace {
// Columns of a head that a lane holds: dim is at most 128.
constexpr u32 HELD = 4;

struct Row {
    u32 b, head, token, lane;
};

DEVICE bool row_of(const AttentionVjpArgs &a, Row &row) {
    u64 index = u64(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    u32 pair = u32(index / a.tokens);
    row = {pair / a.heads, pair % a.heads, u32(index % a.tokens), threadIdx.x % 32};
    return index < u64(a.examples) * a.heads * a.tokens;
}

template <class T> DEVICE void take(float (&to)[HELD], const void *from, u64 at, u32 lane, u32 dim) {
    for (u32 e = 0; e < HELD; e++) to[e] = lane + 32 * e < dim ? to_float(static_cast<const T *>(from)[at + lane + 32 * e]) : 0.0f;
}

template <class T> DEVICE void give(void *to, u64 at, const float (&from)[HELD], u32 lane, u32 dim) {
    for (u32 e = 0; e < HELD; e++)
        if (lane + 32 * e < dim) static_cast<T *>(to)[at + lane + 32 * e] = from_float<T>(from[e]);
}

DEVICE float dot(const float (&a)[HELD], const float (&b)[HELD]) {
    float sum = 0.0f;
    for (u32 e = 0; e < HELD; e++) sum = fmaf(a[e], b[e], sum);
    return warp_sum(sum);
}
} // namespace

template <class T> DEVICE void attention_vjp_q(const AttentionVjpArgs &a) {
    Row row;
    if (!row_of(a, row)) return;
    u32 d = a.heads * a.dim, lane = row.lane;
    u64 first = u64(row.b) * a.tokens, column = u64(row.head) * a.dim, own = first + row.token;
    float q[HELD], dy[HELD], k[HELD], v[HELD], pull[HELD] = {}, mean[HELD] = {};
    take<T>(q, a.q, own * a.q_stride + column, lane, a.dim);
    take<T>(dy, a.dy, own * d + column, lane, a.dim);
    float most = negative_infinity(), total = 0.0f, along = 0.0f;
    for (u32 j = 0; j < a.tokens; j++) {
        take<T>(k, a.kv, (first + j) * a.kv_stride + column, lane, a.dim);
        take<T>(v, a.kv, (first + j) * a.kv_stride + d + column, lane, a.dim);
        float s = dot(q, k) * a.scale, slope = dot(dy, v), best = fmaxf(most, s);
        float fade = expf(most - best), p = expf(s - best);
        most = best;
        total = total * fade + p;
        along = along * fade + p * slope;
        for (u32 e = 0; e < HELD; e++) {
            pull[e] = pull[e] * fade + p * slope * k[e];
            mean[e] = mean[e] * fade + p * k[e];
        }
    }
    along /= total;
    for (u32 e = 0; e < HELD; e++) pull[e] = a.scale * (pull[e] - along * mean[e]) / total;
    give<T>(a.dq, own * d + column, pull, lane, a.dim);
    if (lane == 0) {
        float *statistics = a.statistics + 2 * ((u64(row.b) * a.heads + row.head) * a.tokens + row.token);
        statistics[0] = most + logf(total);
        statistics[1] = along;
    }
}
KERNELS(attention_vjp_q, AttentionVjpArgs, 128)

template <class T> DEVICE void attention_vjp_kv(const AttentionVjpArgs &a) {
    Row row;
    if (!row_of(a, row)) return;
    u32 d = a.heads * a.dim, lane = row.lane;
    u64 first = u64(row.b) * a.tokens, column = u64(row.head) * a.dim, own = first + row.token;
    const float *statistics = a.statistics + 2 * (u64(row.b) * a.heads + row.head) * a.tokens;
    float q[HELD], dy[HELD], k[HELD], v[HELD], dk[HELD] = {}, dv[HELD] = {};
    take<T>(k, a.kv, own * a.kv_stride + column, lane, a.dim);
    take<T>(v, a.kv, own * a.kv_stride + d + column, lane, a.dim);
    for (u32 i = 0; i < a.tokens; i++) {
        take<T>(q, a.q, (first + i) * a.q_stride + column, lane, a.dim);
        take<T>(dy, a.dy, (first + i) * d + column, lane, a.dim);
        float p = expf(dot(q, k) * a.scale - statistics[2 * i]), slope = dot(dy, v) - statistics[2 * i + 1];
        for (u32 e = 0; e < HELD; e++) {
            dk[e] += a.scale * p * slope * q[e];
            dv[e] += p * dy[e];
        }
    }
    give<T>(a.dkv, own * 2 * d + column, dk, lane, a.dim);
    give<T>(a.dkv, own * 2 * d + d + column, dv, lane, a.dim);
}
KERNELS(attention_vjp_kv, AttentionVjpArgs, 128)
