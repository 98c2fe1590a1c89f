// What the attention kernels of all storage types share.
#pragma once
#include "common.cuh"

// q rows [q_rows, d], kv rows [kv_rows, 2d] (k then v), y compact over out_rows. out_rows.primal is q_rows.primal.
struct AttentionArgs {
    const void *q;
    const void *kv;
    void *y;
    u64 q_stride, kv_stride;
    RowSet q_rows, kv_rows, out_rows;
    u32 heads, dim;
    u32 first_tangent, tangents; // of this sweep
    u32 primal;                  // whether this sweep writes the primal
    float scale;
};

// Row of token i's tangent k among `rows`, or ~0ull where it is zero.
DEVICE u64 moving_row(const RowSet &rows, u32 k, u32 b, u32 i) {
    if (k >= rows.tangents || rows.tangent_count == 0) return ~0ull;
    u32 pair = rows.pair[i];
    return pair == ~0u ? ~0ull : rows.tangent_row(k, b, pair);
}
