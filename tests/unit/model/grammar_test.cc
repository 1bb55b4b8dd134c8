// GBNF texts and the automaton behind them.
#include "model/grammar/grammar.h"

#include "tests/unit/model/grammar_support.h"

namespace baton {
namespace {

struct LanguageCase {
  const char* name;
  const char* gbnf;
  std::vector<std::string> in, out;
};

class Language : public testing::TestWithParam<LanguageCase> {};

TEST_P(Language, AcceptsItsTextsAndNoOthers) {
  const auto matcher = NewMatcher(GetParam().gbnf);
  ASSERT_NE(matcher, nullptr);
  for (const std::string& text : GetParam().in) EXPECT_TRUE(Matches(*matcher, text)) << text;
  for (const std::string& text : GetParam().out) EXPECT_FALSE(Matches(*matcher, text)) << text;
}

INSTANTIATE_TEST_SUITE_P(
    Gbnf, Language,
    testing::Values(
        LanguageCase{"literal", R"(root ::= "abc")", {"abc"}, {"", "ab", "abcd", "abd"}},
        LanguageCase{"empty_literal", R"(root ::= "")", {""}, {"a"}},
        LanguageCase{"alternatives", R"(root ::= "a" | "bc" | "")", {"a", "bc", ""}, {"b", "abc"}},
        LanguageCase{"sequence_over_lines_in_parentheses", "root ::= (\"a\"\n  \"b\" |\n \"c\")\n", {"ab", "c"}, {"a", "abc"}},
        LanguageCase{"alternative_on_the_next_line", "root ::= \"a\" |\n \"b\"\n", {"a", "b"}, {"ab"}},
        LanguageCase{"rules_and_comments", "# what it is\nroot ::= x y # both\nx ::= \"1\"\n\ny ::= \"2\"", {"12"}, {"1", "21"}},
        LanguageCase{"only_rule_is_the_root", R"(answer ::= "yes" | "no")", {"yes", "no"}, {"maybe"}},
        LanguageCase{"star", R"(root ::= "a"*)", {"", "a", "aaaa"}, {"b", "ab"}},
        LanguageCase{"plus", R"(root ::= "ab"+)", {"ab", "abab"}, {"", "aba"}},
        LanguageCase{"optional", R"(root ::= "a"? "b")", {"b", "ab"}, {"aab", "a"}},
        LanguageCase{"exact_count", R"(root ::= "a"{3})", {"aaa"}, {"aa", "aaaa"}},
        LanguageCase{"count_range", R"(root ::= [0-9]{2,4})", {"12", "123", "1234"}, {"1", "12345"}},
        LanguageCase{"count_from", R"(root ::= "x"{2,})", {"xx", "xxxxxx"}, {"x"}},
        LanguageCase{"count_to", R"(root ::= "x"{,2})", {"", "x", "xx"}, {"xxx"}},
        LanguageCase{"count_zero", R"(root ::= "a" "x"{0} "b")", {"ab"}, {"axb"}},
        LanguageCase{"twice_repeated", R"(root ::= ("a"?)*)", {"", "a", "aa"}, {"b"}},
        LanguageCase{"nothing_repeated", R"(root ::= ""* "a")", {"a"}, {""}},
        LanguageCase{"class", R"(root ::= [a-cx_-])", {"a", "c", "x", "_", "-"}, {"d", "y", ""}},
        LanguageCase{"negated_class", R"(root ::= [^a-z\n])", {"A", "0", "é", "漢", "😀"}, {"a", "\n", "ab", "\xff"}},
        LanguageCase{"class_with_escapes", R"(root ::= [\]\\\x41\u00e9])", {"]", "\\", "A", "é"}, {"x", "B"}},
        LanguageCase{"any", "root ::= . .", {"ab", "é\n", "😀a"}, {"a", "abc", "\x80\x80"}},
        LanguageCase{"characters_of_each_length", R"(root ::= [߿-ࠁ￿-𐀁]+)", {"\u07FF", "\u0800\u0801", "\uFFFF\U00010000\U00010001"}, {"\u07FE", "\u0802", "\U00010002", "\uFFFE"}},
        LanguageCase{"range_across_the_surrogates", R"(root ::= [\uD7FF-\uE000])", {"\uD7FF", "\uE000"}, {"\xED\xA0\x80", "\uD7FE"}},
        LanguageCase{"literal_in_utf8", R"(root ::= "né\U0001F600")", {"né😀"}, {"ne😀"}},
        LanguageCase{"recursion", R"g(root ::= "(" root ")" | "x")g", {"x", "(x)", "(((x)))"}, {"(x", "x)", "()"}},
        LanguageCase{"right_recursion", R"(root ::= "a" root | "b")", {"b", "aab"}, {"a", "ba"}},
        LanguageCase{"ambiguous", R"(root ::= ("a" | "a" "a" | [a-b])+)", {"a", "aaab"}, {"", "c"}},
        LanguageCase{"mutual_recursion", "root ::= a\na ::= \"a\" b | \"a\"\nb ::= \"b\" a | \"b\"", {"a", "ab", "aba"}, {"b", "abb", ""}},
        LanguageCase{"names_with_dashes_and_digits", "root ::= my-rule_2\nmy-rule_2 ::= \"k\"", {"k"}, {"kk"}}),
    [](const auto& info) { return info.param.name; });

struct BadCase {
  const char* name;
  std::string gbnf;
  const char* says;
};

class BadGrammar : public testing::TestWithParam<BadCase> {};

TEST_P(BadGrammar, IsRefusedWithThePlaceAndTheReason) {
  const auto grammar = Grammar::Parse(GetParam().gbnf);
  ASSERT_FALSE(grammar.ok());
  EXPECT_EQ(grammar.status().code(), StatusCode::kInvalid);
  EXPECT_THAT(grammar.status().message(), testing::HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    Gbnf, BadGrammar,
    testing::Values(
        BadCase{"empty", "", "no rule \"root\""}, BadCase{"no_arrow", "root = \"a\"", "line 1, column 6"},
        BadCase{"undefined", "root ::= a b\na ::= \"x\"", "\"b\" is used but not defined"},
        BadCase{"twice", "root ::= \"a\"\nroot ::= \"b\"", "defined twice"},
        BadCase{"no_root", "a ::= \"x\"\nb ::= \"y\"", "no rule \"root\""},
        BadCase{"open_literal", "root ::= \"abc", "ends inside"}, BadCase{"open_class", "root ::= [abc", "ends inside"},
        BadCase{"open_group", "root ::= (\"a\"", "expected \")\""}, BadCase{"closed_group", "root ::= \"a\")", "expected the end of the rule"},
        BadCase{"empty_class", "root ::= []", "without any character"}, BadCase{"backward_range", "root ::= [z-a]", "backwards"},
        BadCase{"unknown_escape", R"(root ::= "\q")", "unknown escape"}, BadCase{"bad_hexadecimal", R"(root ::= "\xZZ")", "hexadecimal"},
        BadCase{"surrogate", R"(root ::= "\uD800")", "names no character"}, BadCase{"beyond_unicode", R"(root ::= "\U00110000")", "names no character"},
        BadCase{"bad_utf8", "root ::= \"\xff\"", "no UTF-8"}, BadCase{"backward_count", "root ::= \"a\"{3,2}", "more at least"},
        BadCase{"open_count", "root ::= \"a\"{3", "expected \"}\""}, BadCase{"no_count", "root ::= \"a\"{x}", "expected a count"},
        BadCase{"huge_count", "root ::= \"a\"{999999999}", "lower the counts"},
        BadCase{"left_recursion", "root ::= root \"a\" | \"b\"", "left-recursive"},
        BadCase{"hidden_left_recursion", "root ::= e root \"a\" | \"b\"\ne ::= \"\" | \"x\"", "left-recursive"},
        BadCase{"left_recursion_of_two", "root ::= a\na ::= b \"x\"\nb ::= a \"y\" | \"z\"", "left-recursive"},
        BadCase{"token", "root ::= <think>", "not supported"}, BadCase{"stray_text", "root ::= \"a\" $", "expected the end"},
        BadCase{"deep", "root ::= " + std::string(300, '(') + "\"a\"" + std::string(300, ')'), "nested deeper"},
        BadCase{"long", "root ::= \"" + std::string(kMaxGrammarBytes, 'a') + "\"", "at most"}, BadCase{"null_bytes", std::string("root\0::=", 8), "expected"}),
    [](const auto& info) { return info.param.name; });

TEST(Grammar, ErrorsNameLineAndColumn) {
  const auto grammar = Grammar::Parse("root ::= a\n\na ::= \"x\" [b-a]");
  ASSERT_FALSE(grammar.ok());
  EXPECT_THAT(grammar.status().message(), testing::HasSubstr("line 3, column 15"));
}

TEST(Grammar, AnyCutOfAGoodGrammarIsReadOrRefused) {
  const std::string gbnf = JsonObjectGbnf();
  for (size_t n = 0; n <= gbnf.size(); ++n) {
    const auto grammar = Grammar::Parse(std::string_view(gbnf).substr(0, n));
    EXPECT_TRUE(grammar.ok() || !grammar.status().message().empty());
  }
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string changed = gbnf;
    for (int i = 0; i < 3; ++i) changed[random.Below(changed.size())] = static_cast<char>(random.Below(256));
    if (const auto grammar = Grammar::Parse(changed); grammar.ok()) NewMatcher(changed)->Next(1, "{\"a\": [1, 2]}");
  }
}

TEST(GrammarMatcher, MaskEqualsTryingEachToken) {
  const auto tokens = ByteVocabulary({"{\"", "\": ", "true", "tru", "false}", "}}", "]", "[[", "[[[", "nul", "null", "12", "1.5", "\\u00", "é", "\xC3", " \n", "abc\"", "abc", "ab"});
  const auto matcher = NewMatcher(JsonObjectGbnf(), tokens);
  Random random(3);
  for (int round = 0; round < 30; ++round) {
    GrammarMatcher::State state = matcher->start();
    for (int step = 0; step < 60 && !matcher->Ends(state); ++step) {
      const TokenMask mask = matcher->Mask(state);
      std::vector<TokenId> allowed;
      for (size_t id = 0; id < tokens->vocab(); ++id) {
        const auto token = static_cast<TokenId>(id);
        const bool expected = !tokens->of(token).empty() && matcher->Next(state, tokens->of(token)) != GrammarMatcher::kDead;
        ASSERT_EQ(mask.Has(token), expected) << "token " << id;
        if (expected) allowed.push_back(token);
      }
      ASSERT_EQ(mask.count, allowed.size());
      ASSERT_FALSE(allowed.empty());
      state = matcher->Next(state, tokens->of(allowed[random.Below(allowed.size())]));
    }
  }
}

TEST(GrammarMatcher, EndsOnlyWhereNothingMayFollow) {
  const auto matcher = NewMatcher(R"(root ::= "a" "b"?)");
  const auto after = [&](const char* text) { return matcher->Next(matcher->start(), text); };
  EXPECT_FALSE(matcher->Accepts(after("")));
  EXPECT_TRUE(matcher->Accepts(after("a")));
  EXPECT_FALSE(matcher->Ends(after("a")));
  EXPECT_TRUE(matcher->Ends(after("ab")));
  EXPECT_FALSE(matcher->Accepts(GrammarMatcher::kDead));
  EXPECT_EQ(matcher->Next(GrammarMatcher::kDead, "a"), GrammarMatcher::kDead);
}

TEST(GrammarMatcher, NestingAsDeepAsTheTextGoes) {
  const auto matcher = NewMatcher(R"g(root ::= "(" root ")" | "x")g");
  const std::string open(5000, '('), close(5000, ')');
  EXPECT_TRUE(Matches(*matcher, open + "x" + close));
  EXPECT_FALSE(Matches(*matcher, open + "x" + close.substr(1)));
}

TEST(GrammarMatcher, LoopsGrowNoState) {
  const auto matcher = NewMatcher(R"(root ::= ([a-z] | " ")* ".")");
  const auto once = matcher->Next(matcher->start(), "hello world");
  EXPECT_EQ(matcher->Next(once, std::string(100'000, 'x')), once);
}

TEST(GrammarMatcher, HopelessAmbiguityFailsInsteadOfHanging) {
  // Twice as many stacks with each "a".
  const auto matcher = NewMatcher("root ::= a \"end\"\na ::= \"a\" a \"b\" | \"a\" a \"c\" | \"a\"");
  const auto state = matcher->Next(matcher->start(), std::string(64, 'a'));
  EXPECT_TRUE(state == GrammarMatcher::kDead ? !matcher->failure().empty() : matcher->failure().empty());
  EXPECT_EQ(state, GrammarMatcher::kDead);
  matcher->Trim();
  EXPECT_TRUE(matcher->failure().empty());
  EXPECT_NE(matcher->Next(matcher->start(), "aaa"), GrammarMatcher::kDead) << "others go on";
}

TEST(GrammarMatcher, TrimForgetsAndCursorsGoOn) {
  const auto matcher = NewMatcher(JsonObjectGbnf());
  GrammarCursor cursor(matcher);
  std::vector<TokenId> text;
  for (const char c : std::string("{\"key\": [1, 2, {\"a")) text.push_back(static_cast<uint8_t>(c));
  cursor.Seek(text);
  const TokenMask before = cursor.mask();
  const uint64_t epoch = matcher->epoch();
  Random random(5);
  for (int i = 0; i < 400 && matcher->epoch() == epoch; ++i) {
    std::string deep;  // new stacks each time
    for (int k = 0; k < 60; ++k) deep += random.Below(2) ? "{\"k\": [" : "[{\"q\": ";
    matcher->Next(matcher->start(), "{\"a\":" + deep);
    matcher->Trim();
  }
  EXPECT_NE(matcher->epoch(), epoch) << "the bound was never reached";
  cursor.Seek(text);
  EXPECT_EQ(cursor.mask().bits, before.bits);
}

TEST(GrammarCursor, IsAFunctionOfTheTokens) {
  const auto matcher = NewMatcher(R"(root ::= "a" ("b" | "c")* "d")");
  GrammarCursor cursor(matcher);
  const auto tokens = [](std::string_view text) { return std::vector<TokenId>(text.begin(), text.end()); };
  cursor.Seek(tokens("abc"));
  EXPECT_TRUE(cursor.mask().Has('d'));
  EXPECT_FALSE(cursor.mask().Has('a'));
  cursor.Seek(tokens(""));  // taken back, as speculation does
  EXPECT_TRUE(cursor.mask().Has('a'));
  EXPECT_EQ(cursor.mask().count, 1u);
  cursor.Seek(tokens("abbd"));
  EXPECT_TRUE(cursor.ends());
  cursor.Seek(tokens("abb"));
  EXPECT_FALSE(cursor.accepts());
  GrammarCursor moved(matcher);
  moved.Seek(tokens("abb"));
  EXPECT_EQ(moved.mask().bits, cursor.mask().bits);
}

TEST(GrammarCursor, TokensThatWriteNothingChangeNothing) {
  const auto matcher = NewMatcher(R"(root ::= "ab")");
  GrammarCursor cursor(matcher);
  const auto silent = static_cast<TokenId>(matcher->tokens().vocab() - 1);
  cursor.Seek(std::vector<TokenId>{silent, 'a', silent});
  EXPECT_TRUE(cursor.mask().Has('b'));
  EXPECT_FALSE(cursor.mask().Has(silent));
}

TEST(TokenBytes, SortedWithWhatNeighboursShare) {
  const TokenBytes tokens({"b", "", "abc", "ab", "abd", "ab"});
  std::vector<std::string> seen;
  for (const auto& entry : tokens.entries()) seen.push_back(fmt::format("{}:{}:{}", entry.id, entry.bytes, entry.shared));
  EXPECT_THAT(seen, testing::ElementsAre("3:ab:0", "5:ab:2", "2:abc:2", "4:abd:2", "0:b:0"));
}

TEST(NormalizeRanges, JoinsCutsAndTurnsRound) {
  using Ranges = std::vector<CodeRange>;
  EXPECT_EQ(NormalizeRanges({{'d', 'f'}, {'a', 'c'}, {'b', 'e'}}, false), (Ranges{{'a', 'f'}}));
  EXPECT_EQ(NormalizeRanges({{0xD000, 0xE000}}, false), (Ranges{{0xD000, 0xD7FF}, {0xE000, 0xE000}}));
  EXPECT_EQ(NormalizeRanges({{0xD800, 0xDFFF}}, false), Ranges{});
  EXPECT_EQ(NormalizeRanges({}, true), (Ranges{{0, 0xD7FF}, {0xE000, 0x10FFFF}}));
  EXPECT_EQ(NormalizeRanges({{0, 0x10FFFF}}, true), Ranges{});
  EXPECT_EQ(NormalizeRanges({{'a', 'a'}}, true), (Ranges{{0, '`'}, {'b', 0xD7FF}, {0xE000, 0x10FFFF}}));
}

}  // namespace
}  // namespace baton
