// A model in ONNX Runtime: .onnx and .ort files.
#include <onnxruntime_cxx_api.h>

#include "model.h"

namespace {

ONNXTensorElementDataType kind_of(const Array& array) {
    if (array.type == "|u1") return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    if (array.type == "<f4") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    if (array.type == "<i8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    throw std::runtime_error("inputs of type " + array.type + " are not known here");
}

class OnnxRuntimeModel : public Model {
public:
    explicit OnnxRuntimeModel(const fs::path& path) : session_(environment_, path.c_str(), options()) {
        Ort::AllocatorWithDefaultOptions allocator;
        for (std::size_t i = 0; i < session_.GetInputCount(); ++i)
            inputs_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
        for (std::size_t i = 0; i < session_.GetOutputCount(); ++i)
            outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
    }

    std::vector<std::int64_t> shape() override {
        auto sizes = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
        sizes.at(0) = 1;
        return sizes;
    }

    std::vector<std::vector<float>> run(const std::vector<Array>& inputs) override {
        std::vector<Ort::Value> values;
        for (const auto& array : inputs)  // the runtime reads inputs alone, though it asks for more
            values.push_back(Ort::Value::CreateTensor(memory_, const_cast<char*>(array.bytes.data()),
                                                      array.bytes.size(), array.shape.data(), array.shape.size(),
                                                      kind_of(array)));
        const auto in = pointers(inputs_), out = pointers(outputs_);
        std::vector<std::vector<float>> found;
        for (const auto& value : session_.Run({}, in.data(), values.data(), values.size(), out.data(), out.size())) {
            const auto about = value.GetTensorTypeAndShapeInfo();
            if (about.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
                throw std::runtime_error("outputs that are no floats are not known here");
            const float* first = value.GetTensorData<float>();
            found.emplace_back(first, first + about.GetElementCount());
        }
        return found;
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
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    std::vector<std::string> inputs_, outputs_;
};

}  // namespace

std::unique_ptr<Model> load(const fs::path& bundle) {
    return std::make_unique<OnnxRuntimeModel>(model_file(bundle, {".onnx", ".ort"}));
}
