// Grammar::Parse: GBNF text into rules.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "model/grammar/grammar.h"
#include "model/grammar/grammar_builder.h"
#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

constexpr int kMaxNesting = 200;  // of parentheses

bool IsNameByte(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

class GbnfReader {
 public:
  explicit GbnfReader(std::string_view text) : text_(text) {}

  Result<Grammar> Read() {
    SkipSpace(true);
    while (at_ < text_.size()) RETURN_IF_ERROR(ReadRule());
    return std::move(builder_).Build();
  }

 private:
  using Alternatives = GrammarBuilder::Alternatives;
  using Sequence = GrammarBuilder::Sequence;

  char Peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  bool Take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Status Wrong(std::string_view what) const {
    const std::string_view before = text_.substr(0, std::min(at_, text_.size()));
    const size_t line = 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
    const size_t newline = before.rfind('\n');
    return InvalidError("grammar, line {}, column {}: {}", line, before.size() - (newline == std::string_view::npos ? 0 : newline + 1) + 1, what);
  }

  Status TooLarge() const { return Wrong(fmt::format("more than {} symbols once repetitions are written out; lower the counts", kMaxGrammarSymbols)); }

  /// Spaces and comments; line ends too where a rule may go on over them.
  void SkipSpace(bool newlines) {
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
        --at_;
      } else if (c != ' ' && c != '\t' && !(newlines && (c == '\n' || c == '\r'))) {
        return;
      }
    }
  }

  std::string ReadName() {
    const size_t begin = at_;
    while (IsNameByte(Peek())) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  Status ReadRule() {
    const std::string name = ReadName();
    if (name.empty()) return Wrong("expected a rule: name ::= …");
    SkipSpace(false);
    if (!Take("::=")) return Wrong("expected \"::=\" after the rule's name");
    const uint32_t rule = builder_.Named(name);
    if (builder_.Defined(rule)) return Wrong(fmt::format("rule \"{}\" is defined twice", name));
    SkipSpace(true);
    Alternatives alternatives;
    RETURN_IF_ERROR(ReadAlternatives(0, alternatives));
    builder_.Define(rule, std::move(alternatives));
    if (at_ < text_.size() && Peek() != '\n' && Peek() != '\r') return Wrong("expected the end of the rule");
    SkipSpace(true);
    return OkStatus();
  }

  Status ReadAlternatives(int nesting, Alternatives& out) {
    while (true) {
      Sequence sequence;
      RETURN_IF_ERROR(ReadSequence(nesting, sequence));
      out.push_back(std::move(sequence));
      SkipSpace(nesting > 0);
      if (!Take("|")) return OkStatus();
      SkipSpace(true);
    }
  }

  Status ReadSequence(int nesting, Sequence& out) {
    while (true) {
      SkipSpace(nesting > 0);
      std::optional<Sequence> item;
      RETURN_IF_ERROR(ReadItem(nesting, item));
      if (!item) return OkStatus();
      RETURN_IF_ERROR(ReadRepetitions(*item));
      out.insert(out.end(), item->begin(), item->end());
      if (builder_.full()) return TooLarge();
    }
  }

  /// Nothing where the sequence ends.
  Status ReadItem(int nesting, std::optional<Sequence>& out) {
    const char c = Peek();
    if (c == '"') return ReadLiteral(out.emplace());
    if (c == '[') return ReadClass(out.emplace());
    if (c == '.') {
      ++at_;
      out = Sequence{builder_.Characters(NormalizeRanges({}, true))};
    } else if (c == '(') {
      if (nesting >= kMaxNesting) return Wrong(fmt::format("parentheses nested deeper than {}", kMaxNesting));
      ++at_;
      Alternatives alternatives;
      SkipSpace(true);
      RETURN_IF_ERROR(ReadAlternatives(nesting + 1, alternatives));
      if (!Take(")")) return Wrong("expected \")\"");
      out = Sequence{builder_.Group(std::move(alternatives))};
    } else if (IsNameByte(c)) {
      out = Sequence{{Grammar::Kind::kRule, builder_.Named(ReadName())}};
    } else if (c == '<') {
      return Wrong("tokens in angle brackets are not supported; write the text they stand for");
    }
    return OkStatus();
  }

  /// One character of a literal or class, escapes resolved.
  Status ReadCharacter(char32_t& out) {
    if (at_ >= text_.size()) return Wrong("the text ends inside a literal or class");
    if (Peek() != '\\') {
      const Utf8Step step = NextUtf8(text_.substr(at_));
      if (!step.valid) return Wrong("bytes that are no UTF-8");
      out = step.code;
      at_ += step.length;
      return OkStatus();
    }
    const char escape = Peek(1);
    at_ += 2;
    constexpr std::string_view kNames = "nrt\\\"[]-^/'";
    constexpr std::string_view kMeanings = "\n\r\t\\\"[]-^/'";
    if (const size_t i = kNames.find(escape); escape != '\0' && i != std::string_view::npos) {
      out = static_cast<char32_t>(kMeanings[i]);
      return OkStatus();
    }
    const size_t digits = escape == 'x' ? 2 : escape == 'u' ? 4 : escape == 'U' ? 8 : 0;
    if (digits == 0 || at_ + digits > text_.size()) return Wrong("an unknown escape; known are \\n \\r \\t \\\\ \\\" \\[ \\] \\xHH \\uHHHH \\UHHHHHHHH");
    uint64_t code = 0;
    for (size_t i = 0; i < digits; ++i) {
      const int value = HexDigit(text_[at_++]);
      if (value < 0) return Wrong("an escape with a character that is no hexadecimal digit");
      code = code * 16 + static_cast<uint64_t>(value);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return Wrong("an escape that names no character");
    out = static_cast<char32_t>(code);
    return OkStatus();
  }

  Status ReadLiteral(Sequence& out) {
    ++at_;
    while (Peek() != '"') {
      char32_t c = 0;
      RETURN_IF_ERROR(ReadCharacter(c));
      std::string bytes;
      AppendUtf8(c, bytes);
      for (const char byte : bytes) out.push_back(builder_.Byte(static_cast<uint8_t>(byte)));
    }
    ++at_;
    return OkStatus();
  }

  Status ReadClass(Sequence& out) {
    ++at_;
    const bool negated = Take("^");
    std::vector<CodeRange> ranges;
    while (Peek() != ']') {
      CodeRange range;
      RETURN_IF_ERROR(ReadCharacter(range.first));
      range.second = range.first;
      if (Peek() == '-' && Peek(1) != ']') {
        ++at_;
        RETURN_IF_ERROR(ReadCharacter(range.second));
        if (range.second < range.first) return Wrong("a range of characters that runs backwards");
      }
      ranges.push_back(range);
    }
    ++at_;
    ranges = NormalizeRanges(std::move(ranges), negated);
    if (ranges.empty()) return Wrong("a class without any character");
    out.push_back(builder_.Characters(ranges));
    return OkStatus();
  }

  Result<uint32_t> ReadCount() {
    uint64_t value = 0;
    const size_t begin = at_;
    while (Peek() >= '0' && Peek() <= '9' && at_ - begin < 9) value = value * 10 + static_cast<uint64_t>(text_[at_++] - '0');
    if (at_ == begin) return Wrong("expected a count of at most nine digits");
    return static_cast<uint32_t>(value);
  }

  Status ReadRepetitions(Sequence& item) {
    while (true) {
      uint32_t least = 0, most = GrammarBuilder::kUnbounded;
      if (Take("+")) {
        least = 1;
      } else if (Take("?")) {
        most = 1;
      } else if (Take("{")) {
        SkipSpace(true);
        if (Peek() != ',') {
          ASSIGN_OR_RETURN(least, ReadCount());
          most = least;
        }
        SkipSpace(true);
        if (Take(",")) {
          SkipSpace(true);
          most = GrammarBuilder::kUnbounded;
          if (Peek() != '}') {
            ASSIGN_OR_RETURN(most, ReadCount());
          }
          SkipSpace(true);
        }
        if (!Take("}")) return Wrong("expected \"}\" after the counts");
        if (most < least) return Wrong("a repetition with more at least than at most");
      } else if (!Take("*")) {
        return OkStatus();
      }
      item = builder_.Repeat(item, least, most);
      if (builder_.full()) return TooLarge();
    }
  }

  const std::string_view text_;
  size_t at_ = 0;
  GrammarBuilder builder_;
};

}  // namespace

Result<Grammar> Grammar::Parse(std::string_view text) {
  if (text.size() > kMaxGrammarBytes) return InvalidError("the grammar has {} bytes; at most {} are taken", text.size(), kMaxGrammarBytes);
  return GbnfReader(text).Read();
}

}  // namespace baton
