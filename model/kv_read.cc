#include "model/kv_read.h"

#include <cstring>

#include "model/kernels/half.h"

namespace baton {
namespace {

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace

void ReadKvVector(const KvLayout& layout, std::span<std::byte* const> blocks, uint32_t layer, uint32_t which, uint32_t head,
                  uint32_t position, float* out) {
  const uint32_t token = position % layout.block_tokens;
  const std::byte* part = blocks[position / layout.block_tokens] + layout.PartOffset(layer, which);
  const std::byte* vector = part + layout.VectorOffset(head, token);
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    const std::byte* at = vector + d * KvElementBytes(layout.dtype);
    switch (layout.dtype) {
      case KvDtype::kF32:
        out[d] = Load<float>(at);
        break;
      case KvDtype::kF16:
        out[d] = F16ToF32(Load<uint16_t>(at));
        break;
      case KvDtype::kBf16:
        out[d] = Bf16ToF32(Load<uint16_t>(at));
        break;
      case KvDtype::kInt8:
        out[d] = static_cast<float>(Load<int8_t>(at)) * Load<float>(part + layout.ScaleOffset(head, token));
        break;
    }
  }
}

}  // namespace baton
