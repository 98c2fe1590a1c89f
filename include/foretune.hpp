/* C++17 over foretune.h, which says what everything means: handles that destroy themselves, and failures as exceptions
 * or as values.
 *
 * - A call that fails throws foretune::Error. Its twin with a Status as last argument reports there and throws nothing.
 * - What a progress callback throws stops the call, which then throws it on; the twin keeps it in the Status.
 * - Handles that are empty (made without arguments, moved from, or of a call that failed) may be used: calls fail.
 */

#ifndef FORETUNE_HPP
#define FORETUNE_HPP

#include "foretune_types.hpp"

#include <mutex>

namespace foretune {

class Model : public detail::Handle<foretune_model, foretune_model_destroy> {
public:
    using Handle::Handle;

    static Model open(Text path, const ModelOptions &options, Status &status) noexcept {
        return Model(detail::result<foretune_model *>(status, foretune_model_open, path, &options));
    }
    static Model open(Text path, const ModelOptions &options = {}) {
        return detail::checked([&](Status &s) { return open(path, options, s); });
    }
    /// `weights` must stay as they are until the model and every session and predictor made from it are destroyed.
    static Model open_memory(Bytes weights, Bytes config, const ModelOptions &options, Status &status) noexcept {
        return Model(detail::result<foretune_model *>(status, foretune_model_open_memory, weights.data(),
                                                      weights.size(), config.data(), config.size(), &options));
    }
    static Model open_memory(Bytes weights, Bytes config = {}, const ModelOptions &options = {}) {
        return detail::checked([&](Status &s) { return open_memory(weights, config, options, s); });
    }

    foretune_model_spec spec(Status &status) const noexcept {
        return detail::result<foretune_model_spec>(status, foretune_model_get_spec, get());
    }
    foretune_model_spec spec() const { return detail::checked([&](Status &s) { return spec(s); }); }
    foretune_preprocess preprocess(Status &status) const noexcept {
        return detail::result<foretune_preprocess>(status, foretune_model_get_preprocess, get());
    }
    foretune_preprocess preprocess() const { return detail::checked([&](Status &s) { return preprocess(s); }); }
    /// Null where it is not known.
    const char *class_name(std::size_t index) const noexcept { return foretune_model_class_name(get(), index); }
};

class Session : public detail::Handle<foretune_session, foretune_session_destroy> {
public:
    using Handle::Handle;

    static Session create(const Model &model, const SessionOptions &options, Status &status) noexcept {
        return Session(detail::result<foretune_session *>(status, foretune_session_create, model.get(), &options));
    }
    static Session create(const Model &model, const SessionOptions &options = {}) {
        return detail::checked([&](Status &s) { return create(model, options, s); });
    }
    /// With `classes` in place of those in `options`.
    static Session create(const Model &model, const SessionOptions &options, View<const std::string> classes,
                          Status &status) noexcept {
        Session session;
        detail::guarded(status, [&] {
            std::vector<const char *> names;
            for (const std::string &name : classes) {
                names.push_back(name.c_str());
            }
            SessionOptions given = options;
            given.classes = names.data();
            given.class_count = names.size();
            session = create(model, given, status);
        });
        return session;
    }
    static Session create(const Model &model, const SessionOptions &options, View<const std::string> classes) {
        return detail::checked([&](Status &s) { return create(model, options, classes, s); });
    }

    foretune_metrics step(Images images, Labels labels, Status &status) noexcept {
        foretune_metrics metrics{};
        metrics.struct_size = sizeof(metrics);
        if (paired(images, labels, status)) {
            status.assign(foretune_session_step(get(), images.data(), labels.data(), images.size(), &metrics));
        }
        return metrics;
    }
    foretune_metrics step(Images images, Labels labels) {
        return detail::checked([&](Status &s) { return step(images, labels, s); });
    }
    foretune_metrics metrics(Status &status) const noexcept {
        return detail::result<foretune_metrics>(status, foretune_session_get_metrics, get());
    }
    foretune_metrics metrics() const { return detail::checked([&](Status &s) { return metrics(s); }); }

