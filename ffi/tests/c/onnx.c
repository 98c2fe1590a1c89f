/* Exports, the engine on ONNX Runtime beside the native one, and what both say to whatever they are given: onnx MODEL_FOLDER SCRATCH_FOLDER.
 * Without an ONNX Runtime what needs one says so and is skipped, or fails where FORETUNE_NEED_ORT is set. */
#include "check.h"

#define STEPS 12

static foretune_session_options on(const char *engine) {
    foretune_session_options options = usual_options();
    options.engine = engine;
    return options;
}

static void release(void *memory, size_t size, size_t alignment, void *user_data) {
    (void)memory, (void)size, (void)alignment, (void)user_data;
}

/* Found out before a library is looked for. */
static void refusals(const foretune_model *model) {
    foretune_session *session = NULL;
    foretune_predictor *predictor = NULL;
    foretune_session_options options;
    foretune_predictor_options serving;
    OK(foretune_predictor_options_default(&serving, sizeof serving));
    CHECK(!serving.engine && !serving.ort_lib && !usual_options().engine);
#define REFUSED(name, status, part)                                                                                    \
    do {                                                                                                               \
        options = on(name);                                                                                            \
        serving.engine = (name);                                                                                       \
        FAILS(foretune_session_create(model, &options, &session), status, part);                                       \
        FAILS(foretune_predictor_create(model, NULL, &serving, &predictor), status, part);                             \
        CHECK(!session && !predictor);                                                                                 \
    } while (0)
    REFUSED("", FORETUNE_INVALID_ARGUMENT, "native, ort, or ort:PROVIDER");
    REFUSED("native:cpu", FORETUNE_INVALID_ARGUMENT, "`native:cpu`");
    REFUSED("ORT", FORETUNE_INVALID_ARGUMENT, "`ORT`");
    REFUSED("ort:", FORETUNE_INVALID_ARGUMENT, "no execution provider");
    REFUSED("ort:gpu", FORETUNE_INVALID_ARGUMENT, "`gpu` is no execution provider; there are cpu, cuda");
    REFUSED("\xff", FORETUNE_INVALID_ARGUMENT, "engine is not UTF-8");
#define NATIVE_ONLY(field, value, part)                                                                                \
    do {                                                                                                               \
        options = on("ort");                                                                                           \
        options.field = (value);                                                                                       \
        FAILS(foretune_session_create(model, &options, &session), FORETUNE_BAD_OPTIONS, part);                         \
    } while (0)
    NATIVE_ONLY(budget, 1 << 30, "not bounded");
    NATIVE_ONLY(precision, FORETUNE_PRECISION_BF16, "precision is for the native engine");
    NATIVE_ONLY(device, 0, "device is for the native engine");
    NATIVE_ONLY(cuda_stream, &options, "cuda_context is for the native engine");
    NATIVE_ONLY(allocator.release, release, "allocator is for the native engine");
}

/* What stands at the path given. Nothing is loaded, and the next path is tried. */
static void libraries(const foretune_model *model, const char *scratch) {
    foretune_session *session = NULL;
    foretune_onnx_runtime_info info = {.struct_size = sizeof info};
    FAILS(foretune_onnx_runtime_get(NULL, NULL), FORETUNE_INVALID_ARGUMENT, "info is null");
    char text[4096];
    snprintf(text, sizeof text, "%s/libonnxruntime.so", scratch);
    FILE *file = fopen(text, "w");
    CHECK(file && fputs("no library\n", file) >= 0 && !fclose(file));
    const char *paths[] = {"/nowhere/libonnxruntime.so", text, scratch, "libm.so.6"};
    const char *parts[] = {"/nowhere/libonnxruntime.so", text, text, "not ONNX Runtime"};
    for (unsigned i = 0; i < 4; i++) {
        foretune_session_options options = on("ort");
        options.ort_lib = paths[i];
        FAILS(foretune_session_create(model, &options, &session), FORETUNE_ONNX_RUNTIME, parts[i]);
        CHECK(!session && strstr(foretune_last_error(), "ONNX Runtime"));
        FAILS(foretune_onnx_runtime_get(paths[i], &info), FORETUNE_ONNX_RUNTIME, parts[i]);
        CHECK(info.struct_size == sizeof info && strcmp(info.oldest, "1.20") == 0);
        CHECK(!info.path && !info.version && !info.providers);
        options.engine = i % 2 ? NULL : "native";
        FAILS(foretune_session_create(model, &options, &session), FORETUNE_BAD_OPTIONS, "ort_lib is for the engines ort");
    }
    CHECK(!remove(text));
}

