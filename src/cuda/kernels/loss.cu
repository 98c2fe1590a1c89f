// Cross entropy (src/ops/loss.rs). Bound by memory: three reads of an example's logits, one of its tangents', one write.
#include "common.cuh"

struct LossArgs {
    const float *z;    // logits [1+K, n, C]
    const u32 *labels; // [n]
    float *out;        // [n, 2 + K + C]: L, the class of the largest logit, L̇ [K], ∂L/∂z [C]
    u32 examples, tangents, classes;
    u32 unused;
};

// A warp takes an example.
template <class T> DEVICE void loss(const LossArgs &a) {
    u32 lane = threadIdx.x, b = blockIdx.x, classes = a.classes, label = a.labels[b];
    const float *z = a.z + u64(b) * classes;
    float *out = a.out + u64(b) * (2 + a.tangents + classes), *slopes = out + 2 + a.tangents;

    // The first of equals.
    float most = negative_infinity(), best = float(classes);
    for (u32 c = lane; c < classes; c += 32)
        if (c == lane || z[c] > most) most = z[c], best = float(c);
    for (u32 mask = 16; mask > 0; mask >>= 1) {
        float other = shuffle_xor(most, int(mask)), at = shuffle_xor(best, int(mask));
        if (other > most || (other == most && at < best)) most = other, best = at;
    }
    float sum = 0.0f;
    for (u32 c = lane; c < classes; c += 32) sum += expf(z[c] - most);
    sum = warp_sum(sum);
    for (u32 c = lane; c < classes; c += 32) slopes[c] = expf(z[c] - most) / sum - (c == label ? 1.0f : 0.0f);
    if (lane == 0) out[0] = logf(sum) + most - z[label], out[1] = best;
    for (u32 k = 0; k < a.tangents; k++) {
        const float *tangent = a.z + (u64(1 + k) * a.examples + b) * classes;
        float along = 0.0f;
        for (u32 c = lane; c < classes; c += 32) along += slopes[c] * tangent[c];
        along = warp_sum(along);
        if (lane == 0) out[2 + k] = along;
    }
}
KERNELS(loss, LossArgs, 32)
