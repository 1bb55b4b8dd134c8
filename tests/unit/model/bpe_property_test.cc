// Byte-pair encoding against the textbook algorithm: again and again the pair of the lowest rank, the leftmost of equal ones.
#include "model/bpe.h"

#include <cmath>
#include <set>

#include "base/random.h"
#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

using Merges = std::vector<std::pair<std::string, std::string>>;

std::vector<std::string> Characters(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    out.emplace_back(text.substr(0, NextUtf8(text).length));
    text.remove_prefix(out.back().size());
  }
  return out;
}

/// Over texts, not ids: nothing of the product but the input.
std::vector<std::string> Textbook(const Merges& merges, std::vector<std::string> symbols) {
  while (true) {
    size_t best = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = std::find(merges.begin(), merges.end(), std::pair(symbols[i], symbols[i + 1]));
      const auto rank = static_cast<size_t>(it - merges.begin());
      if (rank < best) best = rank, at = i;
    }
    if (best == merges.size()) return symbols;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

/// A vocabulary grown by random merges of what it has.
struct RandomVocab {
  std::vector<BpeModel::Entry> vocab;
  Merges merges;

  RandomVocab(Random& random, const std::vector<std::string>& letters, size_t count) {
    std::vector<std::string> texts = letters;
    while (merges.size() < count) {
      const std::string& a = texts[random.Below(texts.size())];
      const std::string& b = texts[random.Below(texts.size())];
      if (a.size() + b.size() > 24 || std::find(merges.begin(), merges.end(), std::pair(a, b)) != merges.end()) continue;
      merges.emplace_back(a, b);
      if (std::find(texts.begin(), texts.end(), a + b) == texts.end()) texts.push_back(a + b);
    }
    for (size_t i = 0; i < texts.size(); ++i) vocab.push_back({texts[i], static_cast<TokenId>(7 * i % texts.size())});
  }
  std::vector<std::string> Texts(const std::vector<TokenId>& ids) const {
    std::vector<std::string> out;
    for (const TokenId id : ids) {
      const auto it = std::find_if(vocab.begin(), vocab.end(), [&](const auto& entry) { return entry.id == id; });
      out.push_back(it == vocab.end() ? "?" : it->text);
    }
    return out;
  }
};

const std::vector<std::string> kAscii{"a", "b", "c", "d"};
const std::vector<std::string> kWide{"a", "é", "漢", "🙂", "▁"};

class BpeSeeds : public testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Property, BpeSeeds, testing::Range<uint64_t>(1, 21));

TEST_P(BpeSeeds, EqualsTheTextbookForShortAndLongPieces) {
  Random random(GetParam());
  size_t prime = 0;
  for (const auto& letters : {kAscii, kWide}) {
    RandomVocab vocab(random, letters, 20 + random.Below(20));
    for (prime = vocab.vocab.size(); prime % 7 == 0;) vocab = RandomVocab(random, letters, 20 + random.Below(20)), prime = vocab.vocab.size();
    const auto bpe = BpeModel::Make(vocab.vocab, vocab.merges, {.byte_level = false}, true);
    ASSERT_TRUE(bpe.ok()) << bpe.status().ToString();
    for (int round = 0; round < 40; ++round) {
      std::string text;
      for (uint64_t n = random.Below(round % 4 == 0 ? 200 : 20); n > 0; --n) text += letters[random.Below(letters.size())];
      std::vector<TokenId> ids;
      bpe->Encode(text, ids);
      EXPECT_EQ(vocab.Texts(ids), Textbook(vocab.merges, Characters(text))) << text;
    }
  }
}

