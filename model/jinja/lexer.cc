#include "model/jinja/lexer.h"

#include <algorithm>

#include "model/jinja/unicode.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {
namespace {

// Python's universal newlines, and no newline at the very end.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  Result<std::vector<Token>> Run() {
    while (error_.ok() && at_ < source_.size()) TextUntilTag();
    if (!error_.ok()) return error_;
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void Fail(std::string message) {
    if (error_.ok()) error_ = InvalidError("line {}: {}", line_, message);
    at_ = source_.size();
  }
  void Add(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  char At(size_t i) const { return i < source_.size() ? source_[i] : '\0'; }
  bool Follows(std::string_view text, size_t at) const { return std::string_view(source_).substr(at, text.size()) == text; }

  // Moves on, counting lines.
  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_), source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    line_starting_ = to > at_ && source_[to - 1] == '\n';
    at_ = to;
  }
  size_t SkipSpace(size_t at) const {
    while (at < source_.size()) {
      const Utf8Step step = NextUtf8(std::string_view(source_).substr(at));
      if (!IsSpace(step.code)) break;
      at += step.length;
    }
    return at;
  }

  // The text before a tag with this sign; `block`: lstrip_blocks applies.
  void AddTextBefore(size_t end, char sign, bool block) {
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      text = text.substr(0, text.size() - TrailingSpace(text));
    } else if (sign != '+' && block) {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((start > 0 || line_starting_) && start < text.size() && TrailingSpace(text) >= text.size() - start) text = text.substr(0, start);
    }
    if (!text.empty()) Add(Token::Kind::kText, std::string(text));
  }

  // Past the end of a block or comment whose closing is `close` at `at`, with what follows it that is dropped.
  size_t AfterClose(size_t at, std::string_view close, bool minus, bool plus) const {
    at += close.size();
    if (minus) return SkipSpace(at);
    return !plus && At(at) == '\n' ? at + 1 : at;
  }

  void TextUntilTag() {
    size_t tag = at_;
    while (tag < source_.size() && !(source_[tag] == '{' && (At(tag + 1) == '%' || At(tag + 1) == '{' || At(tag + 1) == '#'))) ++tag;
    if (tag >= source_.size()) {
      Add(Token::Kind::kText, source_.substr(at_));
      Advance(source_.size());
      return;
    }
    const char type = source_[tag + 1];
    const char sign = At(tag + 2) == '-' || At(tag + 2) == '+' ? At(tag + 2) : '\0';
    const size_t inside = tag + (sign == '\0' ? 2 : 3);
    AddTextBefore(tag, sign, type != '{');
    if (type == '#') {
      Comment(inside);
    } else if (const size_t raw = type == '%' ? RawBegin(inside) : 0; raw > 0) {
      Advance(raw);
      Raw();
    } else {
      Advance(inside);
      Add(type == '%' ? Token::Kind::kBlockBegin : Token::Kind::kPrintBegin, "");
      Tag(type == '%');
    }
  }

  void Comment(size_t inside) {
    if (inside >= source_.size()) return Advance(source_.size());  // Jinja forgives a comment that begins at the very end
    const size_t close = source_.find("#}", inside);
    if (close == std::string::npos) return Fail("a comment has no end '#}'");
    const char sign = close > inside ? source_[close - 1] : '\0';
    Advance(AfterClose(close, "#}", sign == '-', sign == '+'));
  }

  // The end of a `raw` tag whose inside starts here, or 0.
  size_t RawBegin(size_t at) const {
    at = SkipSpace(at);
    if (!Follows("raw", at)) return 0;
    at = SkipSpace(at + 3);
    if (Follows("-%}", at)) return SkipSpace(at + 3);
    return Follows("%}", at) ? at + 2 : 0;
  }

  void Raw() {
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 2)) {
      const char sign = At(tag + 2) == '-' || At(tag + 2) == '+' ? At(tag + 2) : '\0';
      size_t at = SkipSpace(tag + (sign == '\0' ? 2 : 3));
      if (!Follows("endraw", at)) continue;
      at = SkipSpace(at + 6);
      const bool minus = At(at) == '-', plus = At(at) == '+';
      if (minus || plus) ++at;
      if (!Follows("%}", at)) continue;
      AddTextBefore(tag, sign, true);
      return Advance(AfterClose(at, "%}", minus, plus));
    }
    Fail("'raw' has no 'endraw'");
  }

  void Tag(bool block) {
    std::string open;  // brackets not closed yet
    const std::string_view close = block ? "%}" : "}}";
    while (error_.ok()) {
      if (at_ >= source_.size()) return Fail(std::string("the tag has no end '") + std::string(close) + "'");
      if (open.empty()) {
        const bool minus = source_[at_] == '-', plus = block && source_[at_] == '+';
        const size_t end = at_ + (minus || plus ? 1 : 0);
        if (Follows(close, end)) {
          const size_t after = block ? AfterClose(end, close, minus, plus) : minus ? SkipSpace(end + 2) : end + 2;
          Add(block ? Token::Kind::kBlockEnd : Token::Kind::kPrintEnd, "");
          return Advance(after);
        }
      }
      if (const size_t after = SkipSpace(at_); after > at_) {
        Advance(after);
      } else if (!Number() && !Name() && !String()) {
        Operator(open);
      }
    }
  }

  // Digits with single underscores between them; the end, or `at` where there is none.
  size_t Digits(size_t at, std::string_view allowed) const {
    size_t end = at;
    while (allowed.find(At(end)) != std::string_view::npos && At(end) != '\0') {
      ++end;
      if (At(end) == '_' && At(end + 1) != '\0' && allowed.find(At(end + 1)) != std::string_view::npos) ++end;
    }
    return end;
  }

  bool Number() {
    constexpr std::string_view kDecimal = "0123456789";
    const char first = source_[at_];
    if (first < '0' || first > '9') return false;
    size_t end = Digits(at_, kDecimal);
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    bool is_float = false;
    if (!after_dot) {
      const size_t fraction = At(end) == '.' ? Digits(end + 1, kDecimal) : end;
      size_t mark = fraction > end + 1 ? fraction : end;
      is_float = mark > end;
      if (At(mark) == 'e' || At(mark) == 'E') {
        const size_t exponent = mark + 1 + (At(mark + 1) == '+' || At(mark + 1) == '-' ? 1 : 0);
        if (const size_t stop = Digits(exponent, kDecimal); stop > exponent) {
          mark = stop;
          is_float = true;
        }
      }
      if (is_float) end = mark;
    }
    if (!is_float && first == '0') {
      const char base = static_cast<char>(At(at_ + 1) | 0x20);
      const std::string_view allowed = base == 'x' ? "0123456789abcdefABCDEF" : base == 'o' ? "01234567" : base == 'b' ? "01" : "";
      const size_t start = at_ + 2 + (At(at_ + 2) == '_' ? 1 : 0);
      const size_t stop = allowed.empty() ? start : Digits(start, allowed);
      end = stop > start ? stop : Digits(at_, "0");  // "007" is 00 and 7, as Jinja reads it
    }
    std::string text = source_.substr(at_, end - at_);
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    Add(is_float ? Token::Kind::kFloat : Token::Kind::kInteger, std::move(text));
    Advance(end);
    return true;
  }

  bool Name() {
    size_t end = at_;
    while (end < source_.size()) {
      const Utf8Step step = NextUtf8(std::string_view(source_).substr(end));
      if (!IsWordCharacter(step.code)) break;
      end += step.length;
    }
    if (end == at_) return false;
    Add(Token::Kind::kName, source_.substr(at_, end - at_));
    Advance(end);
    return true;
  }

  bool String() {
    const char quote = source_[at_];
    if (quote != '\'' && quote != '"') return false;
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) {
      Fail("a string has no end");
      return true;
    }
    std::string text, problem;
    if (!Unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1), text, problem)) {
      Fail(problem);
      return true;
    }
    Add(Token::Kind::kString, std::move(text));
    Advance(end + 1);
    return true;
  }

  void Operator(std::string& open) {
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (!Follows(two, at_)) continue;
      Add(Token::Kind::kOperator, std::string(two));
      return Advance(at_ + 2);
    }
    const char c = source_[at_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      return Fail("unexpected '" + source_.substr(at_, NextUtf8(std::string_view(source_).substr(at_)).length) + "'");
    }
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) return Fail(std::string("unexpected '") + c + "'");
      if (open.back() != c) return Fail(std::string("unexpected '") + c + "', expected '" + open.back() + "'");
      open.pop_back();
    }
    Add(Token::Kind::kOperator, std::string(1, c));
    Advance(at_ + 1);
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
  Status error_;
};

}  // namespace

Result<std::vector<Token>> Tokenize(std::string_view source) { return Lexer(NormalizeNewlines(SanitizeUtf8(source))).Run(); }

}  // namespace baton::jinja
