/* What a session does, and what it says to whatever it is given: session MODEL_FOLDER SCRATCH_FOLDER. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void library(void) {
    CHECK(strcmp(foretune_version(), "0.1.0") == 0 && foretune_abi_version() == FORETUNE_ABI_VERSION);
    CHECK(strstr(foretune_build_info(), foretune_version()));
    CHECK(strcmp(foretune_status_string(FORETUNE_OK), "success") == 0);
    CHECK(strcmp(foretune_status_string(-5), "unknown status") == 0);
    size_t count = 0;
    OK(foretune_device_count(&count));
    CHECK(count >= 1);
    foretune_device_info info = {.struct_size = sizeof info};
    OK(foretune_device_get(0, &info));
    CHECK(info.device == FORETUNE_DEVICE_CPU && strcmp(info.name, "CPU") == 0 && info.struct_size == sizeof info);
    FAILS(foretune_device_get(count, &info), FORETUNE_INVALID_ARGUMENT, "no device");
}

static void models(const char *path) {
    foretune_model *model = (foretune_model *)path;
    FAILS(foretune_model_open("/nowhere", NULL, &model), FORETUNE_IO, "/nowhere");
    CHECK(!model);
    FAILS(foretune_model_open(NULL, NULL, &model), FORETUNE_INVALID_ARGUMENT, "path is null");
    FAILS(foretune_model_open("\xff", NULL, &model), FORETUNE_INVALID_ARGUMENT, "UTF-8");
    FAILS(foretune_model_open(path, NULL, NULL), FORETUNE_INVALID_ARGUMENT, "model is null");
    foretune_model_options odd = {.struct_size = sizeof odd, .image_height = 50, .image_width = 16};
    FAILS(foretune_model_open(path, &odd, &model), FORETUNE_BAD_OPTIONS, "50");
    OK(foretune_model_open(path, NULL, &model));
    foretune_model_spec spec = {.struct_size = sizeof spec};
    OK(foretune_model_get_spec(model, &spec));
    CHECK(spec.image_height == 16 && spec.patch_width == 8 && spec.depth == 2 && spec.width == 16 && spec.heads == 2);
    CHECK(spec.tokens == 4 && spec.head_width == 16 && spec.classes == 5);
    foretune_preprocess preprocess = {.struct_size = sizeof preprocess};
    OK(foretune_model_get_preprocess(model, &preprocess));
    CHECK(preprocess.crop_height == 16 && preprocess.std[2] > 0.0f && !foretune_model_class_name(model, 0));

    /* From memory: the same spec, damage refused. */
    char name[4096];
    snprintf(name, sizeof name, "%s/model.safetensors", path);
    struct bytes weights = read_file(name);
    snprintf(name, sizeof name, "%s/config.json", path);
    struct bytes config = read_file(name);
    foretune_model *other = NULL;
    FAILS(foretune_model_open_memory(weights.data, weights.size / 2, config.data, config.size, NULL, &other), FORETUNE_BAD_MODEL, "truncated");
    FAILS(foretune_model_open_memory(NULL, 5, NULL, 0, NULL, &other), FORETUNE_INVALID_ARGUMENT, "weights is null");
    OK(foretune_model_open_memory(weights.data, weights.size, config.data, config.size, NULL, &other));
    foretune_model_spec again = {.struct_size = sizeof again};
    OK(foretune_model_get_spec(other, &again));
    CHECK(!memcmp(&spec, &again, sizeof spec));
    foretune_model_destroy(&other);
    free(weights.data);
    free(config.data);

    foretune_model_destroy(&model);
    CHECK(!model);
    foretune_model_destroy(&model);
    foretune_model_destroy(NULL);
}

