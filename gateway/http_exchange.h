// One HTTP request on its way through the gateway, and the ways to answer it.
#pragma once

#include <kj/compat/http.h>

#include <optional>
#include <string>
#include <string_view>

#include "gateway/api_error.h"
#include "gateway/client_stream.h"
#include "gateway/gateway_state.h"

namespace baton {

/// Thread: the gateway's loop. Lives until its answer is written.
class HttpExchange {
 public:
  HttpExchange(GatewayState& state, ClientStream& stream, kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders& headers,
               kj::AsyncInputStream& input, kj::HttpService::Response& response);

  GatewayState& state() { return state_; }
  ClientStream& stream() { return stream_; }
  kj::HttpMethod method() const { return method_; }
  const std::string& path() const { return path_; }  // percent-decoded, without the query
  const std::string& request_id() const { return request_id_; }
  const std::string& key() const { return key_; }  // of Authorization: Bearer or X-Api-Key
  /// False when a page of another origin made a browser send this.
  bool same_origin() const { return same_origin_; }
  const std::string& body() const { return body_; }
  const std::string& tenant() const { return tenant_; }
  void set_tenant(std::string tenant) { tenant_ = std::move(tenant); }
  int status() const { return status_; }  // 0 until an answer was begun

  /// Reads the body to its end; the error to send where that fails: 400 malformed, 408 too slow, 413 too long.
  kj::Promise<std::optional<ApiError>> ReadBody();

  kj::Promise<void> Reply(int status, const char* content_type, std::string body, const std::string& route = "");
  kj::Promise<void> ReplyJson(std::string body, const std::string& route = "") { return Reply(200, "application/json", std::move(body), route); }
  kj::Promise<void> ReplyError(const ApiError& error);
  /// Begins a stream of server-sent events.
  kj::Own<kj::AsyncOutputStream> BeginEvents(const std::string& route);
  /// Announces and makes the end of the connection after this answer.
  void CloseAfter();
  /// The methods that a 405 names.
  void set_allowed(std::string methods) { allowed_ = std::move(methods); }

 private:
  kj::Promise<std::optional<ApiError>> ReadMore();
  kj::Own<kj::AsyncOutputStream> Begin(int status, const kj::HttpHeaders& headers, kj::Maybe<uint64_t> length);
  kj::Promise<void> SendWhole(int status, const kj::HttpHeaders& headers, std::string body);
  kj::HttpHeaders AnswerHeaders(const char* content_type, const std::string& route);

  GatewayState& state_;
  ClientStream& stream_;
  kj::HttpMethod method_;
  kj::AsyncInputStream& input_;
  kj::HttpService::Response& response_;
  std::string path_, request_id_, key_, body_, tenant_, allowed_;
  bool same_origin_ = true, expects_continue_ = false, close_ = false;
  int status_ = 0;
};

}  // namespace baton
