#include <foretune.h>
#include <stdio.h>

int main(int argc, char **argv) {
    foretune_model *model = NULL;
    foretune_result result = {.struct_size = sizeof result};
    if (argc == 4 && foretune_model_open(argv[1], NULL, &model) == FORETUNE_OK &&
        foretune_tune_dataset(model, argv[2], argv[3], NULL, NULL, &result) == FORETUNE_OK)
        printf("validation accuracy %.3f\n", result.val_accuracy);
    else
        fprintf(stderr, "usage: first MODEL PHOTOS ADAPTER\n%s\n", foretune_last_error());
    foretune_model_destroy(&model);
}
