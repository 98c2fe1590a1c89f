// The guesses' noise: Philox-4x32-10 and Box–Muller (src/rng.rs), and its sum weighted by derivatives.
//
// Every number is a function of its address, so a thread makes the four of a counter wherever they are needed. Double precision
// is never contracted here: the bits are the CPU's. About 60 integer and 250 double-precision operations for four normals.
#include "common.cuh"

// Addresses of rows of noise: row i is of tangent first_tangent + i/examples and example first_example + i%examples.
struct Draw {
    u64 seed, step;
    u32 set, first_tangent, first_example, examples;
    u32 shared; // all examples have example 0's
    u32 unused;
};

struct NoiseArgs {
    void *out; // [rows, len]
    Draw draw;
    u32 first_row, rows, len;
    u32 unused;
};

struct NoiseSumArgs {
    const double *weights; // [examples, tangents]
    double *out;           // elements first..first+len of a row
    Draw draw;
    u32 tangents, first, len;
    u32 unused;
};

namespace {
struct Four {
    u32 v[4];
};

DEVICE Four philox(Four c, u32 k0, u32 k1) {
    for (int round = 0; round < 10; round++) {
        u64 a = u64(c.v[0]) * 0xD2511F53u, b = u64(c.v[2]) * 0xCD9E8D57u;
        c = Four{{u32(b >> 32) ^ c.v[1] ^ k0, u32(b), u32(a >> 32) ^ c.v[3] ^ k1, u32(a)}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// ln x of a positive normal x.
DEVICE double natural_log(double x) {
    u64 bits = double_bits(x), mantissa = bits & ((1ull << 52) - 1);
    int up = mantissa >= 0x6A09E667F3BCDull;
    int exponent = int(bits >> 52) - 1023 + up;
    double m = bits_double(mantissa | u64(1023 - up) << 52);
    double s = (m - 1.0) / (m + 1.0), z = mul(s, s), sum = 1.0 / 23.0;
    for (double odd = 21.0; odd > 0.0; odd -= 2.0) sum = add(mul(sum, z), 1.0 / odd);
    return add(mul(double(exponent), 0.69314718055994530942), mul(mul(2.0, s), sum));
}

// sin and cos of 2π·(x + ½)·2⁻³².
DEVICE void sin_cos_turn(u32 x, double &s, double &c) {
    u64 quarter = (u64(x) + (1u << 29)) >> 30;
    double rest = add(double((long long)(x) - (long long)(quarter << 30)), 0.5);
    double angle = mul(rest, mul(0x1p-31, 3.14159265358979323846)), z = mul(angle, angle), sine = 1.0, cosine = 1.0;
    for (double n = 18.0; n > 0.0; n -= 2.0) {
        sine = add(1.0, -(mul(sine, z) / (n * (n + 1.0))));
        cosine = add(1.0, -(mul(cosine, z) / (n * (n - 1.0))));
    }
    sine = mul(sine, angle);
    switch (quarter & 3) {
    case 0: s = sine, c = cosine; return;
    case 1: s = cosine, c = -sine; return;
    case 2: s = -sine, c = -cosine; return;
    default: s = -cosine, c = sine; return;
    }
}

// Elements 4·block..4·block + 4 of row `row`.
DEVICE void normals(const Draw &draw, u32 row, u32 block, float (&out)[4]) {
    u32 tangent = draw.first_tangent + row / draw.examples;
    u32 example = draw.shared ? 0 : draw.first_example + row % draw.examples;
    Four words = philox(Four{{block, example, tangent | draw.set << 16, u32(draw.step)}}, u32(draw.seed),
                        u32(draw.seed >> 32) ^ u32(draw.step >> 32));
    for (int i = 0; i < 4; i += 2) {
        double uniform = mul(add(double(words.v[i]), 0.5), 0x1p-32);
        double radius = sqrt(mul(-2.0, natural_log(uniform))), s, c;
        sin_cos_turn(words.v[i + 1], s, c);
        out[i] = float(mul(radius, c));
        out[i + 1] = float(mul(radius, s));
    }
}
} // namespace

// A block takes a row.
template <class T> DEVICE void noise(const NoiseArgs &a) {
    T *out = static_cast<T *>(a.out) + u64(blockIdx.x) * a.len;
    for (u32 block = threadIdx.x; block < (a.len + 3) / 4; block += blockDim.x) {
        float values[4];
        normals(a.draw, a.first_row + blockIdx.x, block, values);
        for (u32 i = 0; i < 4 && 4 * block + i < a.len; i++) out[4 * block + i] = from_float<T>(values[i]);
    }
}
KERNELS(noise, NoiseArgs, 128)

// Σ w[b, k]·n[k, b] in (example, tangent) order. A thread takes four elements; `first` is a multiple of 4.
template <class T> DEVICE void noise_sum(const NoiseSumArgs &a) {
    u32 block = blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * block >= a.len) return;
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    for (u32 b = 0; b < a.draw.examples; b++) {
        for (u32 k = 0; k < a.tangents; k++) {
            float values[4];
            normals(a.draw, k * a.draw.examples + b, a.first / 4 + block, values);
            double weight = a.weights[u64(b) * a.tangents + k];
            for (int i = 0; i < 4; i++) sum[i] = add(sum[i], mul(weight, double(values[i])));
        }
    }
    for (u32 i = 0; i < 4 && 4 * block + i < a.len; i++) a.out[4 * block + i] = sum[i];
}
KERNELS(noise_sum, NoiseSumArgs, 64)
