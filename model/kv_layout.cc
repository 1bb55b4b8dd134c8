#include "model/kv_layout.h"

#include <array>
#include <cstdio>

#include "base/bytes.h"

namespace baton {
namespace {
constexpr std::array<std::string_view, 4> kNames = {"f32", "f16", "bf16", "int8"};
}  // namespace

std::string_view KvDtypeName(KvDtype dtype) { return kNames[static_cast<size_t>(dtype)]; }

Result<KvDtype> ParseKvDtype(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<KvDtype>(i);
  }
  return InvalidError("KV dtype '{}' is unknown; use f32, f16, bf16 or int8", name);
}

size_t KvElementBytes(KvDtype dtype) {
  static constexpr std::array<size_t, 4> kBytes = {4, 2, 2, 1};
  return kBytes[static_cast<size_t>(dtype)];
}

size_t KvLayout::DataBytes() const { return size_t{kv_heads} * block_tokens * head_dim * KvElementBytes(dtype); }

size_t KvLayout::PartBytes() const {
  const size_t scales = dtype == KvDtype::kInt8 ? size_t{kv_heads} * block_tokens * sizeof(float) : 0;
  return RoundUp(DataBytes() + scales, 64);
}

std::string KvLayout::ToString() const {
  return fmt::format("v1 layers={} kv_heads={} head_dim={} block_tokens={} dtype={} rope=half", layers, kv_heads, head_dim,
                     block_tokens, KvDtypeName(dtype));
}

Result<KvLayout> ParseKvLayout(std::string_view text) {
  KvLayout layout;
  std::array<char, 8> dtype{};
  const std::string line(text);  // ends with a zero
  if (std::sscanf(line.c_str(), "v1 layers=%u kv_heads=%u head_dim=%u block_tokens=%u dtype=%7s rope=half", &layout.layers, &layout.kv_heads,
                  &layout.head_dim, &layout.block_tokens, dtype.data()) != 5) {
    return InvalidError("'{}' is not a KV layout", text);
  }
  ASSIGN_OR_RETURN(layout.dtype, ParseKvDtype(dtype.data()));
  if (layout.ToString() != text) return InvalidError("'{}' is not a KV layout", text);
  return layout;
}

}  // namespace baton
