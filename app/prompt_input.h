// A prompt as commands take it: text, a file of token ids, or a file of chat messages.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "model/tokenizer.h"

namespace baton {

struct PromptInput {
  std::string text, messages_file, tokens_file;  // one of them; a file where it has a name, else text
};

/// The model's tokenizer, loaded when first asked for: token ids alone need none.
class LazyTokenizer {
 public:
  explicit LazyTokenizer(std::string model_path) : model_path_(std::move(model_path)) {}
  Result<std::shared_ptr<const Tokenizer>> Get();

 private:
  const std::string model_path_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

/// The ids of a file: a JSON list of ids, or a chat request with `messages` (rendered by the model's template). Errors:
/// kNotFound, kInvalid (names the file and what is wrong).
Result<std::vector<TokenId>> ReadTokensFile(const std::string& path, LazyTokenizer& tokenizer);
/// The ids of text, with the tokens the model wants around one (BOS), special tokens in it recognised, or of either file.
Result<std::vector<TokenId>> ReadPrompt(const PromptInput& input, LazyTokenizer& tokenizer);

}  // namespace baton
