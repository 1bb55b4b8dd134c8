// The first words on a connection: who speaks, in which version, and the proof that it knows the cluster key. A challenge
// each way (base/peer_proof.h), so that a recorded or mirrored answer is worthless.
#pragma once

#include <string>

#include "base/peer_proof.h"
#include "transport/frame.h"
#include "transport/transport.h"

namespace baton {

inline constexpr uint16_t kWireVersion = 1;
inline constexpr uint16_t kOldestWireVersion = 1;  // that this build still speaks
inline constexpr size_t kMaxHandshakeBody = 512;

/// What a side says of itself.
struct Introduction {
  WorkerId worker;
  Incarnation incarnation;
  std::string address;  // where it listens
};

/// One side of one connection. Pure: bytes in, bytes out. Thread: one.
class Handshake {
 public:
  /// `expected`: the peer that was dialled; 0 for a connection that was accepted. `version` is what this side speaks at most.
  Handshake(Introduction self, std::string key, WorkerId expected, uint16_t version = kWireVersion);

  /// What to say first.
  std::string Hello() const;
  /// Takes a frame; gives what to answer, perhaps nothing. Errors: kUnavailable, with the reason to tell the peer: not
  /// Baton, another version, another worker, a wrong or missing key.
  Result<std::string> Take(const FrameHeader& header, Bytes body);
  bool done() const { return done_; }
  const Introduction& peer() const { return peer_; }  // after done
  uint16_t version() const { return version_; }       // the one both speak, after the peer's hello

 private:
  Status TakeHello(Bytes body);
  std::string HelloBody() const;
  Digest256 Proof(bool by_dialler, const Nonce& prover, const Nonce& verifier, std::string_view said) const;

  const Introduction self_;
  const std::string key_;
  const WorkerId expected_;
  const uint16_t newest_;  // that this side speaks
  uint16_t version_;
  const Nonce nonce_ = MakeNonce();
  Nonce peer_nonce_{};
  Introduction peer_;
  std::string peer_hello_;
  bool greeted_ = false, done_ = false;
};

}  // namespace baton