/* Structs as an older and a newer header have them. */
static void sizes(const foretune_model *model, const char *path) {
    struct {
        size_t struct_size;
        uint32_t image_height, image_width;
    } older = {sizeof older, 32, 32};
    foretune_model *opened = NULL;
    OK(foretune_model_open(path, (const foretune_model_options *)&older, &opened));
    foretune_model_spec *short_spec = malloc(16);
    CHECK(short_spec);
    short_spec->struct_size = 16;
    OK(foretune_model_get_spec(opened, short_spec));
    CHECK(short_spec->image_height == 32 && short_spec->struct_size == 16);
    free(short_spec);
    foretune_model_destroy(&opened);
    struct {
        foretune_model_spec spec;
        uint64_t more[2];
    } newer = {.spec = {.struct_size = sizeof newer}, .more = {5, 6}};
    OK(foretune_model_get_spec(model, &newer.spec));
    CHECK(newer.more[0] == 0 && newer.spec.struct_size == sizeof newer);

    /* Options without their last fields: the defaults. With more: only if they are zero. */
    foretune_session *session = NULL;
    foretune_session_options *short_options = malloc(96);
    CHECK(short_options);
    OK(foretune_session_options_default(short_options, 96));
    CHECK(short_options->struct_size == 96 && short_options->tangents == 8);
    short_options->threads = 1;
    OK(foretune_session_create(model, short_options, &session));
    foretune_session_destroy(&session);
    free(short_options);
    struct {
        foretune_session_options options;
        uint64_t more;
    } grown;
    OK(foretune_session_options_default(&grown.options, sizeof grown));
    CHECK(grown.options.struct_size == sizeof grown && grown.more == 0);
    grown.options.threads = 1;
    OK(foretune_session_create(model, &grown.options, &session));
    foretune_session_destroy(&session);
    grown.more = 1;
    FAILS(foretune_session_create(model, &grown.options, &session), FORETUNE_INVALID_ARGUMENT, "newer header");
    for (size_t bad = 0; bad < 8; bad++) {
        newer.spec.struct_size = bad;
        FAILS(foretune_model_get_spec(model, &newer.spec), FORETUNE_INVALID_ARGUMENT, "sizeof");
    }
    newer.spec.struct_size = (size_t)1 << 40;
    FAILS(foretune_model_get_spec(model, &newer.spec), FORETUNE_INVALID_ARGUMENT, "sizeof");
}

static void plans(const foretune_model *model) {
    foretune_session_options options = usual_options();
    foretune_plan plan = {.struct_size = sizeof plan};
    OK(foretune_plan_session(model, &options, CLASSES, &plan));
    CHECK(plan.bytes > 0 && plan.smallest_budget > 0 && plan.smallest_budget < plan.bytes && plan.micro_batch == 8);
    uint64_t smallest = plan.smallest_budget;
    options.budget = smallest;
    OK(foretune_plan_session(model, &options, CLASSES, &plan));
    CHECK(plan.bytes <= smallest && plan.micro_batch == 1);
    options.budget = smallest - 1;
    FAILS(foretune_plan_session(model, &options, CLASSES, &plan), FORETUNE_BUDGET, "too small");
    CHECK(plan.smallest_budget == smallest);
    foretune_session *session = NULL;
    options.budget = 1000;
    FAILS(foretune_session_create(model, &options, &session), FORETUNE_BUDGET, "1000");
}

