#include "base/peer_proof.h"

#include <openssl/crypto.h>
#include <sys/random.h>

namespace baton {

Status CheckByteOrder(uint32_t mark) {
  if (mark == kByteOrderMark) return OkStatus();
  if (mark == __builtin_bswap32(kByteOrderMark)) return InvalidError("the peer's machine has another byte order; a cluster is made of machines of one order");
  return InvalidError("a hello with a wrong byte order mark ({:08x}): this is not Baton", mark);
}

Result<uint16_t> CommonVersion(SpokenVersions mine, SpokenVersions theirs, std::string_view of_what) {
  const uint16_t common = std::min(mine.newest, theirs.newest);
  if (common >= mine.oldest && common >= theirs.oldest) return common;
  return InvalidError("versions {} to {} of {} are spoken here, {} to {} over there: install the same release on every rank", mine.oldest, mine.newest,
                      of_what, theirs.oldest, theirs.newest);
}

Nonce MakeNonce() {
  Nonce nonce;
  CHECK(getrandom(nonce.data(), nonce.size(), 0) == static_cast<ssize_t>(nonce.size()));
  return nonce;
}

Digest256 MakeProof(std::string_view key, std::string_view channel, ProofSide side, const Nonce& prover, const Nonce& verifier, std::string_view said) {
  std::string text(channel);
  text.push_back('\0');
  text.push_back(static_cast<char>(side));
  text += AsText(prover);
  text += AsText(verifier);
  text += said;
  return HmacSha256(Sha256(AsBytes(key)), AsBytes(text));  // HMAC alone takes a key and the same with zeros behind it for one
}

bool SameProof(const Digest256& wanted, Bytes given) {
  return given.size() == wanted.size() && CRYPTO_memcmp(wanted.data(), given.data(), wanted.size()) == 0;
}

}  // namespace baton
