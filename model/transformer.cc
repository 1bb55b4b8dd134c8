#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/kernels/half.h"
#include "model/slice_check.h"
#include "model/thread_pool.h"

namespace baton {
namespace {

struct Linear {
  PackedMatrix weight;
  std::vector<float> bias;
};
struct Layer {
  Linear q, k, v, o, gate, up, down;
  std::vector<float> input_norm, post_norm;
};
/// One row of the flattened batch.
struct RowPlace {
  uint32_t slice, index, position;
};

class Transformer final : public Model {
 public:
  Transformer(const ModelInfo& info, Numerics numerics, const KvLayout& layout, const Kernels& kernels, unsigned threads)
      : info_(info), numerics_(numerics), layout_(layout), kernels_(kernels), pool_(threads) {}
  const ModelInfo& info() const override { return info_; }
  const KvLayout& kv_layout() const override { return layout_; }
  Numerics numerics() const override { return numerics_; }
  Status Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) override;
  Status Load(const WeightFile& file);

 private:
  Result<std::vector<float>> LoadVector(const WeightFile& file, const std::string& name, size_t size) const;
  Result<Linear> LoadLinear(const WeightFile& file, const std::string& name, uint32_t out, uint32_t in) const;
  Status LoadLayer(const WeightFile& file, uint32_t index, Layer& layer) const;
  void MakeRopeFrequencies();
  void Prepare(std::span<const SequenceSlice> batch);
  void Quantise(const std::vector<float>& x, uint32_t rows, uint32_t cols);
  void Apply(const Linear& linear, const std::vector<float>& x, uint32_t rows, std::vector<float>& out);
  void Normalise(const std::vector<float>& weight);
  void RotateAndStore(std::span<const SequenceSlice> batch, uint32_t layer);
  void Rotate(float* vector, uint32_t row) const;
  void Attend(std::span<const SequenceSlice> batch, uint32_t layer);
  void AddResidual(const std::vector<float>& delta);
  void RunLayer(std::span<const SequenceSlice> batch, uint32_t index);
  void DumpHidden(std::span<const SequenceSlice> batch, uint32_t level) const;
  void Logits(std::span<const SequenceSlice> batch);

