// Regular expressions as grammars: random ones against the standard library's ECMAScript engine, written ones by table, and what
// JSON schema's `pattern` makes of them.
#include <regex>

#include "tests/unit/model/grammar_support.h"

namespace baton {
namespace {

std::string Gbnf(const std::string& regex) {
  const auto gbnf = RegexToGbnf(regex);
  EXPECT_TRUE(gbnf.ok()) << regex << ": " << gbnf.status().ToString();
  return gbnf.ok() ? *gbnf : "root ::= \"bad\"";
}

class RandomRegex {
 public:
  explicit RandomRegex(Random& random) : random_(random) {}
  std::string Write(int depth) {
    std::string out;
    for (uint64_t n = 1 + random_.Below(3); n > 0; --n) out += Item(depth);
    if (depth > 0 && random_.Below(4) == 0) out += "|" + Write(depth - 1);
    return out;
  }

 private:
  std::string Item(int depth) {
    static const char* const kAtoms[] = {"a", "b", "c", "0", "-", " ", ".", "\\d", "\\w", "\\s", "\\D", "\\W", "\\S",
                                         "[abc]", "[^a]", "[a-c0-9]", "[\\d-]", "[^\\s\\d]", "\\.", "\\x61", "\\u0062", "[-a]", "[b-]"};
    static const char* const kCounts[] = {"", "", "", "", "?", "*", "+", "{2}", "{1,2}", "{0,1}", "{1,}", "*?", "+?", "{1,2}?"};
    const bool group = depth > 0 && random_.Below(4) == 0;
    const std::string atom = group ? (random_.Below(2) == 0 ? "(" : "(?:") + Write(depth - 1) + ")" : kAtoms[random_.Below(std::size(kAtoms))];
    return atom + kCounts[random_.Below(std::size(kCounts))];
  }
  Random& random_;
};

class RegexSeeds : public testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Property, RegexSeeds, testing::Range<uint64_t>(1, 31));

TEST_P(RegexSeeds, AcceptsExactlyWhatTheStandardEngineMatches) {
  Random random(GetParam());
  for (int round = 0; round < 6; ++round) {
    const std::string pattern = RandomRegex(random).Write(2);
    const std::regex reference(pattern, std::regex::ECMAScript);
    const auto matcher = NewMatcher(Gbnf(pattern));
    for (int i = 0; i < 50; ++i) {
      std::string text;
      for (uint64_t n = random.Below(7); n > 0; --n) text += "abc0-. \n_"[random.Below(9)];
      if (i % 2 == 0) {
        text = RandomText(*matcher, random, 2, 16);
        if (std::any_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) >= 0x80 || c == '\r'; })) continue;  // the reference knows bytes
      }
      EXPECT_EQ(Matches(*matcher, text), std::regex_match(text, reference)) << "/" << pattern << "/ on '" << text << "'";
    }
  }
}

struct RegexTable {
  const char* regex;
  std::vector<std::string> in, out;
};

