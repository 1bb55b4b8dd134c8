// The port of a rank: accepts connections and hands out the services of its roles.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>

#include <string>

#include "base/status.h"
#include "protocol/cluster.capnp.h"
#include "protocol/loop.h"

namespace baton {

/// The services of this rank; null where it has no such role. They may be filled in after listening began.
struct NodeServices {
  kj::Maybe<wire::Coordinator::Client> coordinator;
  kj::Maybe<wire::Decode::Client> decode;
  kj::Maybe<wire::Prefill::Client> prefill;
  kj::Maybe<wire::Store::Client> store;
  kj::Maybe<wire::Inspect::Client> inspect;
};

/// Lets nobody near the RPC system who has not proved within a second that it knows the cluster key. Thread: the loop's.
class NodeServer {
 public:
  /// `services` outlives the server. Peers must know the very same key, an empty one included.
  NodeServer(NodeServices& services, std::string cluster_key);
  /// Listens on `host`; port 0 is any free one. Errors: kInvalid (the address cannot be bound: says why and which option to change).
  Status Listen(kj::Network& network, kj::Timer& timer, kj::WaitScope& scope, const std::string& host, uint16_t port = 0);
  uint16_t port() const { return port_; }
  /// Connections that were turned away.
  uint64_t refused() const { return refused_; }

 private:
  kj::Promise<void> Accept(kj::Timer& timer);
  kj::Promise<void> Welcome(kj::Own<kj::AsyncIoStream> stream, kj::Timer& timer);
  void Refused(const std::string& peer, const Status& reason, kj::TimePoint now);

  capnp::TwoPartyServer server_;
  const std::string cluster_key_;
  uint16_t port_ = 0;
  size_t strangers_ = 0;  // in the middle of their greeting
  uint64_t refused_ = 0, refused_told_ = 0;
  kj::Maybe<kj::TimePoint> last_told_;
  kj::Own<kj::ConnectionReceiver> receiver_;
  Background greetings_{"greeting"};
  kj::Promise<void> accepting_ = nullptr;
};

}  // namespace baton
