// The three generation APIs.
#include <utility>

#include "base/bytes.h"
#include "base/hash.h"
#include "gateway/answer.h"
#include "gateway/endpoints.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

std::optional<ApiError> ReadRequest(const HttpExchange& exchange, GatewayState& state, Answer::Api api, AnswerRequest& out) {
  auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return BadRequest("", body.status().message());
  const ModelCard& card = state.backend.card();
  switch (api) {
    case Answer::Api::kChat: return ReadChatRequest(std::move(*body), state.codec, card, out);
    case Answer::Api::kCompletion: return ReadCompletionRequest(*body, state.codec, card, out);
    case Answer::Api::kResponses: return ReadResponsesRequest(*body, state.codec, card, out);
  }
  CHECK(false);
}

kj::Promise<void> RunAnswer(HttpExchange& exchange, Answer::Api api) {
  GatewayState& state = exchange.state();
  if (Status ready = state.Ready(); !ready.ok()) return exchange.ReplyError(FromStatus(ready));
  AnswerRequest request;
  if (auto error = ReadRequest(exchange, state, api, request)) return exchange.ReplyError(*error);
  if (!request.cache_salt.empty()) {  // a tenant of its own: the tenant's salt is in every block key
    exchange.set_tenant(exchange.tenant() + "/" + HexEncode(Sha256(AsBytes(request.cache_salt))).substr(0, 16));
  }
  auto answer = kj::heap<Answer>(exchange, api, std::move(request));
  auto promise = answer->Run();
  return promise.attach(kj::mv(answer));
}

}  // namespace

kj::Promise<void> ChatCompletions(HttpExchange& exchange, const std::string&) { return RunAnswer(exchange, Answer::Api::kChat); }
kj::Promise<void> Completions(HttpExchange& exchange, const std::string&) { return RunAnswer(exchange, Answer::Api::kCompletion); }
kj::Promise<void> Responses(HttpExchange& exchange, const std::string&) { return RunAnswer(exchange, Answer::Api::kResponses); }

}  // namespace baton
