// TCP between hosts, as a kj::Network: connections of ordered bytes that take time, stall (a lost packet is a later one), break,
// and outlive a pause of their owner in his kernel. Under it: no sockets. Above it: the real RPC.
#pragma once

#include <kj/async-io.h>

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/dst/world.h"

namespace baton::dst {

struct NetworkTraits {
  double latency_s = 0.0002, jitter_s = 0.0003;
  double loss = 0;            // share of segments that a retransmission brings
  double retransmit_s = 0.2;
  double Delay(World& world) const { return latency_s + world.Between(0, jitter_s) + (world.Chance(loss) ? retransmit_s : 0); }
};

struct Connection;
class Listener;

class SimNetwork {
 public:
  explicit SimNetwork(World& world) : world_(world) {}
  NetworkTraits traits;

  /// The network as the process on `host` sees it.
  kj::Own<kj::Network> Of(Host& host);
  /// Every connection between the two breaks: both ends see a reset.
  void Reset(const Host& a, const Host& b);
  /// The process of `host` is gone: its peers see an end or a reset, unless the host is dark.
  void Die(const Host& host);
  /// The host is back: what others still send to its former life is answered with a reset.
  void Back(const Host& host);
  size_t open() const;

 private:
  friend class SimAddress;
  friend class Listener;
  World& world_;
  std::vector<std::weak_ptr<Connection>> connections_;
  std::map<std::string, Listener*> listeners_;  // by host
};

}  // namespace baton::dst