  const ModelInfo info_;
  const Numerics numerics_;
  const KvLayout layout_;
  const Kernels& kernels_;
  ThreadPool pool_;
  PackedMatrix embedding_;
  Linear head_;  // empty when tied
  std::vector<float> final_norm_, inverse_frequencies_;
  std::vector<Layer> layers_;
  // Buffers of one pass, [row][...]; they keep their memory between passes.
  std::vector<RowPlace> rows_;
  std::vector<float> x_, normed_, q_, k_, v_, attended_, delta_, gate_, up_, cos_, sin_, picked_, logits_;
  QuantRows quantised_;
};

Result<std::vector<float>> Transformer::LoadVector(const WeightFile& file, const std::string& name, size_t size) const {
  const Tensor* tensor = file.Find(name);
  if (tensor == nullptr) return InvalidError("the model has no tensor {}", name);
  if (tensor->cols() != size || tensor->rows() != 1) return InvalidError("tensor {} must have {} elements", name, size);
  std::vector<float> values(size);
  Dequantize(tensor->type, tensor->data.data(), size, values.data());
  return Result<std::vector<float>>(std::move(values));
}

Result<Linear> Transformer::LoadLinear(const WeightFile& file, const std::string& name, uint32_t out, uint32_t in) const {
  const Tensor* tensor = file.Find(name + ".weight");
  if (tensor == nullptr) return InvalidError("the model has no tensor {}.weight", name);
  if (tensor->rows() != out || tensor->cols() != in) {
    return InvalidError("tensor {}.weight is [{}, {}], must be [{}, {}]", name, tensor->rows(), tensor->cols(), out, in);
  }
  Linear linear;
  linear.weight = PackMatrix(*tensor, numerics_ == Numerics::kExact || numerics_ == Numerics::kFast, numerics_ == Numerics::kBf16);
  if (file.Find(name + ".bias") != nullptr) {
    ASSIGN_OR_RETURN(linear.bias, LoadVector(file, name + ".bias", out));
  }
  return Result<Linear>(std::move(linear));
}

Status Transformer::LoadLayer(const WeightFile& file, uint32_t index, Layer& layer) const {
  const std::string p = fmt::format("model.layers.{}.", index);
  const uint32_t hidden = info_.hidden, qn = info_.heads * info_.head_dim, kn = info_.kv_heads * info_.head_dim;
  ASSIGN_OR_RETURN(layer.q, LoadLinear(file, p + "self_attn.q_proj", qn, hidden));
  ASSIGN_OR_RETURN(layer.k, LoadLinear(file, p + "self_attn.k_proj", kn, hidden));
  ASSIGN_OR_RETURN(layer.v, LoadLinear(file, p + "self_attn.v_proj", kn, hidden));
  ASSIGN_OR_RETURN(layer.o, LoadLinear(file, p + "self_attn.o_proj", hidden, qn));
  ASSIGN_OR_RETURN(layer.gate, LoadLinear(file, p + "mlp.gate_proj", info_.ffn, hidden));
  ASSIGN_OR_RETURN(layer.up, LoadLinear(file, p + "mlp.up_proj", info_.ffn, hidden));
  ASSIGN_OR_RETURN(layer.down, LoadLinear(file, p + "mlp.down_proj", hidden, info_.ffn));
  ASSIGN_OR_RETURN(layer.input_norm, LoadVector(file, p + "input_layernorm.weight", hidden));
  ASSIGN_OR_RETURN(layer.post_norm, LoadVector(file, p + "post_attention_layernorm.weight", hidden));
  return OkStatus();
}

Status Transformer::Load(const WeightFile& file) {
  ASSIGN_OR_RETURN(Linear embedding, LoadLinear(file, "model.embed_tokens", info_.vocab, info_.hidden));
  embedding_ = std::move(embedding.weight);
  if (!info_.tied) {
    ASSIGN_OR_RETURN(head_, LoadLinear(file, "lm_head", info_.vocab, info_.hidden));
  }
  ASSIGN_OR_RETURN(final_norm_, LoadVector(file, "model.norm.weight", info_.hidden));
  layers_.resize(info_.layers);
  for (uint32_t i = 0; i < info_.layers; ++i) RETURN_IF_ERROR(LoadLayer(file, i, layers_[i]));
  MakeRopeFrequencies();
  return OkStatus();
}

/// In f32 where transformers computes in f32, so angles agree far out.
void Transformer::MakeRopeFrequencies() {
  const RopeScaling& s = info_.rope_scaling;
  for (uint32_t j = 0; j < info_.head_dim / 2; ++j) {
    double f = static_cast<float>(1.0 / std::pow(info_.rope_theta, 2.0 * j / info_.head_dim));
    if (s.factor != 1) {
      const double wave = 2 * M_PI / f, low = s.original_max_positions / s.low_freq_factor, high = s.original_max_positions / s.high_freq_factor;
      const double smooth = (s.original_max_positions / wave - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      if (wave > low) f /= s.factor;
      else if (wave >= high) f = (1 - smooth) * f / s.factor + smooth * f;
    }
    if (!info_.rope_freq_divisors.empty()) f /= info_.rope_freq_divisors[j];
    inverse_frequencies_.push_back(static_cast<float>(f));
  }
}

void Transformer::Prepare(std::span<const SequenceSlice> batch) {
  rows_.clear();
  for (uint32_t s = 0; s < batch.size(); ++s) {
    for (uint32_t i = 0; i < batch[s].tokens.size(); ++i) rows_.push_back({s, i, batch[s].start + i});
  }
  const size_t n = rows_.size(), half = info_.head_dim / 2;
  x_.resize(n * info_.hidden);
  normed_.resize(n * info_.hidden);
  cos_.resize(n * half);
  sin_.resize(n * half);
  pool_.Run(n, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      UnpackRow(embedding_, static_cast<uint32_t>(batch[rows_[r].slice].tokens[rows_[r].index]), &x_[r * info_.hidden]);
      for (size_t j = 0; j < half; ++j) {
        const float angle = static_cast<float>(rows_[r].position) * inverse_frequencies_[j];
        cos_[r * half + j] = std::cos(angle);
        sin_[r * half + j] = std::sin(angle);
      }
    }
  });
}

void Transformer::Quantise(const std::vector<float>& x, uint32_t rows, uint32_t cols) {
  quantised_.Resize(rows, cols);
  pool_.Run(rows, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) kernels_.quantise(&x[r * cols], cols, numerics_ == Numerics::kFast, r, quantised_);
  });
}