static void presets_and_guesses(const foretune_model *model, const struct frames *frames) {
    foretune_session_options fast, balanced, usual;
    OK(foretune_session_options_preset(&fast, sizeof fast, FORETUNE_PRESET_FAST));
    OK(foretune_session_options_preset(&balanced, sizeof balanced, FORETUNE_PRESET_BALANCED));
    OK(foretune_session_options_default(&usual, sizeof usual));
    CHECK(fast.tangents < balanced.tangents && fast.steps < balanced.steps && fast.insert_at == FORETUNE_INSERT_AT_AUTO);
    CHECK(usual.steps == 0 && usual.tangents == balanced.tangents && usual.clip == balanced.clip);
    FAILS(foretune_session_options_preset(&usual, sizeof usual, 3), FORETUNE_INVALID_ARGUMENT, "preset is 3");

    const uint32_t guesses[] = {FORETUNE_GUESS_ACTIVATION, FORETUNE_GUESS_MIXING, FORETUNE_GUESS_DOWNSTREAM,
                                FORETUNE_GUESS_SELF_SHARPENING, FORETUNE_GUESS_MATCHED_COSINE};
    for (unsigned g = 0; g < sizeof guesses / sizeof *guesses; g++) {
        foretune_session_options options = usual_options();
        options.guess = guesses[g];
        options.downstream_blocks = guesses[g] == FORETUNE_GUESS_DOWNSTREAM;
        options.orthonormal = options.unit_rms = 1;
        options.power = guesses[g] >= FORETUNE_GUESS_SELF_SHARPENING ? 0.5 : 1.0;
        options.clip = 0.5;
        options.insert_at = FORETUNE_INSERT_AT_AUTO;
        foretune_session *session = make_session(model, &options, frames);
        take_steps(session, frames, 0, 2);
        foretune_session_destroy(&session);
    }
}

