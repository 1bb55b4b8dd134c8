// Tokens to text as they are generated. Thread: one at a time.
#pragma once

#include <memory>
#include <string>

#include "base/ids.h"
#include "model/tokenizer.h"

namespace baton {

/// What Push and Finish return, joined, is the decoded text; every part is valid UTF-8 and no character is split. A text
/// whose end is not yet known to be right (a character's first bytes, or U+FFFD) is held back, at most kMaxHeldTokens. One
/// exception: of a run of byte tokens that begins as text and is none as a whole, Tokenizer::Decode makes U+FFFD only, while
/// the beginning has been shown here.
class StreamDecoder {
 public:
  static constexpr uint32_t kMaxHeldTokens = 64;

  explicit StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = false)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}
  /// The text that is complete now; empty: wait for more tokens.
  std::string Push(TokenId id);
  /// Whatever is held back, with U+FFFD for bytes that never became a character.
  std::string Finish();

 private:
  std::string Resolve(bool finish);
  void CloseRun();
  std::string StripFirst(std::string text);

  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  bool started_ = false;     // some text was emitted: the leading space of a SentencePiece text is gone
  uint32_t held_ = 0;        // tokens since the last emission
  std::string text_;         // byte-level: bytes; byte_fallback: resolved text
  std::string run_;          // byte_fallback: bytes of the current run of "<0xXX>" tokens
};

}  // namespace baton
