#include "gateway/gateway_state.h"

#include <utility>

namespace baton {

GatewayHeaders::GatewayHeaders()
    : authorization(builder.add("Authorization")), x_api_key(builder.add("X-Api-Key")), x_request_id(builder.add("x-request-id")),
      x_baton_route(builder.add("x-baton-route")), retry_after(builder.add("Retry-After")), allow(builder.add("Allow")),
      expect(builder.add("Expect")), origin(builder.add("Origin")), cache_control(builder.add("Cache-Control")),
      www_authenticate(builder.add("WWW-Authenticate")), content_security_policy(builder.add("Content-Security-Policy")),
      table(builder.build()) {}

GatewayState::GatewayState(kj::Timer& the_timer, const Clock& the_clock, Backend& the_backend, const TextCodec& the_codec,
                           GatewayConfig the_config)
    : timer(the_timer), clock(the_clock), backend(the_backend), codec(the_codec), config(std::move(the_config)), random(config.seed) {
  for (const std::string& key : config.api_keys) key_digests.push_back(Sha256(AsBytes(key)));
}

Status GatewayState::Ready() const {
  if (draining) return UnavailableError("this server is shutting down; send the request to another or try again later");
  return backend.Health();
}

}  // namespace baton