static void refusals(const foretune_model *model, const struct frames *frames) {
    foretune_session_options options = usual_options();
    foretune_session *session = NULL;
    FAILS(foretune_session_create(NULL, &options, &session), FORETUNE_INVALID_ARGUMENT, "model is null");
    FAILS(foretune_session_create(model, &options, NULL), FORETUNE_INVALID_ARGUMENT, "session is null");
#define REFUSED(field, value, status, part)                                                                            \
    do {                                                                                                               \
        foretune_session_options bad = options;                                                                        \
        bad.field = (value);                                                                                           \
        FAILS(foretune_session_create(model, &bad, &session), status, part);                                           \
        CHECK(!session);                                                                                               \
    } while (0)
    REFUSED(guess, 17, FORETUNE_INVALID_ARGUMENT, "guess");
    REFUSED(downstream_blocks, 1, FORETUNE_INVALID_ARGUMENT, "downstream_blocks is 1");
    REFUSED(orthonormal, 2, FORETUNE_INVALID_ARGUMENT, "orthonormal");
    REFUSED(clip, -1.0, FORETUNE_BAD_OPTIONS, "clip");
    REFUSED(power, 0.5, FORETUNE_BAD_OPTIONS, "power");
    REFUSED(head, 17, FORETUNE_INVALID_ARGUMENT, "head");
    REFUSED(deep, 2, FORETUNE_INVALID_ARGUMENT, "deep");
    REFUSED(precision, 9, FORETUNE_INVALID_ARGUMENT, "precision");
    REFUSED(device, -7, FORETUNE_INVALID_ARGUMENT, "device");
    REFUSED(device, 41, FORETUNE_NO_DEVICE, "");
    REFUSED(tangents, 0, FORETUNE_BAD_OPTIONS, "tangents");
    REFUSED(insert_at, 2, FORETUNE_BAD_OPTIONS, "2 blocks");
    REFUSED(lr, NAN, FORETUNE_BAD_OPTIONS, "lr");
    REFUSED(batch, 0, FORETUNE_BAD_OPTIONS, "batch");
    REFUSED(head, FORETUNE_HEAD_LINEAR, FORETUNE_BAD_OPTIONS, "classes");
    REFUSED(class_count, 3, FORETUNE_INVALID_ARGUMENT, "classes is null");
    REFUSED(precision, FORETUNE_PRECISION_F16, FORETUNE_BAD_OPTIONS, "");

    OK(foretune_session_create(model, &options, &session));
    const foretune_image *image = frames->images;
    float logits[CLASSES];
    FAILS(foretune_session_step(session, image, frames->labels, 1, NULL), FORETUNE_BAD_SHAPE, "labels");
    FAILS(foretune_session_predict(session, image, 1, logits, CLASSES), FORETUNE_BAD_OPTIONS, "no head");
    FAILS(foretune_session_save_adapter(session, "/tmp/none"), FORETUNE_BAD_OPTIONS, "no head");
    foretune_session_destroy(&session);

    session = make_session(model, &options, frames);
    foretune_metrics metrics = {.struct_size = sizeof metrics};
    uint32_t beyond[8] = {0, 0, 0, 0, 0, 0, 0, CLASSES};
    FAILS(foretune_session_step(session, image, beyond, 8, &metrics), FORETUNE_BAD_SHAPE, "below 4");
    FAILS(foretune_session_step(session, image, frames->labels, 9, &metrics), FORETUNE_BAD_SHAPE, "1 to 8");
    FAILS(foretune_session_step(session, image, frames->labels, 0, &metrics), FORETUNE_BAD_SHAPE, "found 0");
    FAILS(foretune_session_step(session, NULL, frames->labels, 8, &metrics), FORETUNE_INVALID_ARGUMENT, "images is null");
    FAILS(foretune_session_step(session, image, NULL, 8, &metrics), FORETUNE_INVALID_ARGUMENT, "labels is null");
    FAILS(foretune_session_step(session, image, frames->labels, SIZE_MAX, &metrics), FORETUNE_INVALID_ARGUMENT, "memory");
    FAILS(foretune_session_step(NULL, image, frames->labels, 8, &metrics), FORETUNE_INVALID_ARGUMENT, "session is null");
    FAILS(foretune_session_predict(session, image, 1, logits, CLASSES - 1), FORETUNE_BAD_SHAPE, "logits");
    FAILS(foretune_session_predict(session, image, 1, NULL, CLASSES), FORETUNE_INVALID_ARGUMENT, "logits is null");
    FAILS(foretune_session_add_class(session, NULL, NULL), FORETUNE_INVALID_ARGUMENT, "name is null");
    FAILS(foretune_session_load_checkpoint(session, "/nowhere"), FORETUNE_IO, "/nowhere");
    FAILS(foretune_session_read_checkpoint(session, (const uint8_t *)"x", 1), FORETUNE_BAD_ADAPTER, "");
    FAILS(foretune_session_write_adapter(session, NULL, 0, NULL), FORETUNE_INVALID_ARGUMENT, "len is null");
    FAILS(foretune_session_cancel(NULL), FORETUNE_INVALID_ARGUMENT, "session is null");

    foretune_image odd = *image;
    odd.data = NULL;
    FAILS(foretune_session_predict(session, &odd, 1, logits, CLASSES), FORETUNE_INVALID_ARGUMENT, "images[0]: data is null");
    odd = *image;
    odd.format = 7;
    FAILS(foretune_session_predict(session, &odd, 1, logits, CLASSES), FORETUNE_INVALID_ARGUMENT, "format 7");
    odd = *image;
    odd.width = 0;
    FAILS(foretune_session_predict(session, &odd, 1, logits, CLASSES), FORETUNE_BAD_SHAPE, "pixels");
    odd = *image;
    odd.row_stride = 5;
    FAILS(foretune_session_predict(session, &odd, 1, logits, CLASSES), FORETUNE_BAD_SHAPE, "rows 5");
    float *values = calloc(3 * 16 * 16, sizeof *values);
    CHECK(values);
    odd = (foretune_image){.data = values, .format = FORETUNE_IMAGE_F32, .width = 40, .height = 16};
    FAILS(foretune_session_predict(session, &odd, 1, logits, CLASSES), FORETUNE_INVALID_ARGUMENT, "16x16");
    odd.width = 16;
    OK(foretune_session_predict(session, &odd, 1, logits, CLASSES));
    values[100] = NAN;
    FAILS(foretune_session_predict(session, &odd, 1, logits, CLASSES), FORETUNE_BAD_SHAPE, "NaN");
    FAILS(foretune_session_step(session, &odd, frames->labels, 1, &metrics), FORETUNE_BAD_SHAPE, "NaN");
    free(values);

    /* Nothing of this has moved it. */
    OK(foretune_session_get_metrics(session, &metrics));
    CHECK(metrics.step == 0 && metrics.skipped == 0);
    foretune_session_destroy(&session);
    CHECK(!session);
    foretune_session_destroy(&session);
    foretune_session_destroy(NULL);
}

