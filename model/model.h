// The model as the engine sees it. The cache is an explicit argument: Forward fills and reads exactly the blocks it is
// given, and there is no hidden cache to lose (the lesson of a model whose past_key_values silently came back None).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"
#include "model/kv_layout.h"

namespace baton {

enum class Numerics : uint8_t { kExact, kFast, kBf16, kF32 };
std::string_view NumericsName(Numerics numerics);  // "exact", "fast", "bf16", "f32"
Result<Numerics> ParseNumerics(std::string_view name);

struct RopeScaling {  // llama3 scaling (golden README §3); factor 1 means none
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4, original_max_positions = 8192;
};

/// Dimensions and identity of a loaded model. Sizes are counts of elements.
struct ModelInfo {
  std::string name, architecture;  // "llama", "qwen2", "fake"
  std::string tokenizer_path;      // what Tokenizer::Load takes; empty: the model has no tokenizer
  uint32_t vocab = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0;
  uint32_t max_positions = 0;
  double rope_theta = 10000, norm_eps = 1e-5;
  RopeScaling rope_scaling;
  std::vector<float> rope_freq_divisors;  // rope_freqs.weight of a GGUF, head_dim/2 entries, or empty
  bool tied = false, qkv_bias = false, quantised = false;
  std::vector<TokenId> eos_ids;
  TokenId bos_id = -1;
  Digest256 fingerprint{};  // SHA-256 over the weights and the dimensions: equal means the same function
};

/// A run of one sequence's tokens in a batch: tokens[i] stands at absolute position start + i (also its cache index).
struct SequenceSlice {
  std::span<const TokenId> tokens;
  uint32_t start = 0;
  /// Blocks that cover positions [0, start + tokens.size()), each BlockBytes() long, in order. Positions before `start`
  /// are read, those from `start` on are written then read.
  std::span<std::byte* const> blocks;
  /// Rows of logits wanted: the last `logit_rows` tokens of the slice (0 = none, tokens.size() = all).
  uint32_t logit_rows = 0;
  float* logits = nullptr;  // out, [logit_rows][vocab]
  /// Out or null, [layers + 1][tokens.size()][hidden]: 0 = embedding, i = the residual before layer i, the last one after the
  /// final norm, as transformers' hidden_states.
  float* hidden = nullptr;
};

/// Called on the thread that called Forward when a layer's K and V of all slices are written: the hand-off pushes layer i
/// while layer i+1 is computed.
using LayerObserver = std::function<void(uint32_t layer)>;

/// Thread: Forward from one thread at a time (the engine's); it forks to its own compute threads and joins before it
/// returns. Every output row is a function of its own sequence only: batch, chunking and thread count change no bit.
class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelInfo& info() const = 0;
  virtual const KvLayout& kv_layout() const = 0;
  virtual Numerics numerics() const = 0;
  /// Bytes of weights that a pass over one row reads, which bounds its speed; 0 where nobody counted.
  virtual uint64_t weight_bytes() const { return 0; }
  /// Computes all slices in one pass. Errors: kInvalid for a token id outside the vocabulary, a position past
  /// max_positions, or blocks that do not cover the slice; nothing is written then.
  virtual Status Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) = 0;
  Status Forward(std::span<const SequenceSlice> batch) { return Forward(batch, {}); }
};

struct LoadOptions {
  std::string path;                 // a GGUF file or a folder of safetensors
  std::string numerics;             // empty: exact for quantised files, else the checkpoint's own dtype (f32 for f16)
  std::string kv_dtype = "f16";
  uint32_t block_tokens = 64;
  uint32_t threads = 0;             // 0: one a physical core
  std::string isa = "auto";         // auto, scalar, avx2, avx512
  std::string device = "auto";      // auto, cpu, cuda
  std::string weights_cache = "auto";  // folder of repacked weights that processes share; auto: in the user's cache; none
};
/// Loads a model. Errors: kNotFound, kInvalid (names the file, the tensor or key and the reason), kExhausted.
Result<std::unique_ptr<Model>> LoadModel(const LoadOptions& options);

/// What LoadModel would give, without its weights: enough to name the KV of a model.
struct ModelDescription {
  ModelInfo info;
  KvLayout layout;
  Numerics numerics = Numerics::kExact;
};
/// Errors: as LoadModel's.
Result<ModelDescription> DescribeModel(const LoadOptions& options);

/// A tiny deterministic model for tests of everything above: its KV bytes are a function of (token, position, layer) and its
/// logits a function of all K bytes before, so a wrong or lost block changes the answer.
std::unique_ptr<Model> MakeFakeModel(uint32_t vocab, const KvLayout& layout);

}  // namespace baton
