#include "app/prompt_input.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

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

}  // namespace

Result<std::shared_ptr<const Tokenizer>> LazyTokenizer::Get() {
  if (tokenizer_ == nullptr) {
    ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(model_path_));
  }
  return tokenizer_;
}

Result<std::vector<TokenId>> ReadTokensFile(const std::string& path) {
  ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path));
  if (json.is_array()) return IdsOf(json, path);
  return InvalidError("{} must be a JSON list of token ids", path);
}

Result<std::vector<TokenId>> ReadPrompt(const PromptInput& input, LazyTokenizer& tokenizer) {
  if (!input.tokens_file.empty()) return ReadTokensFile(input.tokens_file);
  ASSIGN_OR_RETURN(const auto loaded, tokenizer.Get());
  return loaded->Encode(input.text, {.parse_special = true, .add_special = true});
}

}  // namespace baton
