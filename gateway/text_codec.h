// Text to tokens and back as the gateway sees it; model/'s tokenizer and template implement it, tests fake it.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"

namespace baton {

/// Decodes one answer piece by piece; never splits a character.
class TextStream {
 public:
  virtual ~TextStream() = default;
  virtual std::string Push(TokenId token) = 0;  // text that is complete now, maybe empty
  virtual std::string Finish() = 0;             // what was held back
};

/// Immutable. Thread: any.
class TextCodec {
 public:
  virtual ~TextCodec() = default;
  virtual std::vector<TokenId> Encode(std::string_view text, bool parse_special, bool add_special) const = 0;
  virtual std::string Decode(const std::vector<TokenId>& ids) const = 0;
  virtual std::string TokenBytes(TokenId id) const = 0;  // raw bytes, for logprobs' `bytes`
  virtual std::unique_ptr<TextStream> NewStream() const = 0;
  /// The chat template applied to a request body with `messages`, `tools`, …: the text and its tokens (content is never
  /// read as control tokens). kInvalid passes raise_exception's message on.
  virtual Result<std::string> Render(const nlohmann::ordered_json& body) const = 0;
  virtual Result<std::vector<TokenId>> EncodeChat(const nlohmann::ordered_json& body) const = 0;
};

}  // namespace baton
