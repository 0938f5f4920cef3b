// Uses a bundle of `qkd-deploy handoff` as an application would.
//
//   replay BUNDLE                 replays the golden inputs: PASS (exit code 0) or FAIL (1)
//   replay BUNDLE PIXELS          takes an image as raw bytes, row by row, in the size that the model takes: its label
//
// Exit code 2: something is missing, or of another form.
#include <cstdio>
#include <functional>
#include <numeric>

#include "model.h"
#if __has_include("preprocess.cpp")
#include "preprocess.cpp"  // of the bundle
#define TAKES_IMAGES
#endif

// Outputs are codes times a scale, so that equal codes are equal floats.
bool replay(Model& model, const fs::path& folder) {
    std::vector<Array> inputs, expected;
    for (int i = 0; fs::exists(folder / ("input_" + std::to_string(i) + ".npy")); ++i)
        inputs.emplace_back(folder / ("input_" + std::to_string(i) + ".npy"));
    for (int i = 0; fs::exists(folder / ("output_" + std::to_string(i) + ".npy")); ++i)
        expected.emplace_back(folder / ("output_" + std::to_string(i) + ".npy"));
    std::size_t compared = 0, differing = 0;
    for (std::int64_t place = 0; place < inputs.at(0).shape.at(0); ++place) {
        std::vector<Array> sample;
        for (const auto& array : inputs) sample.push_back(array.sample(place));
        const auto outputs = model.run(sample);
        if (outputs.size() != expected.size()) throw std::runtime_error("the model gives other outputs");
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            const Array wanted = expected[i].sample(place);
            if (wanted.type != "<f4" || wanted.bytes.size() != outputs[i].size() * sizeof(float))
                throw std::runtime_error("the model gives outputs of another size");
            const auto* values = reinterpret_cast<const float*>(wanted.bytes.data());
            for (std::size_t k = 0; k < outputs[i].size(); ++k) differing += values[k] != outputs[i][k];
            compared += outputs[i].size();
        }
    }
    std::printf("golden    %s: %zu of %zu outputs differ\n", folder.filename().c_str(), differing, compared);
    return differing == 0;
}

#ifdef TAKES_IMAGES
std::string label(Model& model, const fs::path& bundle, const fs::path& image) {
    const auto pixels = read(image);
    Array array;
    array.shape = model.shape();
    const auto size = std::accumulate(array.shape.begin(), array.shape.end(), std::size_t{1}, std::multiplies<>());
    if (pixels.size() != size) throw std::runtime_error(image.string() + " is of another size");
    const auto input = preprocess(reinterpret_cast<const std::uint8_t*>(pixels.data()));
    array.type = sizeof input[0] == 1 ? "|u1" : "<f4";
    array.bytes.resize(input.size() * sizeof input[0]);
    std::memcpy(array.bytes.data(), input.data(), array.bytes.size());
    const auto scores = model.run({array}).at(0);
    std::ifstream labels(bundle / "labels.txt");
    std::string name;
    for (auto best = std::max_element(scores.begin(), scores.end()) - scores.begin(); best >= 0; --best)
        std::getline(labels, name);
    return name;
}
#endif

int main(int count, char** arguments) try {
    if (count < 2) throw std::runtime_error("give the folder of a bundle");
    const fs::path bundle = arguments[1];
    const auto model = load(bundle);
    if (count > 2) {
#ifdef TAKES_IMAGES
        std::printf("%s\n", label(*model, bundle, arguments[2]).c_str());
        return 0;
#else
        throw std::runtime_error("the model takes no images");
#endif
    }
    bool passed = true;
    for (const auto& entry : fs::directory_iterator(bundle / "golden"))
        passed = replay(*model, entry.path()) && passed;
    std::puts(passed ? "PASS" : "FAIL");
    return passed ? 0 : 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
}
