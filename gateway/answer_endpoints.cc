// The three generation APIs.
#include <utility>

#include "gateway/answer.h"
#include "gateway/cache_request.h"
#include "gateway/endpoints.h"
#include "gateway/field_reader.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

std::optional<ApiError> ReadRequest(Json body, GatewayState& state, Answer::Api api, AnswerRequest& out) {
  const ModelCard& card = state.backend.card();
  switch (api) {
    case Answer::Api::kChat: return ReadChatRequest(std::move(body), state.codec, card, out);
    case Answer::Api::kCompletion: return ReadCompletionRequest(body, state.codec, card, out);
    case Answer::Api::kResponses: return ReadResponsesRequest(body, state.codec, card, out);
  }
  CHECK(false);
}

kj::Promise<void> Begin(HttpExchange& exchange, Answer::Api api, AnswerRequest request) {
  auto answer = kj::heap<Answer>(exchange, api, std::move(request));
  auto promise = answer->Run();
  return promise.attach(kj::mv(answer));
}

/// The request continues or begins with the tokens of a handle: of the same key chain, hence with the same salt.
kj::Promise<void> BeginWithCache(HttpExchange& exchange, Answer::Api api, Json body, const std::string& cache_id, std::string tenant) {
  GatewayState& state = exchange.state();
  const std::string owner(BaseTenant(tenant));
  return state.caches.Find(cache_id, owner).then([&exchange, &state, api, body = std::move(body), tenant = std::move(tenant)](Result<CacheRecord> record) mutable {
    if (record.ok() && record->tenant != tenant) record = NotFoundError("the cache '{}' was made with another cache_salt", record->id);
    if (!record.ok()) return exchange.ReplyError(CacheError(record.status()));
    AnswerRequest request;
    request.cache_tokens = record->tokens;
    if (auto error = ReadRequest(std::move(body), state, api, request)) return exchange.ReplyError(*error);
    for (const auto& prompt : request.prompts) {
      if (auto error = CheckCachePrefix(*record, prompt, state.codec)) return exchange.ReplyError(*error);
    }
    return Begin(exchange, api, std::move(request)).then([&state, record = std::move(*record)] { state.caches.Used(record); });
  });
}

kj::Promise<void> RunAnswer(HttpExchange& exchange, Answer::Api api) {
  GatewayState& state = exchange.state();
  if (Status ready = state.Ready(); !ready.ok()) return exchange.ReplyError(FromStatus(ready));
  auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return exchange.ReplyError(BadRequest("", body.status().message()));
  std::string cache_salt, cache_id;
  FieldReader fields(*body);
  fields.String("cache_salt", cache_salt);
  fields.String("cache_id", cache_id);
  if (fields.error()) return exchange.ReplyError(*fields.error());
  exchange.set_tenant(SaltedTenant(exchange.tenant(), cache_salt));
  if (!cache_id.empty()) return BeginWithCache(exchange, api, std::move(*body), cache_id, exchange.tenant());
  AnswerRequest request;
  if (auto error = ReadRequest(std::move(*body), state, api, request)) return exchange.ReplyError(*error);
  return Begin(exchange, api, std::move(request));
}

}  // namespace

kj::Promise<void> ChatCompletions(HttpExchange& exchange, const std::string&) { return RunAnswer(exchange, Answer::Api::kChat); }
kj::Promise<void> Completions(HttpExchange& exchange, const std::string&) { return RunAnswer(exchange, Answer::Api::kCompletion); }
kj::Promise<void> Responses(HttpExchange& exchange, const std::string&) { return RunAnswer(exchange, Answer::Api::kResponses); }

}  // namespace baton
