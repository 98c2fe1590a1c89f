/* Foretune: prompt tuning of Vision Transformers on the device where they run.
 *
 * Generated from ffi/src by cbindgen, and compared in CI: `UPDATE_HEADER=1 cargo test -p foretune-ffi --test header` writes it anew.
 *
 * - Functions that can fail return a foretune_status; foretune_last_error() is the text of this thread's last failure.
 * - Handles are made by *_create or *_open and destroyed by *_destroy(&handle), which nulls them and accepts null.
 * - Structs that may grow begin with struct_size, which the caller sets to sizeof; programs built with this header run with later
 *   libraries of the same major ABI version.
 * - Models and predictors are read-only and shared by threads; a session serves one call at a time.
 * - Nothing is written to stdout or stderr. Texts are UTF-8.
 */

#ifndef FORETUNE_H
#define FORETUNE_H

#include <stddef.h>
#include <stdint.h>

/**
 * CUB-200-2011 in its own layout.
 */
#define FORETUNE_FORMAT_CUB 0

/**
 * Stanford Cars with its `.mat` devkit.
 */
#define FORETUNE_FORMAT_CARS 1

/**
 * Stanford Dogs.
 */
#define FORETUNE_FORMAT_DOGS 2

/**
 * A folder per class, perhaps within `train/`, `val/`, `test/`.
 */
#define FORETUNE_FORMAT_FOLDER 3

/**
 * A table `path,label[,split]`.
 */
#define FORETUNE_FORMAT_CSV 4

/**
 * Images as they are evaluated.
 */
#define FORETUNE_AUGMENT_NONE 0

/**
 * And a random horizontal flip.
 */
#define FORETUNE_AUGMENT_FLIP 1

/**
 * A random resized crop and flip, the default.
 */
#define FORETUNE_AUGMENT_RESIZED_CROP 2

/**
 * VPT's recipe.
 */
#define FORETUNE_AUGMENT_VPT 3

/**
 * Noise sent back through the transposed weights that read the prompts: forward only.
 */
#define FORETUNE_GUESS_WEIGHT_TRANSPOSE 0

/**
 * Noise, the same for the whole batch: forward only.
 */
#define FORETUNE_GUESS_DIRECTIONAL 1

/**
 * Noise of each example's own: forward only, the default.
 */
#define FORETUNE_GUESS_ACTIVATION 2

/**
 * The exact gradient by recomputing blocks, whose memory grows with depth: the oracle.
 */
#define FORETUNE_GUESS_BACKPROP 3

/**
 * No prompts: only the head, on the frozen model. The baseline.
 */
#define FORETUNE_GUESS_NONE 4

/**
 * Random mixtures of the example's own tokens: forward only.
 */
#define FORETUNE_GUESS_MIXING 5

/**
 * Noise sent back through the next `downstream_blocks` blocks, recomputed one at a time: forward only.
 */
#define FORETUNE_GUESS_DOWNSTREAM 6

/**
 * Weight-transpose of noise that all leans one way: forward only.
 */
#define FORETUNE_GUESS_SELF_SHARPENING 7

/**
 * The exact gradient with an error as large as weight-transpose's, but unbiased. For comparison.
 */
#define FORETUNE_GUESS_MATCHED_COSINE 8

/**
 * 8-bit RGB pixels of any size: three bytes a pixel, rows `row_stride` bytes apart, from top to bottom. The library resizes, crops and
 * normalises them.
 */
#define FORETUNE_IMAGE_RGB8 0

/**
 * Normalised f32 values `[3, crop_height, crop_width]` as `foretune_preprocess` says, contiguous. Width and height are the crop's.
 */
#define FORETUNE_IMAGE_F32 1

/**
 * Computes on the first GPU that can be used, else on the CPU.
 */
#define FORETUNE_DEVICE_AUTO -2

/**
 * Computes on the CPU. GPUs are 0, 1, and so on.
 */
#define FORETUNE_DEVICE_CPU -1

/**
 * What `foretune_abi_version` returns of the library this header belongs to.
 */
#define FORETUNE_ABI_VERSION 1002

/**
 * Storage and products in f32.
 */
#define FORETUNE_PRECISION_F32 0

/**
 * In bf16; on the CPU linear layers only, where it has instructions for it.
 */
#define FORETUNE_PRECISION_BF16 1

/**
 * In f16; on GPUs only.
 */
#define FORETUNE_PRECISION_F16 2

/**
 * Fewest tangents, shortest run.
 */
#define FORETUNE_PRESET_FAST 0

/**
 * The defaults.
 */
#define FORETUNE_PRESET_BALANCED 1

/**
 * A longer run.
 */
#define FORETUNE_PRESET_ACCURATE 2

/**
 * As `insert_at`: the block at a quarter of the model's depth.
 */
#define FORETUNE_INSERT_AT_AUTO UINT32_MAX

/**
 * Cosine to class means of the frozen model; grows an example at a time.
 */
#define FORETUNE_HEAD_PROTOTYPE 0

/**
 * A linear classifier trained with the prompts; its classes are named from the start.
 */
#define FORETUNE_HEAD_LINEAR 1

/**
 * The checkpoint's own classifier, frozen.
 */
#define FORETUNE_HEAD_PRETRAINED 2

/**
 * AdamW.
 */
#define FORETUNE_OPTIMIZER_ADAMW 0

/**
 * AdamW with updates clipped by the RMS of g/√v.
 */
