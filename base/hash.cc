#include "base/hash.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#define XXH_STATIC_LINKING_ONLY  // XXH3_state_t on the stack
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>  // the same digests by the widest vectors of this machine
#endif

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

namespace baton {

Digest256 Sha256(Bytes data) {
  Digest256 out;
  unsigned int length = 0;
  CHECK(EVP_Digest(data.data(), data.size(), reinterpret_cast<unsigned char*>(out.data()), &length, EVP_sha256(), nullptr) == 1);
  return out;
}

Sha256Hasher::Sha256Hasher() : context_(EVP_MD_CTX_new()) {
  CHECK(context_ != nullptr);
  CHECK(EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), EVP_sha256(), nullptr) == 1);
}
Sha256Hasher::~Sha256Hasher() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_)); }
void Sha256Hasher::Update(Bytes data) {
  CHECK(EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), data.data(), data.size()) == 1);
}
Digest256 Sha256Hasher::Finish() {
  Digest256 out;
  unsigned int length = 0;
  CHECK(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), reinterpret_cast<unsigned char*>(out.data()), &length) == 1);
  return out;
}

Result<Digest256> Sha256File(const std::string& path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) return NotFoundError("cannot open {}: {}", path, std::strerror(errno));
  Sha256Hasher hasher;
  std::vector<std::byte> buffer(1_MiB);
  while (true) {
    const size_t n = std::fread(buffer.data(), 1, buffer.size(), file.get());
    hasher.Update({buffer.data(), n});
    if (n < buffer.size()) break;
  }
  if (std::ferror(file.get()) != 0) return UnavailableError("cannot read {}: {}", path, std::strerror(errno));
  return hasher.Finish();
}

Digest256 HmacSha256(Bytes key, Bytes data) {
  Digest256 out;
  unsigned int length = 0;
  const void* key_data = key.empty() ? "" : static_cast<const void*>(key.data());  // null would mean "the key of before"
  CHECK(HMAC(EVP_sha256(), key_data, static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(data.data()),
             data.size(), reinterpret_cast<unsigned char*>(out.data()), &length) != nullptr);
  return out;
}

Digest128 Xxh3(Bytes data) {
  const XXH128_hash_t h = XXH3_128bits(data.data(), data.size());
  return {h.low64, h.high64};
}
struct Xxh3Hasher::State {
  XXH3_state_t xxh3;
};
Xxh3Hasher::Xxh3Hasher() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->xxh3); }
Xxh3Hasher::~Xxh3Hasher() = default;
Xxh3Hasher::Xxh3Hasher(const Xxh3Hasher& other) : state_(std::make_unique<State>(*other.state_)) {}
Xxh3Hasher::Xxh3Hasher(Xxh3Hasher&&) noexcept = default;
Xxh3Hasher& Xxh3Hasher::operator=(Xxh3Hasher&&) noexcept = default;
void Xxh3Hasher::Update(Bytes data) { XXH3_128bits_update(&state_->xxh3, data.data(), data.size()); }
Digest128 Xxh3Hasher::Digest() const {
  const XXH128_hash_t h = XXH3_128bits_digest(&state_->xxh3);
  return {h.low64, h.high64};
}
Digest128 CopyWithXxh3(Bytes from, std::byte* to) {
  constexpr size_t kPiece = 32 << 10;  // stays in the first-level cache between the copy and the hash
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  for (size_t at = 0; at < from.size(); at += kPiece) {
    const size_t n = std::min(kPiece, from.size() - at);
    std::memcpy(to + at, from.data() + at, n);
    XXH3_128bits_update(&state, to + at, n);
  }
  const XXH128_hash_t h = XXH3_128bits_digest(&state);
  return {h.low64, h.high64};
}
uint64_t Xxh3_64(Bytes data, uint64_t seed) { return XXH3_64bits_withSeed(data.data(), data.size(), seed); }

}  // namespace baton
