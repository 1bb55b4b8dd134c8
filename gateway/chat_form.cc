// /v1/chat/completions.
#include "gateway/form_parts.h"
#include "gateway/json_text.h"
#include "gateway/logprobs_text.h"

namespace baton {
namespace {

class ChatForm final : public AnswerForm {
 public:
  ChatForm(AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec)
      : request_(request), codec_(codec), whole_head_(FormHead(identity, "chatcmpl-", "chat.completion")),
        chunk_head_("data: " + FormHead(identity, "chatcmpl-", "chat.completion.chunk")) {}

  void Begin(std::string& out) override {
    for (uint32_t i = 0; i < request_.n; ++i) {
      out += chunk_head_;
      out += "{\"index\":";
      AppendInteger(out, i);
      out += ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]";
      if (i == 0 && request_.return_token_ids) AppendTokenIds(out, ",\"prompt_token_ids\":[", request_.prompts[0]);
      out += request_.include_usage ? ",\"usage\":null}\n\n" : "}\n\n";
    }
  }

  void Token(std::string& out, const Choice& choice, std::string_view text, const TokenEvent& event) override {
    OpenChunk(out, choice);
    out += ",\"delta\":{\"content\":\"";
    AppendJsonEscaped(out, text);
    if (request_.logprobs) {
      out += "\"},\"logprobs\":";
      AppendChatLogprobs(out, {&event, 1}, static_cast<size_t>(request_.sampling.logprobs), codec_);
    } else {
      out += "\"},\"logprobs\":null";
    }
    if (request_.return_token_ids) AppendTokenIds(out, ",\"token_ids\":[", {event.token});
    out += ",\"finish_reason\":null}";
    AppendChunkTail(out, request_, choice);
  }

  void End(std::string& out, const Choice& choice, std::string_view rest) override {
    OpenChunk(out, choice);
    out += ",\"delta\":{";
    if (!rest.empty()) {
      out += "\"content\":";
      AppendJsonString(out, rest);
    }
    out += "},\"logprobs\":null,\"finish_reason\":\"";
    out += FinishReasonName(choice.reason());
    out += "\"}";
    AppendChunkTail(out, request_, choice, cache_id_);
  }

  void Done(std::string& out, const Usage& usage) override { AppendStreamEnd(out, chunk_head_, request_, usage, cache_id_); }

  std::string Whole(const std::vector<const Choice*>& choices, const Usage& usage) override {
    std::string out = whole_head_;
    for (const Choice* choice : choices) {
      out += choice == choices.front() ? "{\"index\":" : ",{\"index\":";
      AppendInteger(out, choice->index());
      out += ",\"message\":{\"role\":\"assistant\",\"content\":";
      AppendJsonString(out, choice->text());
      out += ",\"refusal\":null},\"logprobs\":";
      if (request_.logprobs) AppendChatLogprobs(out, choice->events(), static_cast<size_t>(request_.sampling.logprobs), codec_);
      else out += "null";
      if (request_.return_token_ids) AppendTokenIds(out, ",\"token_ids\":[", TokensOf(choice->events()));
      out += ",\"finish_reason\":\"";
      out += FinishReasonName(choice->reason());
      out += "\"}";
    }
    out += "],\"usage\":";
    AppendUsage(out, usage);
    AppendCacheId(out, cache_id_);
    if (request_.return_token_ids) AppendTokenIds(out, ",\"prompt_token_ids\":[", request_.prompts[0]);
    out += '}';
    return out;
  }

 private:
  void OpenChunk(std::string& out, const Choice& choice) const {
    out += chunk_head_;
    out += "{\"index\":";
    AppendInteger(out, choice.index());
  }

  const AnswerRequest& request_;
  const TextCodec& codec_;
  const std::string whole_head_, chunk_head_;
};

}  // namespace

std::unique_ptr<AnswerForm> NewChatForm(AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec) {
  return std::make_unique<ChatForm>(std::move(identity), request, codec);
}

}  // namespace baton
