// What an application needs of a runtime; onnxruntime.cpp and litert.cpp have it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bundle.h"

class Model {
public:
    virtual ~Model() = default;

    // Of the first input, for one sample.
    virtual std::vector<std::int64_t> shape() = 0;

    // Computes all outputs of one sample.
    virtual std::vector<std::vector<float>> run(const std::vector<Array>& inputs) = 0;
};

// Loads the model of a bundle.
std::unique_ptr<Model> load(const fs::path& bundle);