/// out = x W^T + bias. Integer weights read quantised_, which the caller filled from the same x.
void Transformer::Apply(const Linear& linear, const std::vector<float>& x, uint32_t rows, std::vector<float>& out) {
  const PackedMatrix& m = linear.weight;
  out.resize(size_t{rows} * m.rows);
  pool_.Run(m.tiles(), [&](size_t begin, size_t end) {
    const auto first = static_cast<uint32_t>(begin), last = static_cast<uint32_t>(end);
    if (m.integer) kernels_.matmul_int(m, quantised_, rows, out.data(), m.rows, first, last);
    else kernels_.matmul_f32(m, x.data(), rows, out.data(), m.rows, first, last);
    if (linear.bias.empty()) return;
    const uint32_t limit = std::min(last * kTileRows, m.rows);
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t o = first * kTileRows; o < limit; ++o) out[size_t{r} * m.rows + o] += linear.bias[o];
    }
  });
}

void Transformer::Normalise(const std::vector<float>& weight) {
  const uint32_t n = info_.hidden;
  pool_.Run(rows_.size(), [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      kernels_.rms_norm(&x_[r * n], weight.data(), n, static_cast<float>(info_.norm_eps), &normed_[r * n]);
      if (numerics_ == Numerics::kBf16) {
        for (uint32_t i = 0; i < n; ++i) normed_[r * n + i] = Bf16ToF32(F32ToBf16(normed_[r * n + i]));
      }
    }
  });
}

void Transformer::Rotate(float* vector, uint32_t row) const {
  const uint32_t half = info_.head_dim / 2;
  for (uint32_t j = 0; j < half; ++j) {
    const float c = cos_[size_t{row} * half + j], s = sin_[size_t{row} * half + j], a = vector[j], b = vector[j + half];
    vector[j] = a * c - b * s;
    vector[j + half] = b * c + a * s;
  }
}

void Transformer::RotateAndStore(std::span<const SequenceSlice> batch, uint32_t layer) {
  const uint32_t dim = info_.head_dim;
  pool_.Run(rows_.size(), [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      const uint32_t position = rows_[r].position, token = position % layout_.block_tokens, row = static_cast<uint32_t>(r);
      std::byte* block = batch[rows_[r].slice].blocks[position / layout_.block_tokens];
      for (uint32_t h = 0; h < info_.heads; ++h) Rotate(&q_[(r * info_.heads + h) * dim], row);
      for (uint32_t h = 0; h < info_.kv_heads; ++h) {
        float* key = &k_[(r * info_.kv_heads + h) * dim];
        Rotate(key, row);
        kernels_.store_kv(key, layout_, block + layout_.PartOffset(layer, 0), h, token);
        kernels_.store_kv(&v_[(r * info_.kv_heads + h) * dim], layout_, block + layout_.PartOffset(layer, 1), h, token);
      }
    }
  });
}

void Transformer::Attend(std::span<const SequenceSlice> batch, uint32_t layer) {
  const uint32_t group = info_.heads / info_.kv_heads, width = info_.heads * info_.head_dim;
  attended_.resize(rows_.size() * width);
  std::vector<size_t> first_row(batch.size(), 0);
  for (size_t s = 1; s < batch.size(); ++s) first_row[s] = first_row[s - 1] + batch[s - 1].tokens.size();
  pool_.Run(batch.size() * info_.kv_heads, [&](size_t begin, size_t end) {
    for (size_t unit = begin; unit < end; ++unit) {
      const size_t s = unit / info_.kv_heads;
      const auto head = static_cast<uint32_t>(unit % info_.kv_heads);
      const size_t offset = first_row[s] * width + size_t{head} * group * info_.head_dim;
      kernels_.attention({&q_[offset], width, &attended_[offset], static_cast<uint32_t>(batch[s].tokens.size()), batch[s].start, group,
                          head, layer, &layout_, batch[s].blocks.data()});
    }
  });
}

void Transformer::AddResidual(const std::vector<float>& delta) {
  for (size_t i = 0; i < x_.size(); ++i) x_[i] += delta[i];
}

