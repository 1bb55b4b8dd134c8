#include "gateway/http_service.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"
#include "gateway/endpoints.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

kj::Promise<void> Serve(HttpExchange& exchange, const EndpointMatch& match) {
  if (match.endpoint == nullptr && match.allowed.empty()) {
    return exchange.ReplyError({404, fmt::format("there is no path {} here; /openapi.json lists what there is", ValidUtf8(exchange.path().substr(0, 200))),
                                "", "unknown_url", 0});
  }
  if (match.endpoint == nullptr) {
    exchange.set_allowed(match.allowed);
    return exchange.ReplyError({405, fmt::format("this path answers {} only", match.allowed), "", "method_not_allowed", 0});
  }
  if (auto error = CheckAccess(exchange, match.endpoint->access)) return exchange.ReplyError(*error);
  if (match.endpoint->method != kj::HttpMethod::POST) return match.endpoint->handle(exchange, match.argument);
  return exchange.ReadBody().then([&exchange, match](std::optional<ApiError> error) {
    return error ? exchange.ReplyError(*error) : match.endpoint->handle(exchange, match.argument);
  });
}

kj::Promise<void> SendError(GatewayState& state, kj::HttpService::Response& response, const ApiError& error) {
  kj::HttpHeaders headers(*state.headers.table);
  headers.set(kj::HttpHeaderId::CONTENT_TYPE, "application/json"_kj);
  auto body = kj::heap(error.Json());
  state.metrics.Request("malformed", error.http_status);
  auto output = response.send(static_cast<kj::uint>(error.http_status), HttpReason(error.http_status), headers, body->size());
  auto promise = output->write(body->data(), body->size());
  return promise.attach(kj::mv(output), kj::mv(body));
}

}  // namespace

kj::Promise<void> GatewayService::request(kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders& headers,
                                          kj::AsyncInputStream& input, Response& response) {
  auto exchange = kj::heap<HttpExchange>(state_, stream_, method, url, headers, input, response);
  HttpExchange& e = *exchange;
  const EndpointMatch match = FindEndpoint(method, e.path());
  const char* name = match.endpoint == nullptr ? "unknown" : match.endpoint->path;
  // 499, as nginx counts it: the client left before an answer began.
  auto count = kj::defer([this, &e, name] { state_.metrics.Request(name, e.status() == 0 ? 499 : e.status()); });
  return kj::evalNow([&] { return Serve(e, match); })
      .catch_([&e](kj::Exception&& exception) -> kj::Promise<void> {
        if (exception.getType() == kj::Exception::Type::DISCONNECTED) return kj::mv(exception);
        LOG_ERROR("gateway request_id={} failed: {}", e.request_id(), exception.getDescription().cStr());
        if (e.status() != 0) return kj::mv(exception);
        return e.ReplyError({500, "the server failed to answer this request", "", "internal", 0});
      })
      .attach(kj::mv(count))  // reads the exchange
      .attach(kj::mv(exchange));
}

kj::Promise<void> GatewayErrorHandler::handleClientProtocolError(kj::HttpHeaders::ProtocolError error, kj::HttpService::Response& response) {
  ApiError api{static_cast<int>(error.statusCode), std::string("the request is not HTTP/1.1: ") + error.description.cStr(), "", "malformed_request", 0};
  return SendError(state_, response, api);
}

kj::Promise<void> GatewayErrorHandler::handleApplicationError(kj::Exception exception, kj::Maybe<kj::HttpService::Response&> response) {
  if (exception.getType() == kj::Exception::Type::DISCONNECTED) return kj::READY_NOW;
  // GatewayService answers its own failures; what comes here with a response to give failed before, while kj-http read the request.
  KJ_IF_MAYBE(r, response) return SendError(state_, *r, {400, "the request's framing is broken or its headers are too long", "", "malformed_request", 0});
  return kj::READY_NOW;
}

}  // namespace baton
