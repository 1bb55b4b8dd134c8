// A model without weights: K and V of a position come from (token, position, layer) alone, logits from the bytes of all K
// and V up to the row's position. Numbers are multiples of 1/128 in (-1, 1), so each KV dtype holds them exactly.
#include <cstring>

#include "model/kernels/half.h"
#include "model/model.h"
#include "model/slice_check.h"

namespace baton {
namespace {

constexpr uint32_t kFakeHidden = 8;
constexpr uint32_t kFakeMaxPositions = 1u << 20;

/// splitmix64's finaliser over a running state.
uint64_t Mix(uint64_t state, uint64_t value) {
  uint64_t x = state + 0x9e3779b97f4a7c15ull + value;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

void StoreNumber(KvDtype dtype, int number, std::byte* out) {
  const float value = static_cast<float>(number) / 128.0f;
  uint16_t half;
  switch (dtype) {
    case KvDtype::kF32:
      std::memcpy(out, &value, sizeof value);
      return;
    case KvDtype::kF16:
      half = F32ToF16(value);
      std::memcpy(out, &half, sizeof half);
      return;
    case KvDtype::kBf16:
      half = F32ToBf16(value);
      std::memcpy(out, &half, sizeof half);
      return;
    case KvDtype::kInt8:
      *out = static_cast<std::byte>(static_cast<int8_t>(number));
      return;
  }
}

class FakeModel final : public Model {
 public:
  FakeModel(uint32_t vocab, const KvLayout& layout) : layout_(layout) {
    info_.name = "fake";
    info_.architecture = "fake";
    info_.vocab = vocab;
    info_.hidden = kFakeHidden;
    info_.layers = layout.layers;
    info_.heads = layout.kv_heads;
    info_.kv_heads = layout.kv_heads;
    info_.head_dim = layout.head_dim;
    info_.ffn = kFakeHidden;
    info_.max_positions = kFakeMaxPositions;
    info_.tied = true;
    info_.fingerprint = Sha256(AsBytes(fmt::format("fake vocab={} {}", vocab, layout.ToString())));
  }

  const ModelInfo& info() const override { return info_; }
  const KvLayout& kv_layout() const override { return layout_; }
  Numerics numerics() const override { return Numerics::kF32; }

  Status Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) override {
    RETURN_IF_ERROR(CheckBatch(info_, layout_, batch));
    for (uint32_t layer = 0; layer < layout_.layers; ++layer) {
      for (const SequenceSlice& slice : batch) {
        for (size_t i = 0; i < slice.tokens.size(); ++i) WritePosition(slice, i, layer);
      }
      if (on_layer) on_layer(layer);
    }
    for (const SequenceSlice& slice : batch) WriteOutputs(slice);
    return OkStatus();
  }

 private:
  std::byte* Part(const SequenceSlice& slice, uint32_t position, uint32_t layer, uint32_t which) const {
    return slice.blocks[position / layout_.block_tokens] + layout_.PartOffset(layer, which);
  }

  void WritePosition(const SequenceSlice& slice, size_t index, uint32_t layer) const {
    const uint32_t position = slice.start + static_cast<uint32_t>(index);
    const uint32_t offset = position % layout_.block_tokens;
    const size_t bytes = KvElementBytes(layout_.dtype);
    uint64_t state = Mix(Mix(Mix(1, static_cast<uint64_t>(slice.tokens[index])), position), layer);
    for (uint32_t which = 0; which < 2; ++which) {
      std::byte* part = Part(slice, position, layer, which);
      for (uint32_t head = 0; head < layout_.kv_heads; ++head) {
        std::byte* vector = part + layout_.VectorOffset(head, offset);
        for (uint32_t d = 0; d < layout_.head_dim; ++d) {
          state = Mix(state, d);
          StoreNumber(layout_.dtype, static_cast<int>(state % 255) - 127, vector + d * bytes);
        }
        if (layout_.dtype == KvDtype::kInt8) {
          const float scale = 1.0f / 128.0f;
          std::memcpy(part + layout_.ScaleOffset(head, offset), &scale, sizeof scale);
        }
      }
    }
  }

  uint64_t HashPosition(const SequenceSlice& slice, uint32_t position) const {
    const uint32_t offset = position % layout_.block_tokens;
    const size_t bytes = layout_.head_dim * KvElementBytes(layout_.dtype);
    uint64_t state = position;
    for (uint32_t layer = 0; layer < layout_.layers; ++layer) {
      for (uint32_t which = 0; which < 2; ++which) {
        const std::byte* part = Part(slice, position, layer, which);
        for (uint32_t head = 0; head < layout_.kv_heads; ++head) {
          state = Mix(state, Xxh3_64({part + layout_.VectorOffset(head, offset), bytes}));
          if (layout_.dtype == KvDtype::kInt8) {
            state = Mix(state, Xxh3_64({part + layout_.ScaleOffset(head, offset), sizeof(float)}));
          }
        }
      }
    }
    return state;
  }

  void WriteOutputs(const SequenceSlice& slice) const {
    const size_t count = slice.tokens.size();
    if (slice.hidden != nullptr) WriteHidden(slice);
    if (slice.logit_rows == 0) return;
    const size_t first_row = count - slice.logit_rows;
    uint64_t state = 0;
    for (uint32_t position = 0; position < slice.start + count; ++position) {
      state = Mix(state, HashPosition(slice, position));
      if (position < slice.start + first_row) continue;
      float* row = slice.logits + (position - slice.start - first_row) * size_t{info_.vocab};
      for (uint32_t v = 0; v < info_.vocab; ++v) {
        row[v] = static_cast<float>(static_cast<int64_t>(Mix(state, v) >> 40) - (1 << 23)) * 0x1.0p-21f;  // [-4, 4)
      }
    }
  }

  void WriteHidden(const SequenceSlice& slice) const {
    const size_t count = slice.tokens.size();
    for (size_t level = 0; level <= layout_.layers; ++level) {
      for (size_t i = 0; i < count; ++i) {
        uint64_t state = Mix(Mix(level, static_cast<uint64_t>(slice.tokens[i])), slice.start + i);
        for (uint32_t h = 0; h < kFakeHidden; ++h) {
          state = Mix(state, h);
          slice.hidden[(level * count + i) * kFakeHidden + h] = static_cast<float>(state >> 40) * 0x1.0p-24f;
        }
      }
    }
  }

  ModelInfo info_;
  KvLayout layout_;
};

}  // namespace

std::unique_ptr<Model> MakeFakeModel(uint32_t vocab, const KvLayout& layout) {
  return std::make_unique<FakeModel>(vocab, layout);
}

}  // namespace baton
