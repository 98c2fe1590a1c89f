/* Four threads predict with one predictor while a session of the same model tunes: threads MODEL_FOLDER. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { THREADS = 4, ROUNDS = 12 };

struct shared {
    const foretune_predictor *predictor;
    const struct frames *frames;
    const float *expected;
};

static void *predict(void *argument) {
    struct shared *shared = argument;
    float logits[IMAGES * CLASSES];
    for (int round = 0; round < ROUNDS; round++) {
        size_t first = (size_t)round * 5 % 16, count = 1 + (size_t)round % 12;
        OK(foretune_predictor_predict(shared->predictor, &shared->frames->images[first], count, logits, count * CLASSES));
        CHECK(!memcmp(logits, shared->expected + first * CLASSES, count * CLASSES * sizeof *logits));
        /* A failure is this thread's own. */
        FAILS(foretune_predictor_predict(shared->predictor, NULL, 1, logits, CLASSES), FORETUNE_INVALID_ARGUMENT, "images is null");
    }
    return NULL;
}

static void *cancel_soon(void *argument) {
    struct timespec wait = {0, 5000000};
    nanosleep(&wait, NULL);
    OK(foretune_session_cancel(argument));
    return NULL;
}

static void together(const foretune_model *model, const struct frames *frames) {
    foretune_session_options options = usual_options();
    foretune_session *session = make_session(model, &options, frames);
    take_steps(session, frames, 0, 3);
    struct bytes adapter = collect(session, foretune_session_write_adapter);
    float expected[IMAGES * CLASSES], logits[IMAGES * CLASSES];
    OK(foretune_session_predict(session, frames->images, IMAGES, expected, IMAGES * CLASSES));

    for (uint32_t slots = 1; slots <= 4; slots += 3) {
        foretune_predictor_options how;
        OK(foretune_predictor_options_default(&how, sizeof how));
        how.slots = slots;
        foretune_predictor *predictor = NULL;
        OK(foretune_predictor_create_memory(model, adapter.data, adapter.size, &how, &predictor));
        size_t classes = 0;
        OK(foretune_predictor_class_count(predictor, &classes));
        CHECK(classes == CLASSES && strcmp(foretune_predictor_class_name(predictor, 3), "class 3") == 0);
        foretune_preprocess preprocess = {.struct_size = sizeof preprocess};
        OK(foretune_predictor_get_preprocess(predictor, &preprocess));
        CHECK(preprocess.crop_width == 16);
        OK(foretune_predictor_predict(predictor, frames->images, IMAGES, logits, IMAGES * CLASSES));
        CHECK(!memcmp(logits, expected, sizeof expected));

        struct shared shared = {predictor, frames, expected};
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++) CHECK(!pthread_create(&threads[i], NULL, predict, &shared));
        /* Where it left off, whatever the others do. */
        foretune_session *tuned = make_session(model, &options, frames);
        take_steps(tuned, frames, 0, 3);
        struct bytes again = collect(tuned, foretune_session_write_adapter);
        CHECK(same(adapter, again));
        for (int i = 0; i < THREADS; i++) CHECK(!pthread_join(threads[i], NULL));
        free(again.data);
        foretune_session_destroy(&tuned);
        foretune_predictor_destroy(&predictor);
        CHECK(!predictor);
        foretune_predictor_destroy(&predictor);
    }
    foretune_predictor *predictor = NULL;
    adapter.data[200] ^= 1;
    FAILS(foretune_predictor_create_memory(model, adapter.data, adapter.size, NULL, &predictor), FORETUNE_BAD_ADAPTER, "");
    FAILS(foretune_predictor_create(model, "/nowhere", NULL, &predictor), FORETUNE_IO, "/nowhere");
    OK(foretune_predictor_create(model, NULL, NULL, &predictor));
    CHECK(!foretune_predictor_class_name(predictor, 0));
    foretune_predictor_destroy(&predictor);
    free(adapter.data);
    foretune_session_destroy(&session);
}

/* A long step stops within a block. */
static void cancelled(const foretune_model *model, const struct frames *frames) {
    foretune_session_options options = usual_options();
    options.tangents = 1000;
    options.batch = 32;
    options.micro_batch = 1;
    foretune_session *session = make_session(model, &options, frames);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, cancel_soon, session));
    time_t start = time(NULL);
    FAILS(foretune_session_step(session, frames->images, frames->labels, IMAGES, NULL), FORETUNE_CANCELLED, "after step 0");
    CHECK(time(NULL) - start < 30);
    CHECK(!pthread_join(thread, NULL));
    foretune_session_destroy(&session);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    struct frames *frames = make_frames();
    foretune_model *model = NULL;
    OK(foretune_model_open(argv[1], NULL, &model));
    together(model, frames);
    cancelled(model, frames);
    foretune_model_destroy(&model);
    free(frames);
    puts("threads: all passed");
    return 0;
}