#define FORETUNE_OPTIMIZER_STABLE_ADAMW 1

/**
 * SGD with momentum.
 */
#define FORETUNE_OPTIMIZER_SGD 2

/**
 * As `warmup_steps`: min(steps/10, 20), or 20 where the rate stays.
 */
#define FORETUNE_WARMUP_AUTO UINT64_MAX

/**
 * A pretrained Vision Transformer: read-only, shared by any number of sessions, predictors and threads, which keep what they need of
 * it when it is destroyed.
 */
typedef struct foretune_model foretune_model;

/**
 * Classifies images; never changes. Shared by any number of threads, of which as many compute at a time as it has slots.
 */
typedef struct foretune_predictor foretune_predictor;

/**
 * Prompts, perhaps a head, and their optimizer, on a model. One call at a time; a second thread's gets `FORETUNE_BUSY`, but for
 * `foretune_session_cancel`.
 */
typedef struct foretune_session foretune_session;

/**
 * What a call returns: `FORETUNE_OK`, or why it failed.
 */
typedef int32_t foretune_status;

/**
 * Called ahead of each micro-batch and at the end, on the thread that made the call, with the call's images that are done and all of
 * them. Return 0 to stop the call, which then returns `FORETUNE_CANCELLED`, unless it is done. Of the session it may use
 * `foretune_session_cancel` alone.
 */
typedef int32_t (*foretune_progress_callback)(uint64_t done, uint64_t total, void *user_data);

/**
 * Which data, and what is done with it. `foretune_dataset_options_default` fills it.
 */
typedef struct foretune_dataset_options {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * `FORETUNE_FORMAT_*`.
     */
    uint32_t format;
    /**
     * 1: images are cropped to their boxes, where the format has them.
     */
    uint32_t crop_boxes;
    /**
     * `FORETUNE_AUGMENT_*`.
     */
    uint32_t augment;
    /**
     * Threads that decode; 0: half as many as compute.
     */
    uint32_t decode_threads;
    /**
     * Share of the training split set aside for validation; 0: none.
     */
    double val_fraction;
    /**
     * Steps between evaluations on it; 0: only at the end.
     */
    uint64_t eval_every;
    /**
     * Where the run saves itself, UTF-8; null: nowhere.
     */
    const char *checkpoint;
    /**
     * Steps between checkpoints; 0: only when it is stopped.
     */
    uint64_t checkpoint_every;
    /**
     * 1: continues from `checkpoint` if there is one.
     */
    uint32_t resume;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * Called between steps, and while images are gone through before the first and for evaluations, with the steps that are complete and
     * all of them; null: not. Returning 0 stops the run, unless it is complete.
     */
    foretune_progress_callback progress;
    /**
     * Handed to `progress`.
     */
    void *user_data;
} foretune_dataset_options;

/**
 * Serves the memory that the passes of a session or predictor need on the CPU, in few large pieces. All zero: the library's own.
 * Called by whichever thread makes, trims or destroys the handle, and by those that use it.
 */
typedef struct foretune_allocator {
    /**
     * `size` bytes at a multiple of `alignment`, a power of two; null when there are none.
     */
    void *(*allocate)(size_t size, size_t alignment, void *user_data);
    /**
     * Takes back what `allocate` gave, of the same size and alignment.
     */
    void (*release)(void *memory, size_t size, size_t alignment, void *user_data);
    /**
     * Handed to both.
     */
    void *user_data;
} foretune_allocator;

/**
 * Everything a session is made with. `foretune_session_options_default` or `foretune_session_options_preset` fills it; change what
 * you like.
 */
