/* One run over a data set: dataset MODEL_FOLDER CUB_FOLDER ADAPTER [STOP_AFTER CHECKPOINT]. ENGINE in the environment is the engine. */
#include "check.h"

static int32_t stop_after(uint64_t step, uint64_t steps, void *user_data) {
    CHECK(step <= steps);
    return step < *(uint64_t *)user_data;
}

int main(int argc, char **argv) {
    CHECK(argc == 4 || argc == 6);
    foretune_model *model = NULL;
    OK(foretune_model_open(argv[1], NULL, &model));
    CHECK(strstr(foretune_model_class_name(model, 4), "triangle") && !foretune_model_class_name(model, 10));
    foretune_session_options options;
    OK(foretune_session_options_default(&options, sizeof options));
    options.steps = 6;
    options.batch = 8;
    options.insert_at = 2;
    options.seed = 3;
    options.engine = getenv("ENGINE");
    foretune_dataset_options dataset;
    OK(foretune_dataset_options_default(&dataset, sizeof dataset));
    dataset.format = FORETUNE_FORMAT_CUB;
    dataset.eval_every = 4;
    uint64_t stop = 0;
    foretune_result result = {.struct_size = sizeof result};
    if (argc == 6) {
        stop = strtoull(argv[4], NULL, 10);
        dataset.checkpoint = argv[5];
        dataset.progress = stop_after;
        dataset.user_data = &stop;
        FAILS(foretune_tune_dataset(model, argv[2], argv[3], &options, &dataset, &result), FORETUNE_CANCELLED, "resumed");
        dataset.progress = NULL;
        dataset.resume = 1;
    }
    OK(foretune_tune_dataset(model, argv[2], argv[3], &options, &dataset, &result));
    CHECK(result.step > 0 && result.skipped == 0 && result.val_accuracy >= 0.0 && result.images_per_second > 0.0);
    FAILS(foretune_tune_dataset(model, "/nowhere", argv[3], &options, NULL, NULL), FORETUNE_IO, "/nowhere");
    /* Found out before the run, not after it. */
    dataset.eval_every = UINT64_MAX;
    FAILS(foretune_tune_dataset(model, argv[2], "/nowhere/adapter", &options, &dataset, NULL), FORETUNE_IO, "/nowhere/adapter");
    FAILS(foretune_tune_dataset(model, NULL, argv[3], NULL, NULL, NULL), FORETUNE_INVALID_ARGUMENT, "root is null");
    foretune_model_destroy(&model);
    return 0;
}