TEST_P(BpeSeeds, ByteLevelTakesAnyBytesAndKeepsThem) {
  Random random(GetParam() + 50);
  std::vector<BpeModel::Entry> vocab;
  const auto gpt2 = [](std::string_view bytes) {
    std::string out;
    for (const char c : bytes) AppendUtf8(ByteToGpt2(static_cast<uint8_t>(c)), out);
    return out;
  };
  for (int b = 0; b < 256; ++b) vocab.push_back({gpt2(std::string(1, static_cast<char>(b))), b});
  Merges bytes, merges;
  std::vector<std::string> texts;
  for (int b = 0; b < 6; ++b) texts.emplace_back(1, "\x00 a\xC3\xA9\xFF"[b]);
  for (int i = 0; i < 25; ++i) {
    const std::string a = texts[random.Below(texts.size())], b = texts[random.Below(texts.size())];
    if (std::find(texts.begin(), texts.end(), a + b) != texts.end()) continue;
    texts.push_back(a + b);
    bytes.emplace_back(a, b);
    merges.emplace_back(gpt2(a), gpt2(b));
    vocab.push_back({gpt2(a + b), static_cast<TokenId>(vocab.size())});
  }
  const auto bpe = BpeModel::Make(vocab, merges, {}, true);
  ASSERT_TRUE(bpe.ok()) << bpe.status().ToString();
  for (int round = 0; round < 40; ++round) {
    std::string text;
    std::vector<std::string> single;
    for (uint64_t n = random.Below(120); n > 0; --n) text += random.Below(3) == 0 ? static_cast<char>(random.Below(256)) : texts[random.Below(6)][0];
    for (const char c : text) single.emplace_back(1, c);
    std::vector<TokenId> ids;
    bpe->Encode(text, ids);
    std::vector<std::string> pieces;
    std::string joined, piece;
    for (const TokenId id : ids) {
      piece.clear();
      ASSERT_TRUE(Gpt2ToBytes(vocab[static_cast<size_t>(id)].text, piece));
      pieces.push_back(piece);
      joined += piece;
    }
    EXPECT_EQ(joined, text);
    EXPECT_EQ(pieces, Textbook(bytes, single));
  }
}

TEST_P(BpeSeeds, ScoresMergeTheBestPairFirst) {
  Random random(GetParam() + 90);
  std::vector<std::string> texts = kAscii;
  std::vector<BpeModel::Entry> vocab;
  std::vector<float> scores;
  while (texts.size() < 30) {
    const std::string text = texts[random.Below(texts.size())] + texts[random.Below(texts.size())];
    if (text.size() < 12 && std::find(texts.begin(), texts.end(), text) == texts.end()) texts.push_back(text);
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    vocab.push_back({texts[i], static_cast<TokenId>(i)});
    scores.push_back(-static_cast<float>((i * 17) % 31));  // all different
  }
  const auto bpe = BpeModel::MakeFromScores(vocab, scores, {.byte_level = false});
  ASSERT_TRUE(bpe.ok());
  for (int round = 0; round < 60; ++round) {
    std::string text;
    for (uint64_t n = random.Below(60); n > 0; --n) text += kAscii[random.Below(4)];
    std::vector<std::string> symbols = Characters(text);
    while (true) {  // SentencePiece's way: the neighbours whose union has the best score
      size_t at = symbols.size();
      float best = -1e9f;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto it = std::find(texts.begin(), texts.end(), symbols[i] + symbols[i + 1]);
        if (it == texts.end() || scores[static_cast<size_t>(it - texts.begin())] <= best) continue;
        best = scores[static_cast<size_t>(it - texts.begin())];
        at = i;
      }
      if (at == symbols.size()) break;
      symbols[at] += symbols[at + 1];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    std::vector<TokenId> ids;
    bpe->Encode(text, ids);
    std::vector<std::string> got;
    for (const TokenId id : ids) got.push_back(texts[static_cast<size_t>(id)]);
    EXPECT_EQ(got, symbols) << text;
  }
}

std::vector<TokenId> Encode(const std::vector<BpeModel::Entry>& vocab, const Merges& merges, const BpeOptions& options, std::string_view text) {
  const auto bpe = BpeModel::Make(vocab, merges, options, true);
  EXPECT_TRUE(bpe.ok()) << bpe.status().ToString();
  std::vector<TokenId> ids;
  if (bpe.ok()) bpe->Encode(text, ids);
  return ids;
}

TEST(Bpe, AWholeTokenWinsOnlyWhereMergesAreIgnored) {
  const std::vector<BpeModel::Entry> vocab{{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"abc", 4}};
  const Merges merges{{"a", "b"}};
  EXPECT_EQ(Encode(vocab, merges, {.byte_level = false}, "abc"), (std::vector<TokenId>{3, 2}));
  EXPECT_EQ(Encode(vocab, merges, {.byte_level = false, .ignore_merges = true}, "abc"), (std::vector<TokenId>{4}));
  EXPECT_EQ(Encode(vocab, merges, {.byte_level = false, .ignore_merges = true}, "abca"), (std::vector<TokenId>{3, 2, 0}));
  EXPECT_TRUE(Encode(vocab, merges, {.byte_level = false}, "").empty());
}

