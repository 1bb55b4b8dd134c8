#include "app/prompt_input.h"

#include "app/json_input.h"
#include "gateway/answer_request.h"
#include "model/chat_template.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

/// A chat request as the gateway takes it, or its list of messages alone.
Result<std::vector<TokenId>> ChatOf(Json request, const std::string& path, LazyTokenizer& lazy) {
  if (request.is_array()) request = Json{{"messages", std::move(request)}};
  if (!request.is_object() || !request.contains("messages")) return InvalidError("{} has no \"messages\"", path);
  if (const auto error = NormalizeMessages(request)) return InvalidError("{}: {}: {}", path, error->param, error->message);
  if (!request.contains("add_generation_prompt")) request["add_generation_prompt"] = true;
  ASSIGN_OR_RETURN(const auto tokenizer, lazy.Get());
  if (tokenizer->chat_template().empty()) return InvalidError("the model has no chat template: give --prompt or --tokens");
  ASSIGN_OR_RETURN(const ChatTemplate chat, ChatTemplate::Parse(tokenizer->chat_template()));
  auto ids = EncodeChat(*tokenizer, chat, request);
  if (!ids.ok()) return ids.status().WithContext(path);
  return ids;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> LazyTokenizer::Get() {
  if (tokenizer_ == nullptr) {
    ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(model_path_));
  }
  return tokenizer_;
}

Result<std::vector<TokenId>> ReadTokensFile(const std::string& path, LazyTokenizer& tokenizer) {
  ASSIGN_OR_RETURN(Json json, ReadJsonFile(path));
  if (json.is_array()) {
    auto ids = TokenIdsOf(json);
    return ids.ok() ? std::move(ids) : ids.status().WithContext(path);
  }
  if (json.is_object()) return ChatOf(std::move(json), path, tokenizer);
  return InvalidError("{} must be a JSON list of token ids, or an object with \"messages\"", path);
}

Result<std::vector<TokenId>> ReadPrompt(const PromptInput& input, LazyTokenizer& tokenizer) {
  if (!input.tokens_file.empty()) return ReadTokensFile(input.tokens_file, tokenizer);
  if (!input.messages_file.empty()) {
    ASSIGN_OR_RETURN(Json json, ReadJsonFile(input.messages_file));
    return ChatOf(std::move(json), input.messages_file, tokenizer);
  }
  ASSIGN_OR_RETURN(const auto loaded, tokenizer.Get());
  return loaded->Encode(input.text, {.parse_special = true, .add_special = true});
}

}  // namespace baton
