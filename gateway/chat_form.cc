// /v1/chat/completions.
#include <fmt/format.h>

#include <map>

#include "gateway/form_parts.h"
#include "gateway/json_text.h"
#include "gateway/logprobs_text.h"
#include "gateway/tool_calls.h"

namespace baton {
namespace {

class ChatForm final : public AnswerForm {
 public:
  ChatForm(AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec)
      : request_(request), codec_(codec), id_(identity.id), whole_head_(FormHead(identity, "chatcmpl-", "chat.completion")),
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
    out += ",\"delta\":{";
    AppendPiece(out, choice, ReaderOf(choice).Push(text), true);
    if (request_.logprobs) {
      out += "},\"logprobs\":";
      AppendChatLogprobs(out, {&event, 1}, static_cast<size_t>(request_.sampling.logprobs), codec_);
    } else {
      out += "},\"logprobs\":null";
    }
    if (request_.return_token_ids) AppendTokenIds(out, ",\"token_ids\":[", {event.token});
    out += ",\"finish_reason\":null}";
    AppendChunkTail(out, request_, choice);
  }

  void End(std::string& out, const Choice& choice, std::string_view rest) override {
    ToolCallReader& reader = ReaderOf(choice);
    const ToolCallReader::Piece piece = reader.PushLast(rest);
    OpenChunk(out, choice);
    out += ",\"delta\":{";
    AppendPiece(out, choice, piece, false);
    out += "},\"logprobs\":null,\"finish_reason\":\"";
    out += Reason(choice, reader);
    out += "\"}";
    AppendChunkTail(out, request_, choice, cache_id_);
  }

  void Done(std::string& out, const Usage& usage) override { AppendStreamEnd(out, chunk_head_, request_, usage, cache_id_); }

  std::string Whole(const std::vector<const Choice*>& choices, const Usage& usage) override {
    std::string out = whole_head_;
    for (const Choice* choice : choices) {
      out += choice == choices.front() ? "{\"index\":" : ",{\"index\":";
      AppendInteger(out, choice->index());
      ToolCallReader reader(request_.tools);
      const ToolCallReader::Piece piece = reader.PushLast(choice->text());
      out += ",\"message\":{\"role\":\"assistant\",\"content\":";
      if (piece.text.empty() && !piece.calls.empty()) out += "null";
      else AppendJsonString(out, piece.text);
      out += ",\"refusal\":null";
      AppendCalls(out, *choice, piece.calls, 0);
      out += "},\"logprobs\":";
      if (request_.logprobs) AppendChatLogprobs(out, choice->events(), static_cast<size_t>(request_.sampling.logprobs), codec_);
      else out += "null";
      if (request_.return_token_ids) AppendTokenIds(out, ",\"token_ids\":[", TokensOf(choice->events()));
      out += ",\"finish_reason\":\"";
      out += Reason(*choice, reader);
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
  ToolCallReader& ReaderOf(const Choice& choice) { return readers_.try_emplace(choice.index(), request_.tools).first->second; }

  const char* Reason(const Choice& choice, const ToolCallReader& reader) const {
    return reader.calls() > 0 && choice.reason() == FinishReason::kStop ? "tool_calls" : FinishReasonName(choice.reason());
  }

  /// The members of a delta. A token's has its content even where that is empty: it is the event of the token.
  void AppendPiece(std::string& out, const Choice& choice, const ToolCallReader::Piece& piece, bool of_token) {
    const bool content = !piece.text.empty() || (of_token && piece.calls.empty());
    if (content) {
      out += "\"content\":";
      AppendJsonString(out, piece.text);
    }
    if (piece.calls.empty()) return;
    std::string calls;
    AppendCalls(calls, choice, piece.calls, ReaderOf(choice).calls() - static_cast<uint32_t>(piece.calls.size()));
    out += content ? calls : calls.substr(1);
  }

  /// ,"tool_calls":[…], the first of them the answer's number `first`; nothing where there are none.
  void AppendCalls(std::string& out, const Choice& choice, const std::vector<ToolCall>& calls, uint32_t first) const {
    for (size_t i = 0; i < calls.size(); ++i) {
      const auto number = first + static_cast<uint32_t>(i);
      out += i == 0 ? ",\"tool_calls\":[" : ",";
      out += fmt::format("{{\"index\":{},\"id\":\"call_{}_{}_{}\",\"type\":\"function\",\"function\":{{\"name\":", number, id_, choice.index(), number);
      AppendJsonString(out, calls[i].name);
      out += ",\"arguments\":";
      AppendJsonString(out, calls[i].arguments);
      out += "}}";
      if (i + 1 == calls.size()) out += ']';
    }
  }

  void OpenChunk(std::string& out, const Choice& choice) const {
    out += chunk_head_;
    out += "{\"index\":";
    AppendInteger(out, choice.index());
  }

  const AnswerRequest& request_;
  const TextCodec& codec_;
  const std::string id_, whole_head_, chunk_head_;
  std::map<uint32_t, ToolCallReader> readers_;  // of a stream, by choice
};

}  // namespace

std::unique_ptr<AnswerForm> NewChatForm(AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec) {
  return std::make_unique<ChatForm>(std::move(identity), request, codec);
}

}  // namespace baton