TEST(Bpe, WhatTheVocabularyLacks) {
  const std::vector<BpeModel::Entry> vocab{{"a", 0}, {"<unk>", 1}, {"<0xC3>", 2}, {"<0xA9>", 3}, {"<0xE6>", 4}};
  BpeOptions options{.byte_level = false};
  EXPECT_EQ(Encode(vocab, {}, options, "aéa"), (std::vector<TokenId>{0, 0})) << "dropped";
  options.unk = 1;
  EXPECT_EQ(Encode(vocab, {}, options, "aéüa"), (std::vector<TokenId>{0, 1, 1, 0}));
  options.fuse_unk = true;
  EXPECT_EQ(Encode(vocab, {}, options, "aéüaü"), (std::vector<TokenId>{0, 1, 0, 1}));
  options.byte_fallback = true;
  EXPECT_EQ(Encode(vocab, {}, options, "é"), (std::vector<TokenId>{2, 3}));
  EXPECT_EQ(Encode(vocab, {}, options, "漢"), (std::vector<TokenId>{1})) << "only one of its three bytes is a token";
  EXPECT_EQ(Encode(vocab, {}, options, "漢é漢"), (std::vector<TokenId>{1, 2, 3, 1})) << "bytes part unknown characters";
}

TEST(Bpe, EqualRanksGoFromTheLeft) {
  const std::vector<BpeModel::Entry> vocab{{"a", 0}, {"aa", 1}, {"aaa", 2}, {"aaaa", 3}};
  const Merges merges{{"a", "a"}, {"aa", "a"}, {"aa", "aa"}};
  for (const auto& [n, ids] : std::vector<std::pair<size_t, std::vector<TokenId>>>{{1, {0}}, {2, {1}}, {3, {2}}, {4, {3}}, {5, {1, 2}}, {6, {3, 1}}, {7, {3, 2}}}) {
    EXPECT_EQ(Encode(vocab, merges, {.byte_level = false}, std::string(n, 'a')), ids) << n;
  }
}

TEST(Bpe, StrictMergesMustNameTokens) {
  const std::vector<BpeModel::Entry> vocab{{"a", 0}, {"b", 1}};
  const auto strict = BpeModel::Make(vocab, {{"a", "b"}}, {.byte_level = false}, true);
  ASSERT_FALSE(strict.ok());
  EXPECT_EQ(strict.status().code(), StatusCode::kInvalid);
  EXPECT_THAT(strict.status().message(), testing::HasSubstr("merge 0 ('a' + 'b')"));
  EXPECT_TRUE(BpeModel::Make(vocab, {{"a", "b"}}, {.byte_level = false}, false).ok());
  EXPECT_FALSE(BpeModel::MakeFromScores(vocab, {1.0f}, {.byte_level = false}).ok());
  EXPECT_FALSE(BpeModel::MakeFromScores(vocab, {1.0f, NAN}, {.byte_level = false}).ok());
}

TEST(Gpt2Alphabet, IsOneCharacterAByteThereAndBack) {
  std::set<char32_t> seen;
  for (int b = 0; b < 256; ++b) {
    const char32_t c = ByteToGpt2(static_cast<uint8_t>(b));
    EXPECT_TRUE(seen.insert(c).second) << b;
    std::string text, bytes;
    AppendUtf8(c, text);
    ASSERT_TRUE(Gpt2ToBytes(text, bytes));
    EXPECT_EQ(bytes, std::string(1, static_cast<char>(b)));
    if ((b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE) EXPECT_EQ(c, static_cast<char32_t>(b)) << "printable bytes stand for themselves";
    else EXPECT_GE(c, 0x100u);
  }
  EXPECT_EQ(ByteToGpt2(' '), 0x120u);
  EXPECT_EQ(ByteToGpt2('\n'), 0x10Au);
  std::string bytes;
  for (const char* bad : {" ", "\n", "漢", "a b", "\xC5\x84"}) EXPECT_FALSE(Gpt2ToBytes(bad, bytes)) << bad;
}

TEST(ByteFallback, OnlyTheExactFormIsAByte) {
  EXPECT_EQ(ByteFallbackValue("<0x00>"), 0);
  EXPECT_EQ(ByteFallbackValue("<0x0A>"), 10);
  EXPECT_EQ(ByteFallbackValue("<0xFF>"), 255);
  for (const char* text : {"", "<0x>", "<0x0>", "<0x000>", "0x0A", "<0x0A", "0x0A>", "<0xGG>", "<0X0A>", "<0x-1>", "<0x 1>", " <0x0A>"}) {
    EXPECT_EQ(ByteFallbackValue(text), -1) << text;
  }
}

}  // namespace
}  // namespace baton
