#include "app/prompt_input.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "gateway/answer_request.h"
#include "model/chat_template.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

Result<Json> ReadJsonFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return NotFoundError("cannot read {}: {}", path, std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) return NotFoundError("cannot read {}: {}", path, std::strerror(errno));
  Json json = Json::parse(text.str(), nullptr, false);
  if (json.is_discarded()) return InvalidError("{} is not JSON", path);
  return Result<Json>(std::move(json));
}

Result<std::vector<TokenId>> IdsOf(const Json& list, const std::string& path) {
  std::vector<TokenId> ids;
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& id = list[i];
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<TokenId>::max()) {
      return InvalidError("{}: entry {} is {}, must be a token id", path, i, id.dump());
    }
    ids.push_back(id.get<TokenId>());
  }
  return Result<std::vector<TokenId>>(std::move(ids));
}

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
  if (json.is_array()) return IdsOf(json, path);
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
