#include "gateway/gateway_state.h"

#include <algorithm>
#include <cctype>
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
    : timer(the_timer), clock(the_clock), backend(the_backend), codec(the_codec), config(std::move(the_config)), random(config.seed),
      caches(backend, clock, random, config.max_caches) {
  for (const std::string& key : config.api_keys) {
    const Digest256 digest = Sha256(AsBytes(key));
    tenants[digest] = HexEncode(digest).substr(0, 16);
  }
  for (const TenantKey& tenant : config.tenants) tenants[Sha256(AsBytes(tenant.key))] = tenant.tenant;
}

Result<TenantKey> ParseTenantKey(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  const bool good = !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.';
  });
  if (!good) return InvalidError("gateway.tenants: a tenant is NAME:KEY, its name 1 to 64 letters, digits, '-', '_' and '.'");
  if (colon == std::string::npos || colon + 1 == text.size()) return InvalidError("gateway.tenants: tenant '{}' has no key; write {}:KEY", name, name);
  return TenantKey{name, text.substr(colon + 1)};
}

Status GatewayState::Ready() const {
  if (draining) return UnavailableError("this server is shutting down; send the request to another or try again later");
  return backend.Health();
}

}  // namespace baton