static void saving(const foretune_model *model, const struct frames *frames, const char *scratch) {
    foretune_session_options options = usual_options();
    foretune_session *session = make_session(model, &options, frames), *other = make_session(model, &options, frames);
    take_steps(session, frames, 0, 6);
    struct bytes checkpoint = collect(session, foretune_session_write_checkpoint);
    char path[4096];
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", scratch);
    OK(foretune_session_save_checkpoint(session, path));
    struct bytes file = read_file(path);
    CHECK(same(checkpoint, file));
    take_steps(session, frames, 6, 12);
    struct bytes adapter = collect(session, foretune_session_write_adapter);
    snprintf(path, sizeof path, "%s/adapter.safetensors", scratch);
    OK(foretune_session_save_adapter(session, path));
    free(file.data);
    file = read_file(path);
    CHECK(same(adapter, file));

    /* Going on from the checkpoint, trimmed or not, in other passes, gives the same bits. */
    OK(foretune_session_read_checkpoint(other, checkpoint.data, checkpoint.size));
    foretune_metrics metrics = {.struct_size = sizeof metrics};
    OK(foretune_session_get_metrics(other, &metrics));
    CHECK(metrics.step == 6);
    foretune_memory memory = {.struct_size = sizeof memory};
    OK(foretune_session_get_memory(other, &memory));
    CHECK(memory.host_bytes > 0 && memory.host_peak >= memory.host_bytes);
    OK(foretune_session_trim(other));
    OK(foretune_session_get_memory(other, &memory));
    CHECK(memory.host_bytes == 0);
    take_steps(other, frames, 6, 12);
    struct bytes again = collect(other, foretune_session_write_adapter);
    CHECK(same(adapter, again));
    free(again.data);
    foretune_session_destroy(&other);
    options.micro_batch = 3;
    options.threads = 2;
    other = make_session(model, &options, frames);
    take_steps(other, frames, 0, 12);
    again = collect(other, foretune_session_write_adapter);
    CHECK(same(adapter, again));

    /* Damage, and another session's. */
    checkpoint.data[checkpoint.size / 2] ^= 1;
    FAILS(foretune_session_read_checkpoint(other, checkpoint.data, checkpoint.size), FORETUNE_BAD_ADAPTER, "damaged");
    foretune_session_destroy(&other);
    options.seed = 8;
    other = make_session(model, &options, frames);
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", scratch);
    FAILS(foretune_session_load_checkpoint(other, path), FORETUNE_BAD_ADAPTER, "seed");
    snprintf(path, sizeof path, "%s/none/adapter.safetensors", scratch);
    FAILS(foretune_session_save_adapter(other, path), FORETUNE_IO, "none");
    foretune_session_destroy(&other);
    foretune_session_destroy(&session);
    free(again.data);
    free(file.data);
    free(adapter.data);
    free(checkpoint.data);
}

struct watch {
    foretune_session *session;
    int stop_after, calls;
};

static int32_t watch(uint64_t done, uint64_t total, void *user_data) {
    struct watch *watch = user_data;
    CHECK(done <= total && total == 8);
    foretune_metrics metrics = {.struct_size = sizeof metrics};
    CHECK(foretune_session_get_metrics(watch->session, &metrics) == FORETUNE_BUSY);
    return ++watch->calls != watch->stop_after;
}

static int32_t cancel_inside(uint64_t done, uint64_t total, void *user_data) {
    (void)done, (void)total;
    OK(foretune_session_cancel(user_data));
    return 1;
}

