#include "gateway/cache_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "gateway/field_reader.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;
using Source = CacheRequest::Source;

/// Reads what the tokens are made of by the rules of the generation APIs.
std::optional<ApiError> ReadTokens(const Json& body, const TextCodec& codec, const ModelCard& card, CacheRequest& out) {
  AnswerRequest answer;
  Json request = Json::object();
  if (body.contains("model")) request["model"] = body["model"];
  request["max_tokens"] = 1;
  if (out.source == Source::kMessages) {
    for (const char* name : {"messages", "tools", "documents", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"}) {
      if (body.contains(name)) request[name] = body[name];
    }
    // A handle is most often the beginning of conversations: the next message follows, not an answer.
    if (!request.contains("add_generation_prompt")) request["add_generation_prompt"] = false;
    if (auto error = ReadChatRequest(std::move(request), codec, card, answer)) return error;
  } else {
    const char* name = out.source == Source::kTokens ? "tokens" : "prompt";
    request["prompt"] = body[name];
    auto error = ReadCompletionRequest(request, codec, card, answer);
    if (error) RenameParam(*error, "prompt", name);
    if (error) return error;
    if (answer.prompts.size() != 1) return BadRequest(name, fmt::format("'{}' must be one prompt: a handle is of one", name));
  }
  out.tokens = std::move(answer.prompts.front());
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> ReadCacheRequest(const Json& body, const TextCodec& codec, const ModelCard& card, bool append, CacheRequest& out) {
  FieldReader fields(body);
  double ttl_s = 0;
  if (fields.Number("ttl_s", 1, kMaxCacheTtlS, ttl_s)) out.ttl_s = ttl_s;
  bool pin = false;
  if (fields.Boolean("pin", pin)) out.pin = pin;
  if (pin && out.ttl_s) fields.Fail("ttl_s", "'ttl_s' and 'pin': true exclude each other: what is pinned never expires");
  int64_t length = 0;
  if (fields.Integer("length", INT32_MIN, INT32_MAX, length)) out.length = length;
  fields.String("cache_salt", out.cache_salt);
  for (const auto& [name, source] : {std::pair{"prompt", Source::kPrompt}, {"messages", Source::kMessages}, {"tokens", Source::kTokens}}) {
    const Json* value = fields.Find(name);
    if (value == nullptr) continue;
    if (out.source != Source::kNone) fields.Fail(name, "send one of 'prompt', 'messages' and 'tokens', not several");
    if (source == Source::kTokens && !value->is_array()) fields.Fail(name, "'tokens' must be a list of token ids");
    out.source = source;
  }
  if (fields.error()) return *fields.error();
  if (append && out.source == Source::kPrompt && body["prompt"].is_string()) {
    out.tokens = codec.Encode(body["prompt"].get_ref<const std::string&>(), /*parse_special=*/true, /*add_special=*/false);
    return std::nullopt;
  }
  return out.source == Source::kNone ? std::nullopt : ReadTokens(body, codec, card, out);
}

Result<CacheRecord> ExtendRecord(CacheRecord record, const CacheRequest& request, const ModelCard& card) {
  if (request.source == Source::kMessages) {  // the conversation so far and what follows
    const size_t common = CommonPrefix(record.tokens, request.tokens);
    if (common < record.tokens.size()) {
      return InvalidError("the messages part from the cache's {} tokens at token {}; crop the cache first", record.tokens.size(), common);
    }
    record.tokens = request.tokens;
  } else {
    record.tokens.insert(record.tokens.end(), request.tokens.begin(), request.tokens.end());
  }
  if (record.tokens.size() < card.max_positions) return record;
  return InvalidError("the cache would have {} tokens; the model's context of {} must leave room for one more", record.tokens.size(), card.max_positions);
}

Result<CacheRecord> CropRecord(CacheRecord record, const CacheRequest& request) {
  const auto size = static_cast<int64_t>(record.tokens.size());
  int64_t keep = size;
  if (request.length) keep = *request.length < 0 ? size + *request.length : *request.length;
  if (request.source != Source::kNone) keep = std::min(keep, static_cast<int64_t>(CommonPrefix(record.tokens, request.tokens)));
  if (keep > size || keep < 1) return InvalidError("the cache has {} tokens; {} cannot be kept", size, keep);
  record.tokens.resize(static_cast<size_t>(keep));
  return record;
}

size_t CommonPrefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

std::optional<ApiError> CheckCachePrefix(const CacheRecord& record, const std::vector<TokenId>& prompt, const TextCodec& codec) {
  const size_t common = CommonPrefix(record.tokens, prompt);
  if (common == record.tokens.size()) return std::nullopt;
  std::string there = "ends";
  if (common < prompt.size()) there = fmt::format("has token {} ({})", prompt[common], Json(codec.TokenBytes(prompt[common])).dump(-1, ' ', false, Json::error_handler_t::replace));
  return ApiError{422, fmt::format("the request does not begin with the {} tokens of cache '{}': at token {} the request {}, the cache has token {} ({}); "
                                   "crop the cache to {} tokens, or send its tokens",
                                   record.tokens.size(), record.id, common, there, record.tokens[common],
                                   Json(codec.TokenBytes(record.tokens[common])).dump(-1, ' ', false, Json::error_handler_t::replace), common),
                  "cache_id", "cache_mismatch", 0};
}

ApiError CacheError(const Status& status) {
  ApiError error = FromStatus(status);
  switch (status.code()) {
    case StatusCode::kNotFound: error.param = "cache_id"; error.code = "cache_not_found"; break;
    case StatusCode::kInvalid: error.http_status = 422; error.code = "cache_impossible"; break;
    case StatusCode::kExhausted: error.code = "cache_no_room"; break;
    case StatusCode::kAborted: error.http_status = 409; error.code = "cache_busy"; break;
    default: break;
  }
  return error;
}

std::string CacheJson(const CacheHandle& handle) {
  const CacheRecord& record = handle.record;
  return Json({{"id", record.id}, {"object", "cache"}, {"created_at", record.created_unix_s}, {"tokens", record.tokens.size()},
               {"blocks", handle.full_blocks}, {"held_blocks", handle.blocks.held}, {"bytes", handle.blocks.bytes},
               {"tiers", {{"memory", handle.blocks.memory}, {"disk", handle.blocks.disk}}},
               {"expires_at", record.pinned() ? Json() : Json(std::round(record.expires_unix_s * 1e3) / 1e3)}, {"pinned", record.pinned()}})
      .dump();
}

}  // namespace baton
