// Regular expressions as GBNF.
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "base/bytes.h"
#include "model/grammar/grammar_text.h"
#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

constexpr int kMaxNesting = 100;
constexpr uint32_t kMaxCount = 10'000;

const std::vector<CodeRange> kDigits{{'0', '9'}};
const std::vector<CodeRange> kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const std::vector<CodeRange> kBlank{{'\t', '\r'}, {' ', ' '}, {0xA0, 0xA0}, {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                                    {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};

std::string EscapedCharacter(char32_t c) {
  const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == ' ';
  return plain ? std::string(1, static_cast<char>(c)) : c <= 0xFF ? fmt::format("\\x{:02X}", static_cast<uint32_t>(c)) : fmt::format("\\U{:08X}", static_cast<uint32_t>(c));
}

std::string PlainClass(const std::vector<CodeRange>& ranges) {
  std::string out = "[";
  for (const auto& [low, high] : ranges) {
    out += EscapedCharacter(low);
    if (high > low) out += "-" + EscapedCharacter(high);
  }
  return out + "]";
}

/// How JSON writes a character that it must escape.
std::string JsonEscape(char32_t c) {
  constexpr std::string_view kNamed = "\"\\\b\f\n\r\t", kNames = "\"\\bfnrt";
  const size_t i = c < 0x80 ? kNamed.find(static_cast<char>(c)) : std::string_view::npos;
  return i == std::string_view::npos ? fmt::format("\\u{:04x}", static_cast<uint32_t>(c)) : std::string{'\\', kNames[i]};
}

class RegexReader {
 public:
  RegexReader(std::string_view text, Spelling spelling) : text_(text), spelling_(spelling) {}

  /// Top-level alternatives, the only ones that may be anchored.
  Result<std::string> Read() {
    std::string out;
    do {
      const bool begins = Take('^');
      std::string body;
      RETURN_IF_ERROR(ReadSequence(0, body));
      const bool ends = Take('$');
      const bool search = spelling_ == Spelling::kJsonString;
      const std::string any = ClassExpression(NormalizeRanges({}, true), spelling_) + "* ";
      if (!out.empty()) out += " | ";
      out += fmt::format("{}{}{}", search && !begins ? any : "", body.empty() ? "\"\" " : body, search && !ends ? any : "");
    } while (Take('|'));
    if (at_ < text_.size()) return Wrong(text_[at_] == ')' ? "a \")\" without its \"(\"" : "\"^\" and \"$\" may stand only at the beginning and the end");
    return "(" + out + ")";
  }

 private:
  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool At(std::string_view set) const { return at_ < text_.size() && set.find(text_[at_]) != std::string_view::npos; }
  Status Wrong(std::string_view what) const { return InvalidError("regular expression, at byte {}: {}", at_, what); }

  Status ReadSequence(int nesting, std::string& out) {
    while (at_ < text_.size() && !At("|)$")) {
      std::string item;
      RETURN_IF_ERROR(ReadItem(nesting, item));
      RETURN_IF_ERROR(ReadQuantifier(item));
      out += item + " ";
    }
    return OkStatus();
  }

  Status ReadItem(int nesting, std::string& out) {
    if (Take('(')) return ReadGroup(nesting, out);
    if (Take('[')) return ReadClass(out);
    if (At("*+?{")) return Wrong("a count without anything before it");
    if (At("^")) return Wrong("\"^\" may stand only at the beginning");
    std::vector<CodeRange> ranges;
    if (Take('.')) {
      ranges = {{'\n', '\n'}, {'\r', '\r'}};
      if (spelling_ == Spelling::kPlain) ranges.pop_back();
      ranges = NormalizeRanges(std::move(ranges), true);
    } else {
      RETURN_IF_ERROR(ReadCharacter(ranges));
    }
    out = ClassExpression(NormalizeRanges(std::move(ranges), false), spelling_);
    return OkStatus();
  }

  Status ReadGroup(int nesting, std::string& out) {
    if (nesting >= kMaxNesting) return Wrong(fmt::format("parentheses nested deeper than {}", kMaxNesting));
    if (Take('?')) {
      const bool named = text_.substr(at_, 2) == "P<" || (At("<") && at_ + 1 < text_.size() && text_[at_ + 1] != '=' && text_[at_ + 1] != '!');
      if (named) {
        at_ = std::min(text_.find('>', at_), text_.size() - 1) + 1;
      } else if (!Take(':')) {
        return Wrong("look-around and flags are not supported");
      }
    }
    std::string body;
    do {
      if (!body.empty()) body += "| ";
      std::string sequence;
      RETURN_IF_ERROR(ReadSequence(nesting + 1, sequence));
      body += sequence.empty() ? "\"\" " : sequence;
    } while (Take('|'));
    if (!Take(')')) return Wrong(At("$") ? "\"$\" may stand only at the end" : "a \"(\" without its \")\"");
    out = "(" + body + ")";
    return OkStatus();
  }

  Result<char32_t> ReadHex(size_t digits) {
    char32_t value = 0;
    for (size_t i = 0; i < digits; ++i, ++at_) {
      const int digit = at_ < text_.size() ? HexDigit(text_[at_]) : -1;
      if (digit < 0) return Wrong("expected a hexadecimal digit");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    return value;
  }

  /// One character or escape; \d and its like give several ranges.
  Status ReadCharacter(std::vector<CodeRange>& out) {
    if (!Take('\\')) {
      const Utf8Step step = NextUtf8(text_.substr(at_));
      if (!step.valid) return Wrong("bytes that are no UTF-8");
      at_ += step.length;
      out.emplace_back(step.code, step.code);
      return OkStatus();
    }
    if (at_ >= text_.size()) return Wrong("a \"\\\" at the end");
    const char c = text_[at_++];
    const auto add = [&out](const std::vector<CodeRange>& ranges, bool negated) {
      for (const CodeRange& range : NormalizeRanges(ranges, negated)) out.push_back(range);
      return OkStatus();
    };
    if (c == 'd' || c == 'D') return add(kDigits, c == 'D');
    if (c == 'w' || c == 'W') return add(kWord, c == 'W');
    if (c == 's' || c == 'S') return add(kBlank, c == 'S');
    char32_t code = static_cast<unsigned char>(c);
    if (const size_t i = std::string_view("nrtfv0").find(c); i != std::string_view::npos) {
      code = static_cast<unsigned char>("\n\r\t\f\v\0"[i]);
    } else if (c == 'x' || c == 'u') {
      ASSIGN_OR_RETURN(code, ReadHex(c == 'x' ? 2 : 4));
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9') || code >= 0x80) {
      return Wrong(fmt::format("the escape \"\\{}\" is not supported", c));
    }
    if (code >= 0xD800 && code <= 0xDFFF) return Wrong("an escape that names no character");
    out.emplace_back(code, code);
    return OkStatus();
  }

  Status ReadClass(std::string& out) {
    const bool negated = Take('^');
    std::vector<CodeRange> ranges;
    for (bool first = true; first || !At("]"); first = false) {  // "]" in the first place is a character
      if (at_ >= text_.size()) return Wrong("a \"[\" without its \"]\"");
      const size_t before = ranges.size();
      RETURN_IF_ERROR(ReadCharacter(ranges));
      const bool one = ranges.size() == before + 1 && ranges.back().first == ranges.back().second;
      if (!one || !At("-") || at_ + 1 >= text_.size() || text_[at_ + 1] == ']') continue;
      ++at_;
      std::vector<CodeRange> end;
      RETURN_IF_ERROR(ReadCharacter(end));
      if (end.size() != 1 || end[0].first < ranges.back().first) return Wrong("a range of characters that runs backwards");
      ranges.back().second = end[0].first;
    }
    ++at_;
    ranges = NormalizeRanges(std::move(ranges), negated);
    if (ranges.empty()) return Wrong("a class without any character");
    out = ClassExpression(ranges, spelling_);
    return OkStatus();
  }

  Result<uint32_t> ReadCount() {
    uint32_t value = 0;
    const size_t begin = at_;
    while (At("0123456789") && value <= kMaxCount) value = value * 10 + static_cast<uint32_t>(text_[at_++] - '0');
    if (at_ == begin || value > kMaxCount) return Wrong(fmt::format("expected a count of at most {}", kMaxCount));
    return value;
  }

  Status ReadQuantifier(std::string& item) {
    if (At("*+?")) {
      item += text_[at_++];
    } else if (Take('{')) {
      ASSIGN_OR_RETURN(const uint32_t least, ReadCount());
      std::string most = fmt::format("{}", least);
      if (Take(',')) {
        most.clear();
        if (!At("}")) {
          ASSIGN_OR_RETURN(const uint32_t count, ReadCount());
          if (count < least) return Wrong("a count with more at least than at most");
          most = fmt::format("{}", count);
        }
      }
      if (!Take('}')) return Wrong("expected \"}\" after the count");
      item += fmt::format("{{{},{}}}", least, most);
    } else {
      return OkStatus();
    }
    Take('?');  // lazy: the same texts match
    if (At("+*?{")) return Wrong("two counts one after the other");
    return OkStatus();
  }

  const std::string_view text_;
  const Spelling spelling_;
  size_t at_ = 0;
};

}  // namespace

std::string LiteralExpression(std::string_view text) {
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    out += EscapedCharacter(step.code);
    at += step.length;
  }
  return out + "\"";
}

std::string ClassExpression(const std::vector<CodeRange>& ranges, Spelling spelling) {
  if (spelling == Spelling::kPlain) return PlainClass(ranges);
  std::vector<CodeRange> plain;
  std::string out;
  const auto escaped = [](char32_t c) { return c < 0x20 || c == '"' || c == '\\'; };
  for (const auto& [low, high] : ranges) {
    for (char32_t c = low; c <= std::min<char32_t>(high, 0x7F); ++c) {
      if (escaped(c)) out += (out.empty() ? "" : " | ") + LiteralExpression(JsonEscape(c));
      else if (!plain.empty() && plain.back().second + 1 == c) plain.back().second = c;
      else plain.emplace_back(c, c);
    }
    if (high > 0x7F) plain.emplace_back(std::max<char32_t>(low, 0x80), high);
  }
  if (out.empty()) return PlainClass(plain);
  if (!plain.empty()) out = PlainClass(plain) + " | " + out;
  return "(" + out + ")";
}

Result<std::string> RegexExpression(std::string_view regex, Spelling spelling) { return RegexReader(regex, spelling).Read(); }

Result<std::string> RegexToGbnf(std::string_view regex) {
  ASSIGN_OR_RETURN(const std::string expression, RegexExpression(regex, Spelling::kPlain));
  return "root ::= " + expression + "\n";
}

Result<std::string> ChoicesToGbnf(const std::vector<std::string>& choices) {
  if (choices.empty()) return InvalidError("the list of choices is empty");
  std::string out = "root ::= ";
  for (const std::string& choice : choices) {
    if (choice.empty()) return InvalidError("a choice is the empty text");
    out += (&choice == choices.data() ? "" : " | ") + LiteralExpression(choice);
  }
  return out + "\n";
}

}  // namespace baton
