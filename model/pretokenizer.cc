#include "model/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <unicode/locid.h>
#include <unicode/normalizer2.h>
#include <unicode/unistr.h>

#include <utility>

#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

// Unicode's White_Space, which is what the reference's regular expressions mean by \s; PCRE2's \s also has U+180E.
constexpr std::string_view kSpaceClass = R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr uint32_t kMatchLimit = 10'000'000;  // steps for one match; a split pattern needs a few a character
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kMaxPatternBytes = 16 * 1024;

std::string WithUnicodeSpaces(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += in_class ? std::string(kSpaceClass) : "[" + std::string(kSpaceClass) + "]";
      } else if (escaped == 'S' && !in_class) {
        out += "[^" + std::string(kSpaceClass) + "]";
      } else {
        out += c;
        out += escaped;
      }
      continue;
    }
    if (c == '[' && !in_class) in_class = true;
    else if (c == ']' && in_class) in_class = false;
    out += c;
  }
  return out;
}

struct CodeFree {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchFree {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct ContextFree {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

struct Span {
  size_t begin, end;
  bool match;
};

std::string ApplyForm(const std::string& text, UnicodeForm form) {
  bool ascii = true;
  for (const char c : text) ascii = ascii && static_cast<uint8_t>(c) < 0x80;
  if (ascii) return text;
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = form == UnicodeForm::kNfc    ? icu::Normalizer2::getNFCInstance(error)
                                       : form == UnicodeForm::kNfd  ? icu::Normalizer2::getNFDInstance(error)
                                       : form == UnicodeForm::kNfkc ? icu::Normalizer2::getNFKCInstance(error)
                                                                    : icu::Normalizer2::getNFKDInstance(error);
  if (U_FAILURE(error)) return text;
  const icu::UnicodeString in = icu::UnicodeString::fromUTF8(text);
  const icu::UnicodeString normal = normalizer->normalize(in, error);
  if (U_FAILURE(error)) return text;
  std::string out;
  normal.toUTF8String(out);
  return out;
}

/// Character by character: a sigma at the end of a word is one like any other.
std::string LowerEach(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    icu::UnicodeString(static_cast<UChar32>(step.code)).toLower(icu::Locale::getRoot()).toUTF8String(out);
    text.remove_prefix(step.length);
  }
  return out;
}

std::string ReplaceAll(const std::string& text, const std::string& from, const std::string& to) {
  if (from.empty()) return text;
  std::string out;
  size_t start = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, start)) {
    out.append(text, start, at - start);
    out += to;
    start = at + from.size();
  }
  out.append(text, start, std::string::npos);
  return out;
}

// The spans become pieces as `behavior` says; a match is a separator in the terms of the reference.
void EmitSpans(std::string_view text, const std::vector<Span>& spans, SplitBehavior behavior, std::vector<std::string>& out) {
  const auto view = [&](const Span& span) { return std::string(text.substr(span.begin, span.end - span.begin)); };
  bool previous_match = false, have_previous = false;
  std::string pending;  // kMergedWithNext: a match waiting for what follows
  for (const Span& span : spans) {
    if (span.begin == span.end) continue;
    switch (behavior) {
      case SplitBehavior::kIsolated: out.push_back(view(span)); break;
      case SplitBehavior::kRemoved:
        if (!span.match) out.push_back(view(span));
        break;
      case SplitBehavior::kContiguous:
        if (have_previous && previous_match == span.match) out.back() += view(span);
        else out.push_back(view(span));
        break;
      case SplitBehavior::kMergedWithPrevious:
        if (span.match && have_previous && !previous_match) out.back() += view(span);
        else out.push_back(view(span));
        break;
      case SplitBehavior::kMergedWithNext:
        if (span.match) {
          if (!pending.empty()) out.push_back(std::move(pending));
          pending = view(span);
        } else {
          out.push_back(pending + view(span));
          pending.clear();
        }
        break;
    }
    previous_match = span.match;
    have_previous = true;
  }
  if (!pending.empty()) out.push_back(std::move(pending));
}

}  // namespace

std::string Normalizer::Apply(std::string text) const {
  for (const Entry& entry : steps_) {
    switch (entry.step) {
      case Step::kUnicode: text = ApplyForm(text, entry.form); break;
      case Step::kPrepend:
        if (!text.empty()) text = entry.to + text;
        break;
      case Step::kReplace: text = ReplaceAll(text, entry.from, entry.to); break;
      case Step::kLowercase: text = LowerEach(text); break;
    }
  }
  return text;
}

struct PreTokenizer::Step {
  enum class Kind { kSplit, kPrefixSpace, kMetaspace } kind = Kind::kSplit;
  std::unique_ptr<pcre2_code, CodeFree> code;  // null: `literal` is searched instead
  std::string literal;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false, split = true;
  PrependScheme scheme = PrependScheme::kNever;

