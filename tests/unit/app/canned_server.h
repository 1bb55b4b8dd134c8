// A server that answers each request with bytes a test wrote, for what clients make of strange ones.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace baton {

/// Answers each request with what `reply` gives for its path, byte for byte and piece by piece, then closes.
class CannedServer {
 public:
  using Reply = std::function<std::string(const std::string& path)>;
  using Pieces = std::function<std::vector<std::string>(const std::string& path)>;
  explicit CannedServer(Reply reply) : CannedServer(Pieces([reply = std::move(reply)](const std::string& path) { return std::vector{reply(path)}; })) {}
  explicit CannedServer(Pieces pieces) : pieces_(std::move(pieces)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~CannedServer() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  uint16_t port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  /// What clients sent; read it when they have ended.
  const std::vector<std::string>& requests() const { return requests_; }

 private:
  void Serve() {
    for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0; close(fd)) {
      const timeval limit{10, 0};
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      std::string request;
      char bytes[4096];
      size_t body = std::string::npos;
      while (true) {
        const ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n <= 0) break;
        request.append(bytes, static_cast<size_t>(n));
        const size_t end = request.find("\r\n\r\n"), length = request.find("Content-Length: ");
        if (end == std::string::npos) continue;
        body = length == std::string::npos ? 0 : std::stoul(request.substr(length + 16));
        if (request.size() >= end + 4 + body) break;
      }
      requests_.push_back(request);
      const size_t begin = request.find(' ') + 1;
      for (const std::string& piece : pieces_(request.substr(begin, request.find(' ', begin) - begin))) {
        if (send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) < 0) break;
      }
      shutdown(fd, SHUT_WR);
      while (recv(fd, bytes, sizeof bytes, 0) > 0) {
      }
    }
  }
  const Pieces pieces_;
  std::vector<std::string> requests_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::thread thread_;
};

inline std::string Whole(const std::string& body, const std::string& status = "200 OK", const std::string& type = "application/json") {
  return "HTTP/1.1 " + status + "\r\nConnection: close\r\nContent-Type: " + type + "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}
inline std::string Stream(const std::string& events) { return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + events; }

}  // namespace baton
