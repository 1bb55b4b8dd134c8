#include "gateway/endpoints.h"

#include "base/bytes.h"
#include "base/hash.h"

namespace baton {
namespace {

constexpr auto kGet = kj::HttpMethod::GET;
constexpr auto kPost = kj::HttpMethod::POST;
constexpr auto kDelete = kj::HttpMethod::DELETE;

constexpr Endpoint kEndpoints[] = {
    {"/", kGet, Access::kPublic, WebPage},
    {"/openapi.json", kGet, Access::kPublic, OpenApi},
    {"/health", kGet, Access::kPublic, Health},
    {"/v1/health", kGet, Access::kPublic, Health},
    {"/ping", kGet, Access::kPublic, Health},
    {"/live", kGet, Access::kPublic, Live},
    {"/version", kGet, Access::kPublic, Version},
    {"/metrics", kGet, Access::kPublic, MetricsPage},
    {"/v1/chat/completions", kPost, Access::kClient, ChatCompletions},
    {"/v1/completions", kPost, Access::kClient, Completions},
    {"/v1/responses", kPost, Access::kClient, Responses},
    {"/v1/models", kGet, Access::kClient, ListModels},
    {"/v1/models/", kGet, Access::kClient, GetModel},
    {"/v1/caches", kGet, Access::kClient, ListCaches},
    {"/v1/caches", kPost, Access::kClient, CreateCache},
    {"/v1/caches/", kGet, Access::kClient, GetCache},
    {"/v1/caches/", kDelete, Access::kClient, DeleteCache},
    {"/v1/caches/", kPost, Access::kClient, ChangeCache},
    {"/tokenize", kPost, Access::kClient, Tokenize},
    {"/detokenize", kPost, Access::kClient, Detokenize},
    {"/apply-template", kPost, Access::kClient, ApplyTemplate},
    {"/admin/cluster", kGet, Access::kAdmin, Cluster},
    {"/admin/drain/", kPost, Access::kAdmin, DrainWorker},
    {"/admin/role/", kPost, Access::kAdmin, SwitchRole},
    {"/debug/route", kPost, Access::kAdmin, DebugRoute},
    {"/debug/explain", kPost, Access::kAdmin, DebugExplain},
    {"/debug/requests/", kGet, Access::kAdmin, DebugRequest},
};

}  // namespace

std::span<const Endpoint> Endpoints() { return kEndpoints; }

EndpointMatch FindEndpoint(kj::HttpMethod method, std::string_view path) {
  EndpointMatch match;
  for (const Endpoint& endpoint : kEndpoints) {
    const std::string_view pattern = endpoint.path;
    const bool prefix = pattern.size() > 1 && pattern.back() == '/';
    if (prefix ? !(path.size() > pattern.size() && path.substr(0, pattern.size()) == pattern) : path != pattern) continue;
    if (!match.allowed.empty()) match.allowed += ", ";
    match.allowed += endpoint.method == kGet ? "GET, HEAD" : endpoint.method == kPost ? "POST" : "DELETE";
    if (method != endpoint.method && !(endpoint.method == kGet && method == kj::HttpMethod::HEAD)) continue;
    match.endpoint = &endpoint;
    if (prefix) match.argument = path.substr(pattern.size());
    return match;
  }
  return match;
}

std::optional<ApiError> CheckAccess(HttpExchange& exchange, Access access) {
  const GatewayConfig& config = exchange.state().config;
  if (access == Access::kPublic || (access == Access::kClient && exchange.state().tenants.empty())) return std::nullopt;
  // Digests are compared, which tells nothing about where two keys differ.
  const Digest256 sent = Sha256(AsBytes(exchange.key()));
  if (access == Access::kAdmin) {
    if (!exchange.same_origin()) return ApiError{403, "requests of other sites' pages are refused here", "", "cross_origin", 0};
    if (config.admin_key.empty()) {
      if (exchange.stream().FromLoopback()) return std::nullopt;
      return ApiError{403, "without gateway.admin_key this path answers loopback only", "", "admin_only", 0};
    }
    if (sent == Sha256(AsBytes(config.admin_key))) return std::nullopt;
    return ApiError{401, "this path needs the admin key as a Bearer token", "", "invalid_api_key", 0};
  }
  if (const auto known = exchange.state().tenants.find(sent); known != exchange.state().tenants.end()) {
    exchange.set_tenant(known->second);
    return std::nullopt;
  }
  return ApiError{401, exchange.key().empty() ? "send an API key as \"Authorization: Bearer KEY\"" : "this API key is not known here", "",
                  "invalid_api_key", 0};
}

}  // namespace baton
