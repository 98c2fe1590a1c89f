// Layer norm, alone or behind a residual: x += λ⊙f, y = LN(x), over primal and tangent rows (src/ops/norm.rs).
//
// A warp takes one primal row and its K tangents, so that mean, 1/σ and x̂ are computed once. Bytes: every row of x (and f) is
// read once and every row of y (and x) written once; second reads come from cache. Statistics are f32 and of the rounded x,
// so that the fused and the separate operations agree. Shared memory: 4·d bytes a warp, x̂ of its row.
#include "common.cuh"

struct NormArgs {
    void *x;           // stream
    const void *f;     // the branch, compact; null: none
    void *y;           // compact; may be f
    const void *gamma; // [d]
    const void *beta;
    const void *scale; // λ [d]; null: 1
    RowSet rows;
    u32 width;
    float eps;
};

struct NormVjpArgs {
    const void *x;  // stream
    const void *dy; // compact
    void *dx;       // stream, added to
    const void *gamma;
    RowSet rows;
    u32 width;
    float eps;
};

namespace {
// Makes the row in `values` x̂; its 1/σ.
DEVICE float normalise(float *values, u32 width, float eps) {
    u32 lane = threadIdx.x % 32;
    float sum = 0.0f, squares = 0.0f;
    for (u32 c = lane; c < width; c += 32) sum += values[c];
    float mean = warp_sum(sum) / float(width);
    for (u32 c = lane; c < width; c += 32) squares += (values[c] - mean) * (values[c] - mean);
    float rstd = 1.0f / sqrtf(warp_sum(squares) / float(width) + eps);
    for (u32 c = lane; c < width; c += 32) values[c] = (values[c] - mean) * rstd;
    sync_warp();
    return rstd;
}

// x + λ⊙f of n elements, stored; without f, x.
template <class T, int n> DEVICE void update(float (&v)[n], T *x, const T *f, const T *scale, u32 c) {
    load(v, x + c);
    if (!f) return;
    float branch[n], factor[n];
    load(branch, f + c);
    if (scale) load(factor, scale + c);
    for (int i = 0; i < n; i++) v[i] += scale ? factor[i] * branch[i] : branch[i];
    store(x + c, v);
}

// Every lane reads and writes elements of its own only: no lane meets another's.
template <class T, int n> DEVICE void norm_rows(const NormArgs &a, float *normal, u64 row) {
    const RowSet &rows = a.rows;
    u32 first = threadIdx.x % 32 * n;
    u64 b = row / rows.primal_count, i = row % rows.primal_count, token = rows.primal[i], width = a.width;
    const T *f = static_cast<const T *>(a.f), *scale = static_cast<const T *>(a.scale);
    const T *gamma = static_cast<const T *>(a.gamma), *beta = static_cast<const T *>(a.beta);
    T *x = static_cast<T *>(a.x) + rows.stream_row(0, b, token) * width;
    T *y = static_cast<T *>(a.y) + row * width;
    float v[n], g[n], shift[n];

    for (u32 c = first; c < width; c += 32 * n) {
        update(v, x, f ? f + row * width : f, scale, c);
        for (int e = 0; e < n; e++) normal[c + e] = v[e];
    }
    sync_warp();
    float rstd = normalise(normal, a.width, a.eps);
    for (u32 c = first; c < width; c += 32 * n) {
        load(g, gamma + c);
        load(shift, beta + c);
        for (int e = 0; e < n; e++) v[e] = g[e] * normal[c + e] + shift[e];
        store(y + c, v);
    }

    u32 j = rows.tangents ? rows.pair[i] : ~0u;
    if (j == ~0u) return;
    for (u32 k = 0; k < rows.tangents; k++) {
        u64 compact = rows.tangent_row(k, b, j);
        x = static_cast<T *>(a.x) + rows.stream_row(1 + k, b, token) * width;
        y = static_cast<T *>(a.y) + compact * width;
        float sum = 0.0f, along = 0.0f;
        for (u32 c = first; c < width; c += 32 * n) {
            update(v, x, f ? f + compact * width : f, scale, c);
            for (int e = 0; e < n; e++) sum += v[e], along += v[e] * normal[c + e];
        }
        sum = warp_sum(sum) / float(a.width);
        along = warp_sum(along) / float(a.width);
        for (u32 c = first; c < width; c += 32 * n) {
            load(v, x + c);
            load(g, gamma + c);
            for (int e = 0; e < n; e++) v[e] = g[e] * rstd * (v[e] - sum - normal[c + e] * along);
            store(y + c, v);
        }
    }
}

// dx += (g − mean g − x̂·mean(x̂⊙g))/σ with g = γ⊙dy.
template <class T, int n> DEVICE void norm_vjp_row(const NormVjpArgs &a, float *normal, u64 row) {
    const RowSet &rows = a.rows;
    u32 first = threadIdx.x % 32 * n;
    u64 width = a.width;
    u64 stream = rows.stream_row(0, row / rows.primal_count, rows.primal[row % rows.primal_count]) * width;
    const T *x = static_cast<const T *>(a.x) + stream, *dy = static_cast<const T *>(a.dy) + row * width;
    const T *gamma = static_cast<const T *>(a.gamma);
    T *dx = static_cast<T *>(a.dx) + stream;
    float v[n], g[n], d[n];

    for (u32 c = first; c < width; c += 32 * n) {
        load(v, x + c);
        for (int e = 0; e < n; e++) normal[c + e] = v[e];
    }
    sync_warp();
    float rstd = normalise(normal, a.width, a.eps), sum = 0.0f, along = 0.0f;
    for (u32 c = first; c < width; c += 32 * n) {
        load(g, gamma + c);
        load(d, dy + c);
        for (int e = 0; e < n; e++) sum += g[e] * d[e], along += g[e] * d[e] * normal[c + e];
    }
    sum = warp_sum(sum) / float(a.width);
    along = warp_sum(along) / float(a.width);
    for (u32 c = first; c < width; c += 32 * n) {
        load(g, gamma + c);
        load(d, dy + c);
        load(v, dx + c);
        for (int e = 0; e < n; e++) v[e] += rstd * (g[e] * d[e] - sum - normal[c + e] * along);
        store(dx + c, v);
    }
}

// This warp's primal row and its x̂; false beyond the last.
DEVICE bool warp_row(const RowSet &rows, u32 width, float *shared, u64 &row, float *&normal) {
    u32 warp = threadIdx.x / 32;
    row = u64(blockIdx.x) * (blockDim.x / 32) + warp;
    normal = shared + u64(warp) * width;
    return row < u64(rows.examples) * rows.primal_count;
}
} // namespace

template <class T> DEVICE void norm(const NormArgs &a) {
    SHARED_BYTES(shared);
    u64 row;
    float *normal;
    if (!warp_row(a.rows, a.width, reinterpret_cast<float *>(shared), row, normal)) return;
    if (a.width % 4 == 0) norm_rows<T, 4>(a, normal, row);
    else norm_rows<T, 1>(a, normal, row);
}
KERNELS(norm, NormArgs, 128)

template <class T> DEVICE void norm_vjp(const NormVjpArgs &a) {
    SHARED_BYTES(shared);
    u64 row;
    float *normal;
    if (!warp_row(a.rows, a.width, reinterpret_cast<float *>(shared), row, normal)) return;
    if (a.width % 4 == 0) norm_vjp_row<T, 4>(a, normal, row);
    else norm_vjp_row<T, 1>(a, normal, row);
}
KERNELS(norm_vjp, NormVjpArgs, 128)
