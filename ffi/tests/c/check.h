/* What the C tests share: checks that say where they failed, frames, and sessions on the demo model. */
#ifndef CHECK_H
#define CHECK_H

#include "foretune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, foretune_last_error());    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define OK(call) CHECK((call) == FORETUNE_OK)
/* The call fails with this status, and its text contains `part`. */
#define FAILS(call, status, part)                                                                                      \
    do {                                                                                                               \
        foretune_status found_ = (call);                                                                               \
        if (found_ != (status) || !strstr(foretune_last_error(), part)) {                                              \
            fprintf(stderr, "%s:%d: %s\n  gave status %d: %s\n", __FILE__, __LINE__, #call, (int)found_,                \
                    foretune_last_error());                                                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { CLASSES = 4, WIDTH = 40, HEIGHT = 32, FRAME = 3 * WIDTH * HEIGHT, IMAGES = 32 };

/* Image n: of class n % 4, its n / 4-th. The same pattern as in the examples. */
static inline void paint(unsigned n, uint8_t *pixels) {
    unsigned c = n % CLASSES, i = n / CLASSES;
    for (unsigned y = 0; y < HEIGHT; y++)
        for (unsigned x = 0; x < WIDTH; x++)
            for (unsigned channel = 0; channel < 3; channel++)
                pixels[(y * WIDTH + x) * 3 + channel] =
                    (uint8_t)(x * (3 + c * 5) + y * (7 + c * 2) + channel * 61 + i * 29 + c * 83);
}

struct frames {
    uint8_t pixels[IMAGES][FRAME];
    foretune_image images[IMAGES];
    uint32_t labels[IMAGES];
};

static inline struct frames *make_frames(void) {
    struct frames *frames = malloc(sizeof *frames);
    CHECK(frames);
    for (unsigned n = 0; n < IMAGES; n++) {
        paint(n, frames->pixels[n]);
        frames->images[n] =
            (foretune_image){.data = frames->pixels[n], .format = FORETUNE_IMAGE_RGB8, .width = WIDTH, .height = HEIGHT};
        frames->labels[n] = n % CLASSES;
    }
    return frames;
}

static inline foretune_session_options usual_options(void) {
    foretune_session_options options;
    OK(foretune_session_options_default(&options, sizeof options));
    options.lr = 0.05;
    options.prompts = 2;
    options.tangents = 2;
    options.batch = 8;
    options.steps = 20;
    options.seed = 7;
    options.insert_at = 1;
    options.threads = 1;
    return options;
}

/* A session with a fitted head. */
static inline foretune_session *make_session(const foretune_model *model, const foretune_session_options *options,
                                             const struct frames *frames) {
    foretune_session *session = NULL;
    OK(foretune_session_create(model, options, &session));
    for (unsigned c = 0; c < CLASSES; c++) {
        char name[16];
        uint32_t id = 99;
        snprintf(name, sizeof name, "class %u", c);
        OK(foretune_session_add_class(session, name, &id));
        CHECK(id == c);
    }
    for (unsigned c = 0; c < CLASSES; c++) OK(foretune_session_add_examples(session, &frames->images[c], &frames->labels[c], 1));
    OK(foretune_session_fit_head(session, frames->images, frames->labels, IMAGES));
    return session;
}

/* Steps `from` to `to` over the frames, eight a step. */
static inline void take_steps(foretune_session *session, const struct frames *frames, unsigned from, unsigned to) {
    for (unsigned s = from; s < to; s++) {
        unsigned first = s * 8 % IMAGES;
        foretune_metrics metrics = {.struct_size = sizeof metrics};
        OK(foretune_session_step(session, &frames->images[first], &frames->labels[first], 8, &metrics));
        CHECK(metrics.step == s + 1 && isfinite(metrics.loss) && metrics.lr > 0.0 && metrics.skipped == 0);
    }
}

struct bytes {
    uint8_t *data;
    size_t size;
};

typedef foretune_status write_function(foretune_session *, uint8_t *, size_t, size_t *);

/* What `write` gives, by asking for the size first. */
static inline struct bytes collect(foretune_session *session, write_function *write) {
    struct bytes bytes = {NULL, 0};
    OK(write(session, NULL, 0, &bytes.size));
    bytes.data = malloc(bytes.size);
    CHECK(bytes.size > 0 && bytes.data);
    FAILS(write(session, bytes.data, bytes.size - 1, &bytes.size), FORETUNE_BUFFER_TOO_SMALL, "are needed");
    OK(write(session, bytes.data, bytes.size, &bytes.size));
    return bytes;
}

static inline int same(struct bytes a, struct bytes b) { return a.size == b.size && !memcmp(a.data, b.data, a.size); }

static inline struct bytes read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    CHECK(file);
    struct bytes bytes = {NULL, 0};
    fseek(file, 0, SEEK_END);
    bytes.size = (size_t)ftell(file);
    rewind(file);
    bytes.data = malloc(bytes.size);
    CHECK(bytes.data && fread(bytes.data, 1, bytes.size, file) == bytes.size);
    fclose(file);
    return bytes;
}
#endif
