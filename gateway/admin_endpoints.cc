// The administrator's view: the cluster, its workers and why requests went where they went.
#include <charconv>
#include <utility>

#include "gateway/cache_request.h"
#include "gateway/endpoints.h"
#include "gateway/field_reader.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

std::string RecordJson(const AnswerRecord& r) {
  return nlohmann::ordered_json({{"id", r.id}, {"request_id", r.request_id}, {"tenant", r.tenant}, {"endpoint", r.endpoint}, {"route", r.route},
                                 {"outcome", r.outcome}, {"started_unix_s", r.started_unix_s}, {"first_token_s", r.first_token_s},
                                 {"total_s", r.total_s}, {"prompt_tokens", r.prompt_tokens}, {"cached_tokens", r.cached_tokens},
                                 {"cache_write_tokens", r.cache_write_tokens}, {"completion_tokens", r.completion_tokens}})
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

kj::Promise<void> Cluster(HttpExchange& exchange, const std::string&) {
  return exchange.state().backend.ClusterJson().then([&exchange](std::string json) { return exchange.ReplyJson(std::move(json)); });
}

kj::Promise<void> DrainWorker(HttpExchange& exchange, const std::string& worker) {
  uint32_t id = 0;
  const auto [end, error] = std::from_chars(worker.data(), worker.data() + worker.size(), id);
  if (error != std::errc() || end != worker.data() + worker.size()) {
    return exchange.ReplyError(BadRequest("worker", "the worker's id must be a number, as /admin/cluster shows it"));
  }
  return exchange.state().backend.Drain(WorkerId(id)).then([&exchange, id](Status status) {
    if (!status.ok()) return exchange.ReplyError(FromStatus(status));
    return exchange.ReplyJson("{\"worker\":" + std::to_string(id) + ",\"draining\":true}");
  });
}

/// Takes the body of a chat or of a completion.
kj::Promise<void> DebugRoute(HttpExchange& exchange, const std::string&) {
  GatewayState& state = exchange.state();
  auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return exchange.ReplyError(BadRequest("", body.status().message()));
  AnswerRequest request;
  auto error = body->contains("messages") ? ReadChatRequest(std::move(*body), state.codec, state.backend.card(), request)
                                          : ReadCompletionRequest(*body, state.codec, state.backend.card(), request);
  if (error) return exchange.ReplyError(*error);
  return state.backend.ExplainRoute(std::move(request.prompts.front()), exchange.tenant()).then([&exchange](std::string json) {
    return exchange.ReplyJson(std::move(json));
  });
}

/// Takes the body of a chat or of a completion, and `tenant`: the name of one.
kj::Promise<void> DebugExplain(HttpExchange& exchange, const std::string&) {
  GatewayState& state = exchange.state();
  auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return exchange.ReplyError(BadRequest("", body.status().message()));
  FieldReader fields(*body);
  std::string tenant = exchange.tenant();
  fields.String("tenant", tenant);
  if (fields.error()) return exchange.ReplyError(*fields.error());
  CacheRequest request;
  if (auto error = ReadCacheRequest(*body, state.codec, state.backend.card(), false, request)) return exchange.ReplyError(*error);
  if (request.source == CacheRequest::Source::kNone) return exchange.ReplyError(BadRequest("prompt", "send a 'prompt', 'messages' or 'tokens'"));
  return state.backend.ExplainCache(std::move(request.tokens), SaltedTenant(tenant, request.cache_salt)).then([&exchange](Result<std::string> json) {
    return json.ok() ? exchange.ReplyJson(std::move(*json)) : exchange.ReplyError(FromStatus(json.status()));
  });
}

/// By the answer's id, with or without its prefix, or by the request's x-request-id.
kj::Promise<void> DebugRequest(HttpExchange& exchange, const std::string& id) {
  const std::string bare = id.substr(id.rfind('-') == std::string::npos ? 0 : id.rfind('-') + 1);
  const auto& records = exchange.state().records;
  for (auto it = records.rbegin(); it != records.rend(); ++it) {
    if (it->id == bare || it->request_id == id) return exchange.ReplyJson(RecordJson(*it));
  }
  return exchange.ReplyError({404, "no ended answer of that id is remembered here", "id", "not_found", 0});
}

}  // namespace baton