    void predict(Images images, View<float> logits, Status &status) noexcept {
        status.assign(foretune_session_predict(get(), images.data(), images.size(), logits.data(), logits.size()));
    }
    void predict(Images images, View<float> logits) {
        detail::checked([&](Status &s) { predict(images, logits, s); });
    }
    std::vector<float> predict(Images images, Status &status) noexcept { return detail::logits(*this, images, status); }
    std::vector<float> predict(Images images) { return detail::checked([&](Status &s) { return predict(images, s); }); }

    void fit_head(Images images, Labels labels, Status &status) noexcept {
        if (paired(images, labels, status)) {
            status.assign(foretune_session_fit_head(get(), images.data(), labels.data(), images.size()));
        }
    }
    void fit_head(Images images, Labels labels) {
        detail::checked([&](Status &s) { fit_head(images, labels, s); });
    }
    void add_examples(Images images, Labels labels, Status &status) noexcept {
        if (paired(images, labels, status)) {
            status.assign(foretune_session_add_examples(get(), images.data(), labels.data(), images.size()));
        }
    }
    void add_examples(Images images, Labels labels) {
        detail::checked([&](Status &s) { add_examples(images, labels, s); });
    }
    std::uint32_t add_class(Text name, Status &status) noexcept {
        return detail::result<std::uint32_t>(status, foretune_session_add_class, get(), name);
    }
    std::uint32_t add_class(Text name) { return detail::checked([&](Status &s) { return add_class(name, s); }); }
    std::size_t class_count(Status &status) const noexcept {
        return detail::result<std::size_t>(status, foretune_session_class_count, get());
    }
    std::size_t class_count() const { return detail::checked([&](Status &s) { return class_count(s); }); }
    /// Null if there is none; holds until classes are added or a checkpoint is loaded.
    const char *class_name(std::size_t index, Status &status) const noexcept {
        return detail::result<const char *>(status, foretune_session_class_name, get(), index);
    }
    const char *class_name(std::size_t index) const {
        return detail::checked([&](Status &s) { return class_name(index, s); });
    }

    void save_adapter(Text path, Status &status) noexcept {
        status.assign(foretune_session_save_adapter(get(), path));
    }
    void save_adapter(Text path) { detail::checked([&](Status &s) { save_adapter(path, s); }); }
    std::vector<std::uint8_t> adapter_bytes(Status &status) noexcept {
        return detail::bytes(foretune_session_write_adapter, get(), status);
    }
    std::vector<std::uint8_t> adapter_bytes() { return detail::checked([&](Status &s) { return adapter_bytes(s); }); }
    void save_checkpoint(Text path, Status &status) noexcept {
        status.assign(foretune_session_save_checkpoint(get(), path));
    }
    void save_checkpoint(Text path) { detail::checked([&](Status &s) { save_checkpoint(path, s); }); }
    std::vector<std::uint8_t> checkpoint_bytes(Status &status) noexcept {
        return detail::bytes(foretune_session_write_checkpoint, get(), status);
    }
    std::vector<std::uint8_t> checkpoint_bytes() {
        return detail::checked([&](Status &s) { return checkpoint_bytes(s); });
    }
    void load_checkpoint(Text path, Status &status) noexcept {
        status.assign(foretune_session_load_checkpoint(get(), path));
    }
    void load_checkpoint(Text path) { detail::checked([&](Status &s) { load_checkpoint(path, s); }); }
    void read_checkpoint(Bytes bytes, Status &status) noexcept {
        status.assign(foretune_session_read_checkpoint(get(), bytes.data(), bytes.size()));
    }
    void read_checkpoint(Bytes bytes) { detail::checked([&](Status &s) { read_checkpoint(bytes, s); }); }

    /// What the session has learnt as one ONNX graph.
    void export_onnx(Text path, const ExportOptions &options, Status &status) noexcept {
        status.assign(foretune_session_export(get(), path, &options));
    }
    void export_onnx(Text path, const ExportOptions &options = {}) {
        detail::checked([&](Status &s) { export_onnx(path, options, s); });
    }

