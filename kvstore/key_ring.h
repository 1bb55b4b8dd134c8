// Encryption at rest: the keys of a key file, and sealing with them by AES-256-GCM. A key belongs to a tenant; without it
// what was sealed with it is gone for good, which is how a tenant's data is deleted.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/status.h"

namespace baton {

struct SealKey {
  uint64_t id = 0;  // of the key's bytes; never 0
  Digest256 bytes{};
};

/// What a sealed record carries beside the ciphertext.
struct Seal {
  uint64_t key_id = 0;
  std::array<std::byte, 12> nonce{};  // random for each record
  std::array<std::byte, 16> tag{};
};

/// Encrypts `parts`, one text, in place and binds `context` to it. kInternal when the machine gives no randomness.
Result<Seal> SealParts(const SealKey& key, Bytes context, std::span<const MutableBytes> parts);
/// Decrypts in place; false when key, context, seal or text are not those that were sealed.
[[nodiscard]] bool OpenParts(const SealKey& key, const Seal& seal, Bytes context, std::span<const MutableBytes> parts);

/// Thread: any, once read.
class KeyRing {
 public:
  /// A line each: a tenant's name, a blank, 64 hex digits; # begins a comment. The name `default` must be there: it is for
  /// whom no line names. Errors: kNotFound, kUnavailable; kInvalid names the line.
  static Result<KeyRing> Read(const std::string& path);

  bool empty() const { return keys_.empty(); }
  /// A tenant's key as a number from 1; that of `default` for "" and names without a line, 0 when the ring is empty.
  uint16_t SlotOf(std::string_view tenant) const;
  /// The number of the key of this id; 0 when it is not here.
  uint16_t SlotOfId(uint64_t id) const;
  /// Null for 0.
  const SealKey* at(uint16_t slot) const { return slot == 0 ? nullptr : &keys_[slot - 1].key; }

 private:
  struct Named {
    std::string tenant;
    SealKey key;
  };
  static constexpr size_t kMostKeys = 65535;
  std::vector<Named> keys_;  // by tenant
};

}  // namespace baton
