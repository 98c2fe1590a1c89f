// Activations, primal, tangent and VJP, in place (src/ops/activation.rs). A thread takes a few hidden units of a primal row and
// their K tangents: φ and φ′ are computed once. Every element is read and written once. A block takes up to 1024 units of a row.
#include "common.cuh"

struct ActivationArgs {
    void *h; // compact rows of `stride`
    RowSet rows;
    u32 hidden, stride, kind, gated;
};

struct ActivationVjpArgs {
    const void *h, *dg;
    void *dh;
    u32 hidden, stride, kind, gated;
};

namespace {
struct Point {
    float value, slope;
};

DEVICE float sigmoid(float x) {
    // exp of a negative number only, so neither branch overflows.
    float e = expf(-fabsf(x));
    return x >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
}

// (φ(x), φ′(x)); kinds in the order of cuda/activation.rs: gelu, gelu tanh, quick-gelu, relu, silu.
DEVICE Point activate(u32 kind, float x) {
    switch (kind) {
    case 0: {
        // Not 1 + erf, which loses all digits of the left tail.
        float cdf = 0.5f * erfcf(x * -0.707106781f), density = expf(-0.5f * x * x) * 0.398942280f;
        return {x * cdf, cdf + x * density};
    }
    case 1: {
        float t = tanhf(0.797884561f * (x + 0.044715f * x * x * x));
        float inner = 0.797884561f * (1.0f + 0.134145f * x * x);
        return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner};
    }
    case 2: {
        float s = sigmoid(1.702f * x);
        return {x * s, s + x * 1.702f * s * (1.0f - s)};
    }
    case 3: return x > 0.0f ? Point{x, 1.0f} : Point{0.0f, 0.0f};
    default: {
        float s = sigmoid(x);
        return {x * s, s + x * s * (1.0f - s)};
    }
    }
}
template <class T, int n> DEVICE void dual_units(const ActivationArgs &a, u32 c) {
    const RowSet &rows = a.rows;
    u32 b = blockIdx.x / rows.primal_count, i = blockIdx.x % rows.primal_count;
    T *h = static_cast<T *>(a.h) + c, *primal = h + u64(blockIdx.x) * a.stride;
    float value[n], slope[n], gate[n], v[n], other[n];
    load(v, primal);
    for (int e = 0; e < n; e++) {
        Point p = activate(a.kind, v[e]);
        value[e] = p.value, slope[e] = p.slope, gate[e] = 1.0f;
    }
    if (a.gated) load(gate, primal + a.hidden);
    u32 j = rows.tangents ? rows.pair[i] : ~0u;
    for (u32 k = 0; j != ~0u && k < rows.tangents; k++) {
        T *tangent = h + rows.tangent_row(k, b, j) * a.stride;
        load(v, tangent);
        for (int e = 0; e < n; e++) v[e] *= slope[e] * gate[e];
        if (a.gated) {
            load(other, tangent + a.hidden);
            for (int e = 0; e < n; e++) v[e] += value[e] * other[e];
        }
        store(tangent, v);
    }
    for (int e = 0; e < n; e++) value[e] *= gate[e];
    store(primal, value);
}

template <class T, int n> DEVICE void vjp_units(const ActivationVjpArgs &a, u32 c) {
    const T *h = static_cast<const T *>(a.h) + u64(blockIdx.x) * a.stride + c;
    T *dh = static_cast<T *>(a.dh) + u64(blockIdx.x) * a.stride + c;
    float v[n], g[n], gate[n], other[n];
    load(v, h);
    load(g, static_cast<const T *>(a.dg) + u64(blockIdx.x) * a.hidden + c);
    if (a.gated) load(gate, h + a.hidden);
    for (int e = 0; e < n; e++) {
        Point p = activate(a.kind, v[e]);
        v[e] = a.gated ? p.slope * g[e] * gate[e] : p.slope * g[e];
        other[e] = p.value * g[e];
    }
    store(dh, v);
    if (a.gated) store(dh + a.hidden, other);
}
} // namespace

template <class T> DEVICE void activation(const ActivationArgs &a) {
    u32 at = blockIdx.y * blockDim.x + threadIdx.x;
    if (a.hidden % 4 == 0) {
        if (4 * at < a.hidden) dual_units<T, 4>(a, 4 * at);
    } else {
        for (u32 c = 4 * at; c < 4 * at + 4 && c < a.hidden; c++) dual_units<T, 1>(a, c);
    }
}
KERNELS(activation, ActivationArgs, 256)

template <class T> DEVICE void activation_vjp(const ActivationVjpArgs &a) {
    u32 at = blockIdx.y * blockDim.x + threadIdx.x;
    if (a.hidden % 4 == 0) {
        if (4 * at < a.hidden) vjp_units<T, 4>(a, 4 * at);
    } else {
        for (u32 c = 4 * at; c < 4 * at + 4 && c < a.hidden; c++) vjp_units<T, 1>(a, c);
    }
}
KERNELS(activation_vjp, ActivationVjpArgs, 256)