static void stopping(const foretune_model *model, const struct frames *frames) {
    foretune_session_options options = usual_options();
    options.micro_batch = 2;
    foretune_session *session = make_session(model, &options, frames);
    struct watch state = {session, 3, 0};
    OK(foretune_session_set_progress(session, watch, &state));
    foretune_metrics metrics = {.struct_size = sizeof metrics};
    struct bytes before = collect(session, foretune_session_write_checkpoint);
    FAILS(foretune_session_step(session, frames->images, frames->labels, 8, &metrics), FORETUNE_CANCELLED, "after step 0");
    CHECK(state.calls == 3);
    OK(foretune_session_set_progress(session, cancel_inside, session));
    FAILS(foretune_session_step(session, frames->images, frames->labels, 8, &metrics), FORETUNE_CANCELLED, "after step 0");
    struct bytes after = collect(session, foretune_session_write_checkpoint);
    CHECK(same(before, after));
    OK(foretune_session_set_progress(session, NULL, NULL));
    state = (struct watch){session, -1, 0};
    OK(foretune_session_set_progress(session, watch, &state));
    take_steps(session, frames, 0, 2);
    CHECK(state.calls == 10);
    OK(foretune_session_set_progress(session, NULL, NULL));
    /* Cancelling takes no time, and what it does not meet goes on. */
    double start = seconds();
    for (int i = 0; i < 100000; i++) OK(foretune_session_cancel(session));
    double each = (seconds() - start) / 1e5;
    printf("cancel: %.0f ns\n", each * 1e9);
    CHECK(each < 1e-6 || getenv("SLOW"));
    take_steps(session, frames, 2, 3);
    foretune_session_destroy(&session);
    free(before.data);
    free(after.data);
}

static atomic_size_t live, given;
static size_t refuse_from = SIZE_MAX;

