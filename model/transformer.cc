#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/slice_check.h"
#include "model/transformer_weights.h"

namespace baton {
namespace {

constexpr uint32_t kRowsAtOnce = 256;      // rows of a pass through one layer: their activations stay in L2
constexpr uint32_t kQueriesAtOnce = 96;    // query vectors that share a loaded attention tile; their sums stay in L1
constexpr uint32_t kLogitRowsAtOnce = 64;  // bounds the extra memory when all rows are asked for

/// One row of the flattened batch.
struct RowPlace {
  uint32_t slice, index, position;
};
/// Rows [first, first + count) of one slice with one KV head.
struct AttentionUnit {
  uint32_t first, count, kv_head;
  size_t spans;  // where in spans_ its spans' results lie, or kWhole
};
constexpr size_t kWhole = SIZE_MAX;
/// Positions [begin, end) of a unit: what one thread attends at a time.
struct AttentionPiece {
  uint32_t unit, begin, end;
  uint64_t cost;  // query rows times tiles
};
/// Rows that pass through a layer together.
struct RowChunk {
  uint32_t first = 0, count = 0;
  std::vector<AttentionUnit> units;    // in the order of rows
  std::vector<AttentionPiece> pieces;  // the costly ones first
};
/// The left operand of a matmul; quants are filled where an integer matrix reads them.
struct Operand {
  const float* x;
  size_t stride;
  QuantRows quants;
};

class Transformer final : public Model {
 public:
  Transformer(const ModelInfo& info, Numerics numerics, const KvLayout& layout, const Kernels& kernels, unsigned threads)
      : info_(info), numerics_(numerics), layout_(layout), kernels_(kernels), pool_(threads) {}
  const ModelInfo& info() const override { return info_; }
  const KvLayout& kv_layout() const override { return layout_; }
  Numerics numerics() const override { return numerics_; }
  uint64_t weight_bytes() const override;
  Status Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) override;
  Status Load(const WeightFile& file, const std::string& cache_folder) {
    ASSIGN_OR_RETURN(weights_, LoadTransformerWeights(file, numerics_, cache_folder, pool_));
    return OkStatus();
  }

 private:
  void Prepare(std::span<const SequenceSlice> batch);
  void MakeChunks();
  size_t CutUnits(RowChunk& chunk) const;
  void Resize();
  // `fast` spends its one digit where the work is; keys, values and logits, which errors reach most directly, keep two.
  bool OneDigit() const { return numerics_ == Numerics::kFast; }
  Operand Normalise(const float* x, uint32_t rows, const std::vector<float>& weight, bool quantise, bool one_digit);
  void Apply(const Linear& linear, const Operand& in, uint32_t rows, const MatmulOut& out, size_t tile_begin, size_t tile_end) const;
  void ProjectQkv(const LayerWeights& layer, const Operand& in, uint32_t rows);
  void RotateAndStore(std::span<const SequenceSlice> batch, const RowChunk& chunk, uint32_t layer);
  AttentionTask Task(std::span<const SequenceSlice> batch, const RowChunk& chunk, const AttentionUnit& unit, uint32_t layer);
  Operand Attend(std::span<const SequenceSlice> batch, const RowChunk& chunk, uint32_t layer);
  Operand Activate(const LayerWeights& layer, const Operand& in, uint32_t rows);
  void AddTo(float* x, const Linear& linear, const Operand& in, uint32_t rows);
  void RunLayer(std::span<const SequenceSlice> batch, const RowChunk& chunk, uint32_t index);
  void DumpHidden(std::span<const SequenceSlice> batch, uint32_t level) const;
  void Logits(std::span<const SequenceSlice> batch);
  void LogitRows(std::span<float* const> targets);
  uint32_t query_width() const { return info_.heads * info_.head_dim; }
  uint32_t kv_width() const { return info_.kv_heads * info_.head_dim; }
  uint32_t qkv_width() const { return query_width() + 2 * kv_width(); }

