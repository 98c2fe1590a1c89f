// The part of cuBLASLt that Foretune calls, on the emulated device: D = α·op(A)·op(B) + β·C (+ bias), all column-major.
//
// Naive products with sums in double. Descriptors that the library would refuse, or that Foretune has no use for, are
// refused with a line on stderr that says why. Numbers of enums are those of CUDA 12.0.
#include "device.h"

#include "common.cuh"

#include <cstdio>
#include <dlfcn.h>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

// The emulated driver's: puts work into a stream, to be run once or, captured, many times; `release` frees its data. Absent
// where there is no emulated driver.
extern "C" __attribute__((weak)) void emulator_enqueue(void *stream, void (*work)(void *), void *data,
                                                       void (*release)(void *));

namespace {
enum Status { SUCCESS = 0, INVALID_VALUE = 7 };
enum Type { R_32F = 0, R_16F = 2, R_16BF = 14 };
enum Compute { COMPUTE_32F = 68 };
enum Transpose { N = 0, T = 1 };
enum Epilogue { EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4 };
enum DescAttribute { TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8 };
enum PreferenceAttribute {
    MAX_WORKSPACE_BYTES = 1,
    REDUCTION_SCHEME_MASK = 3,
    MIN_ALIGNMENT_A_BYTES = 5,
    MIN_ALIGNMENT_D_BYTES = 8,
};
constexpr uint32_t ALL_REDUCTION_SCHEMES = 7, MOST_ALIGNMENT = 256;

Status refuse(const char *why) {
    std::fprintf(stderr, "emulator: cublasLt: %s\n", why);
    return INVALID_VALUE;
}

// The live objects of a type: a handle that is null, destroyed or of another type is none of them.
template <class Object> class Live {
    std::mutex lock;
    std::set<Object *> objects;

  public:
    Status add(Object **out, Object object) {
        if (!out) return refuse("null output");
        std::lock_guard<std::mutex> guard(lock);
        *out = *objects.insert(new Object(object)).first;
        return SUCCESS;
    }
    bool has(const void *object) {
        std::lock_guard<std::mutex> guard(lock);
        return objects.count(static_cast<Object *>(const_cast<void *>(object))) != 0;
    }
    Status remove(Object *object) {
        std::lock_guard<std::mutex> guard(lock);
        if (objects.erase(object) == 0) return refuse("destroyed what is not alive");
        delete object;
        return SUCCESS;
    }
};

struct Context {};
struct Desc {
    int32_t transpose[2] = {N, N};
    uint32_t epilogue = EPILOGUE_DEFAULT;
    const void *bias = nullptr;
};
struct Layout {
    uint32_t type;
    uint64_t rows, columns;
    int64_t ld;

    bool operator==(const Layout &o) const {
        return type == o.type && rows == o.rows && columns == o.columns && ld == o.ld;
    }
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t reductions = ALL_REDUCTION_SCHEMES;
    uint32_t alignment[4] = {MOST_ALIGNMENT, MOST_ALIGNMENT, MOST_ALIGNMENT, MOST_ALIGNMENT};
};

// Leaked: libraries that load this one may outlive its destructors.
Live<Context> &contexts = *new Live<Context>;
Live<Desc> &descs = *new Live<Desc>;
Live<Layout> &layouts = *new Live<Layout>;
Live<Preference> &preferences = *new Live<Preference>;

// What an algorithm is chosen for, and must be used for.
struct Problem {
    Desc desc;
    Layout a, b, c, d;

