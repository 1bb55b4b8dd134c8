#include "model/detokenizer.h"

#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

bool EndsWithReplacement(std::string_view text) {
  return text.size() >= 3 && text.substr(text.size() - 3) == kReplacementCharacter;
}

}  // namespace

// As the reference decodes: a run of byte tokens is text if all of it is, else one U+FFFD a byte.
void StreamDecoder::CloseRun() {
  if (run_.empty()) return;
  if (IsValidUtf8(run_)) {
    text_ += run_;
  } else {
    for (size_t i = 0; i < run_.size(); ++i) text_ += kReplacementCharacter;
  }
  run_.clear();
}

std::string StreamDecoder::StripFirst(std::string text) {
  if (!tokenizer_->byte_fallback() || started_ || text.empty()) return text;
  started_ = true;
  if (text[0] == ' ') text.erase(0, 1);
  return text;
}

std::string StreamDecoder::Resolve(bool finish) {
  const bool overdue = held_ >= kMaxHeldTokens;
  std::string ready;
  if (tokenizer_->byte_fallback()) {
    if (finish || IsValidUtf8(run_)) {
      CloseRun();
    } else if (!overdue) {
      return "";
    } else {  // keep only what may still become a character
      const std::string tail = run_.substr(run_.size() - IncompleteUtf8Tail(run_));
      run_.resize(run_.size() - tail.size());
      CloseRun();
      run_ = tail;
    }
    if (!finish && !overdue && EndsWithReplacement(text_)) return "";
    ready = std::move(text_);
    text_.clear();
  } else {
    const size_t tail = finish ? 0 : IncompleteUtf8Tail(text_);
    if (!overdue && !finish && (tail > 0 || EndsWithReplacement(SanitizeUtf8(text_)))) return "";
    ready = SanitizeUtf8(std::string_view(text_).substr(0, text_.size() - tail));
    text_.erase(0, text_.size() - tail);
  }
  if (!ready.empty() || finish) held_ = 0;
  return StripFirst(std::move(ready));
}

std::string StreamDecoder::Push(TokenId id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return "";
  const int byte = tokenizer_->ByteValue(id);
  const std::string bytes = tokenizer_->TokenBytes(id);
  if (byte < 0 && bytes.empty()) return "";
  ++held_;
  if (byte >= 0) {
    run_ += static_cast<char>(byte);
  } else {
    CloseRun();
    text_ += bytes;
  }
  return Resolve(false);
}

std::string StreamDecoder::Finish() { return Resolve(true); }

}  // namespace baton
