// The client commands' way to a running gateway: whole answers and streams of server-sent events over kj-http.
#pragma once

#include <kj/async-io.h>
#include <kj/compat/http.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace baton {

struct HttpUrl {
  std::string host;
  uint16_t port = 80;
  std::string prefix;  // of every path, without a slash at its end
};
/// "http://HOST[:PORT][/PREFIX]", the scheme may be left out; an IPv6 address is in brackets. kInvalid says what is wrong.
Result<HttpUrl> ParseUrl(std::string_view text);

/// Most bytes of one event of a stream, and of an answer that is none.
inline constexpr size_t kMaxAnswerBytes = 64 << 20;

/// Cuts a byte stream into server-sent events, as the HTML standard says: lines end with LF, CRLF or CR, an event's data lines are
/// joined by LF, and what follows the last blank line is no event.
class EventReader {
 public:
  /// Calls `on_data` with the data of each event that is complete now. False: one is longer than kMaxAnswerBytes; read no further.
  bool Push(std::string_view bytes, const std::function<void(std::string_view data)>& on_data);

 private:
  void EndLine(const std::function<void(std::string_view data)>& on_data);

  std::string line_, data_;
  bool has_data_ = false, after_cr_ = false;
};

struct HttpAnswer {
  int status = 0;
  std::string route;        // x-baton-route
  std::string retry_after;  // Retry-After
  std::string body;         // empty for a stream of events

  /// The message of OpenAI's error object, or the body.
  std::string ErrorMessage() const;
};

/// Thread: one, that of the kj loop. Failures of the connection are kUnavailable, silence for longer than the timeout is
/// kDeadline; an HTTP error is an answer.
class HttpApiClient {
 public:
  HttpApiClient(kj::AsyncIoContext& io, HttpUrl url, std::string api_key, double timeout_s = 600);
  kj::Promise<Result<HttpAnswer>> Get(const std::string& path);
  kj::Promise<Result<HttpAnswer>> Post(const std::string& path, const std::string& body);
  /// As Post; the data of events goes to `on_data` as it comes.
  kj::Promise<Result<HttpAnswer>> Stream(const std::string& path, const std::string& body, std::function<void(std::string_view data)> on_data);

 private:
  struct Request;
  kj::Promise<void> Connect();
  kj::Promise<Result<HttpAnswer>> Send(kj::HttpMethod method, const std::string& path, const std::string& body,
                                       std::function<void(std::string_view data)> on_data);
  kj::Promise<void> ReadBody(Request& request);

  kj::AsyncIoContext& io_;
  const HttpUrl url_;
  const std::string api_key_;
  const kj::Duration timeout_;
  kj::HttpHeaderTable::Builder builder_;
  kj::HttpHeaderId authorization_, route_, retry_after_;
  kj::Own<kj::HttpHeaderTable> table_;
  kj::Own<kj::NetworkAddress> address_;
  kj::Own<kj::HttpClient> client_;  // made by the first request
};

}  // namespace baton