typedef struct foretune_session_options {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * `FORETUNE_DEVICE_AUTO`, `FORETUNE_DEVICE_CPU` (the default), or a GPU's number.
     */
    int32_t device;
    /**
     * `FORETUNE_PRECISION_*`.
     */
    uint32_t precision;
    /**
     * A ceiling, bytes: on the CPU for all but mapped weights, on a GPU for device memory; 0: none.
     */
    uint64_t budget;
    /**
     * Threads that compute on the CPU; 0: one a core. No result depends on it.
     */
    uint32_t threads;
    /**
     * Examples a pass; 0: what suits the device and the budget. No result on the CPU depends on it.
     */
    uint32_t micro_batch;
    /**
     * `FORETUNE_GUESS_*`.
     */
    uint32_t guess;
    /**
     * Tangents K per example and step.
     */
    uint32_t tangents;
    /**
     * Prompts p per set.
     */
    uint32_t prompts;
    /**
     * Block ahead of which (the first) prompts enter, or `FORETUNE_INSERT_AT_AUTO`.
     */
    uint32_t insert_at;
    /**
     * 1: a prompt set per block from `insert_at` on; 0: one that stays.
     */
    uint32_t deep;
    /**
     * `FORETUNE_HEAD_*`.
     */
    uint32_t head;
    /**
     * `FORETUNE_OPTIMIZER_*`.
     */
    uint32_t optimizer;
    /**
     * Most examples of a step.
     */
    uint32_t batch;
    /**
     * Peak learning rate of the prompts.
     */
    double lr;
    /**
     * Peak learning rate of a linear head.
     */
    double head_lr;
    /**
     * Decoupled weight decay.
     */
    double weight_decay;
    /**
     * Momentum of SGD; β₁ of AdamW.
     */
    double momentum;
    /**
     * Length of the cosine schedule, steps. 0: sessions keep their rate, `foretune_tune_dataset` takes the balanced preset's.
     */
    uint64_t steps;
    /**
     * Steps over which the rate rises linearly, or `FORETUNE_WARMUP_AUTO`.
     */
    uint64_t warmup_steps;
    /**
     * Seed of everything random.
     */
    uint64_t seed;
    /**
     * Names of the classes known so far, UTF-8; null: none. Not for `FORETUNE_HEAD_PRETRAINED`, nor `foretune_tune_dataset`.
     */
    const char *const *classes;
    /**
     * How many.
     */
    size_t class_count;
    /**
     * A `CUcontext` to compute in; null: the device's primary one. It and `cuda_stream` must outlive the session.
     */
    void *cuda_context;
    /**
     * A `CUstream` of that context; needed with it.
     */
    void *cuda_stream;
    /**
     * Serves the memory of passes on the CPU; all zero: the library's own.
     */
    struct foretune_allocator allocator;
    /**
     * Most that an example counts in a step, as a multiple of the batch's median derivative; 0: no limit.
     */
    double clip;
    /**
     * Power of the singular values of the weights that noise is sent back through, 0 to 4. 1 leaves them.
     */
    double power;
    /**
     * Largest singular values of those weights that are used; 0: all.
     */
    uint32_t rank;
    /**
     * 1: an example's K directions are made orthogonal.
     */
    uint32_t orthonormal;
    /**
     * 1: every prompt token of a direction is scaled to a root mean square of 1.
     */
    uint32_t unit_rms;
    /**
     * Blocks of `FORETUNE_GUESS_DOWNSTREAM`, 1 to 255. 0 with other guesses.
     */
    uint32_t downstream_blocks;
    /**
     * Whose kernels run, UTF-8: "native" (or null) for the library's own, "ort" for ONNX Runtime on the CPU, "ort:PROVIDER" for one of
     * its execution providers. ONNX Runtime takes what memory it likes, in f32: `device`, `precision`, `budget`, `cuda_context` and
     * `allocator` are for the native engine.
     */
    const char *engine;
    /**
     * ONNX Runtime, UTF-8: the file or its folder; null: `ORT_DYLIB_PATH`, then the usual places. See `foretune_onnx_runtime_get`.
     */
    const char *ort_lib;
} foretune_session_options;

/**
 * What a run came to.
 */
typedef struct foretune_result {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * Step whose prompts the adapter has: the best on the validation split, or the last.
     */
    uint64_t step;
    /**
     * Steps skipped because something was not finite.
     */
    uint64_t skipped;
    /**
     * Accuracy on the validation split, 0..1; NaN without one.
     */
    double val_accuracy;
    /**
     * Mean cross entropy on it, nats; NaN without one.
     */
    double val_loss;
    /**
     * Training images per second, decoding included.
     */
    double images_per_second;
} foretune_result;

/**
 * How a classifier is exported. `foretune_export_options_default` fills it.
 */
typedef struct foretune_export_options {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * `FORETUNE_PRECISION_F32` (the default) or `FORETUNE_PRECISION_F16`: of weights and activations; inputs and outputs are f32 always.
     */
    uint32_t precision;
    /**
     * 1: the graph takes 8-bit pixels and prepares them itself; 0: normalised values, as `FORETUNE_IMAGE_F32`.
     */
    uint32_t with_preprocessing;
} foretune_export_options;

/**
 * A device.
 */
typedef struct foretune_device_info {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * What `foretune_session_options.device` calls it.
     */
    int32_t device;
    /**
     * Compute capability, major·10 + minor; 0 for the CPU.
     */
    int32_t compute_capability;
    /**
     * Bytes of its memory; 0 where that is not known.
     */
    uint64_t total_bytes;
    /**
     * Its name, UTF-8, ending with a zero.
     */
    char name[128];
} foretune_device_info;

/**
 * A message of `level` 1 (error) to 5 (trace), UTF-8, valid during the call. Called on whichever thread logs; it must not call the
 * library.
 */
typedef void (*foretune_log_callback)(int32_t level, const char *message, void *user_data);

/**
 * What to open a model with.
 */
typedef struct foretune_model_options {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * Image height to run at, pixels, a multiple of the patch's; 0 (both) for the model's own.
     */
    uint32_t image_height;
    /**
     * Image width.
     */
    uint32_t image_width;
    /**
     * Attention heads, where the checkpoint does not say; else 0.
     */
    uint32_t heads;
    /**
     * Zero.
     */
    uint32_t reserved;
} foretune_model_options;

/**
 * What a model is.
 */
typedef struct foretune_model_spec {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * Image height, pixels.
     */
    uint32_t image_height;
    /**
     * Image width, pixels.
     */
    uint32_t image_width;
    /**
     * Patch height, pixels.
     */
    uint32_t patch_height;
    /**
     * Patch width, pixels.
     */
    uint32_t patch_width;
    /**
     * Blocks L.
     */
    uint32_t depth;
    /**
     * Width d of a token.
     */
    uint32_t width;
    /**
     * Attention heads h.
     */
    uint32_t heads;
    /**
     * Tokens T without prompts.
     */
    uint32_t tokens;
    /**
     * Values D that a head reads.
     */
    uint32_t head_width;
    /**
     * Classes C of the checkpoint's own classifier; 0 without one.
     */
    uint32_t classes;
} foretune_model_spec;

/**
 * How images must be prepared, which the library does with pixels, and the host where it hands over normalised values: resize, centre
 * crop to `crop_height`×`crop_width`, divide by 255, subtract `mean`, divide by `std`.
 */