void Transformer::RunLayer(std::span<const SequenceSlice> batch, uint32_t index) {
  const Layer& layer = layers_[index];
  const auto rows = static_cast<uint32_t>(rows_.size());
  const bool integer = numerics_ == Numerics::kExact || numerics_ == Numerics::kFast;
  const auto quantise = [&](const std::vector<float>& x, const Linear& next) {
    if (integer && next.weight.cols % kBlock == 0) Quantise(x, rows, next.weight.cols);
  };
  Normalise(layer.input_norm);
  quantise(normed_, layer.q);
  Apply(layer.q, normed_, rows, q_);
  Apply(layer.k, normed_, rows, k_);
  Apply(layer.v, normed_, rows, v_);
  RotateAndStore(batch, index);
  Attend(batch, index);
  quantise(attended_, layer.o);
  Apply(layer.o, attended_, rows, delta_);
  AddResidual(delta_);
  Normalise(layer.post_norm);
  quantise(normed_, layer.gate);
  Apply(layer.gate, normed_, rows, gate_);
  Apply(layer.up, normed_, rows, up_);
  pool_.Run(rows, [&](size_t begin, size_t end) {
    kernels_.silu_mul(&gate_[begin * info_.ffn], &up_[begin * info_.ffn], (end - begin) * info_.ffn);
  });
  quantise(gate_, layer.down);
  Apply(layer.down, gate_, rows, delta_);
  AddResidual(delta_);
}

void Transformer::DumpHidden(std::span<const SequenceSlice> batch, uint32_t level) const {
  for (size_t r = 0; r < rows_.size(); ++r) {
    const SequenceSlice& slice = batch[rows_[r].slice];
    if (slice.hidden == nullptr) continue;
    std::memcpy(slice.hidden + (level * slice.tokens.size() + rows_[r].index) * info_.hidden, &x_[r * info_.hidden], info_.hidden * sizeof(float));
  }
}

void Transformer::Logits(std::span<const SequenceSlice> batch) {
  const uint32_t hidden = info_.hidden;
  std::vector<float*> targets;
  picked_.clear();
  Normalise(final_norm_);
  for (size_t r = 0; r < rows_.size(); ++r) {
    const SequenceSlice& slice = batch[rows_[r].slice];
    const size_t first = slice.tokens.size() - slice.logit_rows;
    if (rows_[r].index < first) continue;
    targets.push_back(slice.logits + (rows_[r].index - first) * size_t{info_.vocab});
    picked_.insert(picked_.end(), &normed_[r * hidden], &normed_[r * hidden] + hidden);
  }
  if (targets.empty()) return;
  const PackedMatrix& m = info_.tied ? embedding_ : head_.weight;
  constexpr size_t kRowsAtOnce = 16;  // bounds the extra memory when all rows are asked for
  for (size_t done = 0; done < targets.size(); done += kRowsAtOnce) {
    const auto rows = static_cast<uint32_t>(std::min(kRowsAtOnce, targets.size() - done));
    const std::vector<float> part(&picked_[done * hidden], &picked_[done * hidden] + size_t{rows} * hidden);
    if (m.integer) Quantise(part, rows, hidden);
    logits_.resize(size_t{rows} * info_.vocab);
    pool_.Run(m.tiles(), [&](size_t begin, size_t end) {
      const auto first = static_cast<uint32_t>(begin), last = static_cast<uint32_t>(end);
      if (m.integer) kernels_.matmul_int(m, quantised_, rows, logits_.data(), info_.vocab, first, last);
      else kernels_.matmul_f32(m, part.data(), rows, logits_.data(), info_.vocab, first, last);
    });
    for (uint32_t r = 0; r < rows; ++r) std::memcpy(targets[done + r], &logits_[size_t{r} * info_.vocab], info_.vocab * sizeof(float));
  }
}

Status Transformer::Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) {
  RETURN_IF_ERROR(CheckBatch(info_, layout_, batch));
  if (batch.empty()) return OkStatus();
  Prepare(batch);
  DumpHidden(batch, 0);
  for (uint32_t layer = 0; layer < info_.layers; ++layer) {
    RunLayer(batch, layer);
    DumpHidden(batch, layer + 1);
    if (on_layer) on_layer(layer);
  }
  Logits(batch);
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Model>> MakeTransformer(const WeightFile& file, Numerics numerics, const KvLayout& layout,
                                               const Kernels& kernels, unsigned threads) {
  auto model = std::make_unique<Transformer>(file.info(), numerics, layout, kernels, threads);
  RETURN_IF_ERROR(model->Load(file));
  return Result<std::unique_ptr<Model>>(std::move(model));
}

}  // namespace baton
