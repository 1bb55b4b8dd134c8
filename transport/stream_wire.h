// The wire over stream sockets: TCP between hosts, Unix sockets (with bytes by reference) between processes of one host.
// One epoll, several connections a peer, any of which takes what goes next; a connection that breaks costs only what was
// on it and not acknowledged.
//
// A wire that listens on several families is the `auto` transport; its address names them all: "auto:shm:baton-…|tcp:HOST:PORT".
// Whoever dials such an address takes the first of its own families whose part of the address answers. Nobody compares
// hosts: a Unix socket under a name of 64 random bits answers exactly where both ends share a network namespace.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "transport/wire.h"

namespace baton {

/// Listening and dialling. Every descriptor it gives is non-blocking and the caller's.
class SocketFamily {
 public:
  virtual ~SocketFamily() = default;
  virtual std::string_view name() const = 0;
  struct Listener {
    int fd = -1;
    std::string address;
  };
  virtual Result<Listener> Listen() = 0;
  /// Begins a connection. Errors: kInvalid (not such an address), kUnavailable (it is known already that it cannot be).
  virtual Result<int> Dial(const std::string& address) = 0;
  /// After accept: sets the socket up. Not ok: refuse it.
  virtual Status Accepted(int fd) = 0;
  virtual uint32_t paths() const = 0;       // connections a peer that is dialled
  virtual bool by_reference() const = 0;    // peers can map each other's arenas
};
std::unique_ptr<SocketFamily> MakeTcpFamily(const TransportConfig& config);
std::unique_ptr<SocketFamily> MakeUnixFamily(const TransportConfig& config);

/// `families`: one or more, the one to prefer first. Errors: kInvalid (the address to bind), kUnavailable (it cannot be
/// bound: says why).
Result<std::unique_ptr<Wire>> MakeStreamWire(const TransportConfig& config, std::vector<std::unique_ptr<SocketFamily>> families, WireHost& host, const Clock& clock);

}  // namespace baton