typedef struct foretune_preprocess {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * Height that the encoder reads, pixels.
     */
    uint32_t crop_height;
    /**
     * Width that the encoder reads, pixels.
     */
    uint32_t crop_width;
    /**
     * Short side to resize to, aspect kept; 0: both sides, to the next two.
     */
    uint32_t resize_short_side;
    /**
     * Height to resize to, aspect ignored, where the short side is 0.
     */
    uint32_t resize_height;
    /**
     * Width to resize to, aspect ignored, where the short side is 0.
     */
    uint32_t resize_width;
    /**
     * 0 bilinear, 1 bicubic, 2 Lanczos, 3 nearest; antialiased when shrinking, as in Pillow.
     */
    uint32_t interpolation;
    /**
     * Of red, green and blue.
     */
    float mean[3];
    /**
     * Of red, green and blue.
     */
    float std[3];
} foretune_preprocess;

/**
 * An ONNX Runtime. Its texts are UTF-8 and hold until the process ends.
 */
typedef struct foretune_onnx_runtime_info {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * The oldest version that is supported, "1.20"; null in a build without ONNX Runtime.
     */
    const char *oldest;
    /**
     * Where it was loaded from; null if it was not.
     */
    const char *path;
    /**
     * Its version, "1.22.1"; null if it was not loaded.
     */
    const char *version;
    /**
     * The execution providers that it was built with, as "ort:PROVIDER" names them, between commas: "cpu,xnnpack"; null if it was not
     * loaded.
     */
    const char *providers;
} foretune_onnx_runtime_info;

/**
 * What a session takes.
 */
typedef struct foretune_plan {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * Bytes in all: never more are in use, of the memory that the budget is a ceiling for. 0 with ONNX Runtime, which does not say.
     */
    uint64_t bytes;
    /**
     * The smallest budget that works; 0 with ONNX Runtime, which has none.
     */
    uint64_t smallest_budget;
    /**
     * Examples a pass.
     */
    uint32_t micro_batch;
    /**
     * Tangents a pass.
     */
    uint32_t tangents_per_pass;
    /**
     * 1: weights of two blocks at a time are on the GPU.
     */
    uint32_t streamed;
    /**
     * Zero.
     */
    uint32_t reserved;
} foretune_plan;

/**
 * How a predictor computes. `foretune_predictor_options_default` fills it; zeros are not the defaults, as GPUs count from 0.
 */
typedef struct foretune_predictor_options {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * `FORETUNE_DEVICE_AUTO`, `FORETUNE_DEVICE_CPU` (the default), or a GPU's number.
     */
    int32_t device;
    /**
     * `FORETUNE_PRECISION_*`.
     */
    uint32_t precision;
    /**
     * Calls that compute at a time, each with memory and, on the CPU, threads of its own; 0: 1. On a GPU always 1. Others wait.
     */
    uint32_t slots;
    /**
     * Threads of a slot on the CPU; 0: one a core for one slot, 1 for several. No result depends on it.
     */
    uint32_t threads;
    /**
     * Images a pass; 0: 8.
     */
    uint32_t micro_batch;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * Serves the memory of passes on the CPU; all zero: the library's own.
     */
    struct foretune_allocator allocator;
    /**
     * Whose kernels run, as in `foretune_session_options`; null: the library's own.
     */
    const char *engine;
    /**
     * ONNX Runtime, as in `foretune_session_options`.
     */
    const char *ort_lib;
} foretune_predictor_options;

/**
 * One image, which stays the host's and is only read during the call. This struct does not grow.
 */
typedef struct foretune_image {
    /**
     * Its pixels or values.
     */
    const void *data;
    /**
     * `FORETUNE_IMAGE_*`.
     */
    uint32_t format;
    /**
     * Width, pixels.
     */
    uint32_t width;
    /**
     * Height, pixels.
     */
    uint32_t height;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * Bytes from one row to the next; 0: none between them. Not looked at for f32.
     */
    size_t row_stride;
} foretune_image;

/**
 * What the last step came to.
 */
typedef struct foretune_metrics {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * Complete steps, skipped ones included.
     */
    uint64_t step;
    /**
     * Steps skipped so far because something was not finite.
     */
    uint64_t skipped;
    /**
     * Mean cross entropy of the batch before the update, nats; NaN if the step was skipped.
     */
    double loss;
    /**
     * Share of the batch whose top class was its label before the update; NaN if the step was skipped.
     */
    double accuracy;
    /**
     * Learning rate of the prompts; 0 if the step was skipped.
     */
    double lr;
} foretune_metrics;

/**
 * Bytes in use; 0 with ONNX Runtime, which does not say.
 */
typedef struct foretune_memory {
    /**
     * sizeof, set by the caller.
     */
    size_t struct_size;
    /**
     * Of passes, in the host's memory.
     */
    uint64_t host_bytes;
    /**
     * The most that has been in use.
     */
    uint64_t host_peak;
    /**
     * Of the GPU's memory, all that is ours.
     */
    uint64_t device_bytes;
    /**
     * The most that has been in use.
     */
    uint64_t device_peak;
} foretune_memory;

/**
 * It succeeded.
 */
#define FORETUNE_OK 0

/**
 * A pointer is null, a text is no UTF-8, a value is none of those that are allowed, or a struct's size is wrong.
 */
#define FORETUNE_INVALID_ARGUMENT 1

/**
 * The system refused to read or write a file.
 */