  std::vector<Span> Matches(std::string_view text) const;
  void RegexMatches(std::string_view text, std::vector<Span>& spans) const;
};

void PreTokenizer::Step::RegexMatches(std::string_view text, std::vector<Span>& spans) const {
  const std::unique_ptr<pcre2_match_data, MatchFree> data(pcre2_match_data_create_from_pattern(code.get(), nullptr));
  const std::unique_ptr<pcre2_match_context, ContextFree> context(pcre2_match_context_create(nullptr));
  if (data == nullptr || context == nullptr) return;
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  size_t at = 0;
  while (at <= text.size()) {
    const int rc = pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, PCRE2_NO_UTF_CHECK, data.get(),
                               context.get());
    if (rc < 0) return;  // no match, or a limit: the rest is one piece
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    const size_t begin = range[0], end = range[1];
    if (begin < at || end < begin) return;  // \K in a lookahead can place a match anywhere
    if (begin == end) {  // an empty match splits nothing; step over one character
      at = end < text.size() ? end + NextUtf8(text.substr(end)).length : text.size() + 1;
      continue;
    }
    spans.push_back({begin, end, true});
    at = end;
  }
}

std::vector<Span> PreTokenizer::Step::Matches(std::string_view text) const {
  std::vector<Span> found;
  if (code != nullptr) {
    RegexMatches(text, found);
  } else {
    for (size_t at = text.find(literal); at != std::string_view::npos; at = text.find(literal, at + literal.size())) {
      found.push_back({at, at + literal.size(), true});
    }
  }
  std::vector<Span> all;
  all.reserve(found.size() * 2 + 1);
  size_t at = 0;
  for (const Span& span : found) {
    if (span.begin > at) all.push_back({at, span.begin, invert});
    all.push_back({span.begin, span.end, !invert});
    at = span.end;
  }
  if (at < text.size()) all.push_back({at, text.size(), invert});
  return all;
}

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

Status PreTokenizer::AddRegex(std::string_view pattern, SplitBehavior behavior, bool invert) {
  if (pattern.size() > kMaxPatternBytes) return InvalidError("a split pattern has {} bytes, at most {} are allowed", pattern.size(), kMaxPatternBytes);
  const std::string text = WithUnicodeSpaces(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto step = std::make_unique<Step>();
  step->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                                 &error, &offset, nullptr));
  if (step->code == nullptr) {
    char message[128] = {};
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
    return InvalidError("split pattern '{}' does not compile: {} at {}", SanitizeUtf8(pattern.substr(0, 200)), message, offset);
  }
  (void)pcre2_jit_compile(step->code.get(), PCRE2_JIT_COMPLETE);  // without JIT the interpreter gives the same matches
  step->behavior = behavior;
  step->invert = invert;
  steps_.push_back(std::move(step));
  return OkStatus();
}

Status PreTokenizer::AddString(std::string_view text, SplitBehavior behavior, bool invert) {
  if (text.empty()) return InvalidError("a split pattern is empty");
  auto step = std::make_unique<Step>();
  step->literal = text;
  step->behavior = behavior;
  step->invert = invert;
  steps_.push_back(std::move(step));
  return OkStatus();
}

void PreTokenizer::AddPrefixSpace() {
  auto step = std::make_unique<Step>();
  step->kind = Step::Kind::kPrefixSpace;
  steps_.push_back(std::move(step));
}

Status PreTokenizer::AddMetaspace(std::string replacement, PrependScheme scheme, bool split) {
  if (replacement.empty()) return InvalidError("Metaspace has an empty replacement");
  auto step = std::make_unique<Step>();
  step->kind = Step::Kind::kMetaspace;
  step->literal = std::move(replacement);
  step->scheme = scheme;
  step->split = split;
  steps_.push_back(std::move(step));
  return OkStatus();
}

std::vector<std::string> PreTokenizer::Split(std::string_view text, bool first) const {
  std::vector<std::string> pieces;
  if (!text.empty()) pieces.emplace_back(text);
  for (const auto& step : steps_) {
    std::vector<std::string> next;
    for (size_t i = 0; i < pieces.size(); ++i) {
      std::string& piece = pieces[i];
      if (step->kind == Step::Kind::kPrefixSpace) {
        next.push_back(piece[0] == ' ' ? std::move(piece) : " " + piece);
        continue;
      }
      if (step->kind == Step::Kind::kMetaspace) {
        piece = ReplaceAll(piece, " ", step->literal);
        const bool wanted = step->scheme == PrependScheme::kAlways || (step->scheme == PrependScheme::kFirst && first && i == 0);
        if (wanted && piece.compare(0, step->literal.size(), step->literal) != 0) piece = step->literal + piece;
        if (step->split) {
          EmitSpans(piece, step->Matches(piece), SplitBehavior::kMergedWithNext, next);
        } else {
          next.push_back(std::move(piece));
        }
        continue;
      }
      EmitSpans(piece, step->Matches(piece), step->behavior, next);
    }
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace baton
