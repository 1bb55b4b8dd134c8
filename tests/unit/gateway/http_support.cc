#include "tests/unit/gateway/http_support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace baton {

HttpSocket::HttpSocket(uint16_t port) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval timeout{10, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Close();
}

HttpSocket::~HttpSocket() { Close(); }

void HttpSocket::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void HttpSocket::HalfClose() { shutdown(fd_, SHUT_WR); }

void HttpSocket::Reset() {
  const linger hard{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  Close();
}

void HttpSocket::Send(const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t n = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;  // the server closed; what it answered is still to be read
    sent += static_cast<size_t>(n);
  }
}

void HttpSocket::Post(const std::string& path, const std::string& body, const std::string& headers) {
  Send("POST " + path + " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
       headers + "\r\n" + body);
}

void HttpSocket::Get(const std::string& path, const std::string& headers) {
  Send("GET " + path + " HTTP/1.1\r\nHost: test\r\n" + headers + "\r\n");
}

bool HttpSocket::Fill() {
  char bytes[16384];
  const ssize_t n = recv(fd_, bytes, sizeof bytes, 0);
  if (n <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(n));
  return true;
}

std::string HttpSocket::ReadUntil(const std::string& text) {
  while (buffer_.find(text) == std::string::npos && Fill()) {
  }
  return buffer_;
}

bool HttpSocket::AwaitClosed() {
  char byte;
  while (true) {
    const ssize_t n = recv(fd_, &byte, 1, 0);
    if (n == 0) return true;
    if (n < 0) return errno == ECONNRESET;
  }
}

HttpReply HttpSocket::Read() {
  HttpReply reply;
  size_t end;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (!Fill()) return reply;
  }
  const std::string head = buffer_.substr(0, end + 2);
  buffer_.erase(0, end + 4);
  reply.status = std::atoi(head.c_str() + head.find(' '));
  for (size_t at = head.find("\r\n") + 2; at < head.size();) {
    const size_t stop = head.find("\r\n", at), colon = head.find(':', at);
    std::string name = head.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    reply.headers[name] = head.substr(colon + 2, stop - colon - 2);
    at = stop + 2;
  }
  if (reply.status == 100) return Read();
  if (reply.headers.count("content-length")) {
    const size_t length = std::stoul(reply.headers["content-length"]);
    while (buffer_.size() < length) {
      if (!Fill()) return reply;
    }
    reply.body = buffer_.substr(0, length);
    buffer_.erase(0, length);
    reply.complete = true;
    return reply;
  }
  while (true) {  // chunked
    while ((end = buffer_.find("\r\n")) == std::string::npos) {
      if (!Fill()) return reply;
    }
    const size_t length = std::stoul(buffer_.substr(0, end), nullptr, 16);
    while (buffer_.size() < end + 2 + length + 2) {
      if (!Fill()) return reply;
    }
    reply.body += buffer_.substr(end + 2, length);
    buffer_.erase(0, end + 2 + length + 2);
    if (length == 0) break;
  }
  reply.complete = true;
  return reply;
}

HttpReply Post(uint16_t port, const std::string& path, const nlohmann::ordered_json& body, const std::string& headers) {
  HttpSocket socket(port);
  socket.Post(path, body.dump(), headers);
  return socket.Read();
}

HttpReply Get(uint16_t port, const std::string& path, const std::string& headers) {
  HttpSocket socket(port);
  socket.Get(path, headers);
  return socket.Read();
}

HttpReply Delete(uint16_t port, const std::string& path, const std::string& headers) {
  HttpSocket socket(port);
  socket.Send("DELETE " + path + " HTTP/1.1\r\nHost: test\r\n" + headers + "\r\n");
  return socket.Read();
}

std::vector<nlohmann::json> Events(const std::string& stream) {
  std::vector<nlohmann::json> events;
  for (size_t at = 0; at < stream.size();) {
    const size_t end = stream.find("\n\n", at);
    if (end == std::string::npos) {
      events.push_back("half an event: " + stream.substr(at));
      break;
    }
    const std::string event = stream.substr(at, end - at);
    const size_t data = event.find("data: ");
    const std::string text = data == std::string::npos ? event : event.substr(data + 6);
    events.push_back(text == "[DONE]" ? nlohmann::json(text) : nlohmann::json::parse(text, nullptr, false));
    at = end + 2;
  }
  return events;
}

}  // namespace baton
