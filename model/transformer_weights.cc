#include "model/transformer_weights.h"

#include <cmath>

namespace baton {
namespace {

Result<std::vector<float>> LoadVector(const WeightFile& file, const std::string& name, size_t size) {
  const Tensor* tensor = file.Find(name);
  if (tensor == nullptr) return InvalidError("the model has no tensor {}", name);
  if (tensor->cols() != size || tensor->rows() != 1) return InvalidError("tensor {} must have {} elements", name, size);
  std::vector<float> values(size);
  Dequantize(tensor->type, tensor->data.data(), size, values.data());
  return Result<std::vector<float>>(std::move(values));
}

Result<Linear> LoadLinear(const WeightFile& file, const PackedWeights& packed, const std::string& name, uint32_t out, uint32_t in) {
  const PackedMatrix* matrix = packed.Find(name + ".weight");
  if (matrix == nullptr) return InvalidError("the model has no tensor {}.weight", name);
  if (matrix->rows != out || matrix->cols != in) {
    return InvalidError("tensor {}.weight is [{}, {}], must be [{}, {}]", name, matrix->rows, matrix->cols, out, in);
  }
  Linear linear{*matrix, {}};
  if (file.Find(name + ".bias") != nullptr) {
    ASSIGN_OR_RETURN(linear.bias, LoadVector(file, name + ".bias", out));
  }
  return Result<Linear>(std::move(linear));
}

Status LoadLayer(const WeightFile& file, const PackedWeights& packed, uint32_t index, LayerWeights& layer) {
  const ModelInfo& info = file.info();
  const std::string p = fmt::format("model.layers.{}.", index);
  const uint32_t hidden = info.hidden, qn = info.heads * info.head_dim, kn = info.kv_heads * info.head_dim;
  ASSIGN_OR_RETURN(layer.q, LoadLinear(file, packed, p + "self_attn.q_proj", qn, hidden));
  ASSIGN_OR_RETURN(layer.k, LoadLinear(file, packed, p + "self_attn.k_proj", kn, hidden));
  ASSIGN_OR_RETURN(layer.v, LoadLinear(file, packed, p + "self_attn.v_proj", kn, hidden));
  ASSIGN_OR_RETURN(layer.o, LoadLinear(file, packed, p + "self_attn.o_proj", hidden, qn));
  ASSIGN_OR_RETURN(layer.gate, LoadLinear(file, packed, p + "mlp.gate_proj", info.ffn, hidden));
  ASSIGN_OR_RETURN(layer.up, LoadLinear(file, packed, p + "mlp.up_proj", info.ffn, hidden));
  ASSIGN_OR_RETURN(layer.down, LoadLinear(file, packed, p + "mlp.down_proj", hidden, info.ffn));
  ASSIGN_OR_RETURN(layer.input_norm, LoadVector(file, p + "input_layernorm.weight", hidden));
  ASSIGN_OR_RETURN(layer.post_norm, LoadVector(file, p + "post_attention_layernorm.weight", hidden));
  return OkStatus();
}

/// In f32 where transformers computes in f32, so angles agree far out.
std::vector<float> RopeFrequencies(const ModelInfo& info) {
  const RopeScaling& s = info.rope_scaling;
  std::vector<float> frequencies;
  for (uint32_t j = 0; j < info.head_dim / 2; ++j) {
    double f = static_cast<float>(1.0 / std::pow(info.rope_theta, 2.0 * j / info.head_dim));
    if (s.factor != 1) {
      const double wave = 2 * M_PI / f, low = s.original_max_positions / s.low_freq_factor, high = s.original_max_positions / s.high_freq_factor;
      const double smooth = (s.original_max_positions / wave - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      if (wave > low) f /= s.factor;
      else if (wave >= high) f = (1 - smooth) * f / s.factor + smooth * f;
    }
    if (!info.rope_freq_divisors.empty()) f /= info.rope_freq_divisors[j];
    frequencies.push_back(static_cast<float>(f));
  }
  return frequencies;
}

PackRoute RouteOf(Numerics numerics) {
  if (numerics == Numerics::kBf16) return PackRoute::kRoundToBf16;
  return numerics == Numerics::kF32 ? PackRoute::kFloat : PackRoute::kInteger;
}

}  // namespace

Result<TransformerWeights> LoadTransformerWeights(const WeightFile& file, Numerics numerics, const std::string& cache_folder,
                                                  ThreadPool& pool) {
  const ModelInfo& info = file.info();
  TransformerWeights weights;
  ASSIGN_OR_RETURN(weights.packed, PackedWeights::Pack(file, RouteOf(numerics), cache_folder, pool));
  ASSIGN_OR_RETURN(weights.embedding, LoadLinear(file, weights.packed, "model.embed_tokens", info.vocab, info.hidden));
  weights.head = weights.embedding;
  if (!info.tied) {
    ASSIGN_OR_RETURN(weights.head, LoadLinear(file, weights.packed, "lm_head", info.vocab, info.hidden));
  }
  ASSIGN_OR_RETURN(weights.final_norm, LoadVector(file, "model.norm.weight", info.hidden));
  weights.layers.resize(info.layers);
  for (uint32_t i = 0; i < info.layers; ++i) RETURN_IF_ERROR(LoadLayer(file, weights.packed, i, weights.layers[i]));
  weights.inverse_frequencies = RopeFrequencies(info);
  return Result<TransformerWeights>(std::move(weights));
}

}  // namespace baton
