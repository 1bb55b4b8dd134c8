// What the two readers of model files share: they gather tensors under canonical names and
// dimensions as the file tells them; BuildWeights checks the one against the other and computes the
// fingerprint. Private to OpenWeights.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/weights.h"

namespace baton {

constexpr std::string_view kSupportedArchitectures = "llama and qwen2";

struct SourceTensor {
  Tensor tensor;            // name is canonical
  std::string file_name;    // as the file calls it, for messages
  std::string unsupported;  // the element type's name where Baton cannot read it; an error only if
                            // the model needs it
};

struct WeightSource {
  ModelInfo info;  // dimensions as the file claims them; tied, qkv_bias, quantised and fingerprint
                   // are for BuildWeights
  /// True, false, or what the presence of lm_head.weight says.
  enum class Tied { kYes, kNo, kByPresence } tied = Tied::kByPresence;
  std::map<std::string, SourceTensor, std::less<>> tensors;  // by canonical name
  std::vector<std::shared_ptr<const void>> owners;  // keep the mappings and permuted copies alive

  /// Errors: kInvalid where another tensor has the same canonical name.
  Status Add(SourceTensor tensor);
};

/// Checks dimensions, presence, shapes and types. Errors: kInvalid (tensor or dimension, found,
/// expected).
Result<std::unique_ptr<WeightFile>> BuildWeights(WeightSource source);
/// The dimension checks alone, which a reader needs before it uses them.
Status CheckDimensions(const ModelInfo& info);

Result<WeightSource> ReadGgufWeights(const std::string& path);
Result<WeightSource> ReadHfWeights(const std::string& folder);

}  // namespace baton