  const ModelInfo info_;
  const Numerics numerics_;
  const KvLayout layout_;
  const Kernels& kernels_;
  ThreadPool pool_;
  TransformerWeights weights_;
  // Buffers of one pass; they keep their memory between passes. x_, cos_ and sin_ have all rows, the rest a chunk's.
  std::vector<RowPlace> rows_;
  std::vector<RowChunk> chunks_;
  std::vector<float> x_, cos_, sin_, normed_, qkv_, attended_, gate_, picked_, logits_, spans_;
  std::vector<std::byte> quants_, activated_quants_;  // of the layer's operands; of the feed-forward's middle
  std::vector<std::vector<float>> scratch_;  // one a thread
};

bool AnyInteger(std::initializer_list<const Linear*> linears) {
  return std::any_of(linears.begin(), linears.end(), [](const Linear* l) { return IsInteger(l->weight.form); });
}

uint64_t Transformer::weight_bytes() const {
  uint64_t bytes = weights_.head.weight.bytes();
  for (const LayerWeights& l : weights_.layers) {
    for (const Linear* linear : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) bytes += linear->weight.bytes();
  }
  return bytes;
}

void Transformer::MakeChunks() {
  const uint32_t group = info_.heads / info_.kv_heads, unit_rows = std::max(1u, kQueriesAtOnce / group);
  const auto total = static_cast<uint32_t>(rows_.size());
  chunks_.clear();
  size_t spans = 0;
  for (uint32_t first = 0; first < total; first += kRowsAtOnce) {
    RowChunk chunk{first, std::min(kRowsAtOnce, total - first), {}, {}};
    for (uint32_t row = first; row < first + chunk.count;) {
      uint32_t count = 1;
      while (count < unit_rows && row + count < first + chunk.count && rows_[row + count].slice == rows_[row].slice) ++count;
      for (uint32_t head = 0; head < info_.kv_heads; ++head) chunk.units.push_back({row, count, head, kWhole});
      row += count;
    }
    spans = std::max(spans, CutUnits(chunk));
    chunks_.push_back(std::move(chunk));
  }
  spans_.resize(std::max(spans, spans_.size()));
}

/// Fills chunk.pieces. A unit that would keep one thread busy for more than its part is cut between spans, for the other
/// threads to take: that changes no bit. Returns how many floats the spans need.
size_t Transformer::CutUnits(RowChunk& chunk) const {
  const auto end = [this](const AttentionUnit& u) { return rows_[u.first].position + u.count; };
  const auto cost = [](uint32_t rows, uint32_t positions) { return uint64_t{rows} * CeilDiv(positions, kAttentionTile); };
  uint64_t total = 0;
  for (const AttentionUnit& unit : chunk.units) total += cost(unit.count, end(unit));
  size_t floats = 0;
  for (uint32_t i = 0; i < chunk.units.size(); ++i) {
    AttentionUnit& unit = chunk.units[i];
    const uint64_t fair = total / (uint64_t{unit.count} * 2 * pool_.threads());  // tiles
    const auto tiles = static_cast<uint32_t>(std::min<uint64_t>(fair, UINT32_MAX / kAttentionTile));
    uint32_t step = std::max(tiles * kAttentionTile / kAttentionSpan, 1u) * kAttentionSpan;
    if (pool_.threads() == 1 || step >= end(unit)) {
      step = end(unit);
    } else {
      unit.spans = floats;
      floats += AttentionTask::SpanFloats(layout_, unit.count, info_.heads / info_.kv_heads, end(unit));
    }
    for (uint32_t begin = 0; begin < end(unit); begin += step) {
      const uint32_t stop = std::min(begin + step, end(unit));
      chunk.pieces.push_back({i, begin, stop, cost(unit.count, stop - begin)});
    }
  }
  std::stable_sort(chunk.pieces.begin(), chunk.pieces.end(), [](const AttentionPiece& a, const AttentionPiece& b) { return a.cost > b.cost; });
  return floats;
}

void Transformer::Resize() {
  const size_t rows = chunks_.front().count, group = info_.heads / info_.kv_heads;
  normed_.resize(std::max<size_t>(rows * info_.hidden, normed_.size()));
  qkv_.resize(std::max<size_t>(rows * qkv_width(), qkv_.size()));
  attended_.resize(std::max<size_t>(rows * query_width(), attended_.size()));
  gate_.resize(std::max<size_t>(rows * info_.ffn, gate_.size()));
  quants_.resize(std::max(QuantRows::Bytes(std::max<size_t>(rows, kLogitRowsAtOnce), std::max(info_.hidden, query_width())), quants_.size()));
  activated_quants_.resize(std::max(QuantRows::Bytes(rows, info_.ffn), activated_quants_.size()));
  const size_t unit_rows = std::max<size_t>(1, kQueriesAtOnce / group);
  const size_t attention = AttentionTask::ScratchFloats(layout_, static_cast<uint32_t>(unit_rows), static_cast<uint32_t>(group));
  scratch_.resize(pool_.threads());
  for (auto& scratch : scratch_) scratch.resize(std::max({attention, rows * kBlock, size_t{2} * kRowsAtOnce * kBlock, scratch.size()}));
}

void Transformer::Prepare(std::span<const SequenceSlice> batch) {
  rows_.clear();
  for (uint32_t s = 0; s < batch.size(); ++s) {
    for (uint32_t i = 0; i < batch[s].tokens.size(); ++i) rows_.push_back({s, i, batch[s].start + i});
  }
  MakeChunks();
  Resize();
  const size_t n = rows_.size(), half = info_.head_dim / 2;
  x_.resize(n * info_.hidden);
  cos_.resize(n * half);
  sin_.resize(n * half);
  pool_.Run(n, [&](size_t begin, size_t end, unsigned) {
    for (size_t r = begin; r < end; ++r) {
      UnpackRow(weights_.embedding.weight, static_cast<uint32_t>(batch[rows_[r].slice].tokens[rows_[r].index]), &x_[r * info_.hidden]);
      for (size_t j = 0; j < half; ++j) {
        // The angle in f32 as transformers has it; its sine in double, whose last bit, unlike f32's, no library disputes.
        const double angle = static_cast<float>(rows_[r].position) * weights_.inverse_frequencies[j];
        cos_[r * half + j] = static_cast<float>(std::cos(angle));
        sin_[r * half + j] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

Operand Transformer::Normalise(const float* x, uint32_t rows, const std::vector<float>& weight, bool quantise, bool one_digit) {
  const uint32_t n = info_.hidden;
  const Operand operand{normed_.data(), n, {quants_.data(), n / kBlock, one_digit}};
  pool_.Run(rows, [&](size_t begin, size_t end, unsigned) {
    for (size_t r = begin; r < end; ++r) {
      float* row = &normed_[r * n];
      kernels_.rms_norm(x + r * n, weight.data(), n, static_cast<float>(info_.norm_eps), row);
      if (quantise) kernels_.quantise(row, static_cast<uint32_t>(r), 0, n / kBlock, operand.quants);
    }
  });
  return operand;
}

void Transformer::Apply(const Linear& linear, const Operand& in, uint32_t rows, const MatmulOut& out, size_t tile_begin, size_t tile_end) const {
  const auto begin = static_cast<uint32_t>(tile_begin), end = static_cast<uint32_t>(tile_end);
  if (IsInteger(linear.weight.form)) kernels_.matmul_int(linear.weight, in.quants, rows, out, begin, end);
  else kernels_.matmul_float(linear.weight, in.x, in.stride, rows, out, begin, end);
}

const float* BiasOf(const Linear& linear) { return linear.bias.empty() ? nullptr : linear.bias.data(); }

/// q, k and v side by side in qkv_, their tiles shared out together.
void Transformer::ProjectQkv(const LayerWeights& layer, const Operand& in, uint32_t rows) {
  const Linear* linears[] = {&layer.q, &layer.k, &layer.v};
  const size_t offsets[] = {0, query_width(), query_width() + size_t{kv_width()}};
  size_t tiles = 0;
  for (const Linear* linear : linears) tiles += linear->weight.tiles();
  pool_.Run(tiles, [&](size_t begin, size_t end, unsigned) {
    size_t first = 0;
    for (size_t i = 0; i < 3; ++i) {
      const Linear& linear = *linears[i];
      const size_t last = first + linear.weight.tiles(), from = std::max(begin, first), to = std::min(end, last);
      if (from < to) Apply(linear, in, rows, {qkv_.data() + offsets[i], qkv_width(), BiasOf(linear)}, from - first, to - first);
      first = last;
    }
  });
}

void Transformer::RotateAndStore(std::span<const SequenceSlice> batch, const RowChunk& chunk, uint32_t layer) {
  const uint32_t dim = info_.head_dim, half = dim / 2, heads = info_.heads + info_.kv_heads;
  pool_.RunLarge(size_t{chunk.count} * heads, 32, [&](size_t begin, size_t end, unsigned) {
    for (size_t unit = begin; unit < end; ++unit) {
      const size_t row = unit / heads, all = chunk.first + row;
      const auto head = static_cast<uint32_t>(unit % heads);
      float* vector = &qkv_[row * qkv_width() + size_t{head} * dim];
      kernels_.rotate(vector, &cos_[all * half], &sin_[all * half], half);
      if (head < info_.heads) continue;
      const uint32_t position = rows_[all].position, token = position % layout_.block_tokens, kv_head = head - info_.heads;
      std::byte* block = batch[rows_[all].slice].blocks[position / layout_.block_tokens];
      kernels_.store_kv(vector, layout_, block + layout_.PartOffset(layer, 0), kv_head, token);
      kernels_.store_kv(vector + kv_width(), layout_, block + layout_.PartOffset(layer, 1), kv_head, token);
    }
  });
}

AttentionTask Transformer::Task(std::span<const SequenceSlice> batch, const RowChunk& chunk, const AttentionUnit& unit, uint32_t layer) {
  const uint32_t group = info_.heads / info_.kv_heads, width = query_width(), start = rows_[unit.first].position;
  const size_t row = unit.first - chunk.first, column = size_t{unit.kv_head} * group * info_.head_dim;
  return {&qkv_[row * qkv_width() + column], qkv_width(), &attended_[row * width + column], width, unit.count, start, group, unit.kv_head, layer, &layout_,
          batch[rows_[unit.first].slice].blocks.data(), nullptr, 0, start + unit.count, unit.spans == kWhole ? nullptr : &spans_[unit.spans]};
}

Operand Transformer::Attend(std::span<const SequenceSlice> batch, const RowChunk& chunk, uint32_t layer) {
  const uint32_t width = query_width();
  pool_.RunEach(chunk.pieces.size(), [&](size_t index, unsigned thread) {
    const AttentionPiece& piece = chunk.pieces[index];
    AttentionTask task = Task(batch, chunk, chunk.units[piece.unit], layer);
    task.begin = piece.begin;
    task.end = piece.end;
    task.scratch = scratch_[thread].data();
    kernels_.attention(task);
  });
  const Operand operand{attended_.data(), width, {quants_.data(), width / kBlock, OneDigit()}};
  const bool quantise = IsInteger(weights_.layers[layer].o.weight.form);
  const bool cut = std::any_of(chunk.units.begin(), chunk.units.end(), [](const AttentionUnit& u) { return u.spans != kWhole; });
  if (!quantise && !cut) return operand;
  pool_.Run(chunk.count, [&](size_t begin, size_t end, unsigned) {
    for (const AttentionUnit& unit : chunk.units) {
      if (unit.spans == kWhole) continue;
      const size_t first = unit.first - chunk.first, last = first + unit.count;
      for (size_t r = std::max(begin, first); r < std::min(end, last); ++r) kernels_.merge_spans(Task(batch, chunk, unit, layer), static_cast<uint32_t>(r - first));
    }
    for (size_t r = begin; quantise && r < end; ++r) kernels_.quantise(&attended_[r * width], static_cast<uint32_t>(r), 0, width / kBlock, operand.quants);
  });
  return operand;
}

/// silu(gate) * up, a few columns of all rows at a time so that both are at hand.
Operand Transformer::Activate(const LayerWeights& layer, const Operand& in, uint32_t rows) {
  const uint32_t ffn = info_.ffn;
  const size_t step = std::max(1u, 2 * kRowsAtOnce / rows);  // blocks of 32 columns
  const bool quantise = IsInteger(layer.down.weight.form);
  const Operand operand{gate_.data(), ffn, {activated_quants_.data(), ffn / kBlock, OneDigit()}};
  pool_.Run(CeilDiv(ffn, kBlock), [&](size_t begin, size_t end, unsigned thread) {
    for (size_t block = begin; block < end; block += step) {
      const size_t stop = std::min(block + step, end), column = block * kBlock, width = std::min<size_t>(stop * kBlock, ffn) - column;
      const size_t tile = 2 * block, tile_end = std::min<size_t>(2 * stop, layer.gate.weight.tiles());
      float* up = scratch_[thread].data();
      Apply(layer.gate, in, rows, {gate_.data(), ffn, BiasOf(layer.gate)}, tile, tile_end);
      Apply(layer.up, in, rows, {up, step * kBlock, BiasOf(layer.up), false, static_cast<uint32_t>(column)}, tile, tile_end);
      for (uint32_t r = 0; r < rows; ++r) {
        kernels_.silu_mul(&gate_[size_t{r} * ffn + column], up + r * step * kBlock, width);
        if (quantise) kernels_.quantise(&gate_[size_t{r} * ffn], r, static_cast<uint32_t>(block), static_cast<uint32_t>(stop), operand.quants);
      }
    }
  });
  return operand;
}

/// x += linear(in): a residual connection.
void Transformer::AddTo(float* x, const Linear& linear, const Operand& in, uint32_t rows) {
  pool_.Run(linear.weight.tiles(), [&](size_t begin, size_t end, unsigned) {
    Apply(linear, in, rows, {x, info_.hidden, BiasOf(linear), true}, begin, end);
  });
}

void Transformer::RunLayer(std::span<const SequenceSlice> batch, const RowChunk& chunk, uint32_t index) {
  const LayerWeights& layer = weights_.layers[index];
  float* x = &x_[size_t{chunk.first} * info_.hidden];
  ProjectQkv(layer, Normalise(x, chunk.count, layer.input_norm, AnyInteger({&layer.q, &layer.k, &layer.v}), false), chunk.count);
  RotateAndStore(batch, chunk, index);
  AddTo(x, layer.o, Attend(batch, chunk, index), chunk.count);
  const Operand normed = Normalise(x, chunk.count, layer.post_norm, AnyInteger({&layer.gate, &layer.up}), OneDigit());
  AddTo(x, layer.down, Activate(layer, normed, chunk.count), chunk.count);
}

void Transformer::DumpHidden(std::span<const SequenceSlice> batch, uint32_t level) const {
  for (size_t r = 0; r < rows_.size(); ++r) {
    const SequenceSlice& slice = batch[rows_[r].slice];
    if (slice.hidden == nullptr) continue;
    float* out = slice.hidden + (level * slice.tokens.size() + rows_[r].index) * info_.hidden;
    if (level < info_.layers) std::memcpy(out, &x_[r * info_.hidden], info_.hidden * sizeof(float));
    else kernels_.rms_norm(&x_[r * info_.hidden], weights_.final_norm.data(), info_.hidden, static_cast<float>(info_.norm_eps), out);
  }
}

/// The rows in picked_ times the head, each to its target.
void Transformer::LogitRows(std::span<float* const> targets) {
  const auto rows = static_cast<uint32_t>(targets.size());
  const size_t vocab = info_.vocab;
  const PackedMatrix& head = weights_.head.weight;
  const Operand in = Normalise(picked_.data(), rows, weights_.final_norm, IsInteger(head.form), false);
  bool adjacent = true;
  for (size_t r = 1; r < rows; ++r) adjacent &= targets[r] == targets[0] + r * vocab;
  if (!adjacent) logits_.resize(std::max(rows * vocab, logits_.size()));
  float* out = adjacent ? targets[0] : logits_.data();
  pool_.Run(head.tiles(), [&](size_t begin, size_t end, unsigned) {
    Apply(weights_.head, in, rows, {out, vocab, BiasOf(weights_.head)}, begin, end);
    if (adjacent) return;
    const size_t from = begin * kTileRows, to = std::min(end * kTileRows, vocab);
    for (uint32_t r = 0; r < rows; ++r) std::memcpy(targets[r] + from, out + r * vocab + from, (to - from) * sizeof(float));
  });
}

void Transformer::Logits(std::span<const SequenceSlice> batch) {
  const uint32_t hidden = info_.hidden;
  std::vector<float*> targets;
  normed_.resize(std::max<size_t>(size_t{kLogitRowsAtOnce} * hidden, normed_.size()));
  picked_.clear();
  for (size_t r = 0; r < rows_.size(); ++r) {
    const SequenceSlice& slice = batch[rows_[r].slice];
    const size_t first = slice.tokens.size() - slice.logit_rows;
    if (rows_[r].index >= first) {
      targets.push_back(slice.logits + (rows_[r].index - first) * size_t{info_.vocab});
      picked_.insert(picked_.end(), &x_[r * hidden], &x_[r * hidden] + hidden);
    }
    if (targets.size() == kLogitRowsAtOnce || (r + 1 == rows_.size() && !targets.empty())) {
      LogitRows(targets);
      targets.clear();
      picked_.clear();
    }
  }
}

Status Transformer::Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) {
  RETURN_IF_ERROR(CheckBatch(info_, layout_, batch));
  if (batch.empty()) return OkStatus();
  Prepare(batch);
  DumpHidden(batch, 0);
  for (uint32_t layer = 0; layer < info_.layers; ++layer) {
    for (const RowChunk& chunk : chunks_) RunLayer(batch, chunk, layer);
    DumpHidden(batch, layer + 1);
    if (on_layer) on_layer(layer);
  }
  Logits(batch);
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Model>> MakeTransformer(const WeightFile& file, Numerics numerics, const KvLayout& layout,
                                               const Kernels& kernels, unsigned threads,
                                               const std::string& cache_folder) {
  auto model = std::make_unique<Transformer>(file.info(), numerics, layout, kernels, threads);
  RETURN_IF_ERROR(model->Load(file, cache_folder));
  return Result<std::unique_ptr<Model>>(std::move(model));
}

}  // namespace baton
