// The wire over stream sockets: TCP between hosts, Unix sockets (with bytes by reference) between processes of one host.
// One epoll, several connections a peer, any of which takes what goes next; a connection that breaks costs only what was
// on it and not acknowledged.
#pragma once

#include <functional>
#include <memory>

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
  /// Begins a connection. Errors: kInvalid (not such an address), kUnavailable.
  virtual Result<int> Dial(const std::string& address) = 0;
  /// After accept: sets the socket up. Not ok: refuse it.
  virtual Status Accepted(int fd) = 0;
  virtual uint32_t paths() const = 0;       // connections a peer that is dialled
  virtual bool by_reference() const = 0;    // peers can map each other's arenas
};
std::unique_ptr<SocketFamily> MakeTcpFamily(const TransportConfig& config);
std::unique_ptr<SocketFamily> MakeUnixFamily(const TransportConfig& config);

/// Errors: kInvalid (the address to bind), kUnavailable (it cannot be bound: says why).
Result<std::unique_ptr<Wire>> MakeStreamWire(const TransportConfig& config, std::unique_ptr<SocketFamily> family, WireHost& host, const Clock& clock);

}  // namespace baton
