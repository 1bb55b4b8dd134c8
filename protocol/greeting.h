// What is said on a control connection before any RPC: which versions are spoken, and the proof that both sides know the
// cluster key. Whoever cannot give it never reaches the RPC system, and hears why.
//
//   message:  u16 bytes of the body | u8 type | body, at most kMaxGreetingBytes; numbers are little-endian
//   hello     each side first, the dialler begins: "BATONCP1", u32 byte order mark, u16 newest and oldest version, u8 keyed, nonce
//   proof     the dialler's, then the listener's, which ends the greeting; empty where no key is set
//   refuse    u8 StatusCode, the reason; the connection is closed behind it
#pragma once

#include <kj/async-io.h>

#include <string>

#include "base/peer_proof.h"

namespace baton {

inline constexpr SpokenVersions kControlVersions{.newest = 1, .oldest = 1};
inline constexpr size_t kMaxGreetingBytes = 512;

/// One side of one greeting. Pure: messages in, messages out. Thread: one.
class Greeting {
 public:
  Greeting(ProofSide side, std::string key, SpokenVersions versions = kControlVersions);

  /// What to say before anything was heard; nothing from a listener.
  std::string First() const;
  /// Takes a message; gives what to answer, perhaps nothing. Errors: kInvalid with the reason to tell the peer (not Baton, another
  /// version, a wrong or missing key), or the reason with which the peer refused.
  Result<std::string> Take(Bytes message);
  bool done() const { return done_; }
  uint16_t version() const { return version_; }  // the one both speak, once done

 private:
  enum class Expects { kHello, kProof };
  std::string Proof() const;
  Digest256 ProofOf(ProofSide side) const;
  Status TakeHello(Bytes body);
  Status TakeProof(Bytes body) const;

  const ProofSide side_;
  const std::string key_;
  const SpokenVersions versions_;
  const Nonce nonce_ = MakeNonce();
  const std::string hello_;
  std::string peer_hello_;
  Nonce peer_nonce_{};
  uint16_t version_ = 0;
  Expects expects_ = Expects::kHello;
  bool done_ = false;
};

/// The message that refuses a peer.
std::string RefusalMessage(const Status& reason);

/// Drives one side over a connection; `stream` and `greeting` live until it ends. A peer that is refused has been told. Errors: as
/// Take's, and kUnavailable where the connection ended.
kj::Promise<Status> Greet(kj::AsyncIoStream& stream, Greeting& greeting);

}  // namespace baton
