// Names of KV blocks: a 256-bit chain. The root binds everything that decides the bytes of a block except the tokens
// (model, layout, dtype, numerics, tenant), each link binds the tokens and images of one full block to all before it.
// Equal keys mean equal bytes on every machine; a foreign block can only be a miss.
#pragma once

#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/ids.h"

namespace baton {

struct BlockKey {
  Digest256 bytes{};
  friend bool operator==(const BlockKey&, const BlockKey&) = default;
  friend auto operator<=>(const BlockKey&, const BlockKey&) = default;
  /// 64 lower-case hex digits.
  std::string ToHex() const { return HexEncode(bytes); }
  /// The first 8 bytes: uniform, so it serves as a hash-table hash.
  uint64_t Prefix64() const {
    uint64_t v;
    std::memcpy(&v, bytes.data(), sizeof v);
    return v;
  }
};
/// The key written in `hex`. Errors: kInvalid unless it is 64 hex digits.
Result<BlockKey> ParseBlockKey(std::string_view hex);

/// What the root of a chain binds. Every field is part of the key.
struct BlockKeyRoot {
  Digest256 model_fingerprint{};  // ModelInfo::fingerprint
  std::string kv_layout;          // KvLayout::ToString(): dims, block tokens, dtype
  std::string numerics;           // "exact", "fast", "bf16", "f32"
  std::string tenant_salt;        // made by the server for a tenant; empty for none
};
/// SHA-256(model fingerprint ‖ KV layout and dtype ‖ numerics ‖ tenant salt), each field length-prefixed.
BlockKey RootKey(const BlockKeyRoot& root);

/// An image whose placeholder tokens begin in a block: its digest joins that block's key.
struct ImageMark {
  size_t first_token;  // absolute index of its first placeholder token
  Digest256 digest;
};

/// SHA-256(parent ‖ tokens as little-endian u32 ‖ digests of images in it).
BlockKey NextKey(const BlockKey& parent, std::span<const TokenId> tokens, std::span<const Digest256> images = {});

/// The keys of all full blocks of `tokens` (floor(size / block_tokens) of them), in order.
std::vector<BlockKey> KeyChain(const BlockKey& root, std::span<const TokenId> tokens, size_t block_tokens,
                               std::span<const ImageMark> images = {});

}  // namespace baton

template <>
struct std::hash<baton::BlockKey> {
  size_t operator()(const baton::BlockKey& key) const noexcept { return key.Prefix64(); }
};
