#include "transport/handshake.h"

#include <utility>

namespace baton {
namespace {

constexpr std::string_view kMagic = "BATONKV1";

/// The same reason in the one code that a refused peer's transfers end with.
Status Refused(const Status& status) { return UnavailableError("{}", status.message()); }

}  // namespace

Handshake::Handshake(Introduction self, std::string key, WorkerId expected, uint16_t version)
    : self_(std::move(self)), key_(std::move(key)), expected_(expected), newest_(version), version_(version) {}

std::string Handshake::Hello() const { return MakeFrame({.type = FrameType::kHello}, HelloBody()); }

std::string Handshake::HelloBody() const {
  std::string body(kMagic);
  AppendNumber(&body, kByteOrderMark);
  AppendNumber(&body, SpokenVersions{newest_, std::min(kOldestWireVersion, newest_)});
  AppendNumber(&body, static_cast<uint32_t>(key_.empty() ? 0 : 1));
  AppendNumber(&body, self_.worker.value);
  AppendNumber(&body, self_.incarnation.value);
  body.append(reinterpret_cast<const char*>(nonce_.data()), nonce_.size());
  body += self_.address;
  return body;
}

Status Handshake::TakeHello(Bytes body) {
  peer_hello_ = std::string(AsText(body));
  uint32_t mark = 0, keyed = 0;
  SpokenVersions theirs;
  if (body.size() < kMagic.size() || AsText(body.first(kMagic.size())) != kMagic) return UnavailableError("this is not Baton's transport");
  body = body.subspan(kMagic.size());
  if (!TakeNumber(&body, &mark)) return UnavailableError("a hello that is too short");
  if (const Status order = CheckByteOrder(mark); !order.ok()) return Refused(order);
  const bool read = TakeNumber(&body, &theirs) && TakeNumber(&body, &keyed) && TakeNumber(&body, &peer_.worker.value) &&
                    TakeNumber(&body, &peer_.incarnation.value) && TakeNumber(&body, &peer_nonce_);
  if (!read) return UnavailableError("a hello that is too short");
  peer_.address = std::string(AsText(body));
  const Result<uint16_t> common = CommonVersion({newest_, std::min(kOldestWireVersion, newest_)}, theirs, "the transport");
  if (!common.ok()) return Refused(common.status());
  version_ = *common;
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

/// `said`: the prover's whole hello, so that nobody on the way can change it.
Digest256 Handshake::Proof(bool by_dialler, const Nonce& prover, const Nonce& verifier, std::string_view said) const {
  return MakeProof(key_, "baton transport", by_dialler ? ProofSide::kDialler : ProofSide::kListener, prover, verifier, said);
}

Result<std::string> Handshake::Take(const FrameHeader& header, Bytes body) {
  const bool dialled = expected_.value != 0;
  if (header.type == FrameType::kRefuse) return UnavailableError("refused by the peer: {}", AsText(body));
  if (header.type == FrameType::kHello && !greeted_) {
    RETURN_IF_ERROR(TakeHello(body));
    done_ = key_.empty();
    if (done_) return std::string();
    const Digest256 proof = Proof(dialled, nonce_, peer_nonce_, HelloBody());
    return MakeFrame({.type = FrameType::kProof}, AsText(proof));
  }
  if (header.type == FrameType::kProof && greeted_ && !done_) {
    const Digest256 proof = Proof(!dialled, peer_nonce_, nonce_, peer_hello_);
    done_ = SameProof(proof, body);
    if (!done_) return UnavailableError("worker {} does not know the cluster key", peer_.worker.value);
    return std::string();
  }
  return UnavailableError("an unexpected word in the handshake; this is not Baton's transport");
}

}  // namespace baton
