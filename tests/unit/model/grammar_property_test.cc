// Random grammars against an independent recogniser, and what must hold of the automaton whatever the grammar.
#include <map>
#include <set>

#include "model/tokenizer_utf8.h"
#include "tests/unit/model/grammar_support.h"

namespace baton {
namespace {

/// The ends of every reading of rule `rule` from `begin` on, straight from the definition: no automaton, no stacks.
class Recogniser {
 public:
  Recogniser(const Grammar& grammar, std::string_view text) : grammar_(grammar), text_(text) {}
  bool Whole() {
    do {  // up to the least fixed point: ("a"?)* may read nothing before it reads itself
      changed_ = false;
      visited_.clear();
      Rule(grammar_.root, 0);
    } while (changed_);
    return ends_[{grammar_.root, 0}].contains(text_.size());
  }

 private:
  using Ends = std::set<size_t>;

  Ends Rule(uint32_t rule, size_t begin) {
    if (!visited_.insert({rule, begin}).second) return ends_[{rule, begin}];
    Ends ends;
    for (const uint32_t start : grammar_.rules[rule]) {
      const Ends more = Sequence(start, begin);
      ends.insert(more.begin(), more.end());
    }
    Ends& known = ends_[{rule, begin}];
    changed_ = changed_ || known != ends;
    return known = ends;
  }
  Ends Sequence(uint32_t symbol, size_t begin) {
    const Grammar::Symbol& s = grammar_.symbols[symbol];
    if (s.kind == Grammar::Kind::kEnd) return {begin};
    Ends after;
    if (s.kind == Grammar::Kind::kBytes) {
      if (begin < text_.size() && grammar_.sets[s.index][static_cast<uint8_t>(text_[begin])]) after.insert(begin + 1);
    } else {
      after = Rule(s.index, begin);
    }
    Ends ends;
    for (const size_t at : after) {
      const Ends more = Sequence(symbol + 1, at);
      ends.insert(more.begin(), more.end());
    }
    return ends;
  }

  const Grammar& grammar_;
  const std::string_view text_;
  std::map<std::pair<uint32_t, size_t>, Ends> ends_;
  std::set<std::pair<uint32_t, size_t>> visited_;
  bool changed_ = false;
};

const std::vector<std::string> kLetters{"a", "b", "c", "é", "漢", "😀"};

/// A grammar of `rules` rules over kLetters. A rule names itself and earlier ones only behind a letter, later ones anywhere:
/// no left recursion; and its first alternative names later rules alone, so that every text begun can be ended.
class RandomGrammar {
 public:
  explicit RandomGrammar(uint64_t seed) : random_(seed), rules_(2 + random_.Below(4)) {}

  std::string Write() {
    std::string out;
    for (rule_ = 0; rule_ < rules_; ++rule_) {
      out += Name(rule_) + " ::= " + Sequence(false, 2);
      for (uint64_t more = random_.Below(3); more > 0; --more) out += " | " + Sequence(true, 2);
      out += "\n";
    }
    return out;
  }

 private:
  static std::string Name(uint64_t rule) { return rule == 0 ? "root" : "r" + std::to_string(rule); }

  std::string Sequence(bool recursive, int depth) {
    std::string out;
    bool consumed = false;
    for (uint64_t n = 1 + random_.Below(3); n > 0; --n) out += (out.empty() ? "" : " ") + Item(recursive, depth, consumed);
    return out;
  }
  std::string Item(bool recursive, int depth, bool& consumed) {
    static const char* const kCounts[] = {"", "", "", "?", "*", "+", "{2}", "{1,3}", "{0,2}", "{2,}"};
    const uint64_t kind = random_.Below(8);
    const bool later = rule_ + 1 < rules_;
    if (kind == 0 && depth > 0) {
      return "(" + Sequence(false, depth - 1) + " | " + Sequence(false, depth - 1) + ")" + kCounts[random_.Below(std::size(kCounts))];
    }
    if (kind == 1 && recursive && consumed) return Name(random_.Below(rule_ + 1));
    if (kind <= 2 && later) return Name(rule_ + 1 + random_.Below(rules_ - rule_ - 1));
    const char* count = kCounts[random_.Below(std::size(kCounts))];
    consumed = consumed || std::string_view("?*{0,2}").find(count) == std::string_view::npos || *count == '\0';
    if (kind == 3) return std::string("[a-c]") + count;
    if (kind == 4) return std::string("[^a漢]") + count;
    return "\"" + kLetters[random_.Below(kLetters.size())] + kLetters[random_.Below(kLetters.size())] + "\"" + count;
  }

