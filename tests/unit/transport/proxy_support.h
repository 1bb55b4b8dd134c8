// A proxy in front of a tcp transport whose lines can break: by a reset, or by swallowing everything without a word.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "base/check.h"

namespace baton {

inline uint16_t PortOf(const std::string& address) { return static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))); }

inline int DialPort(uint16_t port) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(port);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  return fd;
}

/// Forwards connections to a port. Thread: one.
class Proxy {
 public:
  explicit Proxy(uint16_t port) : port_(port), listener_(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof at;
    CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&at), bytes) == 0 && listen(listener_, 8) == 0);
    CHECK(getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &bytes) == 0);
    address_ = "tcp:127.0.0.1:" + std::to_string(ntohs(at.sin_port));
  }
  ~Proxy() {
    while (!lines_.empty()) Reset(0);
    close(listener_);
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  const std::string& address() const { return address_; }
  size_t lines() const { return lines_.size(); }
  size_t forwarded(size_t line) const { return lines_[line].forwarded; }
  void Work() {
    if (const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC); fd >= 0) lines_.push_back({{fd, DialPort(port_)}});
    for (Line& line : lines_) {
      if (!line.swallows) Forward(line, 0, 1), Forward(line, 1, 0);
    }
  }
  void Reset(size_t line) {
    for (const int fd : lines_[line].fds) {
      const linger hard{1, 0};
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
      close(fd);
    }
    lines_.erase(lines_.begin() + static_cast<ptrdiff_t>(line));
  }
  /// Nothing comes out of this line any more; it stays open.
  void Swallow(size_t line) { lines_[line].swallows = true; }

 private:
  struct Line {
    std::array<int, 2> fds;
    size_t forwarded = 0;
    std::array<std::string, 2> held{};
    bool swallows = false;
  };
  static void Forward(Line& line, int from, int to) {
    std::string& held = line.held[from];
    char buffer[16384];
    const ssize_t n = held.empty() ? recv(line.fds[from], buffer, sizeof buffer, MSG_DONTWAIT) : 0;
    if (n > 0) held.assign(buffer, static_cast<size_t>(n));
    const ssize_t sent = held.empty() ? 0 : send(line.fds[to], held.data(), held.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) held.erase(0, static_cast<size_t>(sent)), line.forwarded += static_cast<size_t>(sent);
  }

  const uint16_t port_;
  const int listener_;
  std::string address_;
  std::vector<Line> lines_;
};

}  // namespace baton
