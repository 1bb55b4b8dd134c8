// The weights of a Llama or Qwen2 in the order a forward pass meets them.
#pragma once

#include <vector>

#include "model/packed_weights.h"

namespace baton {

struct Linear {
  PackedMatrix weight;      // [out, in]
  std::vector<float> bias;  // [out] or empty
};

struct LayerWeights {
  Linear q, k, v, o, gate, up, down;
  std::vector<float> input_norm, post_norm;
};

struct TransformerWeights {
  PackedWeights packed;  // owns what the matrices point to
  Linear embedding, head;  // the same matrix where they are tied
  std::vector<float> final_norm;
  std::vector<float> inverse_frequencies;  // RoPE, [head_dim / 2]
  std::vector<LayerWeights> layers;
};

/// Repacks `file` for the given arithmetic; the file may be closed afterwards. kInvalid names a missing or ill-shaped tensor.
Result<TransformerWeights> LoadTransformerWeights(const WeightFile& file, Numerics numerics, const std::string& cache_folder,
                                                  ThreadPool& pool);

}  // namespace baton
