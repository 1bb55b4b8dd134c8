#include "protocol/node.h"

#include "base/log.h"
#include "protocol/convert.h"
#include "protocol/peers.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

class NodeImpl final : public wire::Node::Server {
 public:
  NodeImpl(NodeServices& services, std::string cluster_key) : services_(services), cluster_key_(std::move(cluster_key)) {}

  kj::Promise<void> hello(HelloContext context) override {
    const auto params = context.getParams();
    auto results = context.getResults();
    results.setVersion(kProtocolVersion);
    if (params.getVersion() + 1 < kProtocolVersion || params.getVersion() > kProtocolVersion + 1) {
      WriteStatus(InvalidError("protocol version {} is not spoken here ({}): install the same release on every rank", params.getVersion(), kProtocolVersion),
                  results.initStatus());
      return kj::READY_NOW;
    }
    if (!SameSecret(ToString(params.getClusterKey()), cluster_key_)) {
      WriteStatus(InvalidError("wrong cluster key: give every rank the same cluster.key"), results.initStatus());
      return kj::READY_NOW;
    }
    KJ_IF_MAYBE(service, services_.coordinator) { results.setCoordinator(*service); }
    KJ_IF_MAYBE(service, services_.decode) { results.setDecode(*service); }
    KJ_IF_MAYBE(service, services_.prefill) { results.setPrefill(*service); }
    KJ_IF_MAYBE(service, services_.store) { results.setStore(*service); }
    KJ_IF_MAYBE(service, services_.inspect) { results.setInspect(*service); }
    return kj::READY_NOW;
  }

 private:
  /// Takes the same time wherever they differ.
  static bool SameSecret(const std::string& a, const std::string& b) {
    const Digest256 x = Sha256(AsBytes(a)), y = Sha256(AsBytes(b));
    unsigned difference = 0;
    for (size_t i = 0; i < x.size(); ++i) difference |= static_cast<unsigned>(x[i] ^ y[i]);
    return difference == 0;
  }

  NodeServices& services_;
  const std::string cluster_key_;
};

}  // namespace

NodeServer::NodeServer(NodeServices& services, std::string cluster_key) : server_(kj::heap<NodeImpl>(services, std::move(cluster_key))) {}

Status NodeServer::Listen(kj::AsyncIoContext& io, const std::string& host, uint16_t port) {
  Status status;
  const auto problem = kj::runCatchingExceptions([&]() {
    receiver_ = io.provider->getNetwork().parseAddress(kj::StringPtr(host.c_str()), port).wait(io.waitScope)->listen();
    port_ = static_cast<uint16_t>(receiver_->getPort());
  });
  KJ_IF_MAYBE(e, problem) {
    if (port != 0) return InvalidError("cannot listen on {}:{}: {}; the coordinator's address must be this machine's, its port free", host, port, e->getDescription().cStr());
    return InvalidError("cannot listen on {}: {}; set cluster.bind_host to an address of this machine", host, e->getDescription().cStr());
  }
  accepting_ = server_.listen(*receiver_).eagerlyEvaluate([](kj::Exception&& e) { LOG_ERROR("control port: {}", e.getDescription().cStr()); });
  return status;
}

}  // namespace baton
