// The port of a rank: accepts connections and hands out the services of its roles.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>

#include <string>

#include "base/status.h"
#include "protocol/cluster.capnp.h"

namespace baton {

/// The services of this rank; null where it has no such role. They may be filled in after listening began.
struct NodeServices {
  kj::Maybe<wire::Coordinator::Client> coordinator;
  kj::Maybe<wire::Decode::Client> decode;
  kj::Maybe<wire::Prefill::Client> prefill;
  kj::Maybe<wire::Store::Client> store;
  kj::Maybe<wire::Inspect::Client> inspect;
};

/// Thread: the loop's.
class NodeServer {
 public:
  /// `services` outlives the server. Peers must give the very same key, an empty one included.
  NodeServer(NodeServices& services, std::string cluster_key);
  /// Listens on `host`; port 0 is any free one. Errors: kInvalid (the address cannot be bound: says why and which option to change).
  Status Listen(kj::AsyncIoContext& io, const std::string& host, uint16_t port = 0);
  uint16_t port() const { return port_; }

 private:
  capnp::TwoPartyServer server_;
  uint16_t port_ = 0;
  kj::Own<kj::ConnectionReceiver> receiver_;
  kj::Promise<void> accepting_ = nullptr;
};

}  // namespace baton