#define FORETUNE_IO 2

/**
 * A model's weights or configuration are malformed, or do not belong together.
 */
#define FORETUNE_BAD_MODEL 3

/**
 * A data set or one of its images cannot be read.
 */
#define FORETUNE_BAD_DATA 4

/**
 * An adapter or checkpoint is damaged, or was made for another model or session.
 */
#define FORETUNE_BAD_ADAPTER 5

/**
 * Options contradict each other, the model, or what has been done so far.
 */
#define FORETUNE_BAD_OPTIONS 6

/**
 * Images, labels or logits do not fit: their number, a label beyond the classes, a pixel that is not finite.
 */
#define FORETUNE_BAD_SHAPE 7

/**
 * Losses or derivatives were not finite three steps in a row.
 */
#define FORETUNE_DIVERGED 8

/**
 * It was cancelled, or a callback asked it to stop. The state is that of the last complete step.
 */
#define FORETUNE_CANCELLED 9

/**
 * The budget is too small; the text names the smallest that works.
 */
#define FORETUNE_BUDGET 10

/**
 * Memory could not be obtained.
 */
#define FORETUNE_OUT_OF_MEMORY 11

/**
 * No such device can be used.
 */
#define FORETUNE_NO_DEVICE 12

/**
 * Memory of the device could not be obtained.
 */
#define FORETUNE_DEVICE_MEMORY 13

/**
 * The device failed. What is on the host is whole; the handle can be saved, and no longer computes.
 */
#define FORETUNE_DEVICE_FAILED 14

/**
 * The buffer is too small; the size needed has been written.
 */
#define FORETUNE_BUFFER_TOO_SMALL 15

/**
 * Another thread is using the handle.
 */
#define FORETUNE_BUSY 16

/**
 * An earlier call on the handle panicked; destroy it.
 */
#define FORETUNE_POISONED 17

/**
 * A bug in the library was met; the process and every other handle are sound. Please report the text.
 */
#define FORETUNE_PANIC 18

/**
 * Something that none of the others says.
 */
#define FORETUNE_INTERNAL 19

/**
 * ONNX Runtime was not found, cannot be used, or failed; or the library was built without it.
 */
#define FORETUNE_ONNX_RUNTIME 20

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Fills `*options`, a struct of `struct_size` bytes (give sizeof), with the defaults. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * `options` is null or a struct of that size.
 */
foretune_status foretune_dataset_options_default(struct foretune_dataset_options *options, size_t struct_size);

/**
 * Tunes on the data set in the folder (or table) `root`, UTF-8, and replaces the file `adapter` by what came of it: the same bytes as
 * `foretune tune` with the same options. `options` and `dataset`: null for the defaults. `result`: null, or a struct whose size is set.
 * Returns when it is done; callbacks run on the calling thread. Any thread.
 *
 * Errors: `FORETUNE_IO`, `FORETUNE_BAD_DATA`; `FORETUNE_CANCELLED`, the last complete step saved to the checkpoint if there is one, and
 * no adapter written; and as `foretune_session_create` and `foretune_session_step`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_tune_dataset(const struct foretune_model *model,
                                      const char *root,
                                      const char *adapter,
                                      const struct foretune_session_options *options,
                                      const struct foretune_dataset_options *dataset,
                                      struct foretune_result *result);

/**
 * Fills `*options`, a struct of `struct_size` bytes (give sizeof), with the defaults. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * `options` is null or a struct of that size.
 */
foretune_status foretune_export_options_default(struct foretune_export_options *options, size_t struct_size);

/**
 * Replaces the file at `path`, UTF-8, by `model` with the adapter at `adapter` (null: with its own classifier) as one ONNX graph of
 * standard operators, whole or not at all. The model must have been opened at the adapter's image size. `options`: null for the
 * defaults. Needs no ONNX Runtime. Any thread.
 *
 * The input is `pixel_values` `[batch, 3, height, width]`, or `image` `[batch, height, width, 3]` of bytes, all of one size; the outputs
 * are `logits` `[batch, C]` and `features` `[batch, D]`. The file's metadata has `class_names`, `preprocess` and `backbone` as JSON.
 * Above 2 GiB the tensors are in a second file, `path` with ".data" after its name.
 *
 * Errors: `FORETUNE_IO`, `FORETUNE_BAD_ADAPTER`, `FORETUNE_BAD_OPTIONS` for preprocessing that standard operators cannot do or a model
 * without a classifier, `FORETUNE_BAD_MODEL`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_export(const struct foretune_model *model,
                                const char *adapter,
                                const char *path,
                                const struct foretune_export_options *options);

/**
 * As `foretune_export`, of what the session has learnt. One thread at a time.
 *
 * Errors: as `foretune_export`; `FORETUNE_BAD_OPTIONS` before there is a head, `FORETUNE_BUSY`, `FORETUNE_POISONED`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_export(struct foretune_session *session,
                                        const char *path,
                                        const struct foretune_export_options *options);

/**
 * The library's version, "major.minor.patch", static. Any thread.
 */
const char *foretune_version(void);

/**
 * Version of the ABI: major·1000 + minor. Programs run with a library of the same major number and no smaller minor one. Any thread.
 */
uint32_t foretune_abi_version(void);

/**
 * How the library was built and what it found of the CPU, UTF-8, static: "foretune 0.1.0 x86_64-linux, avx512, cuda, ort". Any thread.
 */
const char *foretune_build_info(void);