    void trim(Status &status) noexcept { status.assign(foretune_session_trim(get())); }
    void trim() { detail::checked([&](Status &s) { trim(s); }); }
    foretune_memory memory(Status &status) const noexcept {
        return detail::result<foretune_memory>(status, foretune_session_get_memory, get());
    }
    foretune_memory memory() const { return detail::checked([&](Status &s) { return memory(s); }); }

    /// Has `progress` called between micro-batches from now on; an empty one ends it. It must not use the session.
    void set_progress(Progress progress, Status &status) noexcept {
        detail::guarded(status, [&] {
            auto next = progress ? std::make_unique<Progress>(std::move(progress)) : nullptr;
            const foretune_progress_callback callback = next ? detail::on_progress : nullptr;
            status.assign(foretune_session_set_progress(get(), callback, next.get()));
            if (status.ok()) {
                progress_ = std::move(next);
            }
        });
    }
    void set_progress(Progress progress) {
        detail::checked([&](Status &s) { set_progress(std::move(progress), s); });
    }
    /// Stops the call that is under way, from any thread.
    void cancel(Status &status) const noexcept { status.assign(foretune_session_cancel(get())); }
    void cancel() const { detail::checked([&](Status &s) { cancel(s); }); }

private:
    static bool paired(Images images, Labels labels, Status &status) noexcept {
        const bool paired = images.size() == labels.size();
        status.assign(paired ? FORETUNE_OK : FORETUNE_BAD_SHAPE, paired ? "" : "give as many labels as images");
        return paired;
    }

    std::unique_ptr<Progress> progress_;
};

class Predictor : public detail::Handle<foretune_predictor, foretune_predictor_destroy> {
public:
    using Handle::Handle;

    /// `adapter`: its path; null: the model's own classifier, without prompts.
    static Predictor create(const Model &model, Text adapter, const PredictorOptions &options,
                            Status &status) noexcept {
        return Predictor(detail::result<foretune_predictor *>(status, foretune_predictor_create, model.get(), adapter,
                                                              &options));
    }
    static Predictor create(const Model &model, Text adapter, const PredictorOptions &options = {}) {
        return detail::checked([&](Status &s) { return create(model, adapter, options, s); });
    }
    static Predictor create_memory(const Model &model, Bytes adapter, const PredictorOptions &options,
                                   Status &status) noexcept {
        return Predictor(detail::result<foretune_predictor *>(status, foretune_predictor_create_memory, model.get(),
                                                              adapter.data(), adapter.size(), &options));
    }
    static Predictor create_memory(const Model &model, Bytes adapter, const PredictorOptions &options = {}) {
        return detail::checked([&](Status &s) { return create_memory(model, adapter, options, s); });
    }

