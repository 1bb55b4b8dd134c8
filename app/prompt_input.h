// A prompt as commands take it: text, or a file of token ids.
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
  std::string text, tokens_file;  // the file where it has a name, else the text
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

/// The ids of a file, a JSON list. Errors: kNotFound, kInvalid (names the file and what is wrong).
Result<std::vector<TokenId>> ReadTokensFile(const std::string& path);
/// The ids of text, with the tokens the model wants around one (BOS), special tokens in it recognised, or of the file.
Result<std::vector<TokenId>> ReadPrompt(const PromptInput& input, LazyTokenizer& tokenizer);

}  // namespace baton