/**
 * Writes the number of devices to `*count`: the CPU and every GPU that the driver shows. Loads the driver. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT` when `count` is null.
 *
 * # Safety
 * `count` is null or may be written.
 */
foretune_status foretune_device_count(size_t *count);

/**
 * Describes device `index`, from 0 on: first the CPU, then the GPUs. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT` when there is none of that index, or `info` is null.
 *
 * # Safety
 * `info` is null or a struct whose size is set.
 */
foretune_status foretune_device_get(size_t index, struct foretune_device_info *info);

/**
 * Sends messages up to `level` (0: none, 1: errors, 2: warnings, 3: information, 4: debugging, 5: all) to `callback` from now on; null
 * ends it, and after this returns it is not called any more. Without, nothing is logged anywhere. Any thread but one in the callback.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT` for another level.
 *
 * # Safety
 * `callback` may be called from any thread until another takes its place.
 */
foretune_status foretune_set_log(foretune_log_callback callback,
                                 int32_t level,
                                 void *user_data);

/**
 * Opens the checkpoint at `path`: a folder, a safetensors file or a shard index, in timm's or transformers' names; or an ONNX file of such
 * a model. Weights stay mapped in the file and are read when they are used, but for those that an ONNX file has transposed, which are
 * held in memory. `options`: null for the defaults. `*model` is the caller's to destroy. Any thread.
 *
 * Errors: `FORETUNE_IO`, `FORETUNE_BAD_MODEL`, `FORETUNE_BAD_OPTIONS`, `FORETUNE_INVALID_ARGUMENT`; `*model` is null then.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_model_open(const char *path,
                                    const struct foretune_model_options *options,
                                    struct foretune_model **model);

/**
 * As `foretune_model_open`, from a safetensors file in memory: `weights` of `weights_size` bytes, and its `config.json`, or null and 0.
 * The weights are not copied: they must stay as they are until the model and every session and predictor made from it are
 * destroyed. `config` is needed during the call only. Any thread.
 *
 * # Safety
 * As above; other pointers are null or valid for the call.
 */
foretune_status foretune_model_open_memory(const uint8_t *weights,
                                           size_t weights_size,
                                           const uint8_t *config,
                                           size_t config_size,
                                           const struct foretune_model_options *options,
                                           struct foretune_model **model);

/**
 * Writes what the model is to `*spec`, whose `struct_size` is set. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_model_get_spec(const struct foretune_model *model, struct foretune_model_spec *spec);

/**
 * Writes how images must be prepared to `*preprocess`, whose `struct_size` is set. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_model_get_preprocess(const struct foretune_model *model,
                                              struct foretune_preprocess *preprocess);

/**
 * Name of class `index` of the model's own classifier, UTF-8; null where it is not known. It lives as long as the model. Any thread.
 *
 * # Safety
 * `model` is null or a model.
 */
const char *foretune_model_class_name(const struct foretune_model *model,
                                      size_t index);

/**
 * Destroys `*model` and nulls it; null is nothing to do. No other thread may be using it.
 *
 * # Safety
 * `model` is null, or points to null or to a model.
 */
void foretune_model_destroy(struct foretune_model **model);

/**
 * Loads ONNX Runtime from `ort_lib`, UTF-8: the file or its folder; null: from `ORT_DYLIB_PATH`, from beside the program, from where the
 * system finds libraries, or from the Python environment in use. Describes it in `*info`, whose size is set. A process loads one for
 * good: later calls, sessions and predictors get the same one, and another path is refused. Any thread.
 *
 * Errors: `FORETUNE_ONNX_RUNTIME` when there is none, it is too old, or the library was built without it (`*info` has `oldest` then);
 * `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_onnx_runtime_get(const char *ort_lib,
                                          struct foretune_onnx_runtime_info *info);

/**
 * Fills `*options`, a struct of `struct_size` bytes (give sizeof), with `FORETUNE_PRESET_*`, `steps` included. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * `options` is null or a struct of that size.
 */
foretune_status foretune_session_options_preset(struct foretune_session_options *options,
                                                size_t struct_size,
                                                uint32_t preset);

/**
 * Fills `*options`, a struct of `struct_size` bytes (give sizeof), with the defaults. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * `options` is null or a struct of that size.
 */
foretune_status foretune_session_options_default(struct foretune_session_options *options, size_t struct_size);

/**
 * What a session with `options` (null: the defaults) on `model` would take, with `classes` classes: to `*plan`, whose `struct_size` is
 * set. Nothing is made. Where the budget is too small, `*plan` names the smallest that works all the same. Any thread.
 *
 * Errors: `FORETUNE_BUDGET`, `FORETUNE_BAD_OPTIONS`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_plan_session(const struct foretune_model *model,
                                      const struct foretune_session_options *options,
                                      size_t classes,
                                      struct foretune_plan *plan);

/**
 * Fills `*options`, a struct of `struct_size` bytes (give sizeof), with the defaults. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * `options` is null or a struct of that size.
 */
foretune_status foretune_predictor_options_default(struct foretune_predictor_options *options, size_t struct_size);

