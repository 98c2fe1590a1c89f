/* The layout that programs were compiled with. A field may be added at the end of a struct that begins with struct_size. */
#include "foretune.h"

#define AT(type, field, offset) _Static_assert(offsetof(foretune_##type, field) == (offset), #type "." #field)
#define SIZE(type, size) _Static_assert(sizeof(foretune_##type) >= (size), #type)

#if UINTPTR_MAX == UINT64_MAX
AT(session_options, struct_size, 0);
AT(session_options, device, 8);
AT(session_options, precision, 12);
AT(session_options, budget, 16);
AT(session_options, threads, 24);
AT(session_options, micro_batch, 28);
AT(session_options, guess, 32);
AT(session_options, tangents, 36);
AT(session_options, prompts, 40);
AT(session_options, insert_at, 44);
AT(session_options, deep, 48);
AT(session_options, head, 52);
AT(session_options, optimizer, 56);
AT(session_options, batch, 60);
AT(session_options, lr, 64);
AT(session_options, head_lr, 72);
AT(session_options, weight_decay, 80);
AT(session_options, momentum, 88);
AT(session_options, steps, 96);
AT(session_options, warmup_steps, 104);
AT(session_options, seed, 112);
AT(session_options, classes, 120);
AT(session_options, class_count, 128);
AT(session_options, cuda_context, 136);
AT(session_options, cuda_stream, 144);
AT(session_options, allocator, 152);
AT(session_options, clip, 176);
AT(session_options, power, 184);
AT(session_options, rank, 192);
AT(session_options, orthonormal, 196);
AT(session_options, unit_rms, 200);
AT(session_options, downstream_blocks, 204);
AT(session_options, engine, 208);
AT(session_options, ort_lib, 216);
SIZE(session_options, 224);

AT(allocator, allocate, 0);
AT(allocator, release, 8);
AT(allocator, user_data, 16);
_Static_assert(sizeof(foretune_allocator) == 24, "allocator");

AT(image, data, 0);
AT(image, format, 8);
AT(image, width, 12);
AT(image, height, 16);
AT(image, row_stride, 24);
_Static_assert(sizeof(foretune_image) == 32, "image");

AT(metrics, step, 8);
AT(metrics, skipped, 16);
AT(metrics, loss, 24);
AT(metrics, accuracy, 32);
AT(metrics, lr, 40);
SIZE(metrics, 48);

AT(memory, host_bytes, 8);
AT(memory, device_peak, 32);
SIZE(memory, 40);

AT(plan, bytes, 8);
AT(plan, smallest_budget, 16);
AT(plan, micro_batch, 24);
AT(plan, tangents_per_pass, 28);
AT(plan, streamed, 32);
SIZE(plan, 40);

AT(model_options, image_height, 8);
AT(model_options, heads, 16);
SIZE(model_options, 24);

AT(model_spec, image_height, 8);
AT(model_spec, depth, 24);
AT(model_spec, classes, 44);
SIZE(model_spec, 48);

AT(preprocess, crop_height, 8);
AT(preprocess, interpolation, 28);
AT(preprocess, mean, 32);
AT(preprocess, std, 44);
SIZE(preprocess, 56);

AT(predictor_options, device, 8);
AT(predictor_options, slots, 16);
AT(predictor_options, allocator, 32);
AT(predictor_options, engine, 56);
AT(predictor_options, ort_lib, 64);
SIZE(predictor_options, 72);

AT(dataset_options, format, 8);
AT(dataset_options, val_fraction, 24);
AT(dataset_options, checkpoint, 40);
AT(dataset_options, resume, 56);
AT(dataset_options, progress, 64);
SIZE(dataset_options, 80);

AT(result, step, 8);
AT(result, images_per_second, 40);
SIZE(result, 48);

AT(device_info, device, 8);
AT(device_info, total_bytes, 16);
AT(device_info, name, 24);
SIZE(device_info, 152);

AT(onnx_runtime_info, oldest, 8);
AT(onnx_runtime_info, path, 16);
AT(onnx_runtime_info, version, 24);
AT(onnx_runtime_info, providers, 32);
SIZE(onnx_runtime_info, 40);

AT(export_options, precision, 8);
AT(export_options, with_preprocessing, 12);
SIZE(export_options, 16);
#endif
_Static_assert(sizeof(foretune_status) == 4, "status");

int main(void) { return 0; }
