// /v1/responses.
#include <fmt/format.h>

#include "gateway/form_parts.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

class ResponsesForm final : public AnswerForm {
 public:
  ResponsesForm(AnswerIdentity identity, const AnswerRequest& request) : identity_(std::move(identity)), request_(request) {}

  void Begin(std::string& out) override {
    for (const char* name : {"response.created", "response.in_progress"}) {
      Event(out, name, "\"response\":" + Response("in_progress", nullptr));
    }
    Event(out, "response.output_item.added", "\"output_index\":0,\"item\":" + Item("in_progress", ""));
    Event(out, "response.content_part.added", Place() + ",\"part\":" + Part(""));
  }

  void Token(std::string& out, const Choice&, std::string_view text, const TokenEvent&) override { Delta(out, text); }

  void End(std::string& out, const Choice& choice, std::string_view rest) override {
    if (!rest.empty()) Delta(out, rest);
    status_ = Status(choice);
    std::string quoted;
    AppendJsonString(quoted, text_);
    Event(out, "response.output_text.done", Place() + ",\"text\":" + quoted + ",\"logprobs\":[]");
    Event(out, "response.content_part.done", Place() + ",\"part\":" + Part(text_));
    Event(out, "response.output_item.done", "\"output_index\":0,\"item\":" + Item(status_, text_));
  }

  void Done(std::string& out, const Usage& usage) override {
    Event(out, status_ == std::string_view("completed") ? "response.completed" : "response.incomplete", "\"response\":" + Response(status_, &usage));
  }

  std::string Whole(const std::vector<const Choice*>& choices, const Usage& usage) override {
    text_ = choices.front()->text();
    return Response(Status(*choices.front()), &usage);
  }

 private:
  static const char* Status(const Choice& choice) { return choice.reason() == FinishReason::kLength ? "incomplete" : "completed"; }

  std::string Place() const { return "\"item_id\":\"msg_" + identity_.id + "\",\"output_index\":0,\"content_index\":0"; }

  void Event(std::string& out, const char* name, const std::string& fields) {
    out += fmt::format("event: {}\ndata: {{\"type\":\"{}\",\"sequence_number\":{},{}}}\n\n", name, name, sequence_++, fields);
  }

  void Delta(std::string& out, std::string_view text) {
    text_ += text;
    out += fmt::format("event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"sequence_number\":{},{},\"delta\":\"",
                       sequence_++, Place());
    AppendJsonEscaped(out, text);
    out += "\",\"logprobs\":[]}\n\n";
  }

  static std::string Part(const std::string& text) {
    std::string out = "{\"type\":\"output_text\",\"text\":";
    AppendJsonString(out, text);
    return out + ",\"annotations\":[],\"logprobs\":[]}";
  }

  std::string Item(const char* status, const std::string& text) const {
    return fmt::format("{{\"type\":\"message\",\"id\":\"msg_{}\",\"status\":\"{}\",\"role\":\"assistant\",\"content\":[{}]}}", identity_.id, status,
                       status == std::string_view("in_progress") ? "" : Part(text));
  }

  /// The response object; without usage it is one that has only begun.
  std::string Response(const char* status, const Usage* usage) const {
    std::string out = fmt::format("{{\"id\":\"resp_{}\",\"object\":\"response\",\"created_at\":{},\"status\":\"{}\",\"error\":null,\"incomplete_details\":{},"
                                  "\"instructions\":null,\"metadata\":{{}},\"model\":",
                                  identity_.id, identity_.created_unix_s, status,
                                  status == std::string_view("incomplete") ? "{\"reason\":\"max_output_tokens\"}" : "null");
    AppendJsonString(out, identity_.model);
    out += fmt::format(",\"output\":[{}],\"parallel_tool_calls\":true,\"temperature\":{},\"top_p\":{},\"max_output_tokens\":{},"
                       "\"tool_choice\":\"auto\",\"tools\":[],\"truncation\":\"disabled\",\"text\":{{\"format\":{{\"type\":\"text\"}}}},\"usage\":",
                       usage == nullptr ? "" : Item(status, text_), request_.sampling.temperature, request_.sampling.top_p,
                       request_.max_tokens ? std::to_string(*request_.max_tokens) : "null");
    if (usage == nullptr) return out + "null}";
    out += fmt::format("{{\"input_tokens\":{},\"input_tokens_details\":{{\"cached_tokens\":{},\"cache_write_tokens\":{}}},\"output_tokens\":{},"
                       "\"output_tokens_details\":{{\"reasoning_tokens\":0}},\"total_tokens\":{}}}",
                       usage->prompt_tokens, usage->cached_tokens, usage->cache_write_tokens, usage->completion_tokens,
                       usage->prompt_tokens + usage->completion_tokens);
    AppendCacheId(out, cache_id_);
    return out + '}';
  }

  const AnswerIdentity identity_;
  const AnswerRequest& request_;
  std::string text_;  // so far
  const char* status_ = "completed";
  uint64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<AnswerForm> NewResponsesForm(AnswerIdentity identity, const AnswerRequest& request) {
  return std::make_unique<ResponsesForm>(std::move(identity), request);
}

}  // namespace baton
