#include "gateway/http_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace baton {
namespace {

std::string HeaderText(const kj::HttpHeaders& headers, kj::HttpHeaderId id) {
  KJ_IF_MAYBE(value, headers.get(id)) return std::string(value->begin(), value->size());
  return "";
}

std::string PercentDecoded(std::string_view text) {
  const auto hex = [](char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0) {
      out += static_cast<char>(hex(text[i + 1]) * 16 + hex(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

/// Printable ASCII of at most `limit` bytes, so that it can stand in a header and a log line.
std::string Printable(std::string text, size_t limit) {
  text.resize(std::min(text.size(), limit));
  for (char& c : text) c = c < ' ' || c > '~' ? '?' : c;
  return text;
}

}  // namespace

HttpExchange::HttpExchange(GatewayState& state, ClientStream& stream, kj::HttpMethod method, kj::StringPtr url,
                           const kj::HttpHeaders& headers, kj::AsyncInputStream& input, kj::HttpService::Response& response)
    : state_(state), stream_(stream), method_(method), input_(input), response_(response) {
  const GatewayHeaders& ids = state.headers;
  const std::string_view target(url.begin(), url.size());
  path_ = PercentDecoded(target.substr(0, target.find('?')));
  request_id_ = Printable(HeaderText(headers, ids.x_request_id), 128);
  if (request_id_.empty()) request_id_ = fmt::format("req-{:016x}", state.random.Next64());
  const std::string authorization = HeaderText(headers, ids.authorization);
  key_ = authorization.rfind("Bearer ", 0) == 0 ? authorization.substr(7) : HeaderText(headers, ids.x_api_key);
  const std::string origin = HeaderText(headers, ids.origin);
  const std::string host = HeaderText(headers, kj::HttpHeaderId::HOST);
  same_origin_ = origin.empty() || origin == "http://" + host || origin == "https://" + host;
  std::string expect = HeaderText(headers, ids.expect);
  std::transform(expect.begin(), expect.end(), expect.begin(), [](unsigned char c) { return std::tolower(c); });
  expects_continue_ = expect == "100-continue";
  std::string connection = HeaderText(headers, kj::HttpHeaderId::CONNECTION);
  std::transform(connection.begin(), connection.end(), connection.begin(), [](unsigned char c) { return std::tolower(c); });
  close_ = connection == "close";  // the body is still to be read
}

void HttpExchange::CloseAfter() {
  close_ = true;
  stream_.EndAfterAnswer();
}

kj::Promise<std::optional<ApiError>> HttpExchange::ReadBody() {
  const uint64_t limit = state_.config.max_body_bytes;
  const ApiError too_long{413, fmt::format("the body is longer than {} bytes (gateway.max_body_bytes)", limit), "", "request_too_large", 0};
  KJ_IF_MAYBE(length, input_.tryGetLength()) {
    if (*length > limit) return std::optional<ApiError>(too_long);
  }
  kj::Promise<void> go = kj::READY_NOW;
  if (expects_continue_) {
    static constexpr char kContinue[] = "HTTP/1.1 100 Continue\r\n\r\n";
    go = stream_.write(kContinue, sizeof kContinue - 1);
  }
  const kj::Duration time_left = static_cast<int64_t>(state_.config.body_timeout_s * 1e3) * kj::MILLISECONDS;
  return go.then([this] { return ReadMore(); })
      .exclusiveJoin(state_.timer.afterDelay(time_left).then([this] {
        CloseAfter();
        return std::optional<ApiError>(ApiError{408, "the body did not arrive in time", "", "request_timeout", 0});
      }))
      .then([too_long, limit, this](std::optional<ApiError> error) { return !error && body_.size() > limit ? too_long : error; })
      .catch_([this](kj::Exception&& exception) -> kj::Promise<std::optional<ApiError>> {
        if (exception.getType() == kj::Exception::Type::DISCONNECTED) return kj::mv(exception);
        CloseAfter();
        return std::optional<ApiError>(BadRequest("", "the body is not framed as HTTP/1.1 asks (Content-Length or chunks)"));
      });
}

kj::Promise<std::optional<ApiError>> HttpExchange::ReadMore() {
  const size_t begin = body_.size();
  if (begin > state_.config.max_body_bytes) return std::optional<ApiError>();
  size_t room = 64 << 10;  // memory follows what came, not what was announced
  KJ_IF_MAYBE(length, input_.tryGetLength()) room = std::clamp<size_t>(*length, 1, room);
  body_.resize(begin + room);
  return input_.tryRead(body_.data() + begin, 1, room).then([this, begin](size_t amount) -> kj::Promise<std::optional<ApiError>> {
    body_.resize(begin + amount);
    if (amount == 0) return std::optional<ApiError>();
    return ReadMore();
  });
}

kj::HttpHeaders HttpExchange::AnswerHeaders(const char* content_type, const std::string& route) {
  kj::HttpHeaders headers(*state_.headers.table);
  headers.set(kj::HttpHeaderId::CONTENT_TYPE, kj::StringPtr(content_type));
  headers.set(state_.headers.x_request_id, kj::StringPtr(request_id_.c_str()));
  if (!route.empty()) headers.set(state_.headers.x_baton_route, kj::str(Printable(route, 4096).c_str()));
  return headers;
}

kj::Own<kj::AsyncOutputStream> HttpExchange::Begin(int status, const kj::HttpHeaders& headers, kj::Maybe<uint64_t> length) {
  status_ = status;
  if (close_) stream_.EndAfterAnswer();
  state_.close_next_answer = close_;
  auto output = response_.send(static_cast<kj::uint>(status), HttpReason(status), headers, length);
  state_.close_next_answer = false;
  return output;
}

kj::Promise<void> HttpExchange::SendWhole(int status, const kj::HttpHeaders& headers, std::string body) {
  auto held = kj::heap(std::move(body));
  auto output = Begin(status, headers, held->size());
  auto promise = output->write(held->data(), held->size());
  return promise.attach(kj::mv(output), kj::mv(held));
}

kj::Promise<void> HttpExchange::Reply(int status, const char* content_type, std::string body, const std::string& route) {
  kj::HttpHeaders headers = AnswerHeaders(content_type, route);
  if (std::string_view(content_type).rfind("text/html", 0) == 0) {
    headers.set(state_.headers.content_security_policy, "default-src 'self' 'unsafe-inline'; img-src 'self' data:"_kj);
  }
  return SendWhole(status, headers, std::move(body));
}

kj::Promise<void> HttpExchange::ReplyError(const ApiError& error) {
  kj::HttpHeaders headers = AnswerHeaders("application/json", "");
  if (error.http_status == 405) headers.set(state_.headers.allow, kj::StringPtr(allowed_.c_str()));
  if (error.http_status == 401) headers.set(state_.headers.www_authenticate, "Bearer"_kj);
  if (error.retry_after_s > 0) {
    headers.set(state_.headers.retry_after, kj::str(static_cast<int64_t>(std::ceil(std::min(error.retry_after_s, 3600.0)))));
  }
  return SendWhole(error.http_status, headers, error.Json());
}

kj::Own<kj::AsyncOutputStream> HttpExchange::BeginEvents(const std::string& route) {
  kj::HttpHeaders headers = AnswerHeaders("text/event-stream; charset=utf-8", route);
  headers.set(state_.headers.cache_control, "no-cache"_kj);
  return Begin(200, headers, nullptr);
}

}  // namespace baton
