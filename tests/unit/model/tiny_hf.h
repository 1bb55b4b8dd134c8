// A model in Hugging Face layout, as small as can be: one layer, hidden size 8, two heads, one KV head, four tokens, all zeros.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/safetensors.h"
#include "tests/unit/model/format_support.h"

namespace baton::testing_formats {

struct TinyHf {
  explicit TinyHf(uint64_t head_dim = 4) {
    config_ = {{"model_type", "llama"}, {"hidden_size", 8}, {"intermediate_size", 16}, {"num_hidden_layers", 1}, {"num_attention_heads", 2}, {"num_key_value_heads", 1},
               {"vocab_size", 4}, {"rms_norm_eps", 1e-5}};
    const std::string layer = "model.layers.0.";
    tensors_ = {{"model.embed_tokens.weight", {4, 8}}, {"model.norm.weight", {8}}};
    for (const std::string norm : {"input_layernorm", "post_attention_layernorm"}) tensors_[layer + norm + ".weight"] = {8};
    tensors_[layer + "self_attn.q_proj.weight"] = {2 * head_dim, 8};
    tensors_[layer + "self_attn.o_proj.weight"] = {8, 2 * head_dim};
    for (const std::string proj : {"k_proj", "v_proj"}) tensors_[layer + "self_attn." + proj + ".weight"] = {head_dim, 8};
    for (const std::string proj : {"gate_proj", "up_proj"}) tensors_[layer + "mlp." + proj + ".weight"] = {16, 8};
    tensors_[layer + "mlp.down_proj.weight"] = {8, 16};
  }
  void WriteTensors(SafetensorsType type = SafetensorsType::kF32) {
    const std::string zeros(8192, '\0');
    std::vector<SafetensorsTensor> list;
    for (const auto& [name, shape] : tensors_) {
      uint64_t size = SafetensorsTypeBytes(type);
      for (const uint64_t extent : shape) size *= extent;
      list.push_back({name, type, shape, AsBytes(zeros).first(size)});
    }
    ASSERT_TRUE(WriteSafetensors(dir_.File("model.safetensors"), list).ok());
  }

  TempDir dir_;
  nlohmann::json config_;
  std::map<std::string, std::vector<uint64_t>> tensors_;
};

}  // namespace baton::testing_formats