    uint64_t m() const { return d.rows; }
    uint64_t n() const { return d.columns; }
    uint64_t k() const { return desc.transpose[0] == N ? a.columns : a.rows; }
    uint64_t number() const {
        uint64_t hash = 0xcbf29ce484222325;
        auto mix = [&](uint64_t v) { hash = (hash ^ v) * 0x100000001b3; };
        for (const Layout &l : {a, b, c, d}) mix(l.type), mix(l.rows), mix(l.columns), mix(uint64_t(l.ld));
        mix(uint64_t(desc.transpose[0])), mix(uint64_t(desc.transpose[1])), mix(desc.epilogue);
        return hash;
    }
};

struct Algorithm {
    uint64_t problem;
    uint32_t alignment[4]; // of A, B, C, D
    uint64_t unused[5];
};
static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t");

struct HeuristicResult {
    Algorithm algorithm;
    size_t workspace;
    uint32_t status;
    float waves;
    int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96, "cublasLtMatmulHeuristicResult_t");

Status problem_of(Problem &problem, const Context *context, const Desc *desc, const Layout *a, const Layout *b,
                  const Layout *c, const Layout *d) {
    if (!contexts.has(context)) return refuse("no such handle");
    if (!descs.has(desc)) return refuse("no such operation descriptor");
    for (const Layout *layout : {a, b, c, d})
        if (!layouts.has(layout)) return refuse("no such matrix layout");
    problem = {*desc, *a, *b, *c, *d};
    if (a->type != b->type || a->type != d->type || c->type != d->type) return refuse("matrices of different types");
    bool b_plain = desc->transpose[1] == N;
    uint64_t a_rows = desc->transpose[0] == N ? a->rows : a->columns;
    uint64_t b_rows = b_plain ? b->rows : b->columns, b_columns = b_plain ? b->columns : b->rows;
    if (a_rows != d->rows) return refuse("rows of op(A) are not those of D");
    if (b_columns != d->columns) return refuse("columns of op(B) are not those of D");
    if (b_rows != problem.k()) return refuse("columns of op(A) are not the rows of op(B)");
    if (c->rows != d->rows || c->columns != d->columns) return refuse("C is not of D's size");
    return SUCCESS;
}

// One product, as it waits in a stream.
struct Product {
    Problem problem;
    float alpha, beta;
    const void *a, *b, *c;
    void *d;
};

// The values of a matrix, its columns or else its rows one after another.
template <class S> std::vector<float> lines(const void *from, const Layout &layout, bool along_columns) {
    std::vector<float> to(layout.rows * layout.columns);
    for (uint64_t column = 0; column < layout.columns; column++)
        for (uint64_t row = 0; row < layout.rows; row++) {
            float value = to_float(static_cast<const S *>(from)[column * uint64_t(layout.ld) + row]);
            to[along_columns ? column * layout.rows + row : row * layout.columns + column] = value;
        }
    return to;
}

template <class S> void multiply(const Product &p) {
    const Problem &problem = p.problem;
    uint64_t m = problem.m(), n = problem.n(), k = problem.k();
    // Rows of op(A) and columns of op(B), of k values each.
    std::vector<float> a = lines<S>(p.a, problem.a, problem.desc.transpose[0] == T);
    std::vector<float> b = lines<S>(p.b, problem.b, problem.desc.transpose[1] == N);
    auto bias = static_cast<const S *>(problem.desc.bias);
    for (uint64_t column = 0; column < n; column++)
        for (uint64_t row = 0; row < m; row++) {
            const float *left = &a[row * k], *right = &b[column * k];
            double sum = 0.0;
            for (uint64_t i = 0; i < k; i++) sum += double(left[i]) * double(right[i]);
            sum *= double(p.alpha);
            // C is not read where β is 0.
            if (p.beta != 0.0f)
                sum += double(p.beta) * to_float(static_cast<const S *>(p.c)[column * uint64_t(problem.c.ld) + row]);
            if (problem.desc.epilogue == EPILOGUE_BIAS) sum += double(to_float(bias[row]));
            static_cast<S *>(p.d)[column * uint64_t(problem.d.ld) + row] = from_float<S>(float(sum));
        }
}

void run(void *data) {
    const Product *product = static_cast<Product *>(data);
    switch (product->problem.d.type) {
    case R_32F: return multiply<float>(*product);
    case R_16F: return multiply<f16>(*product);
    default: return multiply<bf16>(*product);
    }
}

void release(void *data) { delete static_cast<Product *>(data); }

using Enqueue = void (*)(void *, void (*)(void *), void *, void (*)(void *));
Enqueue enqueue() {
    // A weak reference alone does not keep the driver linked in, and programs load it into a scope of its own.
    static const Enqueue found = [] {
        if (emulator_enqueue) return Enqueue(emulator_enqueue);
        void *driver = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
        return driver ? reinterpret_cast<Enqueue>(dlsym(driver, "emulator_enqueue")) : nullptr;
    }();
    return found;
}

template <class V> Status take(V &to, const void *from, size_t bytes) {
    if (!from || bytes != sizeof(V)) return refuse("an attribute of another size");
    std::memcpy(&to, from, bytes);
    return SUCCESS;
}

bool aligned(const void *address, uint64_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }
} // namespace