static struct bytes exported(const foretune_model *model, const char *adapter, const char *path,
                             const foretune_export_options *options) {
    OK(foretune_export(model, adapter, path, options));
    struct bytes bytes = read_file(path);
    CHECK(!remove(path));
    return bytes;
}

static void exports(const foretune_model *model, const struct frames *frames, const char *scratch) {
    char path[4096], adapter[4096], none[4096];
    snprintf(path, sizeof path, "%s/model.onnx", scratch);
    snprintf(adapter, sizeof adapter, "%s/exported.safetensors", scratch);
    snprintf(none, sizeof none, "%s/none/model.onnx", scratch);
    foretune_export_options options;
    OK(foretune_export_options_default(&options, sizeof options));
    CHECK(options.precision == FORETUNE_PRECISION_F32 && !options.with_preprocessing);
    struct bytes own = exported(model, NULL, path, NULL), again = exported(model, NULL, path, &options);
    CHECK(same(own, again));
    free(again.data);
    options.precision = FORETUNE_PRECISION_F16;
    again = exported(model, NULL, path, &options);
    CHECK(again.size < own.size * 2 / 3);
    free(again.data);

    /* What a session has learnt, from itself and by way of its adapter. */
    foretune_session_options how = usual_options();
    foretune_session *session = NULL;
    OK(foretune_session_create(model, &how, &session));
    FAILS(foretune_session_export(session, path, NULL), FORETUNE_BAD_OPTIONS, "no head");
    foretune_session_destroy(&session);
    session = make_session(model, &how, frames);
    take_steps(session, frames, 0, 2);
    OK(foretune_session_save_adapter(session, adapter));
    options = (foretune_export_options){.struct_size = sizeof options, .with_preprocessing = 1};
    OK(foretune_session_export(session, path, &options));
    struct bytes live = read_file(path);
    again = exported(model, adapter, path, &options);
    CHECK(same(live, again) && !same(live, own));
    free(again.data);

    /* A file that stands there stays as it is. */
    OK(foretune_export(model, NULL, path, NULL));
    options.precision = FORETUNE_PRECISION_BF16;
    FAILS(foretune_export(model, NULL, path, &options), FORETUNE_INVALID_ARGUMENT, "precision is 1");
    options = (foretune_export_options){.struct_size = sizeof options, .with_preprocessing = 2};
    FAILS(foretune_export(model, NULL, path, &options), FORETUNE_INVALID_ARGUMENT, "with_preprocessing");
    FAILS(foretune_export(model, "/nowhere", path, NULL), FORETUNE_IO, "/nowhere");
    FAILS(foretune_export(model, path, path, NULL), FORETUNE_BAD_ADAPTER, "model.onnx");
    again = read_file(path);
    CHECK(same(own, again) && !remove(path));
    free(again.data);
    FAILS(foretune_export(model, NULL, none, NULL), FORETUNE_IO, none);
    FAILS(foretune_session_export(session, none, NULL), FORETUNE_IO, none);
    FAILS(foretune_export(model, NULL, scratch, NULL), FORETUNE_IO, scratch);
    FAILS(foretune_export(model, NULL, NULL, NULL), FORETUNE_INVALID_ARGUMENT, "path is null");
    FAILS(foretune_export(NULL, NULL, path, NULL), FORETUNE_INVALID_ARGUMENT, "model is null");
    CHECK(!fopen(path, "rb") && !fopen(none, "rb"));
    foretune_session_destroy(&session);
    free(live.data);
    free(own.data);
}

