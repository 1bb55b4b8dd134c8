#include "kvstore/key_ring.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <sstream>

#include "base/block_key.h"
#include "kvstore/file_layer.h"

namespace baton {
namespace {

constexpr std::string_view kDefault = "default";

unsigned char* Raw(std::byte* p) { return reinterpret_cast<unsigned char*>(p); }
const unsigned char* Raw(const std::byte* p) { return reinterpret_cast<const unsigned char*>(p); }

using Cipher = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

/// A cipher that has taken key, nonce and context, ready for the text.
Cipher Begin(bool seal, const SealKey& key, const Seal& s, Bytes context) {
  Cipher cipher(EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free);
  CHECK(cipher != nullptr);
  int length = 0;
  CHECK(EVP_CipherInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Raw(key.bytes.data()), Raw(s.nonce.data()), seal ? 1 : 0) == 1);
  CHECK(EVP_CipherUpdate(cipher.get(), nullptr, &length, Raw(context.data()), static_cast<int>(context.size())) == 1);
  return cipher;
}

void Transform(EVP_CIPHER_CTX* cipher, std::span<const MutableBytes> parts) {
  int length = 0;
  for (const MutableBytes part : parts) {
    if (!part.empty()) CHECK(EVP_CipherUpdate(cipher, Raw(part.data()), &length, Raw(part.data()), static_cast<int>(part.size())) == 1);
  }
}

}  // namespace

Result<Seal> SealParts(const SealKey& key, Bytes context, std::span<const MutableBytes> parts) {
  Seal seal;
  seal.key_id = key.id;
  if (RAND_bytes(Raw(seal.nonce.data()), static_cast<int>(seal.nonce.size())) != 1) return InternalError("no random bytes for a nonce");
  const Cipher cipher = Begin(true, key, seal, context);
  Transform(cipher.get(), parts);
  int length = 0;
  unsigned char none[16];
  CHECK(EVP_CipherFinal_ex(cipher.get(), none, &length) == 1);
  CHECK(EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, static_cast<int>(seal.tag.size()), seal.tag.data()) == 1);
  return seal;
}

bool OpenParts(const SealKey& key, const Seal& seal, Bytes context, std::span<const MutableBytes> parts) {
  const Cipher cipher = Begin(false, key, seal, context);
  Transform(cipher.get(), parts);
  std::array<std::byte, 16> tag = seal.tag;
  CHECK(EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, static_cast<int>(tag.size()), tag.data()) == 1);
  int length = 0;
  unsigned char none[16];
  return EVP_CipherFinal_ex(cipher.get(), none, &length) == 1;
}

Result<KeyRing> KeyRing::Read(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  std::istringstream lines(text);
  std::string line;
  KeyRing ring;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string tenant, hex, rest;
    if (!(words >> tenant)) continue;
    const auto key = words >> hex ? ParseBlockKey(hex) : Result<BlockKey>(InvalidError("no key"));
    if (!key.ok() || words >> rest) return InvalidError("{}:{} is not a tenant's name and 64 hex digits", path, number);
    if (std::any_of(ring.keys_.begin(), ring.keys_.end(), [&](const Named& n) { return n.tenant == tenant; })) {
      return InvalidError("{}:{}: a second key of tenant {}", path, number, tenant);
    }
    if (ring.keys_.size() == kMostKeys) return InvalidError("{} has more than {} keys", path, kMostKeys);
    const Digest256 name = Sha256(key->bytes);  // tells nothing of the key
    uint64_t id = 0;
    std::memcpy(&id, name.data(), sizeof id);
    ring.keys_.push_back({tenant, {id | 1, key->bytes}});
  }
  std::sort(ring.keys_.begin(), ring.keys_.end(), [](const Named& a, const Named& b) { return a.tenant < b.tenant; });
  const auto find = std::find_if(ring.keys_.begin(), ring.keys_.end(), [](const Named& n) { return n.tenant == kDefault; });
  if (find == ring.keys_.end()) return InvalidError("{} has no key named {}, for blocks of tenants without a key of their own", path, kDefault);
  return ring;
}

uint16_t KeyRing::SlotOf(std::string_view tenant) const {
  for (const std::string_view name : {tenant, kDefault}) {
    const auto it = std::lower_bound(keys_.begin(), keys_.end(), name, [](const Named& n, std::string_view t) { return n.tenant < t; });
    if (it != keys_.end() && it->tenant == name) return static_cast<uint16_t>(it - keys_.begin() + 1);
  }
  return 0;
}

uint16_t KeyRing::SlotOfId(uint64_t id) const {
  const auto it = std::find_if(keys_.begin(), keys_.end(), [id](const Named& n) { return n.key.id == id; });
  return it == keys_.end() ? 0 : static_cast<uint16_t>(it - keys_.begin() + 1);
}

}  // namespace baton
