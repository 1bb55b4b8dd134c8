// The hashes of the program, chosen in one place. SHA-256 wherever a key or digest crosses a trust boundary (block keys,
// model fingerprints, pinned downloads); XXH3-128 as the integrity digest of KV bytes, which guards against faults and
// stale memory, not against an attacker (the transport's authentication does that).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace baton {

using Digest256 = std::array<std::byte, 32>;

/// SHA-256 of one buffer.
Digest256 Sha256(Bytes data);

/// Incremental SHA-256.
class Sha256Hasher {
 public:
  Sha256Hasher();
  ~Sha256Hasher();
  Sha256Hasher(const Sha256Hasher&) = delete;
  Sha256Hasher& operator=(const Sha256Hasher&) = delete;
  void Update(Bytes data);
  /// Ends the hash; call once.
  Digest256 Finish();

 private:
  void* context_;  // EVP_MD_CTX
};

/// SHA-256 of a file's content, read in 1 MiB pieces. Errors: kNotFound, kUnavailable (read error, with errno's text).
Result<Digest256> Sha256File(const std::string& path);

/// HMAC-SHA-256.
Digest256 HmacSha256(Bytes key, Bytes data);

/// 128-bit integrity digest of KV bytes (XXH3).
struct Digest128 {
  uint64_t low = 0, high = 0;
  friend bool operator==(const Digest128&, const Digest128&) = default;
};
Digest128 Xxh3(Bytes data);
/// The same digest of bytes that come one after the other; a copy goes on by itself. Thread: one at a time.
class Xxh3Hasher {
 public:
  Xxh3Hasher();
  ~Xxh3Hasher();
  Xxh3Hasher(const Xxh3Hasher& other);
  Xxh3Hasher(Xxh3Hasher&&) noexcept;
  Xxh3Hasher& operator=(Xxh3Hasher&&) noexcept;
  void Update(Bytes data);
  /// Of all bytes so far; more may follow.
  Digest128 Digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};
/// Copies `from` to `to` (which must not overlap) and gives the digest of what was copied, in one pass through the cache.
Digest128 CopyWithXxh3(Bytes from, std::byte* to);
uint64_t Xxh3_64(Bytes data, uint64_t seed = 0);

}  // namespace baton
