/* Sessions on a GPU, or on the emulator: in a context and stream of the program's, within a budget, and on a device that fails.
 * cuda MODEL_FOLDER. */
#include "check.h"

#include <dlfcn.h>

typedef int driver_call();

static void *driver;

static driver_call *find(const char *name) {
    driver_call *call;
    *(void **)&call = dlsym(driver, name);
    CHECK(call);
    return call;
}

static foretune_session_options on_gpu(void) {
    foretune_session_options options = usual_options();
    options.device = 0;
    options.precision = FORETUNE_PRECISION_F16;
    return options;
}

/* What a session on a GPU makes of six steps. */
static struct bytes tuned(const foretune_model *model, const struct frames *frames, const foretune_session_options *options) {
    foretune_session *session = make_session(model, options, frames);
    take_steps(session, frames, 0, 3);
    foretune_memory memory = {.struct_size = sizeof memory};
    OK(foretune_session_get_memory(session, &memory));
    CHECK(memory.device_bytes > 0 && memory.device_peak >= memory.device_bytes && memory.host_bytes == 0);
    CHECK(options->budget == 0 || memory.device_peak <= options->budget);
    OK(foretune_session_trim(session));
    take_steps(session, frames, 3, 6);
    struct bytes adapter = collect(session, foretune_session_write_adapter);
    foretune_session_destroy(&session);
    return adapter;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return puts("SKIPPED: no libcuda.so.1"), 0;
    size_t count = 0;
    OK(foretune_device_count(&count));
    CHECK(count >= 2);
    foretune_device_info info = {.struct_size = sizeof info};
    OK(foretune_device_get(1, &info));
    CHECK(info.device == 0 && info.compute_capability >= 75 && info.total_bytes > 0 && info.name[0]);

    struct frames *frames = make_frames();
    foretune_model *model = NULL;
    OK(foretune_model_open(argv[1], NULL, &model));
    foretune_session_options options = on_gpu();
    struct bytes expected = tuned(model, frames, &options);

    foretune_plan plan = {.struct_size = sizeof plan};
    OK(foretune_plan_session(model, &options, CLASSES, &plan));
    options.budget = plan.smallest_budget;
    struct bytes found = tuned(model, frames, &options);
    CHECK(same(expected, found));
    free(found.data);

    /* In the program's context, which stays its own. */
    void *context = NULL, *stream = NULL;
    CHECK(!find("cuInit")(0) && !find("cuDevicePrimaryCtxRetain")(&context, 0));
    CHECK(!find("cuCtxPushCurrent_v2")(context) && !find("cuStreamCreate")(&stream, 1));
    options = on_gpu();
    options.cuda_context = context;
    foretune_session *session = NULL;
    FAILS(foretune_session_create(model, &options, &session), FORETUNE_INVALID_ARGUMENT, "go together");
    options.cuda_stream = stream;
    found = tuned(model, frames, &options);
    CHECK(same(expected, found));
    CHECK(!find("cuStreamSynchronize")(stream) && !find("cuStreamDestroy_v2")(stream));
    void *popped = NULL;
    CHECK(!find("cuCtxPopCurrent_v2")(&popped) && popped == context && !find("cuDevicePrimaryCtxRelease_v2")(0));

    foretune_predictor_options how = {.struct_size = sizeof how, .device = 0, .precision = FORETUNE_PRECISION_F16};
    foretune_predictor *predictor = NULL;
    OK(foretune_predictor_create_memory(model, found.data, found.size, &how, &predictor));
    float logits[2 * CLASSES];
    OK(foretune_predictor_predict(predictor, frames->images, 2, logits, 2 * CLASSES));
    foretune_predictor_destroy(&predictor);

    /* A device that fails: what has been learnt can be saved, and another session, on the CPU, goes on from an adapter's prompts. */
    options = on_gpu();
    session = make_session(model, &options, frames);
    take_steps(session, frames, 0, 2);
    struct bytes before = collect(session, foretune_session_write_checkpoint);
    if (getenv("EMULATED")) {
        CHECK(!setenv("FORETUNE_EMULATOR_FAIL", "launch:1", 1));
        FAILS(foretune_session_step(session, frames->images, frames->labels, 8, NULL), FORETUNE_DEVICE_FAILED, "");
        struct bytes after = collect(session, foretune_session_write_checkpoint);
        CHECK(same(before, after));
        FAILS(foretune_session_step(session, frames->images, frames->labels, 8, NULL), FORETUNE_DEVICE_FAILED, "");
        free(after.data);
    }
    foretune_session_destroy(&session);
    free(before.data);
    free(expected.data);
    free(found.data);
    foretune_model_destroy(&model);
    free(frames);
    puts("cuda: all passed");
    return 0;
}
