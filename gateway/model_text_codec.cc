#include "gateway/model_text_codec.h"

#include <fmt/chrono.h>

#include <optional>
#include <utility>

#include "model/chat_template.h"
#include "model/detokenizer.h"
#include "model/tokenizer.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class ModelTextStream final : public TextStream {
 public:
  explicit ModelTextStream(std::shared_ptr<const Tokenizer> tokenizer) : decoder_(std::move(tokenizer), /*skip_special=*/true) {}
  std::string Push(TokenId token) override { return decoder_.Push(token); }
  std::string Finish() override { return decoder_.Finish(); }

 private:
  StreamDecoder decoder_;
};

/// A tool call's arguments come as JSON text in OpenAI's API; templates expect the object.
void ParseArguments(Json& message) {
  if (!message.contains("tool_calls") || !message["tool_calls"].is_array()) return;
  for (Json& call : message["tool_calls"]) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
    Json& function = call["function"];
    if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
    Json parsed = Json::parse(function["arguments"].get_ref<const std::string&>(), nullptr, false);
    if (parsed.is_object()) function["arguments"] = std::move(parsed);
  }
}

/// Content as text parts becomes one text. Errors: kInvalid for parts of another kind.
Status JoinParts(Json& message, size_t index) {
  if (!message.contains("content") || !message["content"].is_array()) return OkStatus();
  std::string text;
  for (const Json& part : message["content"]) {
    const bool is_text = part.is_object() && part.contains("text") && part["text"].is_string() && part.value("type", Json("text")) == "text";
    if (!is_text) return InvalidError("messages[{}].content has a part that is not text; this model reads text only", index);
    if (!text.empty()) text += '\n';
    text += part["text"].get_ref<const std::string&>();
  }
  message["content"] = text;
  return OkStatus();
}

class ModelTextCodec final : public TextCodec {
 public:
  ModelTextCodec(std::shared_ptr<const Tokenizer> tokenizer, std::optional<ChatTemplate> chat_template, const Clock& clock)
      : tokenizer_(std::move(tokenizer)), template_(std::move(chat_template)), clock_(clock) {
    if (template_) knows_parts_ = KnowsParts();
  }

  std::vector<TokenId> Encode(std::string_view text, bool parse_special, bool add_special) const override {
    return tokenizer_->Encode(text, {.parse_special = parse_special, .add_special = add_special});
  }
  std::string Decode(const std::vector<TokenId>& ids) const override { return tokenizer_->Decode(ids); }
  std::string TokenBytes(TokenId id) const override { return tokenizer_->TokenBytes(id); }
  std::unique_ptr<TextStream> NewStream() const override { return std::make_unique<ModelTextStream>(tokenizer_); }

  Result<std::string> Render(const Json& body) const override {
    ASSIGN_OR_RETURN(const Json input, Prepare(body));
    return template_->Render(input);
  }
  Result<std::vector<TokenId>> EncodeChat(const Json& body) const override {
    ASSIGN_OR_RETURN(const Json input, Prepare(body));
    return baton::EncodeChat(*tokenizer_, *template_, input);
  }

 private:
  /// Whether the template shows the text of content given as parts, and not how the list prints.
  bool KnowsParts() const {
    const Json part = {{"type", "text"}, {"text", "probe of parts"}};
    const Json input = {{"messages", {{{"role", "user"}, {"content", Json::array({part})}}}}, {"add_generation_prompt", true}, {"special_tokens", tokenizer_->special_tokens()}};
    const auto text = template_->Render(input);
    return text.ok() && text->find("probe of parts") != std::string::npos && text->find("'text'") == std::string::npos && text->find("\"text\"") == std::string::npos;
  }

  Result<Json> Prepare(const Json& body) const {
    if (!template_) return InvalidError("this model has no chat template; send the prompt to /v1/completions");
    if (!body.is_object() || !body.contains("messages") || !body["messages"].is_array() || body["messages"].empty()) {
      return InvalidError("messages must be a list with at least one message");
    }
    Json input = Json::object();
    for (const char* key : {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template_kwargs"}) {
      if (body.contains(key)) input[key] = body[key];
    }
    for (size_t i = 0; i < input["messages"].size(); ++i) {
      Json& message = input["messages"][i];
      if (!message.is_object()) return InvalidError("messages[{}] must be an object", i);
      ParseArguments(message);
      if (!knows_parts_) RETURN_IF_ERROR(JoinParts(message, i));
    }
    const bool continues = input.contains("continue_final_message") && input["continue_final_message"] != false && !input["continue_final_message"].is_null();
    if (!input.contains("add_generation_prompt") || input["add_generation_prompt"].is_null()) input["add_generation_prompt"] = !continues;
    input["special_tokens"] = tokenizer_->special_tokens();
    input["now"] = fmt::format("{:%Y-%m-%dT%H:%M:%S}", fmt::gmtime(static_cast<time_t>(clock_.UnixSeconds())));
    return input;
  }

  const std::shared_ptr<const Tokenizer> tokenizer_;
  const std::optional<ChatTemplate> template_;
  const Clock& clock_;
  bool knows_parts_ = false;
};

}  // namespace

Result<std::unique_ptr<TextCodec>> LoadTextCodec(const std::string& model_path, const Clock& clock) {
  ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::Load(model_path));
  std::optional<ChatTemplate> chat_template;
  if (!tokenizer->chat_template().empty()) {
    auto parsed = ChatTemplate::Parse(tokenizer->chat_template());
    if (!parsed.ok()) return parsed.status().WithContext(model_path);
    chat_template = std::move(*parsed);
  }
  return std::unique_ptr<TextCodec>(std::make_unique<ModelTextCodec>(std::move(tokenizer), std::move(chat_template), clock));
}

}  // namespace baton