  Random random_;
  const uint64_t rules_;
  uint64_t rule_ = 0;
};

std::string RandomLetters(Random& random, size_t most) {
  std::string text;
  for (uint64_t n = random.Below(most + 1); n > 0; --n) text += kLetters[random.Below(kLetters.size())];
  return text;
}

class GrammarSeeds : public testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Property, GrammarSeeds, testing::Range<uint64_t>(1, 41));

TEST_P(GrammarSeeds, AcceptsExactlyWhatTheDefinitionAccepts) {
  const std::string gbnf = RandomGrammar(GetParam()).Write();
  const auto grammar = Grammar::Parse(gbnf);
  ASSERT_TRUE(grammar.ok()) << grammar.status().ToString() << "\n" << gbnf;
  const auto matcher = NewMatcher(gbnf);
  Random random(GetParam() * 977);
  for (int round = 0; round < 60; ++round) {
    std::string text = RandomLetters(random, 7);
    if (round % 2 == 0) {  // near the language, so that both answers occur
      text = RandomText(*matcher, random, random.Below(6), 12).substr(0, 24);
      if (random.Below(3) == 0 && !text.empty()) text[random.Below(text.size())] = 'b';
    }
    EXPECT_EQ(Matches(*matcher, text), Recogniser(*grammar, text).Whole()) << gbnf << "text: " << text;
  }
  EXPECT_TRUE(matcher->failure().empty()) << matcher->failure();
}

TEST_P(GrammarSeeds, WhatTheMaskAllowsTheDefinitionAccepts) {
  const std::string gbnf = RandomGrammar(GetParam()).Write();
  const auto grammar = Grammar::Parse(gbnf);
  ASSERT_TRUE(grammar.ok());
  const auto matcher = NewMatcher(gbnf, ByteVocabulary({"ab", "aa", "\xC3", "\xA9" "a", "\xE6\xBC", "\xA2", "\xF0\x9F\x98", "bca"}));
  Random random(GetParam());
  for (int round = 0; round < 8; ++round) {
    const std::string text = RandomText(*matcher, random, 3, 30);
    if (!Matches(*matcher, text)) continue;  // a walk that keeps going deeper
    EXPECT_TRUE(Recogniser(*grammar, text).Whole()) << gbnf << "text: " << text;
  }
}

TEST_P(GrammarSeeds, CutsOfATextChangeNothing) {
  const auto matcher = NewMatcher(RandomGrammar(GetParam()).Write());
  Random random(GetParam() + 5);
  for (int round = 0; round < 20; ++round) {
    const std::string text = RandomText(*matcher, random, 4, 30).substr(0, 40);
    const GrammarMatcher::State whole = matcher->Next(matcher->start(), text);
    for (size_t cut = 0; cut <= text.size(); ++cut) {  // within characters too
      EXPECT_EQ(matcher->Next(matcher->Next(matcher->start(), text.substr(0, cut)), text.substr(cut)), whole) << text << " at " << cut;
    }
  }
}

/// From every state that is reached some token leads on, or the text may end: an answer can never be stuck.
TEST_P(GrammarSeeds, NoStateIsADeadEnd) {
  const auto matcher = NewMatcher(RandomGrammar(GetParam()).Write());
  Random random(GetParam() + 9);
  for (int round = 0; round < 20; ++round) {
    GrammarMatcher::State state = matcher->start();
    for (const char byte : RandomText(*matcher, random, 5, 40).substr(0, 60)) {
      const TokenMask& mask = matcher->Mask(state);
      EXPECT_TRUE(mask.count > 0 || matcher->Accepts(state));
      EXPECT_EQ(matcher->Ends(state), matcher->Accepts(state) && mask.count == 0);
      state = matcher->Next(state, std::string_view(&byte, 1));
      ASSERT_NE(state, GrammarMatcher::kDead);
    }
  }
}

TEST_P(GrammarSeeds, ACursorIsWhereItsTokensLead) {
  const auto tokens = ByteVocabulary({"ab", "é", "漢字", "\xE6", "aaa"});
  const auto matcher = NewMatcher(RandomGrammar(GetParam()).Write(), tokens);
  GrammarCursor cursor(matcher);
  Random random(GetParam() + 13);
  std::vector<TokenId> answer;
  for (int step = 0; step < 120; ++step) {
    if (random.Below(4) == 0 && !answer.empty()) answer.resize(random.Below(answer.size()));  // guesses taken back
    else answer.push_back(static_cast<TokenId>(random.Below(3) == 0 ? 256 + random.Below(6) : "abc\xC3\xA9"[random.Below(5)] & 0xFF));
    cursor.Seek(answer);
    std::string text;
    for (const TokenId id : answer) text += tokens->of(id);
    const GrammarMatcher::State state = matcher->Next(matcher->start(), text);
    ASSERT_EQ(cursor.accepts(), matcher->Accepts(state)) << text;
    ASSERT_EQ(cursor.mask().bits, matcher->Mask(state).bits) << text;
    if (answer.size() > 12) answer.clear();
  }
}

TEST(GrammarEnds, WhatNeverEndsIsRefusedOrLeftOut) {
  for (const char* gbnf : {"root ::= \"a\" root", "root ::= root", "root ::= a\na ::= \"x\" b\nb ::= \"y\" a", "root ::= \"a\" x | \"b\" x\nx ::= x"}) {
    const auto grammar = Grammar::Parse(gbnf);
    ASSERT_FALSE(grammar.ok()) << gbnf;
    EXPECT_THAT(grammar.status().message(), testing::HasSubstr("rule \"root\" never ends")) << gbnf;
  }
  // "a" would have to be followed by something that never ends: it is not offered, so that nobody gets stuck behind it.
  const auto matcher = NewMatcher("root ::= \"a\" x | \"b\" x?\nx ::= \"x\" x");
  EXPECT_EQ(matcher->Mask(matcher->start()).count, 1u);
  EXPECT_TRUE(Matches(*matcher, "b"));
  EXPECT_TRUE(matcher->Ends(matcher->Next(matcher->start(), "b")));
  EXPECT_FALSE(Matches(*matcher, "bx"));
}

TEST(GrammarEnds, LongChainsAreReadInLinearTime) {
  std::string chain = "root ::= r0\n", endless = "root ::= r0 | \"x\"\n";
  for (int i = 0; i < 40'000; ++i) {
    const std::string rule = fmt::format("r{} ::= r{}\n", i, i + 1);
    chain += rule;
    endless += rule;
  }
  EXPECT_TRUE(Grammar::Parse(chain + "r40000 ::= \"a\"\n").ok());
  EXPECT_TRUE(Matches(endless + "r40000 ::= \"a\" r40000\n", "x"));
}

TEST(GrammarClasses, EveryRangeOfCharactersIsItsUtf8) {
  Random random(3);
  const std::vector<char32_t> edges{0, 0x7E, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0xFFFFF, 0x100000, 0x10FFFF};
  const auto utf8 = [](char32_t c) {
    std::string out;
    AppendUtf8(c, out);
    return out;
  };
  for (int round = 0; round < 60; ++round) {
    char32_t low = edges[random.Below(edges.size())], high = edges[random.Below(edges.size())];
    if (round % 2 == 0) low = static_cast<char32_t>(random.Below(0xD800)), high = static_cast<char32_t>(0xE000 + random.Below(0x102000));
    if (low > high) std::swap(low, high);
    const auto matcher = NewMatcher(fmt::format("root ::= [\\U{:08X}-\\U{:08X}]", static_cast<uint32_t>(low), static_cast<uint32_t>(high)));
    for (int i = 0; i < 200; ++i) {
      auto c = static_cast<char32_t>(random.Below(0x110000));
      if (i < 36) c = edges[static_cast<size_t>(i) / 2] + (i % 2 == 0 ? 0 : 1);
      if (i == 36) c = low;
      if (i == 37) c = high;
      if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) continue;
      EXPECT_EQ(Matches(*matcher, utf8(c)), c >= low && c <= high) << static_cast<uint32_t>(c) << " in " << static_cast<uint32_t>(low) << ".." << static_cast<uint32_t>(high);
    }
    for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80",
                            "\xF8\x88\x80\x80\x80", "\xFF"}) {
      EXPECT_FALSE(Matches(*matcher, bad)) << "an overlong form, a surrogate or a stray byte";
    }
  }
}

}  // namespace
}  // namespace baton
