// Images to tokens (src/ops/embed.rs), and values between the host's f32 and the storage type. Bound by memory.
#include "common.cuh"

struct PatchesArgs {
    const float *images; // [n, c, H, W]
    void *out;           // [n·patches, c·ph·pw]
    u32 channels, height, width, patch_height, patch_width;
    u32 unused;
};

struct EmbedArgs {
    const void *projected; // [B·patches, d]
    const void *constant;  // [|primal|, d]
    void *x;               // stream
    RowSet rows;
    u32 patches, width;
};

struct ConvertArgs {
    const void *from;
    void *to;
    u64 count;
};

// A block takes one patch.
template <class T> DEVICE void patches(const PatchesArgs &a) {
    u32 across = a.width / a.patch_width, down = a.height / a.patch_height;
    u32 gx = blockIdx.x % across, gy = blockIdx.x / across % down;
    u64 b = blockIdx.x / across / down;
    u32 area = a.patch_height * a.patch_width, len = a.channels * area;
    T *out = static_cast<T *>(a.out) + u64(blockIdx.x) * len;
    for (u32 i = threadIdx.x; i < len; i += blockDim.x) {
        u32 c = i / area, y = i % area / a.patch_width, x = i % a.patch_width;
        u64 row = (b * a.channels + c) * a.height + gy * a.patch_height + y;
        out[i] = from_float<T>(a.images[row * a.width + gx * a.patch_width + x]);
    }
}
KERNELS(patches, PatchesArgs, 256)

// x[0, b, t] = constant[t], plus the patch's row for the last `patches` tokens. A block takes one token.
template <class T> DEVICE void embed(const EmbedArgs &a) {
    u32 b = blockIdx.x / a.rows.primal_count, t = blockIdx.x % a.rows.primal_count;
    u32 leading = a.rows.primal_count - a.patches;
    const T *constant = static_cast<const T *>(a.constant) + u64(t) * a.width;
    const T *projected = static_cast<const T *>(a.projected) + (u64(b) * a.patches + t - leading) * a.width;
    T *x = static_cast<T *>(a.x) + a.rows.stream_row(0, b, a.rows.primal[t]) * a.width;
    for (u32 c = threadIdx.x; c < a.width; c += blockDim.x) {
        float value = to_float(constant[c]);
        x[c] = from_float<T>(t >= leading ? value + to_float(projected[c]) : value);
    }
}
KERNELS(embed, EmbedArgs, 256)

template <class T> DEVICE void from_host(const ConvertArgs &a) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < a.count) static_cast<T *>(a.to)[i] = from_float<T>(static_cast<const float *>(a.from)[i]);
}
KERNELS(from_host, ConvertArgs, 256)

template <class T> DEVICE void to_host(const ConvertArgs &a) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < a.count) static_cast<float *>(a.to)[i] = to_float(static_cast<const T *>(a.from)[i]);
}
KERNELS(to_host, ConvertArgs, 256)
