// The form of one KV block: block_tokens consecutive tokens of all layers, [layer][K|V][kv_head][token][head_dim], keys
// after RoPE in the half-split order whatever the file. int8 keeps one f32 scale a (position, head) behind the data of
// each [layer][K|V] part: [kv_head][token] scales. Parts are padded to 64 bytes. This file alone knows the arithmetic.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace baton {

enum class KvDtype : uint8_t { kF32, kF16, kBf16, kInt8 };
std::string_view KvDtypeName(KvDtype dtype);               // "f32", "f16", "bf16", "int8"
Result<KvDtype> ParseKvDtype(std::string_view name);       // kInvalid names the choices
size_t KvElementBytes(KvDtype dtype);                      // 4, 2, 2, 1

struct KvLayout {
  uint32_t layers = 0, kv_heads = 0, head_dim = 0, block_tokens = 64;
  KvDtype dtype = KvDtype::kF16;

  size_t DataBytes() const;    // one [layer][K|V] part's elements
  size_t PartBytes() const;    // the part with its scales, padded to 64
  size_t LayerBytes() const { return 2 * PartBytes(); }
  size_t BlockBytes() const { return layers * LayerBytes(); }
  /// Offset in the block of part `which` (0 = K, 1 = V) of `layer`.
  size_t PartOffset(uint32_t layer, uint32_t which) const { return layer * LayerBytes() + which * PartBytes(); }
  /// Offset in a part of the vector of (head, token).
  size_t VectorOffset(uint32_t head, uint32_t token) const {
    return (static_cast<size_t>(head) * block_tokens + token) * head_dim * KvElementBytes(dtype);
  }
  /// Offset in a part of the f32 scale of (head, token); int8 only.
  size_t ScaleOffset(uint32_t head, uint32_t token) const {
    return DataBytes() + (static_cast<size_t>(head) * block_tokens + token) * sizeof(float);
  }
  /// "v1 layers=30 kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=half": part of every block key.
  std::string ToString() const;
  friend bool operator==(const KvLayout&, const KvLayout&) = default;
};
/// The layout that ToString wrote. Errors: kInvalid.
Result<KvLayout> ParseKvLayout(std::string_view text);

}  // namespace baton
