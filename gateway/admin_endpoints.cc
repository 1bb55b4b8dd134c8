// The administrator's view: the cluster, its workers and why requests went where they went.
#include <charconv>
#include <optional>
#include <utility>

#include "gateway/cache_request.h"
#include "gateway/endpoints.h"
#include "gateway/field_reader.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

nlohmann::ordered_json RecordJson(const AnswerRecord& r) {
  return {{"id", r.id}, {"request_id", r.request_id}, {"tenant", r.tenant}, {"endpoint", r.endpoint}, {"route", r.route},
                                 {"outcome", r.outcome}, {"started_unix_s", r.started_unix_s}, {"first_token_s", r.first_token_s},
                                 {"total_s", r.total_s}, {"prompt_tokens", r.prompt_tokens}, {"cached_tokens", r.cached_tokens},
                                 {"cache_write_tokens", r.cache_write_tokens}, {"completion_tokens", r.completion_tokens}};
}

kj::Promise<void> Reply(HttpExchange& exchange, const Result<std::string>& json) {
  return json.ok() ? exchange.ReplyJson(*json) : exchange.ReplyError(FromStatus(json.status()));
}

/// The id in the path, as /admin/cluster shows it.
Result<WorkerId> ReadWorker(const std::string& text) {
  uint32_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error == std::errc() && end == text.data() + text.size()) return WorkerId(id);
  return InvalidError("the worker's id must be a number, as /admin/cluster shows it");
}

/// The 16 hexadecimal digits of an answer's id, with or without a prefix such as "chatcmpl-".
std::optional<RequestId> ReadAnswerId(const std::string& text) {
  const std::string bare = text.substr(text.rfind('-') == std::string::npos ? 0 : text.rfind('-') + 1);
  uint64_t id = 0;
  const auto [end, error] = std::from_chars(bare.data(), bare.data() + bare.size(), id, 16);
  if (bare.size() != 16 || error != std::errc() || end != bare.data() + bare.size()) return std::nullopt;
  return RequestId(id);
}

}  // namespace

kj::Promise<void> Cluster(HttpExchange& exchange, const std::string&) {
  return exchange.state().backend.ClusterJson().then([&exchange](Result<std::string> json) { return Reply(exchange, json); });
}

kj::Promise<void> DrainWorker(HttpExchange& exchange, const std::string& text) {
  const auto worker = ReadWorker(text);
  if (!worker.ok()) return exchange.ReplyError(BadRequest("worker", worker.status().message()));
  return exchange.state().backend.Drain(*worker).then([&exchange, id = worker->value](Status status) {
    if (!status.ok()) return exchange.ReplyError(FromStatus(status));
    return exchange.ReplyJson("{\"worker\":" + std::to_string(id) + ",\"draining\":true}");
  });
}

/// Body: {"role": "prefill" | "decode" | "prefill+decode"}.
kj::Promise<void> SwitchRole(HttpExchange& exchange, const std::string& text) {
  const auto worker = ReadWorker(text);
  if (!worker.ok()) return exchange.ReplyError(BadRequest("worker", worker.status().message()));
  const auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return exchange.ReplyError(BadRequest("", body.status().message()));
  const auto field = body->find("role");
  if (field == body->end() || !field->is_string()) return exchange.ReplyError(BadRequest("role", "role must be one of prefill, decode, prefill+decode"));
  const std::string role = *field;
  return exchange.state().backend.SetRole(*worker, role).then([&exchange, id = worker->value, role](Status status) {
    if (!status.ok()) return exchange.ReplyError(FromStatus(status));
    return exchange.ReplyJson(nlohmann::ordered_json({{"worker", id}, {"role", role}}).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  });
}

/// Takes the body of a chat or of a completion, and `tenant`: the name of one.
kj::Promise<void> DebugRoute(HttpExchange& exchange, const std::string&) {
  GatewayState& state = exchange.state();
  auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return exchange.ReplyError(BadRequest("", body.status().message()));
  std::string tenant = exchange.tenant();
  FieldReader fields(*body);
  fields.String("tenant", tenant);
  if (fields.error()) return exchange.ReplyError(*fields.error());
  AnswerRequest request;
  auto error = body->contains("messages") ? ReadChatRequest(std::move(*body), state.codec, state.backend.card(), request)
                                          : ReadCompletionRequest(*body, state.codec, state.backend.card(), request);
  if (error) return exchange.ReplyError(*error);
  const uint32_t max_tokens = request.MaxTokens(request.prompts.front().size(), state.backend.card().max_positions);
  return state.backend.ExplainRoute(std::move(request.prompts.front()), max_tokens, SaltedTenant(tenant, request.cache_salt)).then([&exchange](Result<std::string> json) {
    return Reply(exchange, json);
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

/// By the answer's id, with or without its prefix, or by the request's x-request-id: what the gateway saw, and beside it what
/// the coordinator had predicted of the first choice. A running answer has only the latter.
kj::Promise<void> DebugRequest(HttpExchange& exchange, const std::string& text) {
  auto id = ReadAnswerId(text);
  nlohmann::ordered_json record;
  const auto& records = exchange.state().records;
  for (auto it = records.rbegin(); it != records.rend() && record.is_null(); ++it) {
    const auto known = ReadAnswerId(it->id);
    if (it->request_id != text && (!id || known != id)) continue;
    record = RecordJson(*it);
    id = known;
  }
  const ApiError unknown{404, "no answer of that id is remembered here", "id", "not_found", 0};
  if (!id) return exchange.ReplyError(unknown);
  return exchange.state().backend.ExplainRequest(*id).then([&exchange, record, unknown](Result<std::string> decision) mutable {
    if (record.is_null() && !decision.ok()) {
      return exchange.ReplyError(decision.status().code() == StatusCode::kNotFound ? unknown : FromStatus(decision.status()));
    }
    if (decision.ok()) record["routing"] = nlohmann::ordered_json::parse(*decision, nullptr, false);
    return exchange.ReplyJson(record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  });
}

}  // namespace baton
