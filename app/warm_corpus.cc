#include "app/warm_corpus.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "app/json_input.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxLineBytes = 64 << 20;

Result<std::vector<TokenId>> PromptOf(const Json& body, const TextCodec& codec, uint32_t vocab) {
  int given = 0;
  for (const char* key : {"prompt", "messages", "tokens"}) given += body.contains(key) ? 1 : 0;
  if (given != 1) return InvalidError("give one of prompt, messages and tokens");
  if (body.contains("messages")) return codec.EncodeChat(body);
  if (body.contains("tokens")) {
    auto tokens = TokenIdsOf(body["tokens"], vocab);
    return tokens.ok() ? std::move(tokens) : tokens.status().WithContext("tokens");
  }
  const Json& prompt = body["prompt"];
  if (!prompt.is_string()) return InvalidError("prompt must be a string; ids go into tokens");
  return codec.Encode(prompt.get_ref<const std::string&>(), /*parse_special=*/true, /*add_special=*/true);
}

/// The next line without its end; false at the end of the file. A line that is too long is skipped and `too_long` set.
bool NextLine(std::istream& in, std::string& line, bool& too_long) {
  line.clear();
  too_long = false;
  if (in.peek() == std::char_traits<char>::eof()) return false;
  for (int c = in.get(); c != std::char_traits<char>::eof() && c != '\n'; c = in.get()) {
    if (line.size() == kMaxLineBytes) {
      too_long = true;
      in.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
      return true;
    }
    line.push_back(static_cast<char>(c));
  }
  return true;
}

}  // namespace

Result<WarmPrompt> ReadWarmPrompt(std::string_view line, const TextCodec& codec, const PromptLimits& limits) {
  ASSIGN_OR_RETURN(const Json body, ParseJson(line));
  if (!body.is_object()) return InvalidError("not a JSON object but a {}", body.type_name());
  WarmPrompt prompt;
  if (body.contains("tenant")) {
    if (!body["tenant"].is_string()) return InvalidError("tenant must be a string");
    prompt.tenant = body["tenant"].get<std::string>();
  }
  ASSIGN_OR_RETURN(prompt.tokens, PromptOf(body, codec, limits.vocab));
  if (prompt.tokens.empty()) return InvalidError("the prompt is empty");
  if (prompt.tokens.size() > limits.max_positions) {
    return InvalidError("{} tokens are more than the model's {} positions", prompt.tokens.size(), limits.max_positions);
  }
  return Result<WarmPrompt>(std::move(prompt));
}

CorpusCount ReadCorpus(std::istream& in, const TextCodec& codec, const PromptLimits& limits, const std::function<void(WarmPrompt)>& take,
                       const std::function<void(uint64_t line, const Status& reason)>& bad) {
  CorpusCount count;
  std::string line;
  bool too_long = false;
  for (uint64_t number = 1; NextLine(in, line, too_long); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    ++count.lines;
    auto prompt = too_long ? Result<WarmPrompt>(InvalidError("longer than {} bytes", kMaxLineBytes)) : ReadWarmPrompt(line, codec, limits);
    if (prompt.ok()) {
      take(std::move(*prompt));
    } else {
      ++count.bad_lines;
      bad(number, prompt.status());
    }
  }
  return count;
}

}  // namespace baton
