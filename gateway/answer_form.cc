#include "gateway/answer_form.h"

#include "gateway/form_parts.h"
#include "gateway/json_text.h"
#include "gateway/logprobs_text.h"

namespace baton {

void AppendUsage(std::string& out, const Usage& usage) {
  const auto field = [&out](const char* name, uint64_t value) {
    out += name;
    AppendInteger(out, static_cast<int64_t>(value));
  };
  field("{\"prompt_tokens\":", usage.prompt_tokens);
  field(",\"completion_tokens\":", usage.completion_tokens);
  field(",\"total_tokens\":", usage.prompt_tokens + usage.completion_tokens);
  field(",\"prompt_tokens_details\":{\"cached_tokens\":", usage.cached_tokens);
  field(",\"cache_write_tokens\":", usage.cache_write_tokens);
  field("},\"completion_tokens_details\":{\"accepted_prediction_tokens\":", usage.accepted_prediction_tokens);
  field(",\"rejected_prediction_tokens\":", usage.rejected_prediction_tokens);
  out += "}}";
}

const char* FinishReasonName(FinishReason reason) { return reason == FinishReason::kLength ? "length" : "stop"; }

std::string FormHead(const AnswerIdentity& identity, const char* id_prefix, const char* object) {
  std::string head = "{\"id\":\"";
  head += id_prefix;
  head += identity.id;
  head += "\",\"object\":\"";
  head += object;
  head += "\",\"created\":";
  AppendInteger(head, identity.created_unix_s);
  head += ",\"model\":";
  AppendJsonString(head, identity.model);
  head += ",\"system_fingerprint\":";
  AppendJsonString(head, identity.fingerprint);
  head += ",\"choices\":[";
  return head;
}

void AppendTokenIds(std::string& out, const char* name, const std::vector<TokenId>& ids) {
  out += name;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    AppendInteger(out, ids[i]);
  }
  out += ']';
}

std::vector<TokenId> TokensOf(const std::vector<TokenEvent>& events) {
  std::vector<TokenId> ids;
  for (const TokenEvent& event : events) ids.push_back(event.token);
  return ids;
}

void AppendCacheId(std::string& out, const std::string& cache_id) {
  if (cache_id.empty()) return;
  out += ",\"cache_id\":";
  AppendJsonString(out, cache_id);
}

void AppendChunkTail(std::string& out, const AnswerRequest& request, const Choice& choice, const std::string& cache_id) {
  out += ']';
  AppendCacheId(out, cache_id);
  if (request.include_usage && request.continuous_usage) {
    out += ",\"usage\":";
    AppendUsage(out, {request.prompts[choice.prompt()].size(), choice.tokens(), choice.stats().cached_tokens, choice.stats().cache_write_tokens,
                      choice.accepted_tokens(), choice.rejected_tokens()});
    out += "}\n\n";
  } else {
    out += request.include_usage ? ",\"usage\":null}\n\n" : "}\n\n";
  }
}

void AppendStreamEnd(std::string& out, const std::string& head, const AnswerRequest& request, const Usage& usage, const std::string& cache_id) {
  if (request.include_usage) {
    out += head;
    out += ']';
    AppendCacheId(out, cache_id);
    out += ",\"usage\":";
    AppendUsage(out, usage);
    out += "}\n\n";
  }
  out += "data: [DONE]\n\n";
}

}  // namespace baton