TEST(RegexTables, CommonPatterns) {
  const std::vector<RegexTable> tables{
      {"", {""}, {"a", " "}},
      {"a|", {"a", ""}, {"b", "aa"}},
      {"|", {""}, {"|"}},
      {"()", {""}, {"()"}},
      {"(a|)b", {"ab", "b"}, {"a", ""}},
      {"^$", {""}, {"a"}},
      {"^a|b$", {"a", "b"}, {"ab", ""}},
      {"^(?:\\+49|0)[1-9]\\d{1,4}[ /-]?\\d{3,8}$", {"+4930 123456", "0301234567", "030/123"}, {"49301234567", "0030123", "030"}},
      {"[\\w.+-]+@[\\w-]+\\.[a-z]{2,}", {"a.b+c@d-e.org"}, {"a@b", "a@b.c", "@b.org", "a b@c.de"}},
      {"(?<year>\\d{4})-(?P<month>\\d\\d)", {"2026-11"}, {"26-11", "2026-1"}},
      {"[^]]", {"a", "["}, {"]", "", "ab"}},
      {"[]a]+", {"]", "a]a"}, {"[", ""}},
      {"[a^]", {"a", "^"}, {"b"}},
      {"[+*?.()|{}]", {"+", "*", "?", ".", "(", ")", "|", "{", "}"}, {"a", "\\"}},
      {"\\[\\]\\{\\}\\(\\)\\*\\+\\?\\.\\^\\$\\|\\/\\-", {"[]{}()*+?.^$|/-"}, {""}},
      {"[\\]\\\\\\^-]", {"]", "\\", "^", "-"}, {"a"}},
      {"\\t\\n\\r\\f\\v\\0", {std::string("\t\n\r\f\v\0", 6)}, {"tnrfv0"}},
      {"[\\x00-\\x1f]", {std::string(1, '\0'), "\x1f"}, {" "}},
      {"[\\u0400-\\u04FF]+", {"Привет"}, {"Privet", "é"}},
      {"漢字?", {"漢", "漢字"}, {"字", "漢\xE5"}},
      {"[漢-語]", {"漢", "語", "猿"}, {"a", "一"}},
      {".", {"a", "é", "😀", " ", "\r"}, {"\n", "", "ab", "\xff"}},
      {"\\s+", {" \t\r\n\v\f", "\u00a0\u3000\u2028\ufeff"}, {"", "a", "\u200b"}},
      {"\\S", {"a", "é", "\u200b"}, {" ", "\u3000"}},
      {"\\D{2}", {"ab", "é٣"}, {"1a", "a"}},
      {"\\w+", {"aZ_09"}, {"é", "-"}},
      {"\\W", {"é", "-", " "}, {"a", "_", "0"}},
      {"[\\w-]+", {"a-b", "-"}, {"a b"}},
      {"[a-]", {"a", "-"}, {"b"}},
      {"[\\d-z]", {"1", "-", "z"}, {"a", "y"}},
      {"a{0}", {""}, {"a"}},
      {"a{0,0}b", {"b"}, {"ab"}},
      {"(ab){2,3}?", {"abab", "ababab"}, {"ab", "abababab"}},
      {"((a|b)(c|d)){1,2}", {"ac", "bdac"}, {"a", "acbdac"}},
      {"(a*)*", {"", "aaa"}, {"b"}},
      {"(a?){3}", {"", "a", "aaa"}, {"aaaa"}},
      {"x*y*z*", {"", "xxyz", "z"}, {"zx"}},
  };
  for (const RegexTable& table : tables) {
    const auto matcher = NewMatcher(Gbnf(table.regex));
    ASSERT_NE(matcher, nullptr) << table.regex;
    for (const std::string& text : table.in) EXPECT_TRUE(Matches(*matcher, text)) << "/" << table.regex << "/ should take '" << text << "'";
    for (const std::string& text : table.out) EXPECT_FALSE(Matches(*matcher, text)) << "/" << table.regex << "/ should not take '" << text << "'";
  }
}

TEST(RegexTables, ErrorsNameTheByte) {
  const std::vector<std::pair<const char*, const char*>> cases{
      {"ab(c", "at byte 4: a \"(\" without its \")\""}, {"ab)c", "at byte 2: a \")\" without its \"(\""}, {"a[bc", "at byte 4: a \"[\" without its \"]\""},
      {"[", "at byte 1: a \"[\" without its \"]\""}, {"[]", "at byte 2: a \"[\" without its \"]\""}, {"[^]", "at byte 3: a \"[\" without"},
      {"a{2", "expected \"}\" after the count"}, {"a{", "expected a count"}, {"a{,3}", "expected a count"},
      {"a{1,2", "expected \"}\""},
      {"a+*", "two counts one after the other"}, {"a?{2}", "two counts"}, {"a???", "two counts"}, {"+", "a count without anything before it"}, {"(|*)", "a count without"},
      {"(?i)a", "look-around and flags"}, {"(?!a)", "look-around"}, {"(?<!a)", "look-around"}, {"a\\b", "escape \"\\b\" is not supported"}, {"\\Aa", "\"\\A\" is not supported"},
      {"\\k<n>", "\"\\k\" is not supported"}, {"\\cA", "\"\\c\" is not supported"}, {"\\x4", "hexadecimal digit"}, {"\\u12G4", "hexadecimal digit"}, {"[\\d-\\w", "without its \"]\""},
      {"[a-\\d]", "runs backwards"}, {"[b-a]", "runs backwards"}, {"a$b|c", "only at the beginning and the end"}, {"(^a)", "only at the beginning"}, {"a|b^", "only at the beginning"},
      {"[^\\s\\S]", "a class without any character"}, {"\\", "a \"\\\" at the end"}, {"a{10001}", "at most 10000"}, {"a{3,2}", "more at least than at most"}, {"\xC3", "no UTF-8"}};
  for (const auto& [regex, says] : cases) {
    const auto gbnf = RegexToGbnf(regex);
    ASSERT_FALSE(gbnf.ok()) << regex;
    EXPECT_EQ(gbnf.status().code(), StatusCode::kInvalid) << regex;
    EXPECT_THAT(gbnf.status().message(), testing::HasSubstr(says)) << regex;
  }
  EXPECT_THAT(RegexToGbnf(std::string(150, '(') + std::string(150, ')')).status().message(), testing::HasSubstr("nested deeper than 100"));
  EXPECT_TRUE(RegexToGbnf(std::string(90, '(') + "a" + std::string(90, ')')).ok());
}

