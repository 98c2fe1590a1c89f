/* A camera that learns: frames and their labels arrive one by one, a thread tunes in the background, and frames are classified
 * between its steps; then everything is saved and loaded again.
 *
 *     cc tune.c $(pkg-config --cflags --libs foretune) -lpthread -o tune
 *     ./tune MODEL_FOLDER [ADAPTER]
 */
#include <foretune.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLASSES = 4, WIDTH = 40, HEIGHT = 32, FRAMES = 32, BATCH = 8, STEPS = 20 };

static void check(foretune_status status) {
    if (status == FORETUNE_OK) return;
    fprintf(stderr, "%s: %s\n", foretune_status_string(status), foretune_last_error());
    exit(1);
}

/* What the camera sees: frame n shows class n % 4. */
typedef uint8_t frame[HEIGHT][WIDTH][3];

static void see(unsigned n, frame pixels) {
    unsigned c = n % CLASSES, i = n / CLASSES;
    for (unsigned y = 0; y < HEIGHT; y++)
        for (unsigned x = 0; x < WIDTH; x++)
            for (unsigned channel = 0; channel < 3; channel++)
                pixels[y][x][channel] =
                    (uint8_t)(x * (3 + c * 5) + y * (7 + c * 2) + channel * 61 + i * 29 + c * 83);
}

/* What both threads share. The session serves one call at a time, so that the lock is around every call. */
struct camera {
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    foretune_session *session;
    frame frames[FRAMES];
    foretune_image images[FRAMES];
    uint32_t labels[FRAMES];
    unsigned seen;
};

static void *learn(void *argument) {
    struct camera *camera = argument;
    for (unsigned step = 0; step < STEPS; step++) {
        pthread_mutex_lock(&camera->lock);
        unsigned first = step * BATCH % FRAMES;
        while (camera->seen < first + BATCH) pthread_cond_wait(&camera->arrived, &camera->lock);
        foretune_metrics metrics = {.struct_size = sizeof metrics};
        check(foretune_session_step(camera->session, &camera->images[first], &camera->labels[first], BATCH, &metrics));
        pthread_mutex_unlock(&camera->lock);
        printf("step %2llu  loss %.4f  accuracy %.2f\n", (unsigned long long)metrics.step, metrics.loss, metrics.accuracy);
    }
    return NULL;
}

static uint32_t classify(struct camera *camera, unsigned n) {
    float logits[CLASSES];
    pthread_mutex_lock(&camera->lock);
    check(foretune_session_predict(camera->session, &camera->images[n], 1, logits, CLASSES));
    pthread_mutex_unlock(&camera->lock);
    uint32_t best = 0;
    for (uint32_t c = 1; c < CLASSES; c++)
        if (logits[c] > logits[best]) best = c;
    return best;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) return fprintf(stderr, "usage: tune MODEL_FOLDER [ADAPTER]\n"), 2;
    foretune_model *model = NULL;
    check(foretune_model_open(argv[1], NULL, &model));

    foretune_session_options options;
    check(foretune_session_options_default(&options, sizeof options));
    options.lr = 0.05;
    options.prompts = 2;
    options.tangents = 2;
    options.batch = BATCH;
    options.steps = STEPS;
    options.seed = 7;
    options.insert_at = 1;
    options.threads = 1;
    foretune_plan plan = {.struct_size = sizeof plan};
    check(foretune_plan_session(model, &options, CLASSES, &plan));
    printf("%llu bytes at most; %llu would do\n", (unsigned long long)plan.bytes, (unsigned long long)plan.smallest_budget);

    struct camera *camera = calloc(1, sizeof *camera);
    if (!camera) return 1;
    pthread_mutex_init(&camera->lock, NULL);
    pthread_cond_init(&camera->arrived, NULL);
    check(foretune_session_create(model, &options, &camera->session));
    for (unsigned n = 0; n < FRAMES; n++) {
        see(n, camera->frames[n]);
        camera->images[n] = (foretune_image){
            .data = camera->frames[n], .format = FORETUNE_IMAGE_RGB8, .width = WIDTH, .height = HEIGHT};
        camera->labels[n] = n % CLASSES;
    }

    /* One labelled frame of each class is enough to begin with; a few more, and the head is fitted. */
    for (uint32_t c = 0; c < CLASSES; c++) {
        char name[16];
        snprintf(name, sizeof name, "class %u", c);
        check(foretune_session_add_class(camera->session, name, NULL));
    }
    for (uint32_t c = 0; c < CLASSES; c++)
        check(foretune_session_add_examples(camera->session, &camera->images[c], &c, 1));
    check(foretune_session_fit_head(camera->session, camera->images, camera->labels, FRAMES));

    pthread_t thread;
    if (pthread_create(&thread, NULL, learn, camera)) return 1;
    unsigned right = 0;
    for (unsigned n = 0; n < FRAMES; n++) {
        right += classify(camera, n) == camera->labels[n];
        pthread_mutex_lock(&camera->lock);
        camera->seen = n + 1;
        pthread_cond_signal(&camera->arrived);
        pthread_mutex_unlock(&camera->lock);
    }
    pthread_join(thread, NULL);
    printf("%u of %u frames right while learning\n", right, FRAMES);

    /* Saved to a buffer, or to a file; and used by a predictor, which any number of threads may share. */
    size_t size = 0;
    check(foretune_session_write_adapter(camera->session, NULL, 0, &size));
    uint8_t *adapter = malloc(size);
    if (!adapter) return 1;
    check(foretune_session_write_adapter(camera->session, adapter, size, &size));
    if (argc == 3) check(foretune_session_save_adapter(camera->session, argv[2]));
    foretune_predictor *predictor = NULL;
    check(foretune_predictor_create_memory(model, adapter, size, NULL, &predictor));
    float here[FRAMES * CLASSES], there[FRAMES * CLASSES];
    check(foretune_session_predict(camera->session, camera->images, FRAMES, here, FRAMES * CLASSES));
    check(foretune_predictor_predict(predictor, camera->images, FRAMES, there, FRAMES * CLASSES));
    int same = memcmp(here, there, sizeof here) == 0;
    puts(same ? "reloaded: the same logits" : "reloaded: OTHER LOGITS");

    free(adapter);
    foretune_predictor_destroy(&predictor);
    foretune_session_destroy(&camera->session);
    foretune_model_destroy(&model);
    pthread_cond_destroy(&camera->arrived);
    pthread_mutex_destroy(&camera->lock);
    free(camera);
    return !same;
}
