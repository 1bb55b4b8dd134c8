// The table of what the gateway answers: one line a path.
#pragma once

#include <kj/async.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "gateway/http_exchange.h"

namespace baton {

enum class Access { kPublic, kClient, kAdmin };  // no key, an API key, the admin key

struct Endpoint {
  const char* path;  // ends in '/': what follows is the argument
  kj::HttpMethod method;
  Access access;
  kj::Promise<void> (*handle)(HttpExchange& exchange, const std::string& argument);
};

std::span<const Endpoint> Endpoints();

struct EndpointMatch {
  const Endpoint* endpoint = nullptr;  // null: no such path, or only with other methods
  std::string argument;
  std::string allowed;  // the path's methods, for example "GET, HEAD"; empty: no such path
};
EndpointMatch FindEndpoint(kj::HttpMethod method, std::string_view path);

/// Whether the exchange's key opens `access`; sets the exchange's tenant. Else the error to send.
std::optional<ApiError> CheckAccess(HttpExchange& exchange, Access access);

// answer_endpoints.cc
kj::Promise<void> ChatCompletions(HttpExchange& exchange, const std::string&);
kj::Promise<void> Completions(HttpExchange& exchange, const std::string&);
kj::Promise<void> Responses(HttpExchange& exchange, const std::string&);
// text_endpoints.cc
kj::Promise<void> Tokenize(HttpExchange& exchange, const std::string&);
kj::Promise<void> Detokenize(HttpExchange& exchange, const std::string&);
kj::Promise<void> ApplyTemplate(HttpExchange& exchange, const std::string&);
// cache_endpoints.cc
kj::Promise<void> CreateCache(HttpExchange& exchange, const std::string&);
kj::Promise<void> ListCaches(HttpExchange& exchange, const std::string&);
kj::Promise<void> GetCache(HttpExchange& exchange, const std::string& id);
kj::Promise<void> DeleteCache(HttpExchange& exchange, const std::string& id);
kj::Promise<void> ChangeCache(HttpExchange& exchange, const std::string& path);
// info_endpoints.cc
kj::Promise<void> WebPage(HttpExchange& exchange, const std::string&);
kj::Promise<void> OpenApi(HttpExchange& exchange, const std::string&);
kj::Promise<void> Health(HttpExchange& exchange, const std::string&);
kj::Promise<void> Live(HttpExchange& exchange, const std::string&);
kj::Promise<void> Version(HttpExchange& exchange, const std::string&);
kj::Promise<void> MetricsPage(HttpExchange& exchange, const std::string&);
kj::Promise<void> ListModels(HttpExchange& exchange, const std::string&);
kj::Promise<void> GetModel(HttpExchange& exchange, const std::string& id);
// admin_endpoints.cc
kj::Promise<void> Cluster(HttpExchange& exchange, const std::string&);
kj::Promise<void> DrainWorker(HttpExchange& exchange, const std::string& worker);
kj::Promise<void> SwitchRole(HttpExchange& exchange, const std::string& worker);
kj::Promise<void> DebugRoute(HttpExchange& exchange, const std::string&);
kj::Promise<void> DebugRequest(HttpExchange& exchange, const std::string& id);
kj::Promise<void> DebugExplain(HttpExchange& exchange, const std::string&);

}  // namespace baton