/**
 * Makes a predictor of `model` and the adapter at `adapter`, UTF-8; null: the model's own classifier, without prompts. The model must have
 * been opened at the adapter's image size, and may be destroyed before the predictor. `options`: null for the defaults. `*predictor`
 * is the caller's to destroy. Any thread.
 *
 * Errors: `FORETUNE_IO`, `FORETUNE_BAD_ADAPTER`, `FORETUNE_BAD_OPTIONS`, `FORETUNE_OUT_OF_MEMORY`, `FORETUNE_NO_DEVICE`,
 * `FORETUNE_DEVICE_MEMORY`, `FORETUNE_DEVICE_FAILED`, `FORETUNE_ONNX_RUNTIME`, `FORETUNE_INVALID_ARGUMENT`; `*predictor` is null then.
 *
 * # Safety
 * Pointers are null or valid for the call; the allocator for the predictor's life.
 */
foretune_status foretune_predictor_create(const struct foretune_model *model,
                                          const char *adapter,
                                          const struct foretune_predictor_options *options,
                                          struct foretune_predictor **predictor);

/**
 * As `foretune_predictor_create`, from the adapter's `size` bytes in memory, needed during the call only.
 *
 * # Safety
 * As `foretune_predictor_create`.
 */
foretune_status foretune_predictor_create_memory(const struct foretune_model *model,
                                                 const uint8_t *adapter,
                                                 size_t size,
                                                 const struct foretune_predictor_options *options,
                                                 struct foretune_predictor **predictor);

/**
 * Logits `[count, classes]`, row-major, of `count` images to `logits` of `logits_count` elements. Any number of threads at a time: each
 * takes a slot, and waits while there is none.
 *
 * Errors: `FORETUNE_BAD_SHAPE`, `FORETUNE_DEVICE_FAILED`, `FORETUNE_ONNX_RUNTIME`, `FORETUNE_OUT_OF_MEMORY`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call, `images` for `count` elements and their data for what they say, `logits` for
 * `logits_count`.
 */
foretune_status foretune_predictor_predict(const struct foretune_predictor *predictor,
                                           const struct foretune_image *images,
                                           size_t count,
                                           float *logits,
                                           size_t logits_count);

/**
 * Writes the number of classes C to `*count`. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_predictor_class_count(const struct foretune_predictor *predictor, size_t *count);

/**
 * Name of class `index`, UTF-8; null where it is not known. It lives as long as the predictor. Any thread.
 *
 * # Safety
 * `predictor` is null or a predictor.
 */
const char *foretune_predictor_class_name(const struct foretune_predictor *predictor, size_t index);

/**
 * Writes how images must be prepared, the adapter's own way, to `*preprocess`, whose size is set. Any thread.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_predictor_get_preprocess(const struct foretune_predictor *predictor,
                                                  struct foretune_preprocess *preprocess);

/**
 * Destroys `*predictor` and nulls it; null is nothing to do. No other thread may be using it.
 *
 * # Safety
 * `predictor` is null, or points to null or to a predictor.
 */
void foretune_predictor_destroy(struct foretune_predictor **predictor);

/**
 * Makes a session on `model` with `options` (null: the defaults); the model may be destroyed before it. Obtains all memory that passes
 * need. `*session` is the caller's to destroy. Any thread.
 *
 * Errors: `FORETUNE_BAD_OPTIONS`, `FORETUNE_BUDGET`, `FORETUNE_OUT_OF_MEMORY`, `FORETUNE_NO_DEVICE`, `FORETUNE_DEVICE_MEMORY`,
 * `FORETUNE_DEVICE_FAILED`, `FORETUNE_ONNX_RUNTIME`, `FORETUNE_BAD_MODEL`, `FORETUNE_INVALID_ARGUMENT`; `*session` is null then.
 *
 * # Safety
 * Pointers are null or valid for the call; the context, stream and allocator for the session's life.
 */
foretune_status foretune_session_create(const struct foretune_model *model,
                                        const struct foretune_session_options *options,
                                        struct foretune_session **session);

/**
 * Takes one step on `count` images and their `labels`, at most the options' `batch`. `metrics`: null, or a struct whose size is set.
 * One thread at a time.
 *
 * Errors: `FORETUNE_BAD_SHAPE` (nothing has changed), `FORETUNE_CANCELLED`, `FORETUNE_DIVERGED`, `FORETUNE_BAD_OPTIONS` before there is a
 * head, `FORETUNE_DEVICE_FAILED`, `FORETUNE_ONNX_RUNTIME`, `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`. Whichever,
 * the state is that of the last complete step.
 *
 * # Safety
 * Pointers are null or valid for the call, `images` and `labels` for `count` elements, the images' data for what they say.
 */
foretune_status foretune_session_step(struct foretune_session *session,
                                      const struct foretune_image *images,
                                      const uint32_t *labels,
                                      size_t count,
                                      struct foretune_metrics *metrics);

/**
 * Writes what the last step came to to `*metrics`, whose size is set. One thread at a time.
 *
 * Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_get_metrics(const struct foretune_session *session, struct foretune_metrics *metrics);

/**
 * Logits `[count, classes]`, row-major, of `count` images under the prompts and head as they are now, to `logits` of `logits_count`
 * elements. One thread at a time; for several see predictors.
 *
 * Errors: as `foretune_session_step`.
 *
 * # Safety
 * As `foretune_session_step`; `logits` holds that many elements.
 */
foretune_status foretune_session_predict(struct foretune_session *session,
                                         const struct foretune_image *images,
                                         size_t count,
                                         float *logits,
                                         size_t logits_count);

/**
 * Has `callback` called with the progress of calls from now on; null ends it. One thread at a time.
 *
 * Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * `session` is null or a session; the callback may be called until it ends or the session is destroyed.
 */
foretune_status foretune_session_set_progress(struct foretune_session *session,
                                              foretune_progress_callback callback,
                                              void *user_data);

