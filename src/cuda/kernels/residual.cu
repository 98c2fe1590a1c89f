// Row movement between the stream and compact buffers (src/ops/residual.rs): residual, gather, scatter and pooling.
// All are bound by memory: one or two reads and one write per element.
#include "common.cuh"

struct RowArgs {
    void *x;           // stream
    void *f;           // compact
    const void *scale; // λ [d]; null: 1
    RowSet rows;
    u32 width;
    u32 unused;
};

struct PoolArgs {
    const void *y; // compact
    void *out;     // [1+K, B, groups, d]
    RowSet rows;
    u32 width, group, groups, start, len;
    u32 unused;
};

namespace {
enum class Move { residual, gather, scatter };

// A block moves one row.
template <class T, Move move, int n> DEVICE void move_row(const RowArgs &a) {
    u64 width = a.width;
    T *x = static_cast<T *>(a.x) + a.rows.stream_row(blockIdx.x) * width, *f = static_cast<T *>(a.f) + blockIdx.x * width;
    const T *scale = static_cast<const T *>(a.scale);
    for (u32 c = threadIdx.x * n; c < width; c += blockDim.x * n) {
        float v[n], factor[n];
        load(v, move == Move::gather ? x + c : f + c);
        if (scale) {
            load(factor, scale + c);
            for (int e = 0; e < n; e++) v[e] *= factor[e];
        }
        if (move == Move::residual) {
            load(factor, x + c);
            for (int e = 0; e < n; e++) v[e] += factor[e];
        }
        store(move == Move::gather ? f + c : x + c, v);
    }
}

template <class T, Move move> DEVICE void move_rows(const RowArgs &a) {
    if (a.width % 4 == 0) move_row<T, move, 4>(a);
    else move_row<T, move, 1>(a);
}
} // namespace

// x[rows] += λ⊙f.
template <class T> DEVICE void residual(const RowArgs &a) { move_rows<T, Move::residual>(a); }
KERNELS(residual, RowArgs, 256)

// f = λ⊙x[rows].
template <class T> DEVICE void gather(const RowArgs &a) { move_rows<T, Move::gather>(a); }
KERNELS(gather, RowArgs, 256)

// x[rows] = f.
template <class T> DEVICE void scatter(const RowArgs &a) { move_rows<T, Move::scatter>(a); }
KERNELS(scatter, RowArgs, 256)

// Mean of the tokens start..start+len of a plane's example, which is blockIdx.x; a thread per column, tokens in order.
template <class T> DEVICE void pool(const PoolArgs &a) {
    const RowSet &rows = a.rows;
    u32 plane = blockIdx.x / rows.examples, b = blockIdx.x % rows.examples, c = blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= a.width) return;
    u64 first = plane == 0 ? rows.primal_row(b, a.start) : rows.tangent_row(plane - 1, b, a.start);
    const T *y = static_cast<const T *>(a.y) + first * a.width + c;
    float sum = 0.0f;
    for (u32 t = 0; t < a.len; t++) sum += to_float(y[u64(t) * a.width]);
    u64 to = u64(blockIdx.x) * a.groups + a.group;
    static_cast<T *>(a.out)[to * a.width + c] = from_float<T>(sum / float(a.len));
}
KERNELS(pool, PoolArgs, 256)
