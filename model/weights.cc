#include "model/weights.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "model/mapped_file.h"
#include "model/weights_build.h"

namespace baton {
namespace {

class LoadedWeights : public WeightFile {
 public:
  LoadedWeights(ModelInfo info, std::map<std::string, Tensor, std::less<>> tensors,
                std::vector<std::shared_ptr<const void>> owners)
      : info_(std::move(info)), tensors_(std::move(tensors)), owners_(std::move(owners)) {}
  const ModelInfo& info() const override { return info_; }
  const Tensor* Find(std::string_view name) const override {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
  }
  std::vector<const Tensor*> tensors() const override {
    std::vector<const Tensor*> out;
    for (const auto& [name, tensor] : tensors_) out.push_back(&tensor);
    return out;
  }

 private:
  ModelInfo info_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::vector<std::shared_ptr<const void>> owners_;
};

struct Expected {
  std::string name;
  std::vector<uint64_t> shape;
};

/// Every tensor that a model of these dimensions has. Both architectures are the same but for the
/// biases.
std::vector<Expected> ExpectedTensors(const ModelInfo& info) {
  const uint64_t hidden = info.hidden, ffn = info.ffn;
  const uint64_t q = uint64_t{info.heads} * info.head_dim,
                 kv = uint64_t{info.kv_heads} * info.head_dim;
  std::vector<Expected> out = {{"model.embed_tokens.weight", {info.vocab, hidden}},
                               {"model.norm.weight", {hidden}}};
  if (!info.tied) out.push_back({"lm_head.weight", {info.vocab, hidden}});
  for (uint32_t i = 0; i < info.layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    out.push_back({layer + "input_layernorm.weight", {hidden}});
    out.push_back({layer + "self_attn.q_proj.weight", {q, hidden}});
    out.push_back({layer + "self_attn.k_proj.weight", {kv, hidden}});
    out.push_back({layer + "self_attn.v_proj.weight", {kv, hidden}});
    if (info.qkv_bias) {
      out.push_back({layer + "self_attn.q_proj.bias", {q}});
      out.push_back({layer + "self_attn.k_proj.bias", {kv}});
      out.push_back({layer + "self_attn.v_proj.bias", {kv}});
    }
    out.push_back({layer + "self_attn.o_proj.weight", {hidden, q}});
    out.push_back({layer + "post_attention_layernorm.weight", {hidden}});
    out.push_back({layer + "mlp.gate_proj.weight", {ffn, hidden}});
    out.push_back({layer + "mlp.up_proj.weight", {ffn, hidden}});
    out.push_back({layer + "mlp.down_proj.weight", {hidden, ffn}});
  }
  return out;
}

std::string ShapeText(const std::vector<uint64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

bool IsQuantised(TensorType type) {
  return FindTensorType(static_cast<uint32_t>(type))->block_elements != 1;
}

/// Moves the tensor called expected.name out of the source, checked.
Result<Tensor> TakeTensor(WeightSource& source, const Expected& expected) {
  const auto it = source.tensors.find(expected.name);
  if (it == source.tensors.end()) return InvalidError("tensor '{}' is missing", expected.name);
  SourceTensor& found = it->second;
  const std::string label = Printable(found.file_name);
  if (!found.unsupported.empty()) {
    return InvalidError(
        "tensor '{}' has the unsupported type {}; safetensors may hold F32, F16 and BF16", label,
        found.unsupported);
  }
  Tensor& tensor = found.tensor;
  // GGUF drops or adds leading dimensions of 1 freely; more or fewer of them change nothing.
  while (tensor.shape.size() > expected.shape.size() && tensor.shape.front() == 1)
    tensor.shape.erase(tensor.shape.begin());
  while (tensor.shape.size() < expected.shape.size()) tensor.shape.insert(tensor.shape.begin(), 1);
  if (tensor.shape != expected.shape) {
    return InvalidError("tensor '{}' has shape {}; the model's dimensions ask for {}", label,
                        ShapeText(tensor.shape), ShapeText(expected.shape));
  }
  if (expected.shape.size() == 1 && IsQuantised(tensor.type)) {
    return InvalidError("tensor '{}' is {}; norms and biases must be F32, F16 or BF16", label,
                        TensorTypeName(static_cast<uint32_t>(tensor.type)));
  }
  Tensor taken = std::move(tensor);
  source.tensors.erase(it);
  return taken;
}

/// Kernels load elements and scales directly, so data that its file placed at an odd address is
/// copied.
void AlignData(Tensor& tensor, std::vector<std::shared_ptr<const void>>& owners) {
  const size_t alignment = tensor.type == TensorType::kF32 ? alignof(float) : alignof(uint16_t);
  if (tensor.data.empty() || std::bit_cast<uintptr_t>(tensor.data.data()) % alignment == 0) return;
  auto copy = std::make_shared<std::vector<std::byte>>(tensor.data.begin(), tensor.data.end());
  tensor.data = *copy;
  owners.push_back(std::move(copy));
}

/// What is left must not be part of a layer: such a tensor means arithmetic that Baton would leave
/// out silently.
Status CheckLeftovers(const WeightSource& source) {
  for (const auto& [name, left] : source.tensors) {
    if (!name.starts_with("model.layers.") || name.ends_with("rotary_emb.inv_freq")) continue;
    return InvalidError(
        "tensor '{}' is not part of a {} model of {} layers; is it another architecture?",
        Printable(left.file_name), source.info.architecture, source.info.layers);
  }
  return OkStatus();
}

Digest256 Fingerprint(const ModelInfo& info,
                      const std::map<std::string, Tensor, std::less<>>& tensors) {
  const auto bits = [](double value) { return std::bit_cast<uint64_t>(value); };
  const RopeScaling& rope = info.rope_scaling;
  Sha256Hasher hasher;
  std::string text = fmt::format(
      "baton-model-v1 {} vocab={} hidden={} layers={} heads={} kv_heads={} head_dim={} ffn={} "
      "positions={} theta={:x} eps={:x} "
      "rope={:x},{:x},{:x},{:x} tied={} bias={} divisors={}\n",
      info.architecture, info.vocab, info.hidden, info.layers, info.heads, info.kv_heads,
      info.head_dim, info.ffn, info.max_positions, bits(info.rope_theta), bits(info.norm_eps),
      bits(rope.factor), bits(rope.low_freq_factor), bits(rope.high_freq_factor),
      bits(rope.original_max_positions), info.tied, info.qkv_bias, info.rope_freq_divisors.size());
  hasher.Update(AsBytes(text));
  hasher.Update(std::as_bytes(std::span(info.rope_freq_divisors)));
  for (const auto& [name, tensor] : tensors) {
    text = fmt::format("{} {} {}\n", name, static_cast<uint32_t>(tensor.type),
                       ShapeText(tensor.shape));
    hasher.Update(AsBytes(text));
    hasher.Update(tensor.data);
  }
  return hasher.Finish();
}

Status CheckRange(std::string_view what, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return OkStatus();
  return InvalidError("{} is {}; {} to {} are possible", what, value, low, high);
}

Status CheckTokenIds(const ModelInfo& info) {
  for (const TokenId id : info.eos_ids) {
    if (id < 0 || static_cast<uint32_t>(id) >= info.vocab) {
      return InvalidError("the end token {} is outside the vocabulary of {}", id, info.vocab);
    }
  }
  if (info.bos_id < -1 || (info.bos_id >= 0 && static_cast<uint32_t>(info.bos_id) >= info.vocab)) {
    return InvalidError("the start token {} is outside the vocabulary of {}", info.bos_id,
                        info.vocab);
  }
  return OkStatus();
}

Status CheckRope(const ModelInfo& info) {
  const auto positive = [](double value) { return std::isfinite(value) && value > 0; };
  if (!positive(info.rope_theta))
    return InvalidError("the RoPE base is {}; it must be finite and positive", info.rope_theta);
  const RopeScaling& rope = info.rope_scaling;
  if (!positive(rope.factor) || rope.factor < 1 || !positive(rope.low_freq_factor) ||
      !positive(rope.high_freq_factor) || rope.high_freq_factor <= rope.low_freq_factor ||
      !positive(rope.original_max_positions)) {
    return InvalidError(
        "the llama3 RoPE scaling (factor {}, low {}, high {}, original {}) is impossible",
        rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_max_positions);
  }
  if (!info.rope_freq_divisors.empty() && info.rope_freq_divisors.size() != info.head_dim / 2) {
    return InvalidError("there are {} RoPE frequency divisors for {} frequencies",
                        info.rope_freq_divisors.size(), info.head_dim / 2);
  }
  for (const float divisor : info.rope_freq_divisors) {
    if (!positive(divisor))
      return InvalidError("a RoPE frequency divisor is {}; it must be finite and positive",
                          divisor);
  }
  return OkStatus();
}

}  // namespace

Status WeightSource::Add(SourceTensor tensor) {
  const std::string file_name = Printable(tensor.file_name);
  const auto [it, added] = tensors.emplace(tensor.tensor.name, std::move(tensor));
  if (added) return OkStatus();
  return InvalidError("tensors '{}' and '{}' are the same one", Printable(it->second.file_name),
                      file_name);
}

Status CheckDimensions(const ModelInfo& info) {
  // The upper bounds are far above any model and keep every product of two in 64 bits.
  RETURN_IF_ERROR(CheckRange("the number of layers", info.layers, 1, 4096));
  RETURN_IF_ERROR(CheckRange("the hidden size", info.hidden, 1, 1u << 20));
  RETURN_IF_ERROR(CheckRange("the number of heads", info.heads, 1, 1u << 14));
  RETURN_IF_ERROR(CheckRange("the number of KV heads", info.kv_heads, 1, info.heads));
  if (info.heads % info.kv_heads != 0)
    return InvalidError("{} heads are no multiple of {} KV heads", info.heads, info.kv_heads);
  RETURN_IF_ERROR(CheckRange("the head dimension", info.head_dim, 2, 4096));
  if (info.head_dim % 2 != 0)
    return InvalidError("the head dimension {} is odd; RoPE rotates pairs", info.head_dim);
  RETURN_IF_ERROR(CheckRange("the feed-forward size", info.ffn, 1, 1u << 24));
  RETURN_IF_ERROR(CheckRange("the vocabulary size", info.vocab, 1, 1u << 26));
  RETURN_IF_ERROR(CheckRange("the number of positions", info.max_positions, 1, 1u << 30));
  if (!std::isfinite(info.norm_eps) || info.norm_eps <= 0 || info.norm_eps >= 1) {
    return InvalidError("the norm's epsilon is {}; it must be between 0 and 1", info.norm_eps);
  }
  RETURN_IF_ERROR(CheckRope(info));
  return CheckTokenIds(info);
}

Result<std::unique_ptr<WeightFile>> BuildWeights(WeightSource source) {
  ModelInfo& info = source.info;
  RETURN_IF_ERROR(CheckDimensions(info));
  const auto head = source.tensors.find("lm_head.weight");
  info.tied = source.tied == WeightSource::Tied::kYes ||
              (source.tied == WeightSource::Tied::kByPresence && head == source.tensors.end());
  // transformers ignores a stored head where the configuration ties it to the embedding.
  if (info.tied && head != source.tensors.end()) source.tensors.erase(head);
  info.qkv_bias |= info.architecture == "qwen2" ||
                   source.tensors.count("model.layers.0.self_attn.q_proj.bias") != 0;

  std::map<std::string, Tensor, std::less<>> tensors;
  for (const Expected& expected : ExpectedTensors(info)) {
    ASSIGN_OR_RETURN(Tensor tensor, TakeTensor(source, expected));
    AlignData(tensor, source.owners);
    info.quantised |= IsQuantised(tensor.type);
    tensors.emplace(expected.name, std::move(tensor));
  }
  RETURN_IF_ERROR(CheckLeftovers(source));
  info.fingerprint = Fingerprint(info, tensors);
  return std::unique_ptr<WeightFile>(
      new LoadedWeights(std::move(info), std::move(tensors), std::move(source.owners)));
}

Result<std::unique_ptr<WeightFile>> OpenWeights(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status file = std::filesystem::status(path, error);
  if (!std::filesystem::exists(file)) return NotFoundError("there is no model at {}", path);
  Result<WeightSource> source =
      std::filesystem::is_directory(file) ? ReadHfWeights(path) : ReadGgufWeights(path);
  if (!source.ok()) return source.status();
  source->info.tokenizer_path = path;
  Result<std::unique_ptr<WeightFile>> built = BuildWeights(std::move(source).value());
  if (!built.ok()) return built.status().WithContext(path);
  return built;
}

}  // namespace baton
