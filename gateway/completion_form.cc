// /v1/completions.
#include <unordered_map>

#include "gateway/form_parts.h"
#include "gateway/json_text.h"
#include "gateway/logprobs_text.h"

namespace baton {
namespace {

class CompletionForm final : public AnswerForm {
 public:
  CompletionForm(AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec)
      : request_(request), codec_(codec), head_(FormHead(identity, "cmpl-", "text_completion")), chunk_head_("data: " + head_) {}

  /// With `echo`, each choice's first piece is its prompt.
  void Begin(std::string& out) override {
    for (uint32_t i = 0; request_.echo && i < request_.prompts.size() * request_.n; ++i) {
      out += chunk_head_;
      AppendFront(out, i);
      AppendJsonString(out, Echo(i / request_.n));
      out += ",\"logprobs\":null,\"finish_reason\":null}]";
      out += request_.include_usage ? ",\"usage\":null}\n\n" : "}\n\n";
    }
  }

  void Token(std::string& out, const Choice& choice, std::string_view text, const TokenEvent& event) override {
    out += chunk_head_;
    AppendFront(out, choice.index());
    AppendJsonString(out, text);
    AppendLogprobs(out, {&event, 1}, offsets_[choice.index()]);
    if (request_.return_token_ids) AppendTokenIds(out, ",\"token_ids\":[", {event.token});
    out += ",\"finish_reason\":null}";
    AppendChunkTail(out, request_, choice);
  }

  void End(std::string& out, const Choice& choice, std::string_view rest) override {
    out += chunk_head_;
    AppendFront(out, choice.index());
    AppendJsonString(out, rest);
    out += ",\"logprobs\":null,\"finish_reason\":\"";
    out += FinishReasonName(choice.reason());
    out += "\"}";
    AppendChunkTail(out, request_, choice, cache_id_);
  }

  void Done(std::string& out, const Usage& usage) override { AppendStreamEnd(out, chunk_head_, request_, usage, cache_id_); }

  std::string Whole(const std::vector<const Choice*>& choices, const Usage& usage) override {
    std::string out = head_;
    for (const Choice* choice : choices) {
      if (choice != choices.front()) out += ',';
      AppendFront(out, choice->index());
      AppendJsonString(out, Echo(choice->prompt()) + choice->text());
      size_t offset = 0;
      AppendLogprobs(out, choice->events(), offset);
      if (request_.return_token_ids) {
        AppendTokenIds(out, ",\"token_ids\":[", TokensOf(choice->events()));
        AppendTokenIds(out, ",\"prompt_token_ids\":[", request_.prompts[choice->prompt()]);
      }
      out += ",\"finish_reason\":\"";
      out += FinishReasonName(choice->reason());
      out += "\"}";
    }
    out += "],\"usage\":";
    AppendUsage(out, usage);
    AppendCacheId(out, cache_id_);
    out += '}';
    return out;
  }

 private:
  std::string Echo(uint32_t prompt) const { return request_.echo ? request_.prompt_texts[prompt] : ""; }

  static void AppendFront(std::string& out, uint32_t index) {
    out += "{\"index\":";
    AppendInteger(out, index);
    out += ",\"text\":";
  }

  void AppendLogprobs(std::string& out, std::span<const TokenEvent> events, size_t& offset) const {
    out += ",\"logprobs\":";
    if (request_.logprobs) AppendCompletionLogprobs(out, events, static_cast<size_t>(request_.sampling.logprobs), codec_, offset);
    else out += "null";
  }

  const AnswerRequest& request_;
  const TextCodec& codec_;
  const std::string head_, chunk_head_;
  std::unordered_map<uint32_t, size_t> offsets_;  // by choice: characters of its tokens so far
};

}  // namespace

std::unique_ptr<AnswerForm> NewCompletionForm(AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec) {
  return std::make_unique<CompletionForm>(std::move(identity), request, codec);
}

}  // namespace baton
