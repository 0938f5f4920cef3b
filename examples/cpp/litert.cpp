// A model in LiteRT: .tflite files, for one sample at a time.
#include "litert.h"

#include "model.h"

namespace {

void require(int status, const char* what) {
    if (status != 0) throw std::runtime_error(std::string(what) + ": LiteRT gives status " + std::to_string(status));
}

// A handle that the library frees.
template <typename Handle, void (*destroy)(Handle)>
struct Owned {
    Handle handle = nullptr;

    Owned() = default;
    Owned(Owned&& other) noexcept : handle(other.handle) { other.handle = nullptr; }
    ~Owned() {
        if (handle != nullptr) destroy(handle);
    }
};

// An input or output: its type, and the memory that holds it.
struct End {
    LiteRtRankedTensorType type{};
    Owned<LiteRtTensorBuffer, LiteRtDestroyTensorBuffer> buffer;

    std::size_t bytes() const {
        std::size_t found = 0;
        require(LiteRtGetTensorBufferPackedSize(buffer.handle, &found), "the size of a tensor");
        return found;
    }
};

class LiteRtOfBundle : public Model {
public:
    explicit LiteRtOfBundle(const fs::path& path) {
        require(LiteRtCreateEnvironment(0, nullptr, &environment_.handle), "LiteRT");
#ifdef LITERT_MODEL_TAKES_ENVIRONMENT
        require(LiteRtCreateModelFromFile(environment_.handle, path.c_str(), &model_.handle), path.c_str());
#else
        require(LiteRtCreateModelFromFile(path.c_str(), &model_.handle), path.c_str());
#endif
        require(LiteRtCreateOptions(&options_.handle), "options");
        require(LiteRtSetOptionsHardwareAccelerators(options_.handle, kLiteRtCpu), "the CPU");
        require(LiteRtCreateCompiledModel(environment_.handle, model_.handle, options_.handle, &compiled_.handle),
                path.c_str());
        LiteRtSubgraph graph = nullptr;
        require(LiteRtGetModelSubgraph(model_.handle, 0, &graph), path.c_str());
        std::size_t inputs = 0, outputs = 0;
        require(LiteRtGetNumSubgraphInputs(graph, &inputs), "inputs");
        require(LiteRtGetNumSubgraphOutputs(graph, &outputs), "outputs");
        for (std::size_t i = 0; i < inputs; ++i)
            inputs_.push_back(end(graph, i, LiteRtGetSubgraphInput, LiteRtGetCompiledModelInputBufferRequirements));
        for (std::size_t i = 0; i < outputs; ++i)
            outputs_.push_back(end(graph, i, LiteRtGetSubgraphOutput, LiteRtGetCompiledModelOutputBufferRequirements));
    }

    std::vector<std::int64_t> shape() override {
        const auto& type = inputs_.at(0).type;
        return {type.sizes, type.sizes + (type.rank & 127)};
    }

    std::vector<std::vector<float>> run(const std::vector<Array>& inputs) override {
        if (inputs.size() != inputs_.size()) throw std::runtime_error("the model takes other inputs");
        for (std::size_t i = 0; i < inputs.size(); ++i) write(inputs_[i], inputs[i]);
        auto in = handles(inputs_), out = handles(outputs_);
        require(LiteRtRunCompiledModel(compiled_.handle, 0, in.size(), in.data(), out.size(), out.data()), "running");
        std::vector<std::vector<float>> found;
        for (const auto& output : outputs_) found.push_back(read_floats(output));
        return found;
    }

private:
    template <typename Find, typename Ask>
    End end(LiteRtSubgraph graph, std::size_t place, Find find, Ask ask) {
        LiteRtTensor tensor = nullptr;
        LiteRtTensorBufferRequirements needed = nullptr;
        End made;
        require(find(graph, place, &tensor), "a tensor");
        require(LiteRtGetRankedTensorType(tensor, &made.type), "the type of a tensor");
        require(ask(compiled_.handle, 0, place, &needed), "what a tensor needs");
        require(LiteRtCreateManagedTensorBufferFromRequirements(environment_.handle, &made.type, needed,
                                                                &made.buffer.handle),
                "memory");
        return made;
    }

    static void write(const End& input, const Array& array) {
        if (array.bytes.size() != input.bytes()) throw std::runtime_error("the model takes inputs of another size");
        void* address = nullptr;
        require(LiteRtLockTensorBuffer(input.buffer.handle, &address, kLiteRtWrite), "writing");
        std::memcpy(address, array.bytes.data(), array.bytes.size());
        require(LiteRtUnlockTensorBuffer(input.buffer.handle), "writing");
    }

    static std::vector<float> read_floats(const End& output) {
        if (output.type.type != kLiteRtFloat32) throw std::runtime_error("outputs are no floats");
        std::vector<float> found(output.bytes() / sizeof(float));
        void* address = nullptr;
        require(LiteRtLockTensorBuffer(output.buffer.handle, &address, kLiteRtRead), "reading");
        std::memcpy(found.data(), address, found.size() * sizeof(float));
        require(LiteRtUnlockTensorBuffer(output.buffer.handle), "reading");
        return found;
    }

    static std::vector<LiteRtTensorBuffer> handles(const std::vector<End>& ends) {
        std::vector<LiteRtTensorBuffer> found;
        for (const auto& end : ends) found.push_back(end.buffer.handle);
        return found;
    }

    Owned<LiteRtEnvironment, LiteRtDestroyEnvironment> environment_;  // in this order: the last is destroyed first
    Owned<LiteRtModel, LiteRtDestroyModel> model_;
    Owned<LiteRtOptions, LiteRtDestroyOptions> options_;
    Owned<LiteRtCompiledModel, LiteRtDestroyCompiledModel> compiled_;
    std::vector<End> inputs_, outputs_;
};

}  // namespace

std::unique_ptr<Model> load(const fs::path& bundle) {
    return std::make_unique<LiteRtOfBundle>(model_file(bundle, {".tflite"}));
}