/// Whatever bytes a client sends as a pattern: an answer or an error, and what is answered is a grammar or says why not.
TEST(RegexTables, AnyBytesAreReadOrRefused) {
  Random random(17);
  const std::string alphabet = "ab0\\[](){}|*+?^$.-,dws\xC3\xA9\xFF\n\"";
  int read = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string regex;
    for (uint64_t n = random.Below(12); n > 0; --n) regex += alphabet[random.Below(alphabet.size())];
    const auto gbnf = RegexToGbnf(regex);
    if (!gbnf.ok()) {
      EXPECT_FALSE(gbnf.status().message().empty());
      continue;
    }
    const auto grammar = Grammar::Parse(*gbnf);
    ASSERT_TRUE(grammar.ok()) << regex << " became " << *gbnf << ": " << grammar.status().ToString();
    ++read;
  }
  EXPECT_GT(read, 400);
}

struct PatternCase {
  const char* pattern;
  std::vector<std::string> in, out;  // JSON texts
};

TEST(SchemaPattern, MatchesAnywhereAndInJsonSpelling) {
  const std::vector<PatternCase> cases{
      {"b", {R"("b")", R"("abc")", R"("\nb\"")"}, {R"("a")", R"("")", "b"}},
      {"^b", {R"("b")", R"("bc")"}, {R"("ab")"}},
      {"b$", {R"("b")", R"("ab")"}, {R"("bc")"}},
      {"^a|b$", {R"("ax")", R"("xb")", R"("a")"}, {R"("xa")", R"("bx")"}},
      {"^\"$", {R"("\"")"}, {R"(""")", R"("\\")"}},
      {"^\\\\n$", {R"("\\n")"}, {R"("\n")"}},
      {"^\\n$", {R"("\n")"}, {"\"\n\"", R"("\\n")"}},
      {"^\\t.$", {R"("\tx")"}, {"\"\tx\""}},
      {"^[\\x00-\\x1f]$", {R"("\u0000")", R"("\u001f")", R"("\b")"}, {R"(" ")"}},
      {"^.$", {R"("a")", R"("\"")", R"("\\")", R"("é")"}, {R"("")", R"("ab")", R"("\n")", R"("\r")"}},
      {"^[^a]$", {R"("b")", R"("\"")", R"("\n")"}, {R"("a")", R"("")"}},
      {"^é+$", {R"("éé")"}, {R"("e")"}},
      {"", {R"("")", R"("anything")"}, {"1"}}};
  for (const PatternCase& c : cases) {
    const auto gbnf = JsonSchemaToGbnf({{"type", "string"}, {"pattern", c.pattern}});
    ASSERT_TRUE(gbnf.ok()) << c.pattern << gbnf.status().ToString();
    const auto matcher = NewMatcher(*gbnf);
    for (const std::string& text : c.in) EXPECT_TRUE(Matches(*matcher, text)) << c.pattern << " should take " << text;
    for (const std::string& text : c.out) EXPECT_FALSE(Matches(*matcher, text)) << c.pattern << " should not take " << text;
  }
}

}  // namespace
}  // namespace baton
