/* What the calls of foretune.hpp take and give. */

#ifndef FORETUNE_TYPES_HPP
#define FORETUNE_TYPES_HPP

#include "foretune.h"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace foretune {

/// A call that failed; what() is its text.
class Error : public std::runtime_error {
public:
    Error(foretune_status status, const std::string &text) : std::runtime_error(text), status_(status) {}
    foretune_status status() const noexcept { return status_; }

private:
    foretune_status status_;
};

namespace detail {

/// What a callback has thrown during the call that this thread is in.
inline std::exception_ptr &thrown() noexcept {
    thread_local std::exception_ptr thrown;
    return thrown;
}

}  // namespace detail

/// What a call came to.
class Status {
public:
    bool ok() const noexcept { return code_ == FORETUNE_OK; }
    foretune_status code() const noexcept { return code_; }
    /// What was wrong, where, and what to do.
    const char *text() const noexcept { return text_.empty() ? foretune_status_string(code_) : text_.c_str(); }
    /// What a callback threw; null if none did.
    const std::exception_ptr &exception() const noexcept { return exception_; }

    /// Throws what a callback threw, or an Error; returns if ok().
    void raise() const {
        if (exception_) {
            std::rethrow_exception(exception_);
        }
        if (!ok()) {
            throw Error(code_, text());
        }
    }

    /// Takes what a function of foretune.h has just returned on this thread.
    void assign(foretune_status code) noexcept {
        assign(code, code == FORETUNE_OK ? "" : foretune_last_error());
        exception_ = std::exchange(detail::thrown(), nullptr);
        if (!exception_) {
            return;
        }
        if (ok()) {
            code_ = FORETUNE_CANCELLED;
        }
        try {
            std::rethrow_exception(exception_);
        } catch (const std::exception &exception) {
            set_text(exception.what());
        } catch (...) {
            set_text("a callback threw something that is no std::exception");
        }
    }

    void assign(foretune_status code, const char *text) noexcept {
        code_ = code;
        exception_ = nullptr;
        set_text(text);
    }

private:
    void set_text(const char *text) noexcept {
        try {
            text_ = text;
        } catch (...) {
            text_.clear();
        }
    }

    foretune_status code_ = FORETUNE_OK;
    std::string text_;
    std::exception_ptr exception_;
};

