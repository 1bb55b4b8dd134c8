#include "base/block_key.h"

#include "base/bytes.h"

namespace baton {
namespace {

void UpdateField(Sha256Hasher& hasher, Bytes field) {
  const uint64_t length = field.size();
  hasher.Update({reinterpret_cast<const std::byte*>(&length), sizeof length});
  hasher.Update(field);
}

}  // namespace

Result<BlockKey> ParseBlockKey(std::string_view hex) {
  BlockKey key;
  if (hex.size() != key.bytes.size() * 2) return InvalidError("a block key has 64 hex digits, this one has {}", hex.size());
  for (size_t i = 0; i < key.bytes.size(); ++i) {
    const int high = HexDigit(hex[2 * i]), low = HexDigit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return InvalidError("block key '{}' has a character that is not a hex digit", hex);
    key.bytes[i] = static_cast<std::byte>(high * 16 + low);
  }
  return key;
}

BlockKey RootKey(const BlockKeyRoot& root) {
  Sha256Hasher hasher;
  UpdateField(hasher, AsBytes("baton-block-key-1"));
  UpdateField(hasher, root.model_fingerprint);
  UpdateField(hasher, AsBytes(root.kv_layout));
  UpdateField(hasher, AsBytes(root.numerics));
  UpdateField(hasher, AsBytes(root.tenant_salt));
  return {hasher.Finish()};
}

BlockKey NextKey(const BlockKey& parent, std::span<const TokenId> tokens, std::span<const Digest256> images) {
  static_assert(sizeof(TokenId) == 4);
  Sha256Hasher hasher;
  hasher.Update(parent.bytes);
  UpdateField(hasher, std::as_bytes(tokens));
  for (const Digest256& image : images) hasher.Update(image);
  return {hasher.Finish()};
}

std::vector<BlockKey> KeyChain(const BlockKey& root, std::span<const TokenId> tokens, size_t block_tokens,
                               std::span<const ImageMark> images) {
  CHECK(block_tokens > 0);
  std::vector<BlockKey> keys;
  keys.reserve(tokens.size() / block_tokens);
  BlockKey parent = root;
  for (size_t begin = 0; begin + block_tokens <= tokens.size(); begin += block_tokens) {
    std::vector<Digest256> inside;
    for (const ImageMark& image : images) {
      if (image.first_token >= begin && image.first_token < begin + block_tokens) inside.push_back(image.digest);
    }
    parent = NextKey(parent, tokens.subspan(begin, block_tokens), inside);
    keys.push_back(parent);
  }
  return keys;
}

}  // namespace baton
