// Connections to other ranks: dialled once, shared, dropped when they break.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/refcount.h>
#include <kj/timer.h>

#include <map>
#include <string>

#include "base/clock.h"
#include "base/status.h"
#include "protocol/cluster.capnp.h"
#include "protocol/loop.h"

namespace baton {

struct PeerAddress {
  std::string host;
  uint16_t port = 0;
  auto operator<=>(const PeerAddress&) const = default;
  std::string ToString() const { return host + ":" + std::to_string(port); }
};
/// "HOST:PORT". Errors: kInvalid.
Result<PeerAddress> ParsePeerAddress(const std::string& text);

/// The services of one rank over one connection. A null role's capability fails every call. Thread: the loop's.
class Peer final : public kj::Refcounted {
 public:
  /// Over a connection whose greeting is over; it may have ended in a refusal.
  Peer(PeerAddress address, kj::Own<kj::AsyncIoStream> stream, Status refusal);
  kj::Own<Peer> addRef() { return kj::addRef(*this); }  // named as kj's forked promises want it
  const PeerAddress& address() const { return address_; }

  /// `promise` until the connection is broken by Break (a worker declared dead that never closed its socket).
  template <typename T>
  kj::Promise<T> Guard(kj::Promise<T> promise) {
    return canceler_.wrap(kj::mv(promise)).attach(addRef());
  }
  void Break(kj::StringPtr why) { canceler_.cancel(kj::Exception(kj::Exception::Type::DISCONNECTED, __FILE__, __LINE__, kj::heapString(why))); }

  /// Asks for the services; afterwards they are there.
  kj::Promise<void> AskServices();
  const Status& refusal() const { return refusal_; }
  kj::Promise<void> OnDisconnect() { return client_.onDisconnect(); }

  wire::Coordinator::Client coordinator = nullptr;
  wire::Decode::Client decode = nullptr;
  wire::Prefill::Client prefill = nullptr;
  wire::Store::Client store = nullptr;
  wire::Inspect::Client inspect = nullptr;

 private:
  const PeerAddress address_;
  const Status refusal_;
  kj::Own<kj::AsyncIoStream> stream_;
  capnp::TwoPartyClient client_;
  kj::Canceler canceler_;
};

/// Thread: the loop's.
class PeerTable {
 public:
  PeerTable(kj::Network& network, kj::Timer& timer, std::string cluster_key, Duration timeout)
      : network_(network), timer_(timer), cluster_key_(std::move(cluster_key)), timeout_(timeout) {}

  /// The connection to `address`, made if there is none. Errors: kUnavailable (who, and why), kInvalid (refused by the peer).
  kj::Promise<Result<kj::Own<Peer>>> Dial(const PeerAddress& address);
  /// Breaks the connection: every guarded call fails now.
  void Forget(const PeerAddress& address, kj::StringPtr why);

 private:
  struct Entry {
    kj::ForkedPromise<kj::Own<Peer>> ready;
    kj::Maybe<kj::Own<Peer>> peer;
    kj::Promise<void> watch;
  };
  kj::Promise<kj::Own<Peer>> Connect(PeerAddress address);

  kj::Network& network_;
  kj::Timer& timer_;
  const std::string cluster_key_;
  const Duration timeout_;
  std::map<PeerAddress, Entry> entries_;
  Background cleaning_{"peer table"};
};

}  // namespace baton
