/* Loads and unloads the library ten times and uses it each time: reload LIBRARY MODEL_FOLDER [ENGINE]. */
#include "foretune.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) return 2;
    for (int i = 0; i < 10; i++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
        foretune_status (*open)(const char *, const foretune_model_options *, foretune_model **);
        foretune_status (*defaults)(foretune_session_options *, size_t);
        foretune_status (*create)(const foretune_model *, const foretune_session_options *, foretune_session **);
        void (*destroy)(foretune_session **), (*close)(foretune_model **);
        *(void **)&open = dlsym(library, "foretune_model_open");
        *(void **)&defaults = dlsym(library, "foretune_session_options_default");
        *(void **)&create = dlsym(library, "foretune_session_create");
        *(void **)&destroy = dlsym(library, "foretune_session_destroy");
        *(void **)&close = dlsym(library, "foretune_model_destroy");
        foretune_model *model = NULL;
        foretune_session *session = NULL;
        foretune_session_options options;
        if (open(argv[2], NULL, &model) || defaults(&options, sizeof options)) return 1;
        options.engine = argv[3];
        if (create(model, &options, &session)) return 1;
        destroy(&session);
        close(&model);
        if (dlclose(library)) return 1;
    }
    puts("reload: all passed");
    return 0;
}
