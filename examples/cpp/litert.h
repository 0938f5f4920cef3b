// The part of LiteRT's C interface that litert.cpp calls. Python's wheel ai-edge-litert holds the library, libLiteRt.so,
// and no headers; where you have LiteRT's own (litert/c), use those.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Every handle is a pointer to something that only the library knows, and every call gives 0 where it succeeded.
typedef struct LiteRtEnvironmentT* LiteRtEnvironment;
typedef struct LiteRtModelT* LiteRtModel;
typedef struct LiteRtOptionsT* LiteRtOptions;
typedef struct LiteRtCompiledModelT* LiteRtCompiledModel;
typedef struct LiteRtSubgraphT* LiteRtSubgraph;
typedef struct LiteRtTensorT* LiteRtTensor;
typedef struct LiteRtTensorBufferT* LiteRtTensorBuffer;
typedef struct LiteRtTensorBufferRequirementsT* LiteRtTensorBufferRequirements;

// The type of elements, and the sizes: as many as the lowest seven bits of `rank` say.
struct LiteRtRankedTensorType {
    std::int32_t type;
    std::uint32_t rank;
    std::int32_t sizes[8];
    std::uint32_t strides[8];
};

enum { kLiteRtCpu = 1 };                // of LiteRtSetOptionsHardwareAccelerators
enum { kLiteRtRead = 0, kLiteRtWrite };  // of LiteRtLockTensorBuffer
enum { kLiteRtFloat32 = 1 };             // of LiteRtRankedTensorType

int LiteRtCreateEnvironment(int count, const void* options, LiteRtEnvironment* made);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);
#ifdef LITERT_MODEL_TAKES_ENVIRONMENT
int LiteRtCreateModelFromFile(LiteRtEnvironment environment, const char* path, LiteRtModel* made);
#else
int LiteRtCreateModelFromFile(const char* path, LiteRtModel* made);
#endif
void LiteRtDestroyModel(LiteRtModel model);
int LiteRtCreateOptions(LiteRtOptions* made);
void LiteRtDestroyOptions(LiteRtOptions options);
int LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
int LiteRtCreateCompiledModel(LiteRtEnvironment environment, LiteRtModel model, LiteRtOptions options,
                              LiteRtCompiledModel* made);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel model);
int LiteRtGetModelSubgraph(LiteRtModel model, std::size_t place, LiteRtSubgraph* found);
int LiteRtGetNumSubgraphInputs(LiteRtSubgraph graph, std::size_t* count);
int LiteRtGetNumSubgraphOutputs(LiteRtSubgraph graph, std::size_t* count);
int LiteRtGetSubgraphInput(LiteRtSubgraph graph, std::size_t place, LiteRtTensor* found);
int LiteRtGetSubgraphOutput(LiteRtSubgraph graph, std::size_t place, LiteRtTensor* found);
int LiteRtGetRankedTensorType(LiteRtTensor tensor, LiteRtRankedTensorType* found);
int LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel model, std::size_t signature, std::size_t place,
                                                  LiteRtTensorBufferRequirements* found);
int LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel model, std::size_t signature, std::size_t place,
                                                   LiteRtTensorBufferRequirements* found);
int LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment environment, const LiteRtRankedTensorType* type,
                                                    LiteRtTensorBufferRequirements needed, LiteRtTensorBuffer* made);
int LiteRtGetTensorBufferPackedSize(LiteRtTensorBuffer buffer, std::size_t* bytes);
int LiteRtLockTensorBuffer(LiteRtTensorBuffer buffer, void** address, int how);
int LiteRtUnlockTensorBuffer(LiteRtTensorBuffer buffer);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);
int LiteRtRunCompiledModel(LiteRtCompiledModel model, std::size_t signature, std::size_t inputs,
                           LiteRtTensorBuffer* input_buffers, std::size_t outputs, LiteRtTensorBuffer* output_buffers);
}
