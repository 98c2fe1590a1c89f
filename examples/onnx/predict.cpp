// Classifies images with a model that `foretune export --with-preprocessing` wrote, and nothing of Foretune: predict MODEL PHOTO...
//
// Photos are binary PPM files. Prints a line of JSON per photo, as predict.py does.

// What is used is in every version from 1.20 on: the library may be older than the header.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::uint32_t api_version = 20;

struct Photo {
    std::int64_t width, height;
    std::vector<std::uint8_t> pixels;
};

// A number of a PPM file's header, where comments may stand.
std::int64_t number(std::istream &file) {
    while ((file >> std::ws).peek() == '#') {
        file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    std::int64_t value = 0;
    return file >> value ? value : 0;
}

Photo read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    const auto wrong = [&path](const char *problem) { return std::runtime_error(path + ": " + problem); };
    if (!file) {
        throw wrong("cannot be opened");
    }
    std::string magic;
    file >> magic;
    Photo photo{number(file), number(file), {}};
    constexpr std::int64_t most = 1 << 15;
    if (magic != "P6" || number(file) != 255 || photo.width < 1 || photo.height < 1 || photo.width > most ||
        photo.height > most) {
        throw wrong("is no binary PPM file of 8 bits a channel");
    }
    file.get();
    photo.pixels.resize(static_cast<std::size_t>(3 * photo.width * photo.height));
    if (!file.read(reinterpret_cast<char *>(photo.pixels.data()), static_cast<std::streamsize>(photo.pixels.size()))) {
        throw wrong("ends early");
    }
    return photo;
}

// The texts of a JSON array as they stand there, quotes and escapes included. None of `null`.
std::vector<std::string> texts(const std::string &json) {
    std::vector<std::string> found;
    for (std::size_t at = json.find('"'); at != std::string::npos; at = json.find('"', at)) {
        const std::size_t begin = at++;
        while (at < json.size() && json[at] != '"') {
            at += json[at] == '\\' ? 2 : 1;
        }
        found.push_back(json.substr(begin, ++at - begin));
    }
    return found;
}

std::string quoted(const std::string &text) {
    std::string json = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            json += '\\';
        }
        json += c;
    }
    return json + '"';
}

void run(const std::filesystem::path &model, const std::vector<std::string> &paths) {
    const OrtApi *const api = OrtGetApiBase()->GetApi(api_version);
    if (api == nullptr) {
        throw std::runtime_error(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                                 " is too old; 1.20 or newer is needed");
    }
    Ort::InitApi(api);
    const Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "predict");
    Ort::Session session(env, model.c_str(), Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions allocator;
    if (session.GetInputNameAllocated(0, allocator).get() != std::string("image")) {
        throw std::runtime_error(model.string() + " does not prepare images itself; export it with --with-preprocessing");
    }
    const auto metadata = session.GetModelMetadata().LookupCustomMetadataMapAllocated("class_names", allocator);
    const std::vector<std::string> names = texts(metadata ? metadata.get() : "null");

    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    for (const std::string &path : paths) {
        Photo photo = read(path);
        const std::array<std::int64_t, 4> shape{1, photo.height, photo.width, 3};
        const auto image = Ort::Value::CreateTensor<std::uint8_t>(memory, photo.pixels.data(), photo.pixels.size(),
                                                                  shape.data(), shape.size());
        const char *const input = "image", *const output = "logits";
        auto outputs = session.Run(Ort::RunOptions(), &input, &image, 1, &output, 1);
        // GetTensorData of recent headers needs a recent library.
        const float *const logits = outputs.front().GetTensorMutableData<float>();
        const std::size_t classes = outputs.front().GetTensorTypeAndShapeInfo().GetElementCount();
        const auto best = static_cast<std::size_t>(std::max_element(logits, logits + classes) - logits);
        const std::string name = best < names.size() ? names[best] : quoted(std::to_string(best));
        std::printf("{\"path\": %s, \"class_id\": %zu, \"name\": %s, \"score\": %.6g}\n", quoted(path).c_str(), best,
                    name.c_str(), static_cast<double>(logits[best]));
    }
}

}  // namespace

int main(int argc, char **argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s MODEL PHOTO...\n", argv[0]);
        return 2;
    }
    try {
        run(argv[1], {argv + 2, argv + argc});
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
