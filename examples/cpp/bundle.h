// A bundle of `qkd-deploy handoff` on the disk: its model file, and its golden arrays.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fs = std::filesystem;

inline std::vector<char> read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path.string());
    return {std::istreambuf_iterator<char>(file), {}};
}

// An array as NumPy's format 1.0 holds it: a line about type and shape, then the bytes.
struct Array {
    std::string type;
    std::vector<std::int64_t> shape;
    std::vector<char> bytes;

    Array() = default;

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

    // One sample of a batch.
    Array sample(std::int64_t place) const {
        const std::size_t size = bytes.size() / shape.at(0);
        Array one;
        one.type = type;
        one.shape = shape;
        one.shape[0] = 1;
        one.bytes.assign(bytes.begin() + place * size, bytes.begin() + (place + 1) * size);
        return one;
    }
};

// The file of a runtime, by what its name ends in; what decodes behind a detector is not meant.
inline fs::path model_file(const fs::path& bundle, const std::vector<std::string>& suffixes) {
    for (const auto& entry : fs::directory_iterator(bundle)) {
        const auto suffix = entry.path().extension().string(), name = entry.path().filename().string();
        const bool known = std::find(suffixes.begin(), suffixes.end(), suffix) != suffixes.end();
        if (known && name.find(".decode.") == std::string::npos) return entry.path();
    }
    throw std::runtime_error(bundle.string() + " holds no model for this runtime");
}
