// The table of ggml's tensor types.
#include <array>

#include "model/weights.h"

namespace baton {
namespace {

// Indexed by ggml_type. No block size means that Baton knows the name only; no name means removed
// from or never in ggml.
constexpr std::array<TensorTypeInfo, 42> kTypes = {{
    {"F32", 1, 4},        {"F16", 1, 2},        {"Q4_0", 32, 18},     {"Q4_1", 32, 20},
    {"Q4_2", 0, 0},       {"Q4_3", 0, 0},       {"Q5_0", 32, 22},     {"Q5_1", 32, 24},
    {"Q8_0", 32, 34},     {"Q8_1", 0, 0},       {"Q2_K", 0, 0},       {"Q3_K", 0, 0},
    {"Q4_K", 256, 144},   {"Q5_K", 256, 176},   {"Q6_K", 256, 210},   {"Q8_K", 0, 0},
    {"IQ2_XXS", 0, 0},    {"IQ2_XS", 0, 0},     {"IQ3_XXS", 0, 0},    {"IQ1_S", 0, 0},
    {"IQ4_NL", 32, 18},   {"IQ3_S", 0, 0},      {"IQ2_S", 0, 0},      {"IQ4_XS", 0, 0},
    {"I8", 0, 0},         {"I16", 0, 0},        {"I32", 0, 0},        {"I64", 0, 0},
    {"F64", 0, 0},        {"IQ1_M", 0, 0},      {"BF16", 1, 2},       {"Q4_0_4_4", 0, 0},
    {"Q4_0_4_8", 0, 0},   {"Q4_0_8_8", 0, 0},   {"TQ1_0", 0, 0},      {"TQ2_0", 0, 0},
    {"IQ4_NL_4_4", 0, 0}, {"IQ4_NL_4_8", 0, 0}, {"IQ4_NL_8_8", 0, 0}, {"MXFP4", 0, 0},
    {"NVFP4", 0, 0},      {"Q1_0", 0, 0},
}};

}  // namespace

const TensorTypeInfo* FindTensorType(uint32_t ggml_type) {
  if (ggml_type >= kTypes.size() || kTypes[ggml_type].block_elements == 0) return nullptr;
  return &kTypes[ggml_type];
}

std::string TensorTypeName(uint32_t ggml_type) {
  if (ggml_type >= kTypes.size()) return fmt::format("type {}", ggml_type);
  return std::string(kTypes[ggml_type].name);
}

uint64_t Tensor::RowBytes() const {
  const TensorTypeInfo* info = FindTensorType(static_cast<uint32_t>(type));
  CHECK(info != nullptr);
  return cols() / info->block_elements * info->block_bytes;
}

}  // namespace baton