    void predict(Images images, View<float> logits, Status &status) const noexcept {
        status.assign(foretune_predictor_predict(get(), images.data(), images.size(), logits.data(), logits.size()));
    }
    void predict(Images images, View<float> logits) const {
        detail::checked([&](Status &s) { predict(images, logits, s); });
    }
    std::vector<float> predict(Images images, Status &status) const noexcept {
        return detail::logits(*this, images, status);
    }
    std::vector<float> predict(Images images) const {
        return detail::checked([&](Status &s) { return predict(images, s); });
    }
    std::size_t class_count(Status &status) const noexcept {
        return detail::result<std::size_t>(status, foretune_predictor_class_count, get());
    }
    std::size_t class_count() const { return detail::checked([&](Status &s) { return class_count(s); }); }
    /// Null where it is not known.
    const char *class_name(std::size_t index) const noexcept { return foretune_predictor_class_name(get(), index); }
    foretune_preprocess preprocess(Status &status) const noexcept {
        return detail::result<foretune_preprocess>(status, foretune_predictor_get_preprocess, get());
    }
    foretune_preprocess preprocess() const { return detail::checked([&](Status &s) { return preprocess(s); }); }
};

/// What a session would take. Where the budget is too small, the plan names the smallest that works all the same.
inline foretune_plan plan_session(const Model &model, const SessionOptions &options, std::size_t classes,
                                  Status &status) noexcept {
    return detail::result<foretune_plan>(status, foretune_plan_session, model.get(), &options, classes);
}
inline foretune_plan plan_session(const Model &model, const SessionOptions &options, std::size_t classes) {
    return detail::checked([&](Status &s) { return plan_session(model, options, classes, s); });
}

/// `progress`, unless empty, is called between steps in place of the one in `dataset`.
inline foretune_result tune_dataset(const Model &model, Text root, Text adapter, const SessionOptions &options,
                                    const DatasetOptions &dataset, const Progress &progress, Status &status) noexcept {
    foretune_dataset_options given = dataset;
    if (progress) {
        given.progress = detail::on_progress;
        given.user_data = const_cast<Progress *>(&progress);
    }
    return detail::result<foretune_result>(status, foretune_tune_dataset, model.get(), root, adapter, &options, &given);
}
inline foretune_result tune_dataset(const Model &model, Text root, Text adapter, const SessionOptions &options = {},
                                    const DatasetOptions &dataset = {}, const Progress &progress = {}) {
    return detail::checked(
        [&](Status &s) { return tune_dataset(model, root, adapter, options, dataset, progress, s); });
}

/// The model with the adapter at that path (null: with its own classifier) as one ONNX graph.
inline void export_onnx(const Model &model, Text adapter, Text path, const ExportOptions &options,
                        Status &status) noexcept {
    status.assign(foretune_export(model.get(), adapter, path, &options));
}
inline void export_onnx(const Model &model, Text adapter, Text path, const ExportOptions &options = {}) {
    detail::checked([&](Status &s) { export_onnx(model, adapter, path, options, s); });
}

inline const char *version() noexcept {
    return foretune_version();
}
inline std::uint32_t abi_version() noexcept {
    return foretune_abi_version();
}
inline const char *build_info() noexcept {
    return foretune_build_info();
}

/// The CPU, and every GPU that the driver shows.
inline std::vector<foretune_device_info> devices(Status &status) noexcept {
    std::vector<foretune_device_info> devices;
    detail::guarded(status, [&] {
        const auto count = detail::result<std::size_t>(status, foretune_device_count);
        for (std::size_t index = 0; status.ok() && index < count; ++index) {
            devices.push_back(detail::result<foretune_device_info>(status, foretune_device_get, index));
        }
    });
    return status.ok() ? std::move(devices) : std::vector<foretune_device_info>();
}
inline std::vector<foretune_device_info> devices() {
    return detail::checked([](Status &s) { return devices(s); });
}

/// Loads ONNX Runtime, from `ort_lib` (null: from the usual places), for good. Where it cannot be used, the oldest version that could
/// is known all the same.
inline foretune_onnx_runtime_info onnx_runtime(Text ort_lib, Status &status) noexcept {
    return detail::result<foretune_onnx_runtime_info>(status, foretune_onnx_runtime_get, ort_lib);
}
inline foretune_onnx_runtime_info onnx_runtime(Text ort_lib = nullptr) {
    return detail::checked([&](Status &s) { return onnx_runtime(ort_lib, s); });
}

namespace detail {

struct Sink {
    std::mutex mutex;
    std::unique_ptr<Log> log;
};

/// Never destroyed: threads may log until the process ends.
inline Sink &sink() {
    static Sink *const sink = new Sink;
    return *sink;
}

}  // namespace detail

/// Sends messages up to `level` (0: none, to 5: all) to `log` from now on; an empty one ends it.
inline void set_log(Log log, std::int32_t level, Status &status) noexcept {
    detail::guarded(status, [&] {
        auto next = log ? std::make_unique<Log>(std::move(log)) : nullptr;
        detail::Sink &sink = detail::sink();
        const std::lock_guard<std::mutex> lock(sink.mutex);
        status.assign(foretune_set_log(next ? detail::on_log : nullptr, level, next.get()));
        if (status.ok()) {
            sink.log = std::move(next);
        }
    });
}
inline void set_log(Log log, std::int32_t level) {
    detail::checked([&](Status &s) { set_log(std::move(log), level, s); });
}

}  // namespace foretune

#endif  // FORETUNE_HPP
