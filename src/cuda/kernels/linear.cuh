// What the matrix products of all storage types share.
#pragma once
#include "common.cuh"

struct LinearArgs {
    const void *x; // rows of k values, x_stride apart
    const void *w; // [n, k], or [k, n] for the VJP, rows w_stride apart
    const void *bias; // [n]; null: none
    void *y;
    u64 x_stride, y_stride, w_stride;
    u32 count, biased, n, k;
    u32 accumulate; // add to y
    u32 unused;
};

struct Tile {
    u64 row;
    u32 column;
};

// Tiles in columns of eight rows, so that those which run at the same time read the same rows of x and w.
DEVICE Tile tile_of(const LinearArgs &a, u32 rows, u32 columns) {
    constexpr u32 GROUP = 8;
    u32 down = (a.count + rows - 1) / rows, across = (a.n + columns - 1) / columns;
    u32 group = blockIdx.x / (GROUP * across), within = blockIdx.x % (GROUP * across);
    u32 height = down - group * GROUP < GROUP ? down - group * GROUP : GROUP;
    return {u64(group * GROUP + within % height) * rows, within / height * columns};
}
