// Chat templates: the sandboxed Jinja dialect of Hugging Face models, as a pure function from messages to text. Every
// resource a template can use is bounded. Thread: immutable after Parse, so any.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "model/tokenizer.h"

namespace baton {

namespace jinja {
struct Template;
}

class ChatTemplate {
 public:
  /// A rendering with, for each byte, whether it came from the input (1) or from the template and the special tokens (0).
  struct Marked {
    std::string text;
    std::string untrusted;  // same length as text
  };

  /// Errors: kInvalid with the line and what was expected.
  static Result<ChatTemplate> Parse(std::string source);
  /// `input`: messages (required), tools, documents, add_generation_prompt, continue_final_message (true, or the name of the
  /// message's field that goes on), special_tokens (name to text), chat_template_kwargs, now (ISO 8601; the clock of
  /// strftime_now, absent: 1970). Errors: kInvalid: the message of raise_exception, what the template did wrong, or which
  /// bound was exceeded.
  Result<std::string> Render(const nlohmann::ordered_json& input) const;
  Result<Marked> RenderMarked(const nlohmann::ordered_json& input) const;

 private:
  std::shared_ptr<const jinja::Template> template_;
};

/// Renders and encodes. Special tokens that the template writes become those tokens; the same text inside what the caller
/// sent (content, names, tools, documents, keyword arguments, roles other than the well-known ones, from which templates
/// build tokens such as "<|user|>") stays plain text. No BOS is added: templates write their own. `special_tokens` of the input
/// defaults to the tokenizer's.
Result<std::vector<TokenId>> EncodeChat(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                        const nlohmann::ordered_json& input);

}  // namespace baton
