#include "transport/handshake.h"

#include <openssl/crypto.h>
#include <sys/random.h>

#include <cerrno>

#include "base/hash.h"

namespace baton {
namespace {

constexpr std::string_view kMagic = "BATONKV1";

}  // namespace

Handshake::Handshake(Introduction self, std::string key, WorkerId expected, uint16_t version)
    : self_(std::move(self)), key_(std::move(key)), expected_(expected), version_(version) {
  CHECK(getrandom(nonce_.data(), nonce_.size(), 0) == static_cast<ssize_t>(nonce_.size()));
}

std::string Handshake::Hello() const {
  std::string body(kMagic);
  AppendNumber(&body, version_);
  AppendNumber(&body, std::min(kOldestWireVersion, version_));
  AppendNumber(&body, static_cast<uint32_t>(key_.empty() ? 0 : 1));
  AppendNumber(&body, self_.worker.value);
  AppendNumber(&body, self_.incarnation.value);
  body.append(reinterpret_cast<const char*>(nonce_.data()), nonce_.size());
  body += self_.address;
  return MakeFrame({.type = FrameType::kHello}, body);
}

Status Handshake::TakeHello(Bytes body) {
  uint16_t newest = 0, oldest = 0;
  uint32_t keyed = 0;
  if (body.size() < kMagic.size() || AsText(body.first(kMagic.size())) != kMagic) return UnavailableError("this is not Baton's transport");
  body = body.subspan(kMagic.size());
  const bool read = TakeNumber(&body, &newest) && TakeNumber(&body, &oldest) && TakeNumber(&body, &keyed) && TakeNumber(&body, &peer_.worker.value) &&
                    TakeNumber(&body, &peer_.incarnation.value) && TakeNumber(&body, &peer_nonce_);
  if (!read) return UnavailableError("a hello that is too short");
  peer_.address = std::string(AsText(body));
  const uint16_t common = std::min(newest, version_);
  if (common < oldest || common < std::min(kOldestWireVersion, version_)) {
    return UnavailableError("versions {} to {} and {} to {} of the transport do not meet; update the older worker", oldest, newest,
                            std::min(kOldestWireVersion, version_), version_);
  }
  version_ = common;
  if (expected_.value != 0 && peer_.worker != expected_) {
    return UnavailableError("worker {} answers at the address of worker {}", peer_.worker.value, expected_.value);
  }
  if (peer_.worker.value == 0) return UnavailableError("worker 0 is nobody");
  if (keyed != (key_.empty() ? 0u : 1u)) {
    return UnavailableError("one of workers {} and {} has a cluster key, the other has none; give both the same", self_.worker.value, peer_.worker.value);
  }
  greeted_ = true;
  return OkStatus();
}

Digest256 Handshake::Proof(bool by_dialler, const Nonce& prover, const Nonce& verifier, const Introduction& who) const {
  std::string text = by_dialler ? "baton dialler" : "baton listener";
  text.append(reinterpret_cast<const char*>(prover.data()), prover.size());
  text.append(reinterpret_cast<const char*>(verifier.data()), verifier.size());
  AppendNumber(&text, who.worker.value);
  AppendNumber(&text, who.incarnation.value);
  text += who.address;
  return HmacSha256(AsBytes(key_), AsBytes(text));
}

Result<std::string> Handshake::Take(const FrameHeader& header, Bytes body) {
  const bool dialled = expected_.value != 0;
  if (header.type == FrameType::kRefuse) return UnavailableError("refused by the peer: {}", AsText(body));
  if (header.type == FrameType::kHello && !greeted_) {
    RETURN_IF_ERROR(TakeHello(body));
    done_ = key_.empty();
    if (done_) return std::string();
    const Digest256 proof = Proof(dialled, nonce_, peer_nonce_, self_);
    return MakeFrame({.type = FrameType::kProof}, AsText(proof));
  }
  if (header.type == FrameType::kProof && greeted_ && !done_) {
    const Digest256 proof = Proof(!dialled, peer_nonce_, nonce_, peer_);
    done_ = body.size() == proof.size() && CRYPTO_memcmp(proof.data(), body.data(), proof.size()) == 0;
    if (!done_) return UnavailableError("worker {} does not know the cluster key", peer_.worker.value);
    return std::string();
  }
  return UnavailableError("an unexpected word in the handshake; this is not Baton's transport");
}

}  // namespace baton
