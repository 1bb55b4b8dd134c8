// Tokens of texts and chats and back, in the spellings of vLLM and llama.cpp.
#include <utility>

#include "gateway/answer_request.h"
#include "gateway/endpoints.h"
#include "gateway/field_reader.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

kj::Promise<void> Refuse(HttpExchange& exchange, const Status& status, const char* param) {
  ApiError error = FromStatus(status);
  error.param = param;
  return exchange.ReplyError(error);
}

/// {"tokens":[…],"count":…,"max_model_len":…} and the tokens' texts where asked for.
std::string TokensJson(const std::vector<TokenId>& ids, bool pieces, const TextCodec& codec, const ModelCard& card) {
  std::string out = "{\"tokens\":[";
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    AppendInteger(out, ids[i]);
  }
  out += "],\"count\":";
  AppendInteger(out, static_cast<int64_t>(ids.size()));
  out += ",\"max_model_len\":";
  AppendInteger(out, card.max_positions);
  if (pieces) {
    out += ",\"token_strs\":[";
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i > 0) out += ',';
      AppendJsonString(out, codec.TokenBytes(ids[i]));
    }
    out += ']';
  }
  return out + '}';
}

}  // namespace

kj::Promise<void> Tokenize(HttpExchange& exchange, const std::string&) {
  auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return exchange.ReplyError(BadRequest("", body.status().message()));
  const TextCodec& codec = exchange.state().codec;
  const ModelCard& card = exchange.state().backend.card();
  FieldReader fields(*body);
  bool pieces = false, parse_special = true, add_special = body->contains("prompt");  // vLLM adds them by default, llama.cpp does not
  fields.Boolean("return_token_strs", pieces);
  fields.Boolean("with_pieces", pieces);
  fields.Boolean("parse_special", parse_special);
  fields.Boolean("add_special_tokens", add_special);
  fields.Boolean("add_special", add_special);
  std::string text;
  const bool has_text = fields.String("prompt", text) || fields.String("content", text) || fields.String("text", text);
  if (fields.error()) return exchange.ReplyError(*fields.error());
  if (has_text) return exchange.ReplyJson(TokensJson(codec.Encode(text, parse_special, add_special), pieces, codec, card));
  if (!body->contains("messages")) return exchange.ReplyError(BadRequest("prompt", "send a 'prompt', 'content' or 'text', or 'messages'"));
  if (auto error = NormalizeMessages(*body)) return exchange.ReplyError(*error);
  auto ids = codec.EncodeChat(*body);
  if (!ids.ok()) return Refuse(exchange, ids.status(), "messages");
  return exchange.ReplyJson(TokensJson(*ids, pieces, codec, card));
}

kj::Promise<void> Detokenize(HttpExchange& exchange, const std::string&) {
  auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return exchange.ReplyError(BadRequest("", body.status().message()));
  FieldReader fields(*body);
  std::vector<TokenId> ids;
  if (!fields.Tokens("tokens", exchange.state().backend.card().vocab, ids) && !fields.Tokens("ids", exchange.state().backend.card().vocab, ids)) {
    return exchange.ReplyError(fields.error() ? *fields.error() : BadRequest("tokens", "'tokens' is missing"));
  }
  std::string quoted;
  AppendJsonString(quoted, exchange.state().codec.Decode(ids));
  return exchange.ReplyJson("{\"prompt\":" + quoted + ",\"content\":" + quoted + ",\"text\":" + quoted + "}");
}

kj::Promise<void> ApplyTemplate(HttpExchange& exchange, const std::string&) {
  auto body = ParseJsonObject(exchange.body());
  if (!body.ok()) return exchange.ReplyError(BadRequest("", body.status().message()));
  if (auto error = NormalizeMessages(*body)) return exchange.ReplyError(*error);
  auto text = exchange.state().codec.Render(*body);
  if (!text.ok()) return Refuse(exchange, text.status(), "messages");
  std::string out = "{\"prompt\":";
  AppendJsonString(out, *text);
  return exchange.ReplyJson(out + "}");
}

}  // namespace baton
