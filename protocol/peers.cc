#include "protocol/peers.h"

#include <charconv>

#include "base/log.h"
#include "protocol/greeting.h"
#include "protocol/wire_status.h"

namespace baton {

Result<PeerAddress> ParsePeerAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon != std::string::npos && colon > 0) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, port);
    if (error == std::errc() && stop == end && port > 0 && port <= 65535) {
      return PeerAddress{text.substr(0, colon), static_cast<uint16_t>(port)};
    }
  }
  return InvalidError("\"{}\" is not an address; give HOST:PORT, for example 127.0.0.1:4100", text);
}

Peer::Peer(PeerAddress address, kj::Own<kj::AsyncIoStream> stream, Status refusal)
    : address_(std::move(address)), refusal_(std::move(refusal)), stream_(kj::mv(stream)), client_(*stream_) {}

kj::Promise<void> Peer::AskServices() {
  return client_.bootstrap().castAs<wire::Node>().servicesRequest().send().then([this](capnp::Response<wire::Node::ServicesResults> answer) {
    if (answer.hasCoordinator()) coordinator = answer.getCoordinator();
    if (answer.hasDecode()) decode = answer.getDecode();
    if (answer.hasPrefill()) prefill = answer.getPrefill();
    if (answer.hasStore()) store = answer.getStore();
    if (answer.hasInspect()) inspect = answer.getInspect();
  });
}

kj::Promise<kj::Own<Peer>> PeerTable::Connect(PeerAddress address) {
  return network_.parseAddress(kj::StringPtr(address.host.c_str()), address.port)
      .then([](kj::Own<kj::NetworkAddress> target) {
        auto connected = target->connect();
        return connected.attach(kj::mv(target));
      })
      .then([this, address](kj::Own<kj::AsyncIoStream> stream) {
        auto greeting = kj::heap<Greeting>(ProofSide::kDialler, cluster_key_);
        auto greeted = Greet(*stream, *greeting);
        return greeted.attach(kj::mv(greeting)).then([address, stream = kj::mv(stream)](Status status) mutable -> kj::Promise<kj::Own<Peer>> {
          const bool welcome = status.ok();
          auto peer = kj::refcounted<Peer>(address, kj::mv(stream), std::move(status));
          if (!welcome) return kj::mv(peer);
          auto asked = peer->AskServices();
          return asked.then([peer = kj::mv(peer)]() mutable { return kj::mv(peer); });
        });
      });
}

kj::Promise<Result<kj::Own<Peer>>> PeerTable::Dial(const PeerAddress& address) {
  auto found = entries_.find(address);
  if (found == entries_.end()) {
    auto ready = timer_.timeoutAfter(timeout_.count() * kj::NANOSECONDS, Connect(address)).fork();
    auto watch = ready.addBranch().then([this, address](kj::Own<Peer> peer) -> kj::Promise<void> {
      if (!peer->refusal().ok()) return kj::READY_NOW;
      auto gone = peer->OnDisconnect();
      entries_.at(address).peer = kj::mv(peer);
      return gone;
    });
    // The entry goes when the connection ends, was refused or never made; the next Dial makes a fresh one.
    auto clean = watch.catch_([](kj::Exception&&) {}).then([this, address]() {
      cleaning_.Add(kj::evalLater([this, address]() { Forget(address, "the connection closed"); }));
    });
    found = entries_.emplace(address, Entry{kj::mv(ready), nullptr, clean.eagerlyEvaluate(nullptr)}).first;
  }
  return found->second.ready.addBranch().then(
      [address](kj::Own<Peer> peer) {
        if (!peer->refusal().ok()) return Result<kj::Own<Peer>>(peer->refusal().WithContext(address.ToString()));
        return Result<kj::Own<Peer>>(kj::mv(peer));
      },
      [address](kj::Exception&& e) {
        const std::string why(e.getDescription().begin(), e.getDescription().size());
        return Result<kj::Own<Peer>>(UnavailableError("cannot reach {}: {}", address.ToString(), why));
      });
}

void PeerTable::Forget(const PeerAddress& address, kj::StringPtr why) {
  const auto found = entries_.find(address);
  if (found == entries_.end()) return;
  auto entry = kj::mv(found->second);
  entries_.erase(found);
  KJ_IF_MAYBE(peer, entry.peer) { (*peer)->Break(why); }
}

}  // namespace baton