static void *host_allocate(size_t size, size_t alignment, void *user_data) {
    CHECK(user_data == (void *)&live && size > 0 && (alignment & (alignment - 1)) == 0);
    if (atomic_fetch_add(&given, 1) >= refuse_from) return NULL;
    atomic_fetch_add(&live, size);
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void host_release(void *memory, size_t size, size_t alignment, void *user_data) {
    (void)alignment;
    CHECK(user_data == (void *)&live && memory);
    atomic_fetch_sub(&live, size);
    free(memory);
}

static void allocators(const foretune_model *model, const struct frames *frames) {
    foretune_session_options options = usual_options();
    options.allocator = (foretune_allocator){host_allocate, host_release, (void *)&live};
    foretune_session *session = make_session(model, &options, frames);
    take_steps(session, frames, 0, 2);
    foretune_memory memory = {.struct_size = sizeof memory};
    OK(foretune_session_get_memory(session, &memory));
    CHECK(live > 0 && memory.host_bytes == live && given >= 1);
    foretune_session_destroy(&session);
    CHECK(live == 0);
    refuse_from = given;
    FAILS(foretune_session_create(model, &options, &session), FORETUNE_OUT_OF_MEMORY, "cannot allocate");
    refuse_from = SIZE_MAX;
    options.allocator.release = NULL;
    FAILS(foretune_session_create(model, &options, &session), FORETUNE_INVALID_ARGUMENT, "both");
}

static void heads(const foretune_model *model, const struct frames *frames) {
    foretune_session_options options = usual_options();
    const char *names[CLASSES] = {"a", "b", "c", "d"};
    options.head = FORETUNE_HEAD_LINEAR;
    options.classes = names;
    options.class_count = CLASSES;
    foretune_session *session = NULL;
    OK(foretune_session_create(model, &options, &session));
    FAILS(foretune_session_add_class(session, "e", NULL), FORETUNE_BAD_OPTIONS, "prototype");
    FAILS(foretune_session_fit_head(session, frames->images, frames->labels, 8), FORETUNE_BAD_OPTIONS, "prototype");
    take_steps(session, frames, 0, 3);
    const char *name = NULL;
    size_t count = 0;
    OK(foretune_session_class_count(session, &count));
    OK(foretune_session_class_name(session, 2, &name));
    CHECK(count == CLASSES && strcmp(name, "c") == 0);
    foretune_session_destroy(&session);
    names[1] = "\xc3\x28";
    FAILS(foretune_session_create(model, &options, &session), FORETUNE_INVALID_ARGUMENT, "UTF-8");

    options = usual_options();
    options.head = FORETUNE_HEAD_PRETRAINED;
    OK(foretune_session_create(model, &options, &session));
    OK(foretune_session_class_count(session, &count));
    CHECK(count == 5);
    take_steps(session, frames, 0, 3);
    float logits[2 * 5];
    OK(foretune_session_predict(session, frames->images, 2, logits, 10));
    foretune_session_destroy(&session);

    /* A class that has no example yet. */
    options = usual_options();
    session = make_session(model, &options, frames);
    uint32_t id = 0;
    OK(foretune_session_add_class(session, "new", &id));
    CHECK(id == CLASSES);
    float five[5];
    OK(foretune_session_predict(session, frames->images, 1, five, 5));
    CHECK(five[4] == 0.0f);
    FAILS(foretune_session_fit_head(session, frames->images, frames->labels, IMAGES), FORETUNE_BAD_OPTIONS, "class 4");
    OK(foretune_session_add_examples(session, &frames->images[9], &id, 1));
    OK(foretune_session_predict(session, &frames->images[9], 1, five, 5));
    CHECK(five[4] > five[0] && five[4] > five[1] && five[4] > five[2]);
    foretune_session_destroy(&session);
}

static int messages;

static void log_message(int32_t level, const char *message, void *user_data) {
    CHECK(level >= 1 && level <= 5 && message[0] && user_data == &messages);
    messages++;
}

static void logging(const foretune_model *model) {
    FAILS(foretune_set_log(log_message, 6, &messages), FORETUNE_INVALID_ARGUMENT, "level");
    OK(foretune_set_log(log_message, 5, &messages));
    foretune_session_options options = usual_options();
    options.device = FORETUNE_DEVICE_AUTO;
    foretune_session *session = NULL;
    OK(foretune_session_create(model, &options, &session));
    foretune_session_destroy(&session);
    OK(foretune_set_log(NULL, 0, NULL));
}

#ifdef FAULT_INJECTION
void foretune_inject_panic(uint32_t calls);

static void panics(const foretune_model *model, const struct frames *frames) {
    foretune_session_options options = usual_options();
    foretune_session *session = make_session(model, &options, frames), *other = make_session(model, &options, frames);
    foretune_metrics metrics = {.struct_size = sizeof metrics};
    foretune_inject_panic(1);
    FAILS(foretune_session_step(session, frames->images, frames->labels, 8, &metrics), FORETUNE_PANIC, "injected");
    take_steps(session, frames, 0, 1);
    foretune_inject_panic(2);
    FAILS(foretune_session_step(session, frames->images, frames->labels, 8, &metrics), FORETUNE_PANIC, "injected");
    FAILS(foretune_session_step(session, frames->images, frames->labels, 8, &metrics), FORETUNE_POISONED, "destroy it");
    FAILS(foretune_session_get_metrics(session, &metrics), FORETUNE_POISONED, "destroy it");
    OK(foretune_session_cancel(session));
    take_steps(other, frames, 0, 1);
    foretune_session_destroy(&session);
    foretune_session_destroy(&other);
}
#endif

int main(int argc, char **argv) {
    CHECK(argc == 3);
    CHECK(foretune_last_error()[0] == 0);
    library();
    models(argv[1]);
    struct frames *frames = make_frames();
    foretune_model *model = NULL;
    OK(foretune_model_open(argv[1], NULL, &model));
    sizes(model, argv[1]);
    plans(model);
    presets_and_guesses(model, frames);
    refusals(model, frames);
    saving(model, frames, argv[2]);
    stopping(model, frames);
    allocators(model, frames);
    heads(model, frames);
    logging(model);
#ifdef FAULT_INJECTION
    panics(model, frames);
#endif
    foretune_model_destroy(&model);
    free(frames);
    puts("session: all passed");
    return 0;
}
