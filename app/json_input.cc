#include "app/json_input.h"

#include <utility>

#include "gateway/json_text.h"
#include "kvstore/file_layer.h"

namespace baton {

Result<nlohmann::ordered_json> ReadJsonFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  auto json = ParseJson(text);
  if (!json.ok()) return json.status().WithContext(path);
  return json;
}

Result<std::vector<TokenId>> TokenIdsOf(const nlohmann::ordered_json& list, uint32_t vocab) {
  if (!list.is_array()) return InvalidError("not a list of token ids");
  std::vector<TokenId> ids;
  ids.reserve(list.size());
  for (const nlohmann::ordered_json& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= vocab) {
      return InvalidError("entry {} is {}, must be a token id from 0 to {}", ids.size(), ShortJson(id), vocab - 1);
    }
    ids.push_back(id.get<TokenId>());
  }
  return Result<std::vector<TokenId>>(std::move(ids));
}

std::string ShortJson(const nlohmann::ordered_json& value) {
  constexpr size_t kMostBytes = 60;
  const std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  return text.size() <= kMostBytes ? text : text.substr(0, kMostBytes) + "…";
}

}  // namespace baton