/// Some values of somebody else's: of a vector, an array, anything with data() and size().
template <class T>
class View {
public:
    constexpr View() noexcept = default;
    constexpr View(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <std::size_t N>
    constexpr View(T (&array)[N]) noexcept : data_(array), size_(N) {}
    template <class Container, class Element = std::remove_pointer_t<decltype(std::declval<Container &>().data())>,
              class = std::enable_if_t<std::is_convertible_v<Element (*)[], T (*)[]>>>
    constexpr View(Container &&container) noexcept : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t index) const noexcept { return data_[index]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

using Images = View<const foretune_image>;
using Labels = View<const std::uint32_t>;
using Bytes = View<const std::uint8_t>;

/// A UTF-8 text that ends with a zero; perhaps null.
class Text {
public:
    Text(const char *text) noexcept : text_(text) {}
    Text(const std::string &text) noexcept : text_(text.c_str()) {}
    operator const char *() const noexcept { return text_; }

private:
    const char *text_;
};

struct Image {
    static foretune_image rgb8(const std::uint8_t *pixels, std::uint32_t width, std::uint32_t height,
                               std::size_t row_stride = 0) noexcept {
        return {pixels, FORETUNE_IMAGE_RGB8, width, height, 0, row_stride};
    }
    static foretune_image normalised(const float *values, std::uint32_t width, std::uint32_t height) noexcept {
        return {values, FORETUNE_IMAGE_F32, width, height, 0, 0};
    }
};

struct ModelOptions : foretune_model_options {
    ModelOptions() noexcept : foretune_model_options() { struct_size = sizeof(foretune_model_options); }
};

struct SessionOptions : foretune_session_options {
    SessionOptions() noexcept : foretune_session_options() {
        foretune_session_options_default(this, sizeof(foretune_session_options));
    }
    /// Of `FORETUNE_PRESET_*`, whose `steps` are the length of the schedule; the defaults for a number that no preset has.
    static SessionOptions preset(std::uint32_t number) noexcept {
        SessionOptions options;
        foretune_session_options_preset(&options, sizeof(foretune_session_options), number);
        return options;
    }
};

struct PredictorOptions : foretune_predictor_options {
    PredictorOptions() noexcept : foretune_predictor_options() {
        struct_size = sizeof(foretune_predictor_options);
        device = FORETUNE_DEVICE_CPU;
    }
};

struct DatasetOptions : foretune_dataset_options {
    DatasetOptions() noexcept : foretune_dataset_options() {
        foretune_dataset_options_default(this, sizeof(foretune_dataset_options));
    }
};

struct ExportOptions : foretune_export_options {
    ExportOptions() noexcept : foretune_export_options() {
        foretune_export_options_default(this, sizeof(foretune_export_options));
    }
};

/// An allocator for options that is served by `resource`, such as a std::pmr::memory_resource, which any thread may
/// call and which outlives the handles.
template <class Resource>
foretune_allocator allocator(Resource &resource) noexcept {
    foretune_allocator allocator{};
    allocator.allocate = [](std::size_t size, std::size_t alignment, void *user_data) noexcept -> void * {
        try {
            return static_cast<Resource *>(user_data)->allocate(size, alignment);
        } catch (...) {
            return nullptr;
        }
    };
    allocator.release = [](void *memory, std::size_t size, std::size_t alignment, void *user_data) noexcept {
        static_cast<Resource *>(user_data)->deallocate(memory, size, alignment);
    };
    allocator.user_data = &resource;
    return allocator;
}

/// Told what is done and of how much; false stops the call.
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;
/// Told messages, by any number of threads at a time. What it throws is lost.
using Log = std::function<void(std::int32_t level, const char *message)>;

namespace detail {

inline std::int32_t on_progress(std::uint64_t done, std::uint64_t total, void *user_data) noexcept {
    if (thrown()) {
        return 0;
    }
    try {
        return (*static_cast<const Progress *>(user_data))(done, total) ? 1 : 0;
    } catch (...) {
        thrown() = std::current_exception();
        return 0;
    }
}

inline void on_log(std::int32_t level, const char *message, void *user_data) noexcept {
    try {
        (*static_cast<const Log *>(user_data))(level, message);
    } catch (...) {
    }
}

/// What `call` gives for a Status, thrown if it is a failure.
template <class Call>
auto checked(Call call) -> decltype(call(std::declval<Status &>())) {
    Status status;
    if constexpr (std::is_void_v<decltype(call(status))>) {
        call(status);
        status.raise();
    } else {
        auto result = call(status);
        status.raise();
        return result;
    }
}

/// Runs what may fail to obtain memory.
template <class Call>
void guarded(Status &status, Call call) noexcept {
    try {
        call();
    } catch (...) {
        status.assign(FORETUNE_OUT_OF_MEMORY, "");
    }
}

/// What `function` writes to its last argument.
template <class T, class Function, class... Arguments>
T result(Status &status, Function function, Arguments... arguments) noexcept {
    T result{};
    if constexpr (std::is_class_v<T>) {
        result.struct_size = sizeof(T);
    }
    status.assign(function(arguments..., &result));
    return result;
}

template <class Owner>
std::vector<float> logits(Owner &owner, Images images, Status &status) noexcept {
    std::vector<float> logits;
    guarded(status, [&] {
        const std::size_t classes = owner.class_count(status);
        if (status.ok()) {
            logits.resize(images.size() * classes);
            owner.predict(images, logits, status);
        }
    });
    return status.ok() ? std::move(logits) : std::vector<float>();
}

template <class Write>
std::vector<std::uint8_t> bytes(Write write, foretune_session *session, Status &status) noexcept {
    std::vector<std::uint8_t> bytes;
    guarded(status, [&] {
        const auto size = result<std::size_t>(status, write, session, nullptr, std::size_t(0));
        if (status.ok()) {
            bytes.resize(size);
            result<std::size_t>(status, write, session, bytes.data(), bytes.size());
        }
    });
    return status.ok() ? std::move(bytes) : std::vector<std::uint8_t>();
}

template <class T, void (*destroy)(T **)>
class Handle {
public:
    Handle() noexcept = default;
    /// Owns `handle` from now on.
    explicit Handle(T *handle) noexcept : handle_(handle) {}
    T *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    struct Destroy {
        void operator()(T *handle) const noexcept { destroy(&handle); }
    };
    std::unique_ptr<T, Destroy> handle_;
};

}  // namespace detail

}  // namespace foretune

#endif  // FORETUNE_TYPES_HPP
