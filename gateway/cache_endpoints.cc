// Cache handles: /v1/caches and what can be done with one.
#include <fmt/format.h>

#include <utility>

#include "gateway/cache_request.h"
#include "gateway/endpoints.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

kj::Promise<void> Send(HttpExchange& exchange, const Result<CacheHandle>& handle) {
  if (!handle.ok()) return exchange.ReplyError(CacheError(handle.status()));
  return exchange.ReplyJson(CacheJson(*handle));
}

kj::Promise<void> SendMade(HttpExchange& exchange, Caches::Made made) {
  return made.then([&exchange](Result<CacheHandle> handle) { return Send(exchange, handle); });
}

/// Reads the body; null after an error was sent, which `sent` then is.
std::optional<CacheRequest> Read(HttpExchange& exchange, bool append, kj::Promise<void>& sent) {
  GatewayState& state = exchange.state();
  CacheRequest request;
  std::optional<ApiError> error;
  if (const Status ready = state.Ready(); !ready.ok()) {
    error = FromStatus(ready);
  } else if (exchange.body().empty()) {
    return request;
  } else if (auto body = ParseJsonObject(exchange.body()); !body.ok()) {
    error = BadRequest("", body.status().message());
  } else {
    error = ReadCacheRequest(*body, state.codec, state.backend.card(), append, request);
  }
  if (!error) return request;
  sent = exchange.ReplyError(*error);
  return std::nullopt;
}

/// When a record that is changed expires: as asked, else as before.
double ChangedExpiry(const CacheRecord& record, const CacheRequest& request, const GatewayState& state) {
  const bool unpin = request.pin == false && record.pinned();
  return request.ttl_s || request.pin == true || unpin ? request.Expires(state.caches.now(), state.config.cache_ttl_s) : record.expires_unix_s;
}

kj::Promise<void> Extend(HttpExchange& exchange, const std::string& id, CacheRequest request) {
  GatewayState& state = exchange.state();
  if (request.length) return exchange.ReplyError(BadRequest("length", "'length' belongs to crop and fork"));
  return SendMade(exchange, state.caches.Change(id, exchange.tenant(), [&state, request = std::move(request)](CacheRecord record) -> Result<CacheRecord> {
    record.expires_unix_s = ChangedExpiry(record, request, state);
    return ExtendRecord(std::move(record), request, state.backend.card());
  }));
}

kj::Promise<void> Crop(HttpExchange& exchange, const std::string& id, CacheRequest request) {
  GatewayState& state = exchange.state();
  if (!request.length && request.source == CacheRequest::Source::kNone) {
    return exchange.ReplyError(BadRequest("length", "send the 'length' to keep, or the 'prompt', 'messages' or 'tokens' whose common beginning is kept"));
  }
  return SendMade(exchange, state.caches.Change(id, exchange.tenant(), [&state, request = std::move(request)](CacheRecord record) -> Result<CacheRecord> {
    record.expires_unix_s = ChangedExpiry(record, request, state);
    return CropRecord(std::move(record), request);
  }));
}

kj::Promise<void> Fork(HttpExchange& exchange, const std::string& id, CacheRequest request) {
  GatewayState& state = exchange.state();
  return SendMade(exchange, state.caches.Fork(id, exchange.tenant(), [&state, request = std::move(request)](CacheRecord record) -> Result<CacheRecord> {
    record.expires_unix_s = request.Expires(state.caches.now(), state.config.cache_ttl_s);
    return CropRecord(std::move(record), request);
  }));
}

}  // namespace

kj::Promise<void> CreateCache(HttpExchange& exchange, const std::string&) {
  GatewayState& state = exchange.state();
  kj::Promise<void> sent = nullptr;
  auto request = Read(exchange, false, sent);
  if (!request) return sent;
  if (request->source == CacheRequest::Source::kNone) {
    return exchange.ReplyError(BadRequest("prompt", "send a 'prompt', 'messages' or 'tokens' to keep"));
  }
  return SendMade(exchange, state.caches.Create(SaltedTenant(exchange.tenant(), request->cache_salt), std::move(request->tokens),
                                                request->Expires(state.caches.now(), state.config.cache_ttl_s), HoldMode::kComplete));
}

kj::Promise<void> ListCaches(HttpExchange& exchange, const std::string&) {
  return exchange.state().caches.List(exchange.tenant()).then([&exchange](std::vector<CacheHandle> handles) {
    std::string out = "{\"object\":\"list\",\"data\":[";
    for (size_t i = 0; i < handles.size(); ++i) out += (i == 0 ? "" : ",") + CacheJson(handles[i]);
    return exchange.ReplyJson(out + "]}");
  });
}

kj::Promise<void> GetCache(HttpExchange& exchange, const std::string& id) { return SendMade(exchange, exchange.state().caches.Get(id, exchange.tenant())); }

kj::Promise<void> DeleteCache(HttpExchange& exchange, const std::string& id) {
  return exchange.state().caches.Delete(id, exchange.tenant()).then([&exchange, id](Status status) {
    if (!status.ok()) return exchange.ReplyError(CacheError(status));
    std::string out = "{\"id\":";
    AppendJsonString(out, id);
    return exchange.ReplyJson(out + ",\"object\":\"cache\",\"deleted\":true}");
  });
}

/// "ID/extend", "ID/crop" or "ID/fork".
kj::Promise<void> ChangeCache(HttpExchange& exchange, const std::string& path) {
  const size_t slash = path.find('/');
  const std::string id = path.substr(0, slash), what = slash == std::string::npos ? "" : path.substr(slash + 1);
  if (what != "extend" && what != "crop" && what != "fork") {
    return exchange.ReplyError({404, "a cache is changed by POST /v1/caches/ID/extend, /crop or /fork", "", "unknown_url", 0});
  }
  kj::Promise<void> sent = nullptr;
  auto request = Read(exchange, what == "extend", sent);
  if (!request) return sent;
  if (what == "extend") return Extend(exchange, id, std::move(*request));
  return what == "crop" ? Crop(exchange, id, std::move(*request)) : Fork(exchange, id, std::move(*request));
}

}  // namespace baton
