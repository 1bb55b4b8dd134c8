// A blocking HTTP client on a raw socket, so that tests decide every byte that is sent and see every one that comes.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace baton {

struct HttpReply {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without chunk framing
  bool complete = false;                       // the whole body came as its framing says
  nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
  nlohmann::json error() const { return json().is_object() ? json().value("error", nlohmann::json()) : nlohmann::json(); }
};

/// Reads time out after 10 s.
class HttpSocket {
 public:
  explicit HttpSocket(uint16_t port);
  ~HttpSocket();
  HttpSocket(const HttpSocket&) = delete;
  HttpSocket& operator=(const HttpSocket&) = delete;

  bool connected() const { return fd_ >= 0; }
  void Send(const std::string& bytes);
  void Post(const std::string& path, const std::string& body, const std::string& headers = "");
  void Get(const std::string& path, const std::string& headers = "");
  HttpReply Read();
  /// Reads until `text` has come or the connection ended; gives all that was read.
  std::string ReadUntil(const std::string& text);
  /// True once the peer has closed, false after 10 s.
  bool AwaitClosed();
  void HalfClose();
  void Reset();  // closes with a TCP reset
  void Close();

 private:
  bool Fill();

  int fd_ = -1;
  std::string buffer_;
};

HttpReply Post(uint16_t port, const std::string& path, const nlohmann::ordered_json& body, const std::string& headers = "");
HttpReply Get(uint16_t port, const std::string& path, const std::string& headers = "");
HttpReply Delete(uint16_t port, const std::string& path, const std::string& headers = "");

/// The data of each server-sent event, parsed; "[DONE]" is the string.
std::vector<nlohmann::json> Events(const std::string& stream);

}  // namespace baton
