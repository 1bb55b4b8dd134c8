// TCP sockets for the stream wire. Addresses: "tcp:127.0.0.1:4711", "tcp:[::1]:4711".
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "transport/stream_wire.h"

namespace baton {
namespace {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Result<SocketAddress> Resolve(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) return InvalidError("\"{}\" port \"{}\" is not a numeric address: {}", host, port, gai_strerror(error));
  SocketAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.bytes = found->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

void Tune(int fd) {
  const auto set = [fd](int level, int name, int value) { setsockopt(fd, level, name, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);  // a peer whose host is gone is noticed in 1 + 3 × 1 s
  set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 4000);  // ms, with bytes on their way
}

class TcpFamily final : public SocketFamily {
 public:
  explicit TcpFamily(const TransportConfig& config) : bind_host_(config.bind_host), advertise_host_(config.advertise_host), paths_(config.paths) {}
  std::string_view name() const override { return "tcp"; }
  uint32_t paths() const override { return paths_; }
  bool by_reference() const override { return false; }

  Result<Listener> Listen() override {
    ASSIGN_OR_RETURN(SocketAddress bound, Resolve(bind_host_, "0"));
    const bool any = bind_host_ == "0.0.0.0" || bind_host_ == "::";
    if (any && advertise_host_.empty()) return InvalidError("the tcp transport listens on {}: say with advertise_host under which address peers reach it", bind_host_);
    const int fd = socket(bound.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, bound.get(), bound.bytes) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&bound.storage), &bound.bytes) != 0) {
      const int error = errno;
      if (fd >= 0) close(fd);
      return UnavailableError("the tcp transport cannot listen on {}: {}; set an address of this machine", bind_host_, std::strerror(error));
    }
    const bool six = bound.storage.ss_family == AF_INET6;
    const uint16_t port = ntohs(six ? reinterpret_cast<const sockaddr_in6*>(bound.get())->sin6_port : reinterpret_cast<const sockaddr_in*>(bound.get())->sin_port);
    const std::string& host = advertise_host_.empty() ? bind_host_ : advertise_host_;
    return Listener{fd, host.find(':') != std::string::npos ? fmt::format("tcp:[{}]:{}", host, port) : fmt::format("tcp:{}:{}", host, port)};
  }

  Result<int> Dial(const std::string& address) override {
    std::string host = address.substr(address.find(':') + 1);
    const size_t colon = host.rfind(':');
    if (colon == std::string::npos) return InvalidError("\"{}\" has no port", address);
    const std::string port = host.substr(colon + 1);
    host.resize(colon);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    ASSIGN_OR_RETURN(const SocketAddress to, Resolve(host, port));
    const int fd = socket(to.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return UnavailableError("no socket: {}; raise the limit of open files", std::strerror(errno));
    Tune(fd);
    if (connect(fd, to.get(), to.bytes) != 0 && errno != EINPROGRESS) {
      const int error = errno;
      close(fd);
      return UnavailableError("{} cannot be reached: {}", address, std::strerror(error));
    }
    return fd;
  }

  Status Accepted(int fd) override {
    Tune(fd);
    return OkStatus();
  }

 private:
  const std::string bind_host_, advertise_host_;
  const uint32_t paths_;
};

}  // namespace

std::unique_ptr<SocketFamily> MakeTcpFamily(const TransportConfig& config) { return std::make_unique<TcpFamily>(config); }

}  // namespace baton
