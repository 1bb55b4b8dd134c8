// Normalisation and the split into pieces that BPE never merges across. Steps run one after the other, each on the
// pieces of the one before. Patterns run in PCRE2 with JIT and a match limit: where a pattern gives up on a text the
// rest of it is one piece, so no text can hang or fail. Thread: immutable once built, so any.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace baton {

/// The patterns that GGUF's tokenizer.ggml.pre names stand for.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

/// What is done to the text before it is split, in order.
class Normalizer {
 public:
  void AddUnicode(UnicodeForm form) { steps_.push_back({Step::kUnicode, form, {}, {}}); }
  void AddPrepend(std::string text) { steps_.push_back({Step::kPrepend, {}, {}, std::move(text)}); }
  void AddReplace(std::string from, std::string to) { steps_.push_back({Step::kReplace, {}, std::move(from), std::move(to)}); }
  void AddLowercase() { steps_.push_back({Step::kLowercase, {}, {}, {}}); }
  bool empty() const { return steps_.empty(); }
  std::string Apply(std::string text) const;

 private:
  enum class Step { kUnicode, kPrepend, kReplace, kLowercase };
  struct Entry {
    Step step;
    UnicodeForm form;
    std::string from, to;
  };
  std::vector<Entry> steps_;
};

enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer {
 public:
  PreTokenizer();
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  /// Errors: kInvalid for a pattern that does not compile.
  Status AddRegex(std::string_view pattern, SplitBehavior behavior, bool invert);
  Status AddString(std::string_view text, SplitBehavior behavior, bool invert);
  void AddPrefixSpace();
  enum class PrependScheme { kAlways, kFirst, kNever };
  /// SentencePiece's "▁" for spaces; `split` cuts before each of them.
  Status AddMetaspace(std::string replacement, PrependScheme scheme, bool split);

  /// The pieces of `text` (valid UTF-8), in order, none empty. `first`: the text is the beginning of the whole input.
  std::vector<std::string> Split(std::string_view text, bool first) const;

 private:
  struct Step;
  std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace baton
