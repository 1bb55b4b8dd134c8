// Unix sockets for the stream wire, in the abstract namespace: no file to leave behind, and a peer's death is seen at once.
// Addresses: "shm:baton-PID-RANDOM". Processes meet if they share a network namespace.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>

#include "base/random.h"
#include "transport/stream_wire.h"

namespace baton {
namespace {

/// The abstract name, or nothing where it is too long.
socklen_t Name(const std::string& name, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  if (name.empty() || name.size() > sizeof(address->sun_path) - 1) return 0;
  std::memcpy(address->sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

/// The user at the other end.
std::optional<uid_t> Owner(int fd) {
  ucred who{};
  socklen_t bytes = sizeof who;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0) return std::nullopt;
  return who.uid;
}

class UnixFamily final : public SocketFamily {
 public:
  explicit UnixFamily(const TransportConfig& config) : keyed_(!config.cluster_key.empty()) {}
  std::string_view name() const override { return "shm"; }
  uint32_t paths() const override { return 1; }
  bool by_reference() const override { return true; }

  Result<Listener> Listen() override {
    const std::string name = fmt::format("baton-{}-{:016x}", getpid(), EntropySeed());
    sockaddr_un address;
    const socklen_t bytes = Name(name, &address);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&address), bytes) != 0 || listen(fd, 128) != 0) {
      const int error = errno;
      if (fd >= 0) close(fd);
      return UnavailableError("the shm transport cannot listen on a Unix socket: {}", std::strerror(error));
    }
    return Listener{fd, "shm:" + name};
  }

  Result<int> Dial(const std::string& address) override {
    sockaddr_un to;
    const socklen_t bytes = Name(address.substr(address.find(':') + 1), &to);
    if (bytes == 0) return InvalidError("\"{}\" is not an address of the shm transport", address);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return UnavailableError("no socket: {}; raise the limit of open files", std::strerror(errno));
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to), bytes) != 0) {
      const int error = errno;
      close(fd);
      return UnavailableError("{} cannot be reached from this process: {}", address, error == EAGAIN ? "its queue is full" : std::strerror(error));
    }
    const std::optional<uid_t> owner = Owner(fd);
    if (!keyed_ && (!owner || (*owner != geteuid() && geteuid() != 0))) {  // it would refuse us
      close(fd);
      return UnavailableError("{} belongs to another user; set a cluster key", address);
    }
    return fd;
  }

  /// Without a key, only processes of the same user are let in.
  Status Accepted(int fd) override {
    const std::optional<uid_t> owner = Owner(fd);
    if (keyed_ || (owner && (*owner == geteuid() || *owner == 0))) return OkStatus();
    return UnavailableError("a process of another user asks for shared memory; set a cluster key");
  }

 private:
  const bool keyed_;
};

}  // namespace

std::unique_ptr<SocketFamily> MakeUnixFamily(const TransportConfig& config) { return std::make_unique<UnixFamily>(config); }

}  // namespace baton
