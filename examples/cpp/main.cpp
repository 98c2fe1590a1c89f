// Teaches a model four classes of small frames, and classifies frames it has not seen: main MODEL_FOLDER [ADAPTER].
// ../python/tune.py does the same, and their adapters are equal byte for byte.

#include <foretune.hpp>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <exception>
#include <future>
#include <string>
#include <vector>

namespace {

constexpr std::uint32_t classes = 4, width = 40, height = 32, batch = 8, steps = 20;
// Frames of each class to learn from, and in all.
constexpr std::uint32_t known = 8, all = 12;

struct Frames {
    std::vector<std::vector<std::uint8_t>> pixels;
    std::vector<foretune_image> images;
    std::vector<std::uint32_t> labels;
};

// The value of channel `channel` at x, y in frame i of class c is
// (x * (3 + c * 5) + y * (7 + c * 2) + channel * 61 + i * 29 + c * 83) modulo 256.
std::vector<std::uint8_t> frame(std::uint32_t c, std::uint32_t i) {
    std::vector<std::uint8_t> pixels;
    pixels.reserve(std::size_t(3) * width * height);
    for (std::uint32_t y = 0; y < height; ++y) {
        for (std::uint32_t x = 0; x < width; ++x) {
            for (std::uint32_t channel = 0; channel < 3; ++channel) {
                const std::uint32_t value = x * (3 + c * 5) + y * (7 + c * 2) + channel * 61 + i * 29 + c * 83;
                pixels.push_back(static_cast<std::uint8_t>(value & 255));
            }
        }
    }
    return pixels;
}

// Frames `first` to `last` - 1 of every class.
Frames make_frames(std::uint32_t first, std::uint32_t last) {
    Frames frames;
    for (std::uint32_t i = first; i < last; ++i) {
        for (std::uint32_t c = 0; c < classes; ++c) {
            frames.pixels.push_back(frame(c, i));
            frames.images.push_back(foretune::Image::rgb8(frames.pixels.back().data(), width, height));
            frames.labels.push_back(c);
        }
    }
    return frames;
}

struct Score {
    double loss;
    double accuracy;
};

// Mean cross entropy in nats, and the share whose top class is the label.
Score score(const std::vector<float> &logits, const std::vector<std::uint32_t> &labels) {
    double loss = 0;
    std::uint32_t right = 0;
    for (std::size_t n = 0; n < labels.size(); ++n) {
        const float *const row = &logits[n * classes];
        const float *const top = std::max_element(row, row + classes);
        double sum = 0;
        for (std::uint32_t c = 0; c < classes; ++c) {
            sum += std::exp(double(row[c]) - double(*top));
        }
        loss += std::log(sum) + double(*top) - double(row[labels[n]]);
        right += top == row + labels[n];
    }
    return {loss / double(labels.size()), double(right) / double(labels.size())};
}

volatile std::sig_atomic_t interrupted = 0;

void run(const char *model_folder, const char *adapter_file) {
    std::printf("%s\n", foretune::build_info());
    const auto model = foretune::Model::open(model_folder);

    foretune::SessionOptions options;
    options.device = FORETUNE_DEVICE_CPU;
    options.threads = 1;
    options.insert_at = 1;
    options.prompts = 2;
    options.tangents = 2;
    options.batch = batch;
    options.steps = steps;
    options.lr = 0.05;
    options.seed = 7;
    const auto plan = foretune::plan_session(model, options, classes);
    std::printf("the session needs %llu bytes\n", static_cast<unsigned long long>(plan.bytes));
    auto session = foretune::Session::create(model, options);

    std::signal(SIGINT, [](int) { interrupted = 1; });
    unsigned passes = 0;
    session.set_progress([&passes](std::uint64_t, std::uint64_t) {
        ++passes;
        return interrupted == 0;
    });

    const Frames frames = make_frames(0, known);
    for (std::uint32_t c = 0; c < classes; ++c) {
        session.add_class("class " + std::to_string(c));
    }
    for (std::uint32_t c = 0; c < classes; ++c) {
        session.add_examples({&frames.images[c], 1}, {&frames.labels[c], 1});
    }
    session.fit_head(frames.images, frames.labels);
    const Score before = score(session.predict(frames.images), frames.labels);
    std::printf("before: loss %.4f, accuracy %.3f\n", before.loss, before.accuracy);

    for (std::uint32_t step = 0; step < steps; ++step) {
        const std::size_t first = step * batch % frames.images.size();
        const auto metrics = session.step({&frames.images[first], batch}, {&frames.labels[first], batch});
        std::printf("step %2u: loss %.4f\n", step + 1, metrics.loss);
    }
    const Score after = score(session.predict(frames.images), frames.labels);
    std::printf("after: loss %.4f, accuracy %.3f, in %u passes\n", after.loss, after.accuracy, passes);
    std::signal(SIGINT, SIG_DFL);

    const std::vector<std::uint8_t> adapter = session.adapter_bytes();
    std::printf("the adapter has %zu bytes\n", adapter.size());
    if (adapter_file != nullptr) {
        session.save_adapter(adapter_file);
    }

    foretune::PredictorOptions serving;
    serving.slots = 2;
    const auto predictor = foretune::Predictor::create_memory(model, adapter, serving);
    const auto classify = [&predictor](std::uint32_t first, std::uint32_t last) {
        const Frames unseen = make_frames(first, last);
        return score(predictor.predict(unseen.images), unseen.labels);
    };
    constexpr std::uint32_t half = (known + all) / 2;
    auto one = std::async(std::launch::async, classify, known, half);
    auto other = std::async(std::launch::async, classify, half, all);
    std::printf("unseen frames: accuracy %.3f and %.3f\n", one.get().accuracy, other.get().accuracy);
}

}  // namespace

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        std::fprintf(stderr, "usage: %s MODEL_FOLDER [ADAPTER]\n", argv[0]);
        return 2;
    }
    try {
        run(argv[1], argc == 3 ? argv[2] : nullptr);
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