/* An export without prompts is the model again. */
static void imports(const foretune_model *model, const struct frames *frames, const char *scratch) {
    char path[4096], adapter[4096];
    snprintf(path, sizeof path, "%s/model.onnx", scratch);
    snprintf(adapter, sizeof adapter, "%s/exported.safetensors", scratch);
    OK(foretune_export(model, NULL, path, NULL));
    foretune_model *opened = NULL;
    OK(foretune_model_open(path, NULL, &opened));
    float logits[2][8 * CLASSES];
    for (unsigned i = 0; i < 2; i++) {
        foretune_predictor_options serving = {.struct_size = sizeof serving, .device = FORETUNE_DEVICE_CPU, .slots = 1, .micro_batch = 8};
        foretune_predictor *predictor = NULL;
        OK(foretune_predictor_create(i ? opened : model, adapter, &serving, &predictor));
        OK(foretune_predictor_predict(predictor, frames->images, 8, logits[i], 8 * CLASSES));
        foretune_predictor_destroy(&predictor);
    }
    CHECK(memcmp(logits[0], logits[1], sizeof logits[0]) == 0);
    foretune_model_destroy(&opened);

    struct bytes whole = read_file(path);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(whole.data, 1, whole.size / 2, file) == whole.size / 2 && !fclose(file));
    FAILS(foretune_model_open(path, NULL, &opened), FORETUNE_BAD_MODEL, "is not a whole ONNX model");
    CHECK(!opened);
    OK(foretune_export(model, adapter, path, NULL));
    FAILS(foretune_model_open(path, NULL, &opened), FORETUNE_BAD_MODEL, "it is an exported adapter");
    CHECK(!remove(path));
    free(whole.data);
}

/* Whether there is an ONNX Runtime; it is loaded then. */
static int loaded(const foretune_model *model) {
    foretune_onnx_runtime_info info = {.struct_size = sizeof info}, again = info;
    if (foretune_onnx_runtime_get(NULL, &info) != FORETUNE_OK) {
        CHECK(!getenv("FORETUNE_NEED_ORT"));
        printf("SKIPPED: the engine on ONNX Runtime: %s\n", foretune_last_error());
        return 0;
    }
    CHECK(info.path[0] && strncmp(info.version, "1.", 2) == 0 && strncmp(info.providers, "cpu", 3) == 0);
    OK(foretune_onnx_runtime_get(info.path, &again));
    CHECK(again.path == info.path && again.providers == info.providers);
    FAILS(foretune_onnx_runtime_get("/nowhere", &again), FORETUNE_ONNX_RUNTIME, "can load one only");

    /* No build has the devices of two companies. */
    const char *other = strstr(info.providers, "coreml") ? "ort:directml" : "ort:coreml";
    foretune_session_options options = on(other);
    foretune_session *session = NULL;
    FAILS(foretune_session_create(model, &options, &session), FORETUNE_ONNX_RUNTIME, other + 4);
    CHECK(strstr(foretune_last_error(), "this build has no execution provider"));
    foretune_predictor_options serving = {.struct_size = sizeof serving, .device = FORETUNE_DEVICE_CPU, .engine = other};
    foretune_predictor *predictor = NULL;
    FAILS(foretune_predictor_create(model, NULL, &serving, &predictor), FORETUNE_ONNX_RUNTIME, other + 4);
    printf("onnx: %s, %s: %s\n", info.path, info.version, info.providers);
    return 1;
}

static double apart(const float *found, const float *expected, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)found[i] - (double)expected[i], 2);
        norm += pow((double)expected[i], 2);
    }
    return sqrt(difference / norm);
}

struct run {
    double losses[STEPS];
    struct bytes adapter;
    /* Within the adapter. */
    const float *prompts;
    size_t values;
};

