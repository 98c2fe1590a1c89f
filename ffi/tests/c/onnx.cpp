// An export and a look at ONNX Runtime by way of foretune.hpp: onnx MODEL_FOLDER ADAPTER OUT [ENGINE].
#include <foretune.hpp>

#include <cstdio>

int main(int argc, char **argv) {
    if (argc < 4) {
        return 2;
    }
    try {
        const auto model = foretune::Model::open(argv[1]);
        foretune::ExportOptions options;
        options.with_preprocessing = 1;
        foretune::export_onnx(model, argv[2], argv[3], options);
        foretune::Status status;
        foretune::export_onnx(model, argv[2], "/nowhere/tuned.onnx", options, status);
        foretune::Session empty;
        foretune::Status unmade;
        empty.export_onnx(argv[3], options, unmade);
        if (status.code() != FORETUNE_IO || unmade.code() != FORETUNE_INVALID_ARGUMENT) {
            return 1;
        }
        if (argc > 4) {
            const auto runtime = foretune::onnx_runtime();
            foretune::PredictorOptions serving;
            serving.engine = argv[4];
            const auto predictor = foretune::Predictor::create(model, argv[2], serving);
            std::printf("ONNX Runtime %s (%s or newer) serves %zu classes\n", runtime.version, runtime.oldest,
                        predictor.class_count());
        }
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
