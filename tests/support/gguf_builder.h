// A writer of small GGUF files, right or wrong in any one field.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace baton::testing_formats {

template <typename T>
std::string Raw(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}
inline std::string RawString(std::string_view text) {
  return Raw<uint64_t>(text.size()) + std::string(text);
}

class GgufBuilder {
 public:
  std::string magic = "GGUF";
  uint32_t version = 3, alignment = 32;
  std::optional<uint64_t> tensor_count, value_count;

  GgufBuilder& Value(std::string_view key, uint32_t type, const std::string& raw) {
    values_.push_back(RawString(key) + Raw(type) + raw);
    return *this;
  }
  GgufBuilder& U32(std::string_view key, uint32_t value) { return Value(key, 4, Raw(value)); }
  GgufBuilder& F32(std::string_view key, float value) { return Value(key, 6, Raw(value)); }
  GgufBuilder& String(std::string_view key, std::string_view text) {
    return Value(key, 8, RawString(text));
  }
  GgufBuilder& Array(std::string_view key, uint32_t type, uint64_t count, const std::string& raw) {
    return Value(key, 9, Raw(type) + Raw(count) + raw);
  }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& texts) {
    std::string raw;
    for (const std::string& text : texts) raw += RawString(text);
    return Array(key, 8, texts.size(), raw);
  }
  /// `dims` fastest first, as in the file; the data is put behind that of the tensors before.
  GgufBuilder& Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      const std::string& data) {
    data_.resize(RoundUp(data_.size(), alignment));
    RawTensor(name, dims, type, data_.size());
    data_ += data;
    return *this;
  }
  /// Only the table's entry.
  GgufBuilder& RawTensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                         uint64_t offset) {
    std::string entry = RawString(name) + Raw(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) entry += Raw(dim);
    tensors_.push_back(entry + Raw(type) + Raw(offset));
    return *this;
  }
  std::string Build() const {
    std::string out = magic + Raw(version) + Raw<uint64_t>(tensor_count.value_or(tensors_.size())) +
                      Raw<uint64_t>(value_count.value_or(values_.size()));
    for (const std::string& value : values_) out += value;
    for (const std::string& tensor : tensors_) out += tensor;
    out.resize(RoundUp(out.size(), alignment));
    return out + data_;
  }

 private:
  std::vector<std::string> values_, tensors_;
  std::string data_;
};

inline std::string FloatData(size_t n, float first = 0) {
  std::string out;
  for (size_t i = 0; i < n; ++i) out += Raw(first + static_cast<float>(i) / 64);
  return out;
}

/// Dimensions of TinyModel.
struct TinyShape {
  uint64_t hidden = 32, heads = 2, kv_heads = 1, head_dim = 16, ffn = 64, vocab = 8;
  uint32_t layers = 2;
};

inline GgufBuilder& AddTinyKeys(GgufBuilder& b, const std::string& arch, const TinyShape& shape) {
  b.String("general.architecture", arch).U32(arch + ".block_count", shape.layers);
  b.U32(arch + ".context_length", 128)
      .U32(arch + ".embedding_length", static_cast<uint32_t>(shape.hidden));
  b.U32(arch + ".feed_forward_length", static_cast<uint32_t>(shape.ffn));
  b.U32(arch + ".attention.head_count", static_cast<uint32_t>(shape.heads));
  b.U32(arch + ".attention.head_count_kv", static_cast<uint32_t>(shape.kv_heads));
  return b.F32(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
}

/// Tensors of a small model, F32, tied; `skip` leaves one out.
inline GgufBuilder& AddTinyTensors(GgufBuilder& b, const std::string& arch, const TinyShape& s,
                                   std::string_view skip = "") {
  const auto add = [&](const std::string& name, std::vector<uint64_t> dims, float first) {
    uint64_t n = 1;
    for (const uint64_t dim : dims) n *= dim;
    if (name != skip) b.Tensor(name, dims, 0, FloatData(n, first));
  };
  const uint64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  add("token_embd.weight", {s.hidden, s.vocab}, 0);
  add("output_norm.weight", {s.hidden}, 1);
  for (uint32_t i = 0; i < s.layers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    add(blk + "attn_norm.weight", {s.hidden}, 1);
    add(blk + "attn_q.weight", {s.hidden, q}, 2);
    add(blk + "attn_k.weight", {s.hidden, kv}, 3);
    add(blk + "attn_v.weight", {s.hidden, kv}, 4);
    if (arch == "qwen2") {
      add(blk + "attn_q.bias", {q}, 5);
      add(blk + "attn_k.bias", {kv}, 6);
      add(blk + "attn_v.bias", {kv}, 7);
    }
    add(blk + "attn_output.weight", {q, s.hidden}, 8);
    add(blk + "ffn_norm.weight", {s.hidden}, 1);
    add(blk + "ffn_gate.weight", {s.hidden, s.ffn}, 9);
    add(blk + "ffn_up.weight", {s.hidden, s.ffn}, 10);
    add(blk + "ffn_down.weight", {s.ffn, s.hidden}, 11);
  }
  return b;
}

}  // namespace baton::testing_formats