static struct run run_on(const foretune_model *model, const struct frames *frames, const char *engine, uint32_t guess) {
    foretune_session_options options = on(engine);
    const char *names[CLASSES] = {"a", "b", "c", "d"};
    options.guess = guess;
    options.head = FORETUNE_HEAD_LINEAR;
    options.classes = names;
    options.class_count = CLASSES;
    options.micro_batch = 5;
    options.lr = 0.01;
    struct run run = {.values = 0};
    foretune_session *session = NULL;
    OK(foretune_session_create(model, &options, &session));
    for (unsigned s = 0; s < STEPS; s++) {
        if (s == STEPS / 2) OK(foretune_session_trim(session));
        unsigned first = s * 8 % IMAGES;
        foretune_metrics metrics = {.struct_size = sizeof metrics};
        OK(foretune_session_step(session, &frames->images[first], &frames->labels[first], 8, &metrics));
        run.losses[s] = metrics.loss;
    }
    foretune_memory memory = {.struct_size = sizeof memory};
    foretune_plan plan = {.struct_size = sizeof plan};
    OK(foretune_session_get_memory(session, &memory));
    OK(foretune_plan_session(model, &options, CLASSES, &plan));
    CHECK((memory.host_peak > 0) == !engine && (plan.bytes > 0) == !engine && (plan.smallest_budget > 0) == !engine);
    CHECK(plan.micro_batch == 5);
    run.adapter = collect(session, foretune_session_write_adapter);
    foretune_session_destroy(&session);

    /* Eight bytes say how long the header is, in which stands where the tensor is. */
    uint64_t header = 0;
    memcpy(&header, run.adapter.data, sizeof header);
    char *text = (char *)run.adapter.data + 8, kept = text[header - 1];
    text[header - 1] = 0;
    char *tensor = strstr(text, "\"prompts\":{"), *offsets = tensor ? strstr(tensor, "\"data_offsets\":[") : NULL;
    CHECK(offsets);
    unsigned long begin = 0, end = 0;
    CHECK(sscanf(offsets, "\"data_offsets\":[%lu,%lu]", &begin, &end) == 2 && 8 + header + end <= run.adapter.size);
    text[header - 1] = kept;
    run.prompts = (const float *)(const void *)(run.adapter.data + 8 + header + begin);
    run.values = (end - begin) / sizeof(float);
    return run;
}

/* As closely as tests/onnx/tune.rs asks. */
static void follows_the_native_engine(const foretune_model *model, const struct frames *frames) {
    const uint32_t guesses[] = {FORETUNE_GUESS_ACTIVATION, FORETUNE_GUESS_MIXING, FORETUNE_GUESS_BACKPROP};
    unsigned count = getenv("SLOW") ? 1 : sizeof guesses / sizeof *guesses;
    for (unsigned g = 0; g < count; g++) {
        struct run expected = run_on(model, frames, NULL, guesses[g]), found = run_on(model, frames, "ort", guesses[g]);
        CHECK(found.values == expected.values && found.values == 2 * 16);
        for (unsigned s = 0; s < STEPS; s++) CHECK(fabs(found.losses[s] - expected.losses[s]) < 2e-3 * expected.losses[s]);
        CHECK(apart(found.prompts, expected.prompts, found.values) < 2e-3);
        /* The same frames. */
        CHECK(found.losses[8] < found.losses[0]);
        free(expected.adapter.data);
        free(found.adapter.data);
    }
}

static void predicts_as_the_native_engine(const foretune_model *model, const struct frames *frames) {
    struct run run = run_on(model, frames, NULL, FORETUNE_GUESS_ACTIVATION);
    float logits[2][8 * CLASSES];
    for (unsigned i = 0; i < 2; i++) {
        foretune_predictor_options serving = {.struct_size = sizeof serving, .device = FORETUNE_DEVICE_CPU, .slots = 2, .micro_batch = 3};
        serving.engine = i ? "ort:cpu" : "native";
        foretune_predictor *predictor = NULL;
        OK(foretune_predictor_create_memory(model, run.adapter.data, run.adapter.size, &serving, &predictor));
        OK(foretune_predictor_predict(predictor, frames->images, 8, logits[i], 8 * CLASSES));
        foretune_predictor_destroy(&predictor);
    }
    CHECK(apart(logits[1], logits[0], 8 * CLASSES) < 2e-5);
    free(run.adapter.data);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    struct frames *frames = make_frames();
    foretune_model *model = NULL;
    OK(foretune_model_open(argv[1], NULL, &model));
    libraries(model, argv[2]);
    refusals(model);
    exports(model, frames, argv[2]);
    imports(model, frames, argv[2]);
    if (loaded(model)) {
        follows_the_native_engine(model, frames);
        predicts_as_the_native_engine(model, frames);
    }
    foretune_model_destroy(&model);
    free(frames);
    puts("onnx: all passed");
    return 0;
}
