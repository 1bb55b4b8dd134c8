// The HTTP side of one connection: finds the endpoint, checks the key, reads the body, counts the answer.
#pragma once

#include <kj/compat/http.h>

#include "gateway/http_exchange.h"

namespace baton {

/// Thread: the gateway's loop. One a connection.
class GatewayService final : public kj::HttpService {
 public:
  GatewayService(GatewayState& state, ClientStream& stream) : state_(state), stream_(stream) {}
  kj::Promise<void> request(kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders& headers, kj::AsyncInputStream& input,
                            Response& response) override;

 private:
  GatewayState& state_;
  ClientStream& stream_;
};

/// Answers what kj-http refuses by itself, as OpenAI's error object.
class GatewayErrorHandler final : public kj::HttpServerErrorHandler {
 public:
  explicit GatewayErrorHandler(GatewayState& state) : state_(state) {}
  kj::Promise<void> handleClientProtocolError(kj::HttpHeaders::ProtocolError error, kj::HttpService::Response& response) override;
  kj::Promise<void> handleApplicationError(kj::Exception exception, kj::Maybe<kj::HttpService::Response&> response) override;

 private:
  GatewayState& state_;
};

}  // namespace baton