/**
 * Stops the call that is under way on the session, if one is, at the next block, with `FORETUNE_CANCELLED`; one that begins later is not
 * stopped. Any thread, at any time while the session lives, also from a callback; returns at once.
 *
 * Errors: `FORETUNE_INVALID_ARGUMENT` when `session` is null.
 *
 * # Safety
 * `session` is null or a session.
 */
foretune_status foretune_session_cancel(const struct foretune_session *session);

/**
 * Destroys `*session` and nulls it; null is nothing to do. No other thread may be using it.
 *
 * # Safety
 * `session` is null, or points to null or to a session.
 */
void foretune_session_destroy(struct foretune_session **session);

/**
 * Replaces the file at `path` by the adapter: prompts, head, class names and preprocessing; whole or not at all. Equal sessions give
 * equal bytes. One thread at a time.
 *
 * Errors: `FORETUNE_IO`, `FORETUNE_BAD_OPTIONS` before there is a head, `FORETUNE_BUSY`, `FORETUNE_POISONED`,
 * `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_save_adapter(struct foretune_session *session,
                                              const char *path);

/**
 * The adapter's bytes, as `foretune_session_save_adapter` writes them, to `buffer` of `capacity` bytes; their number to `*size`. With a
 * null buffer and capacity 0 only that. One thread at a time.
 *
 * Errors: `FORETUNE_BUFFER_TOO_SMALL`, and as `foretune_session_save_adapter`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_write_adapter(struct foretune_session *session,
                                               uint8_t *buffer,
                                               size_t capacity,
                                               size_t *size);

/**
 * Replaces the file at `path` by a checkpoint: everything needed to go on and give the bits that this session would give; whole or not
 * at all. One thread at a time.
 *
 * Errors: as `foretune_session_save_adapter`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_save_checkpoint(struct foretune_session *session,
                                                 const char *path);

/**
 * The checkpoint's bytes, as `foretune_session_write_adapter` the adapter's. One thread at a time.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_write_checkpoint(struct foretune_session *session,
                                                  uint8_t *buffer,
                                                  size_t capacity,
                                                  size_t *size);

/**
 * Goes on from the checkpoint at `path`, of a session with the same model and options. One thread at a time.
 *
 * Errors: `FORETUNE_IO`, `FORETUNE_BAD_ADAPTER` (nothing has changed), `FORETUNE_BUSY`, `FORETUNE_POISONED`,
 * `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_load_checkpoint(struct foretune_session *session, const char *path);

/**
 * As `foretune_session_load_checkpoint`, from `size` bytes in memory, needed during the call only.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_read_checkpoint(struct foretune_session *session, const uint8_t *bytes, size_t size);

/**
 * Fits a prototype head to `count` labelled images alone: class means of the frozen model, and the temperature. Each class needs one
 * image at least. One thread at a time.
 *
 * Errors: as `foretune_session_step`; `FORETUNE_BAD_OPTIONS` for another head or a class without images.
 *
 * # Safety
 * As `foretune_session_step`.
 */
foretune_status foretune_session_fit_head(struct foretune_session *session,
                                          const struct foretune_image *images,
                                          const uint32_t *labels,
                                          size_t count);

/**
 * Adds labelled images of known classes to a prototype head: their means move, the temperature stays. One image will do. One thread at
 * a time.
 *
 * Errors: as `foretune_session_step`; `FORETUNE_BAD_OPTIONS` for another head.
 *
 * # Safety
 * As `foretune_session_step`.
 */
foretune_status foretune_session_add_examples(struct foretune_session *session,
                                              const struct foretune_image *images,
                                              const uint32_t *labels,
                                              size_t count);

/**
 * Adds a class called `name`, UTF-8, to a prototype head, and writes its number, which labels call it by, to `*class_id` (null: not). Its
 * logit is 0 until it has an example. One thread at a time.
 *
 * Errors: `FORETUNE_BAD_OPTIONS` for another head, `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_add_class(struct foretune_session *session,
                                           const char *name,
                                           uint32_t *class_id);

/**
 * Writes the number of classes to `*count`. One thread at a time.
 *
 * Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_class_count(const struct foretune_session *session, size_t *count);

/**
 * Writes the name of class `index`, UTF-8, to `*name`; null if there is none. It holds until classes are added or a checkpoint is loaded.
 * One thread at a time.
 *
 * Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_class_name(const struct foretune_session *session,
                                            size_t index,
                                            const char **name);

/**
 * Gives back the memory of passes, of the host and the GPU; what has been learnt stays, and the next call that computes obtains it
 * again. On a GPU weights stay. One thread at a time.
 *
 * Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * `session` is null or a session.
 */
foretune_status foretune_session_trim(struct foretune_session *session);

/**
 * Writes bytes in use and their peak to `*memory`, whose size is set. One thread at a time.
 *
 * Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
 *
 * # Safety
 * Pointers are null or valid for the call.
 */
foretune_status foretune_session_get_memory(const struct foretune_session *session, struct foretune_memory *memory);

/**
 * Text of the last call on this thread that failed, UTF-8: what was wrong, where, and what to do. Empty before the first. It holds
 * until the next call on this thread that fails. Any thread.
 */
const char *foretune_last_error(void);

/**
 * A status in words, UTF-8, static. For what went wrong this time see `foretune_last_error`. Any thread.
 */
const char *foretune_status_string(foretune_status status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FORETUNE_H */
