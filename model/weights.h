// A model file, whichever its format, as named tensors of canonical meaning: HF names ("model.layers.0.self_attn.q_proj.weight"),
// shape [out, in], q/k rows in half-split RoPE order. Data stays mapped; blocks of quantised rows are as in GGUF.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "model/model.h"

namespace baton {

/// Element types a tensor can be stored in; numbers are GGUF's ggml_type.
enum class TensorType : uint32_t {
  kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7, kQ8_0 = 8, kQ4_K = 12, kQ5_K = 13, kQ6_K = 14, kIQ4_NL = 20, kBF16 = 30,
};
struct TensorTypeInfo {
  std::string_view name;
  uint32_t block_elements, block_bytes;
};
/// Null for a type Baton does not read.
const TensorTypeInfo* FindTensorType(uint32_t ggml_type);
/// The name of any ggml type, known or only named ("IQ2_XXS"); "type 99" for others.
std::string TensorTypeName(uint32_t ggml_type);

struct Tensor {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<uint64_t> shape;  // outermost first: [out, in] or [n]
  Bytes data;                   // rows are contiguous, RowBytes() each
  uint64_t rows() const { return shape.size() < 2 ? 1 : shape[0]; }
  uint64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  uint64_t RowBytes() const;
};

/// Expands `n` elements (a multiple of the type's block) from `data` into `out` as f32.
void Dequantize(TensorType type, const std::byte* data, uint64_t n, float* out);
/// Quantises n elements to `type` as ggml's reference does (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0); kInvalid for others.
Status Quantize(TensorType type, const float* in, uint64_t n, std::byte* out);

/// Owns the mapping. Thread: read-only after loading, so any.
class WeightFile {
 public:
  virtual ~WeightFile() = default;
  virtual const ModelInfo& info() const = 0;
  /// Null when the file has none of that (canonical) name.
  virtual const Tensor* Find(std::string_view canonical_name) const = 0;
  virtual std::vector<const Tensor*> tensors() const = 0;
};
/// Opens a GGUF file or a safetensors folder; picks by content. All sizes are checked against the file before use.
/// Errors: kNotFound, kInvalid (file, tensor or key, reason, what would be right).
Result<std::unique_ptr<WeightFile>> OpenWeights(const std::string& path);

}  // namespace baton