extern "C" {
Status cublasLtCreate(Context **out) { return contexts.add(out, {}); }
Status cublasLtDestroy(Context *context) { return contexts.remove(context); }
size_t cublasLtGetVersion() { return 120001; }

Status cublasLtMatmulDescCreate(Desc **out, uint32_t compute, uint32_t scale) {
    if (compute != COMPUTE_32F || scale != R_32F) return refuse("sums are f32 here");
    return descs.add(out, {});
}
Status cublasLtMatmulDescDestroy(Desc *desc) { return descs.remove(desc); }
Status cublasLtMatmulDescSetAttribute(Desc *desc, uint32_t attribute, const void *value, size_t bytes) {
    if (!descs.has(desc)) return refuse("no such operation descriptor");
    switch (attribute) {
    case TRANSA:
    case TRANSB: {
        int32_t transpose;
        if (Status status = take(transpose, value, bytes)) return status;
        if (transpose != N && transpose != T) return refuse("matrices are taken as they are or transposed here");
        desc->transpose[attribute - TRANSA] = transpose;
        return SUCCESS;
    }
    case EPILOGUE: {
        uint32_t epilogue;
        if (Status status = take(epilogue, value, bytes)) return status;
        if (epilogue != EPILOGUE_DEFAULT && epilogue != EPILOGUE_BIAS) return refuse("an epilogue that is not here");
        desc->epilogue = epilogue;
        return SUCCESS;
    }
    case BIAS_POINTER: return take(desc->bias, value, bytes);
    default: return refuse("an attribute of operations that is not here");
    }
}

Status cublasLtMatrixLayoutCreate(Layout **out, uint32_t type, uint64_t rows, uint64_t columns, int64_t ld) {
    if (type != R_32F && type != R_16F && type != R_16BF) return refuse("a type that is not here");
    if (rows == 0 || columns == 0) return refuse("a matrix without elements");
    if (ld < 0 || uint64_t(ld) < rows) return refuse("a leading dimension shorter than a column");
    return layouts.add(out, {type, rows, columns, ld});
}
Status cublasLtMatrixLayoutDestroy(Layout *layout) { return layouts.remove(layout); }

Status cublasLtMatmulPreferenceCreate(Preference **out) { return preferences.add(out, {}); }
Status cublasLtMatmulPreferenceDestroy(Preference *preference) { return preferences.remove(preference); }
Status cublasLtMatmulPreferenceSetAttribute(Preference *preference, uint32_t attribute, const void *value,
                                            size_t bytes) {
    if (!preferences.has(preference)) return refuse("no such preference");
    if (attribute == MAX_WORKSPACE_BYTES) return take(preference->workspace, value, bytes);
    if (attribute == REDUCTION_SCHEME_MASK) {
        uint32_t mask;
        if (Status status = take(mask, value, bytes)) return status;
        if (mask > ALL_REDUCTION_SCHEMES) return refuse("no such reduction scheme");
        preference->reductions = mask;
        return SUCCESS;
    }
    if (attribute >= MIN_ALIGNMENT_A_BYTES && attribute <= MIN_ALIGNMENT_D_BYTES) {
        uint32_t alignment;
        if (Status status = take(alignment, value, bytes)) return status;
        if (alignment == 0 || (alignment & (alignment - 1)) != 0) return refuse("an alignment that is no power of two");
        preference->alignment[attribute - MIN_ALIGNMENT_A_BYTES] = alignment;
        return SUCCESS;
    }
    return refuse("an attribute of preferences that is not here");
}

Status cublasLtMatmulAlgoGetHeuristic(Context *context, Desc *desc, Layout *a, Layout *b, Layout *c, Layout *d,
                                      Preference *preference, int requested, HeuristicResult *results, int *count) {
    if (!count || !results || requested < 1) return refuse("nowhere to put an algorithm");
    *count = 0;
    if (!preferences.has(preference)) return refuse("no such preference");
    Problem problem;
    if (Status status = problem_of(problem, context, desc, a, b, c, d)) return status;
    uint32_t size = d->type == R_32F ? 4 : 2;
    Algorithm algorithm{problem.number(), {}, {}};
    for (int i = 0; i < 4; i++) {
        if (preference->alignment[i] < size) return refuse("matrices whose elements are not aligned");
        algorithm.alignment[i] = preference->alignment[i];
    }
    results[0] = {algorithm, 0, SUCCESS, 1.0f, {}};
    *count = 1;
    return SUCCESS;
}

Status cublasLtMatmul(Context *context, Desc *desc, const float *alpha, const void *a, Layout *a_layout, const void *b,
                      Layout *b_layout, const float *beta, const void *c, Layout *c_layout, void *d, Layout *d_layout,
                      const Algorithm *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
    Problem problem;
    if (Status status = problem_of(problem, context, desc, a_layout, b_layout, c_layout, d_layout)) return status;
    if (!alpha || !beta) return refuse("null factor");
    if (!a || !b || !d || (!c && *beta != 0.0f)) return refuse("null matrix");
    if (c == d && !(problem.c == problem.d)) return refuse("in place, with C and D of different layouts");
    if (a == d || b == d) return refuse("the result in the place of an operand");
    if (!workspace && workspace_bytes > 0) return refuse("null workspace");
    uint64_t size = problem.d.type == R_32F ? 4 : 2;
    for (const void *matrix : {a, b, c, static_cast<const void *>(d), problem.desc.bias})
        if (!aligned(matrix, size)) return refuse("a matrix whose elements are not aligned");
    if (problem.desc.epilogue == EPILOGUE_BIAS && !problem.desc.bias) return refuse("null bias");
    if (algorithm) {
        if (algorithm->problem != problem.number()) return refuse("an algorithm that was chosen for another product");
        const void *matrices[4] = {a, b, c, d};
        for (int i = 0; i < 4; i++)
            if (!aligned(matrices[i], algorithm->alignment[i])) return refuse("less alignment than was promised");
    }
    Enqueue put = enqueue();
    // With a driver, all work is in streams: null would be the one that waits for all others.
    if (put && !stream) return refuse("null stream");
    auto product = std::make_unique<Product>(Product{problem, *alpha, *beta, a, b, c, d});
    if (put) put(stream, run, product.release(), release);
    else run(product.get());
    return SUCCESS;
}
}
