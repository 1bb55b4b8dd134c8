#include "protocol/node.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <utility>

#include "base/log.h"
#include "protocol/greeting.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr size_t kMaxStrangers = 64;
constexpr kj::Duration kGreetingTime = 1 * kj::SECONDS, kQuiet = 1 * kj::SECONDS, kAcceptPause = 100 * kj::MILLISECONDS;

class NodeImpl final : public wire::Node::Server {
 public:
  explicit NodeImpl(NodeServices& services) : services_(services) {}

  kj::Promise<void> services(ServicesContext context) override {
    auto results = context.getResults();
    KJ_IF_MAYBE(service, services_.coordinator) { results.setCoordinator(*service); }
    KJ_IF_MAYBE(service, services_.decode) { results.setDecode(*service); }
    KJ_IF_MAYBE(service, services_.prefill) { results.setPrefill(*service); }
    KJ_IF_MAYBE(service, services_.store) { results.setStore(*service); }
    KJ_IF_MAYBE(service, services_.inspect) { results.setInspect(*service); }
    return kj::READY_NOW;
  }

 private:
  NodeServices& services_;
};

std::string PeerName(kj::AsyncIoStream& stream) {
  sockaddr_storage address{};
  kj::uint length = sizeof address;
  stream.getpeername(reinterpret_cast<sockaddr*>(&address), &length);
  char text[INET6_ADDRSTRLEN] = "somebody";
  if (address.ss_family == AF_INET) inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, text, sizeof text);
  if (address.ss_family == AF_INET6) inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, text, sizeof text);
  return text;
}

}  // namespace

NodeServer::NodeServer(NodeServices& services, std::string cluster_key)
    : server_(kj::heap<NodeImpl>(services)), cluster_key_(std::move(cluster_key)) {}

Status NodeServer::Listen(kj::Network& network, kj::Timer& timer, kj::WaitScope& scope, const std::string& host, uint16_t port) {
  const auto problem = kj::runCatchingExceptions([&]() {
    receiver_ = network.parseAddress(kj::StringPtr(host.c_str()), port).wait(scope)->listen();
    port_ = static_cast<uint16_t>(receiver_->getPort());
  });
  KJ_IF_MAYBE(e, problem) {
    if (port != 0) return InvalidError("cannot listen on {}:{}: {}; the coordinator's address must be this machine's, its port free", host, port, e->getDescription().cStr());
    return InvalidError("cannot listen on {}: {}; set cluster.bind_host to an address of this machine", host, e->getDescription().cStr());
  }
  accepting_ = Accept(timer).eagerlyEvaluate(nullptr);
  return OkStatus();
}

kj::Promise<void> NodeServer::Accept(kj::Timer& timer) {
  return receiver_->accept().then(
      [this, &timer](kj::Own<kj::AsyncIoStream> stream) {
        greetings_.Add(Welcome(kj::mv(stream), timer));
        return Accept(timer);
      },
      [this, &timer](kj::Exception&& e) {  // no descriptor left, most likely: others close theirs
        LOG_ERROR("control port: {}", e.getDescription().cStr());
        return timer.afterDelay(kAcceptPause).then([this, &timer]() { return Accept(timer); });
      });
}

/// Greets a stranger; within its time it is a peer, or it is gone and knows why.
kj::Promise<void> NodeServer::Welcome(kj::Own<kj::AsyncIoStream> stream, kj::Timer& timer) {
  struct Stranger {
    Stranger(size_t& count, std::string key) : count(count), greeting(ProofSide::kListener, std::move(key)) { ++count; }
    ~Stranger() { --count; }
    size_t& count;
    Greeting greeting;
  };
  auto stranger = kj::heap<Stranger>(strangers_, cluster_key_);
  kj::Promise<Status> greeted = strangers_ > kMaxStrangers ? kj::Promise<Status>(ExhaustedError("too many strangers at once; try again"))
                                                           : Greet(*stream, stranger->greeting);
  auto late = timer.afterDelay(kGreetingTime).then([]() { return DeadlineError("no greeting within a second"); });
  return greeted.exclusiveJoin(kj::mv(late)).then([this, &timer, stream = kj::mv(stream)](Status status) mutable -> kj::Promise<void> {
    if (status.ok()) {
      server_.accept(kj::mv(stream));
      return kj::READY_NOW;
    }
    Refused(PeerName(*stream), status, timer.now());
    if (status.code() == StatusCode::kInvalid || status.code() == StatusCode::kUnavailable) return kj::READY_NOW;  // it knows
    auto message = kj::heap<std::string>(RefusalMessage(status));
    auto told = stream->write(message->data(), message->size());
    return told.attach(kj::mv(message), kj::mv(stream));
  }).attach(kj::mv(stranger));
}

/// Says it at most once a second, whatever knocks.
void NodeServer::Refused(const std::string& peer, const Status& reason, kj::TimePoint now) {
  ++refused_;
  KJ_IF_MAYBE(last, last_told_) {
    if (now - *last < kQuiet) return;
  }
  const uint64_t others = refused_ - refused_told_ - 1;
  LOG_WARN("control port: refused a connection from {}{}: {}", peer, others == 0 ? "" : fmt::format(" (and {} before)", others), reason.message());
  last_told_ = now;
  refused_told_ = refused_;
}

}  // namespace baton
