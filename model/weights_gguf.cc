// A GGUF file as canonical tensors: names, dimensions, and the rows of q and k put back into
// half-split order.
#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

#include "model/gguf.h"
#include "model/weights_build.h"

namespace baton {
namespace {

struct NamePair {
  std::string_view gguf, canonical;
};
constexpr std::array<NamePair, 3> kModelNames = {
    {{"token_embd.weight", "model.embed_tokens.weight"},
     {"output_norm.weight", "model.norm.weight"},
     {"output.weight", "lm_head.weight"}}};
constexpr std::array<NamePair, 12> kLayerNames = {
    {{"attn_norm.weight", "input_layernorm.weight"},
     {"attn_q.weight", "self_attn.q_proj.weight"},
     {"attn_k.weight", "self_attn.k_proj.weight"},
     {"attn_v.weight", "self_attn.v_proj.weight"},
     {"attn_q.bias", "self_attn.q_proj.bias"},
     {"attn_k.bias", "self_attn.k_proj.bias"},
     {"attn_v.bias", "self_attn.v_proj.bias"},
     {"attn_output.weight", "self_attn.o_proj.weight"},
     {"ffn_norm.weight", "post_attention_layernorm.weight"},
     {"ffn_gate.weight", "mlp.gate_proj.weight"},
     {"ffn_up.weight", "mlp.up_proj.weight"},
     {"ffn_down.weight", "mlp.down_proj.weight"}}};

/// A layer's tensor that is not in the table keeps its last part, so that the check for unknown
/// ones sees it.
std::string CanonicalName(std::string_view name) {
  for (const NamePair& pair : kModelNames) {
    if (pair.gguf == name) return std::string(pair.canonical);
  }
  if (!name.starts_with("blk.")) return "gguf:" + std::string(name);
  const std::string_view rest = name.substr(4);
  const size_t dot = rest.find('.');
  const std::string_view number = rest.substr(0, dot);
  std::string_view part = dot == std::string_view::npos ? "" : rest.substr(dot + 1);
  for (const NamePair& pair : kLayerNames) {
    if (pair.gguf != part) continue;
    part = pair.canonical;
    break;
  }
  return fmt::format("model.layers.{}.{}", number, part);
}

/// Reads the keys of one architecture; remembers the first error so that the reading stays a list.
class KeyReader {
 public:
  KeyReader(const GgufFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  const Status& status() const { return status_; }
  bool Has(std::string_view name) const { return file_.Has(prefix_ + std::string(name)); }

  /// A count, or an array of equal counts, one a layer, as some writers store it.
  uint32_t Count(std::string_view name) {
    const std::string key = prefix_ + std::string(name);
    Result<uint64_t> value = file_.GetCount(key).ok() ? EqualElements(key) : file_.GetUint(key);
    if (!value.ok()) return Fail(value.status());
    if (*value > UINT32_MAX)
      return Fail(InvalidError("{}: key '{}' is {}, which is absurd", file_.path(), key, *value));
    return static_cast<uint32_t>(*value);
  }
  uint32_t CountOr(std::string_view name, uint32_t absent) {
    return Has(name) ? Count(name) : absent;
  }
  double FloatOr(std::string_view name, double absent) {
    if (!Has(name)) return absent;
    Result<double> value = file_.GetFloat(prefix_ + std::string(name));
    if (value.ok()) return *value;
    Fail(value.status());
    return absent;
  }
  std::string StringOr(std::string_view name, std::string_view absent) {
    if (!Has(name)) return std::string(absent);
    Result<std::string_view> value = file_.GetString(prefix_ + std::string(name));
    if (value.ok()) return std::string(*value);
    Fail(value.status());
    return std::string(absent);
  }

 private:
  Result<uint64_t> EqualElements(const std::string& key) const {
    ASSIGN_OR_RETURN(const std::vector<int64_t> values, file_.GetInts(key));
    for (const int64_t value : values) {
      if (value != values.front())
        return InvalidError("{}: key '{}' differs between layers, which is not supported",
                            file_.path(), key);
    }
    if (values.empty() || values.front() < 0)
      return InvalidError("{}: key '{}' has no usable element", file_.path(), key);
    return static_cast<uint64_t>(values.front());
  }
  uint32_t Fail(Status status) {
    if (status_.ok())
      status_ = status.code() == StatusCode::kNotFound ? InvalidError("{}", status.message())
                                                       : std::move(status);
    return 0;
  }

  const GgufFile& file_;
  std::string prefix_;
  Status status_;
};

/// Token ids are u32 with 2^32-1 for none.
Result<TokenId> ReadTokenId(const GgufFile& file, std::string_view key) {
  ASSIGN_OR_RETURN(const int64_t id, file.GetInt(key));
  if (id == -1 || id == int64_t{UINT32_MAX}) return TokenId{-1};
  if (id < 0 || id > INT32_MAX)
    return InvalidError("{}: key '{}' is {}, which is no token", file.path(), key, id);
  return static_cast<TokenId>(id);
}

Status ReadTokenIds(const GgufFile& file, ModelInfo& info) {
  for (const std::string_view key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"}) {
    if (!file.Has(key)) continue;
    ASSIGN_OR_RETURN(const TokenId id, ReadTokenId(file, key));
    const bool known =
        std::find(info.eos_ids.begin(), info.eos_ids.end(), id) != info.eos_ids.end();
    if (id >= 0 && !known) info.eos_ids.push_back(id);
  }
  if (file.Has("tokenizer.ggml.bos_token_id")) {
    ASSIGN_OR_RETURN(info.bos_id, ReadTokenId(file, "tokenizer.ggml.bos_token_id"));
  }
  return OkStatus();
}

Status CheckFeatures(KeyReader& keys, const ModelInfo& info) {
  const std::string scaling = keys.StringOr("rope.scaling.type", "none");
  const double factor = keys.FloatOr("rope.scaling.factor", keys.FloatOr("rope.scale_linear", 1));
  const uint32_t rotated = keys.CountOr("rope.dimension_count", info.head_dim);
  const uint32_t value_length = keys.CountOr("attention.value_length", info.head_dim);
  const uint32_t experts = keys.CountOr("expert_count", 0);
  RETURN_IF_ERROR(keys.status());
  if (scaling != "none" && (scaling != "linear" || factor != 1)) {
    return InvalidError(
        "RoPE scaling '{}' is not supported; none and the frequencies of rope_freqs.weight are",
        Printable(scaling));
  }
  if (factor != 1 && factor != 0 && scaling == "none")
    return InvalidError("linear RoPE scaling by {} is not supported", factor);
  if (rotated != info.head_dim)
    return InvalidError("RoPE over {} of {} head elements is not supported", rotated,
                        info.head_dim);
  if (value_length != info.head_dim)
    return InvalidError("values of {} with keys of {} are not supported", value_length,
                        info.head_dim);
  if (experts != 0) return InvalidError("mixtures of {} experts are not supported", experts);
  return OkStatus();
}

Status ReadDivisors(const GgufFile& file, ModelInfo& info) {
  const GgufTensor* tensor = file.FindTensor("rope_freqs.weight");
  if (tensor == nullptr) return OkStatus();
  if (tensor->type != TensorType::kF32) return InvalidError("rope_freqs.weight must be F32");
  info.rope_freq_divisors.resize(tensor->data.size() / sizeof(float));
  std::memcpy(info.rope_freq_divisors.data(), tensor->data.data(), tensor->data.size());
  return OkStatus();
}

Result<ModelInfo> ReadInfo(const GgufFile& file) {
  ModelInfo info;
  if (!file.Has("general.architecture"))
    return InvalidError("{}: key 'general.architecture' is missing", file.path());
  ASSIGN_OR_RETURN(const std::string_view architecture, file.GetString("general.architecture"));
  if (architecture != "llama" && architecture != "qwen2") {
    return InvalidError("{}: architecture '{}' is not supported; {} are", file.path(),
                        Printable(architecture), kSupportedArchitectures);
  }
  info.architecture = std::string(architecture);
  info.name = std::filesystem::path(file.path()).stem().string();
  KeyReader keys(file, info.architecture + ".");
  info.layers = keys.Count("block_count");
  info.hidden = keys.Count("embedding_length");
  info.ffn = keys.Count("feed_forward_length");
  info.heads = keys.Count("attention.head_count");
  info.kv_heads = keys.CountOr("attention.head_count_kv", info.heads);
  info.head_dim =
      keys.CountOr("attention.key_length", info.heads == 0 ? 0 : info.hidden / info.heads);
  info.max_positions = keys.Count("context_length");
  info.rope_theta = keys.FloatOr("rope.freq_base", 10000);
  info.norm_eps = keys.FloatOr("attention.layer_norm_rms_epsilon", 0);
  RETURN_IF_ERROR(keys.status());
  if (!keys.Has("attention.layer_norm_rms_epsilon"))
    return InvalidError("{}: the norm's epsilon is missing", file.path());
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr)
    return InvalidError("{}: tensor 'token_embd.weight' is missing", file.path());
  const uint64_t rows =
      embedding->shape.size() < 2 ? 1 : embedding->shape[embedding->shape.size() - 2];
  if (rows > UINT32_MAX) return InvalidError("{}: a vocabulary of {} is absurd", file.path(), rows);
  info.vocab = static_cast<uint32_t>(rows);
  if (const Result<uint64_t> tokens = file.GetCount("tokenizer.ggml.tokens");
      tokens.ok() && *tokens > rows) {
    return InvalidError("{}: the tokenizer has {} tokens and the embedding {} rows", file.path(),
                        *tokens, rows);
  }
  RETURN_IF_ERROR(ReadTokenIds(file, info));
  RETURN_IF_ERROR(ReadDivisors(file, info).WithContext(file.path()));
  RETURN_IF_ERROR(CheckFeatures(keys, info).WithContext(file.path()));
  RETURN_IF_ERROR(CheckDimensions(info).WithContext(file.path()));
  return info;
}

/// llama's writer interleaves the halves of each head for adjacent-pair RoPE: row 2j+s of a head in
/// the file is row s*(D/2)+j of the original. Rows of quantised blocks do not depend on each other,
/// so moving their bytes is exact. A tensor of a wrong shape is left alone, for BuildWeights to
/// report.
void UndoPermutation(uint32_t heads, uint32_t head_dim, Tensor& tensor,
                     std::vector<std::shared_ptr<const void>>& owners) {
  const uint64_t rows = uint64_t{heads} * head_dim;
  const bool is_bias = tensor.shape.size() == 1;
  if (is_bias && FindTensorType(static_cast<uint32_t>(tensor.type))->block_elements != 1) return;
  if (tensor.shape.size() > 2 || tensor.shape[0] != rows) return;
  const uint64_t row_bytes = tensor.data.size() / rows;
  auto copy = std::make_shared<std::vector<std::byte>>(tensor.data.size());
  const uint64_t half = head_dim / 2;
  for (uint64_t head = 0; head < heads; ++head) {
    for (uint64_t row = 0; row < head_dim; ++row) {
      const uint64_t from = head * head_dim + row,
                     to = head * head_dim + (row % 2) * half + row / 2;
      std::memcpy(copy->data() + to * row_bytes, tensor.data.data() + from * row_bytes, row_bytes);
    }
  }
  tensor.data = *copy;
  owners.push_back(std::move(copy));
}

}  // namespace

Result<WeightSource> ReadGgufWeights(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> opened, GgufFile::Open(path));
  const std::shared_ptr<GgufFile> file = std::move(opened);
  WeightSource source;
  ASSIGN_OR_RETURN(source.info, ReadInfo(*file));
  source.owners.push_back(file);
  const ModelInfo& info = source.info;
  for (const GgufTensor& stored : file->tensors()) {
    SourceTensor entry;
    entry.file_name = std::string(stored.name);
    entry.tensor = {CanonicalName(stored.name), stored.type, stored.shape, stored.data};
    const std::string_view name = entry.tensor.name;
    const bool is_q = name.find("self_attn.q_proj.") != name.npos,
               is_k = name.find("self_attn.k_proj.") != name.npos;
    if (info.architecture == "llama" && (is_q || is_k)) {
      UndoPermutation(is_q ? info.heads : info.kv_heads, info.head_dim, entry.tensor,
                      source.owners);
    }
    RETURN_IF_ERROR(source.Add(std::move(entry)).WithContext(path));
  }
  return source;
}

}  // namespace baton
