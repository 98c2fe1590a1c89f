// Heads (src/ops/head.rs): head inputs to logits, in f32 whatever is stored.
//
// 2·C·D operations a row. Logits are dots of one warp each, whose order does not depend on the other rows or classes.
#include "common.cuh"

struct DirectionArgs {
    const void *f;       // head inputs [1+K, B, D]
    const float *center; // c [D]; null: rows are taken as they are
    float *out;          // [1+K, n, D]: of examples first..first+n
    u32 examples, first, count, width;
};

struct LogitsArgs {
    const float *f;      // [rows, D]
    const float *matrix; // [classes, D]
    const float *bias;   // [classes], for the first `biased` rows; null: none
    float *z;            // [rows, stride]
    u32 rows, classes, width, stride, biased;
    float scale;
};

// Linear heads: rows as they are. Prototype heads: u = (f−c)/‖f−c‖, and u̇ = (ḟ − u(u·ḟ))/‖f−c‖. A warp takes an example.
template <class T> DEVICE void direction(const DirectionArgs &a) {
    u32 lane = threadIdx.x, b = blockIdx.x;
    const T *f = static_cast<const T *>(a.f) + u64(a.first + b) * a.width;
    u64 from = u64(a.examples) * a.width, to = u64(a.count) * a.width;
    u32 plane = blockIdx.y;
    float *out = a.out + plane * to + u64(b) * a.width;
    if (!a.center) {
        for (u32 c = lane; c < a.width; c += 32) out[c] = to_float(f[plane * from + c]);
        return;
    }
    float squares = 0.0f, along = 0.0f;
    for (u32 c = lane; c < a.width; c += 32) {
        float v = to_float(f[c]) - a.center[c];
        squares += v * v;
        if (plane > 0) along += v * to_float(f[plane * from + c]);
    }
    float length = sqrtf(warp_sum(squares));
    along = warp_sum(along);
    // The direction of nothing is undefined, and its logits are zero.
    float inverse = length > 1e-30f ? 1.0f / length : 0.0f;
    for (u32 c = lane; c < a.width; c += 32) {
        float u = (to_float(f[c]) - a.center[c]) * inverse;
        out[c] = plane == 0 ? u : (to_float(f[plane * from + c]) - u * (along * inverse)) * inverse;
    }
}
KERNELS(direction, DirectionArgs, 32)

// z[r, c] = scale·⟨matrix[c], f[r]⟩ + bias[c]. A warp takes a class and eight rows.
template <class T> DEVICE void logits(const LogitsArgs &a) {
    constexpr u32 ROWS = 8;
    u32 lane = threadIdx.x % 32, c = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, first = blockIdx.y * ROWS;
    if (c >= a.classes) return;
    const float *w = a.matrix + u64(c) * a.width, *f = a.f + u64(first) * a.width;
    float sums[ROWS] = {};
    for (u32 i = lane; i < a.width; i += 32) {
        float weight = w[i];
        for (u32 r = 0; r < ROWS; r++)
            if (first + r < a.rows) sums[r] += weight * f[u64(r) * a.width + i];
    }
    for (u32 r = 0; r < ROWS; r++) {
        float sum = warp_sum(sums[r]) * a.scale;
        u32 row = first + r;
        if (lane == 0 && row < a.rows) a.z[u64(row) * a.stride + c] = a.bias && row < a.biased ? sum + a.bias[c] : sum;
    }
}
KERNELS(logits, LogitsArgs, 128)
