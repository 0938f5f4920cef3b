// Uses a bundle of `qkd-deploy handoff` as an application would.
//
//   replay BUNDLE                 replays the golden inputs: PASS (exit code 0) or FAIL (1)
//   replay BUNDLE PIXELS          takes an image as raw bytes, row by row, in the size that the model takes: its label
//
// Exit code 2: something is missing, or of another form.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "preprocess.cpp"  // of the bundle

namespace fs = std::filesystem;

std::vector<char> read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path.string());
    return {std::istreambuf_iterator<char>(file), {}};
}

// An array as NumPy's format 1.0 holds it: a line about type and shape, then the bytes.
struct Array {
    std::string type;
    std::vector<std::int64_t> shape;
    std::vector<char> bytes;

    explicit Array(const fs::path& path) : bytes(read(path)) {
        if (bytes.size() < 10 || std::memcmp(bytes.data(), "\x93NUMPY\x01", 7) != 0)
            throw std::runtime_error(path.string() + " is no array");
        const std::size_t end = 10 + static_cast<std::uint8_t>(bytes[8]) + 256 * static_cast<std::uint8_t>(bytes[9]);
        const std::string header(bytes.begin() + 10, bytes.begin() + std::min(end, bytes.size()));
        type = header.substr(header.find("'descr': '") + 10, 3);
        std::stringstream sizes(header.substr(header.find('(') + 1));
        for (std::int64_t size = 0; sizes >> size; sizes.ignore()) shape.push_back(size);  // ignores a comma, or ")"
        bytes.erase(bytes.begin(), bytes.begin() + std::min(end, bytes.size()));
    }

    Ort::Value tensor(const Ort::MemoryInfo& memory) {
        const auto kind = type == "|u1"   ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                          : type == "<f4" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                          : throw std::runtime_error("no images: inputs of type " + type);
        return Ort::Value::CreateTensor(memory, bytes.data(), bytes.size(), shape.data(), shape.size(), kind);
    }
};

class Model {
public:
    explicit Model(const fs::path& path) : session_(environment_, path.c_str(), options()) {
        Ort::AllocatorWithDefaultOptions allocator;
        for (std::size_t i = 0; i < session_.GetInputCount(); ++i)
            inputs_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
        for (std::size_t i = 0; i < session_.GetOutputCount(); ++i)
            outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
    }

    std::vector<Ort::Value> run(const std::vector<Ort::Value>& inputs) {
        const auto in = pointers(inputs_), out = pointers(outputs_);
        return session_.Run({}, in.data(), inputs.data(), inputs.size(), out.data(), out.size());
    }

    std::vector<std::int64_t> shape() {
        auto sizes = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
        sizes.at(0) = 1;
        return sizes;
    }

private:
    static Ort::SessionOptions options() {
        Ort::SessionOptions made;
        made.SetIntraOpNumThreads(1);
        return made;
    }

    static std::vector<const char*> pointers(const std::vector<std::string>& names) {
        std::vector<const char*> found;
        for (const auto& name : names) found.push_back(name.c_str());
        return found;
    }

    Ort::Env environment_{ORT_LOGGING_LEVEL_ERROR};
    Ort::Session session_;
    std::vector<std::string> inputs_, outputs_;
};

// Outputs are codes times a scale, so that equal codes are equal floats.
bool replay(Model& model, const fs::path& folder, const Ort::MemoryInfo& memory) {
    std::vector<Array> arrays;
    std::vector<Ort::Value> inputs;
    for (int i = 0; fs::exists(folder / ("input_" + std::to_string(i) + ".npy")); ++i)
        arrays.emplace_back(folder / ("input_" + std::to_string(i) + ".npy"));
    for (auto& array : arrays) inputs.push_back(array.tensor(memory));
    const auto outputs = model.run(inputs);
    std::size_t compared = 0, differing = 0;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        const Array expected(folder / ("output_" + std::to_string(i) + ".npy"));
        const std::size_t count = outputs[i].GetTensorTypeAndShapeInfo().GetElementCount();
        if (expected.type != "<f4" || expected.bytes.size() != 4 * count) throw std::runtime_error("other outputs");
        const auto* mine = reinterpret_cast<const float*>(expected.bytes.data());
        const auto* other = outputs[i].GetTensorData<float>();
        for (std::size_t k = 0; k < count; ++k) differing += mine[k] != other[k];
        compared += count;
    }
    std::printf("golden    %s: %zu of %zu outputs differ\n", folder.filename().c_str(), differing, compared);
    return differing == 0;
}

std::string label(Model& model, const fs::path& bundle, const fs::path& image, const Ort::MemoryInfo& memory) {
    const auto shape = model.shape();
    const auto pixels = read(image);
    const std::size_t size = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    if (pixels.size() != size) throw std::runtime_error(image.string() + " is of another size");
    auto input = preprocess(reinterpret_cast<const std::uint8_t*>(pixels.data()));
    std::vector<Ort::Value> inputs;
    inputs.push_back(Ort::Value::CreateTensor(memory, input.data(), input.size(), shape.data(), shape.size()));
    const auto outputs = model.run(inputs);
    const float* scores = outputs[0].GetTensorData<float>();
    const std::size_t count = outputs[0].GetTensorTypeAndShapeInfo().GetElementCount();
    std::ifstream labels(bundle / "labels.txt");
    std::string name;
    for (auto best = std::max_element(scores, scores + count) - scores; best >= 0; --best) std::getline(labels, name);
    return name;
}

int main(int count, char** arguments) try {
    if (count < 2) throw std::runtime_error("give the folder of a bundle");
    const fs::path bundle = arguments[1];
    fs::path file;
    for (const auto& entry : fs::directory_iterator(bundle)) {
        const auto name = entry.path().filename().string();
        if (entry.path().extension() == ".onnx" && name.find(".decode.") == std::string::npos) file = entry.path();
    }
    Model model(file);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    if (count > 2) {
        std::printf("%s\n", label(model, bundle, arguments[2], memory).c_str());
        return 0;
    }
    bool passed = true;
    for (const auto& entry : fs::directory_iterator(bundle / "golden"))
        passed = replay(model, entry.path(), memory) && passed;
    std::puts(passed ? "PASS" : "FAIL");
    return passed ? 0 : 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
}
