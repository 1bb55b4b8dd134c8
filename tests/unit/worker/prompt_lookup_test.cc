#include "worker/prompt_lookup.h"

#include "base/random.h"

namespace baton {
namespace {

using Tokens = std::vector<TokenId>;

Tokens LookUp(const Tokens& tokens, size_t most, const Tokens& prediction = {}) {
  Tokens out = {99};  // whatever it held before is gone
  LookUpDraft(tokens, prediction, most, out);
  return out;
}

TEST(PromptLookup, GoldenCases) {
  const struct {
    std::string name;
    Tokens tokens, prediction;
    size_t most;
    Tokens want;
  } cases[] = {
      {"nothing said", {}, {}, 4, {}},
      {"nothing said, but predicted: there is no end to match", {}, {1, 2}, 4, {}},
      {"one token", {7}, {}, 4, {}},
      {"nothing repeats", {1, 2, 3, 4}, {}, 4, {}},
      {"one token that repeats is too little", {5, 1, 5}, {}, 4, {}},
      {"two are enough", {1, 2, 3, 4, 1, 2}, {}, 2, {3, 4}},
      {"no more than asked for", {1, 2, 3, 4, 1, 2}, {}, 1, {3}},
      {"none asked for", {1, 2, 3, 4, 1, 2}, {}, 0, {}},
      {"behind its end it goes on as guessed", {1, 2, 3, 1, 2}, {}, 7, {3, 1, 2, 3, 1, 2, 3}},
      {"a repeated token", {4, 4, 4}, {}, 3, {4, 4, 4}},
      {"the latest of equals", {1, 2, 3, 1, 2, 4, 1, 2}, {}, 1, {4}},
      {"the longest before the latest", {8, 1, 2, 3, 7, 1, 2, 4, 8, 1, 2}, {}, 1, {3}},
      {"one predicted token is enough", {9, 5}, {5, 6, 7}, 4, {6, 7}},
      {"the earliest of equals in a prediction", {9, 5}, {5, 6, 5, 7}, 1, {6}},
      {"a longer match in the prediction", {9, 5}, {5, 6, 9, 5, 7}, 1, {7}},
      {"the prediction before history of the same length", {1, 2, 3, 1, 2}, {1, 2, 8}, 1, {8}},
      {"history where it matches longer", {0, 1, 2, 3, 0, 1, 2}, {1, 2, 8}, 1, {3}},
      {"a prediction that ends here guesses nothing", {9, 5}, {5}, 4, {}},
      {"a prediction of other words", {9, 5}, {1, 2, 3}, 4, {}},
  };
  for (const auto& c : cases) EXPECT_EQ(LookUp(c.tokens, c.most, c.prediction), c.want) << c.name;
}

/// Whatever is guessed follows, somewhere before, the same two tokens that stand at the end.
TEST(PromptLookup, GuessesWereSaidBefore) {
  Random random(3);
  size_t guessed = 0;
  for (int round = 0; round < 5000; ++round) {
    Tokens tokens(2 + random.Below(60));
    for (TokenId& t : tokens) t = static_cast<TokenId>(random.Below(5));
    const size_t most = 1 + random.Below(10);
    const Tokens out = LookUp(tokens, most);
    ASSERT_LE(out.size(), most);
    Tokens whole = tokens;
    whole.insert(whole.end(), out.begin(), out.end());
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t end = tokens.size() + i;  // of what stood there when out[i] was guessed
      bool said = false;
      for (size_t j = 2; j < end && !said; ++j) said = whole[j - 1] == whole[end - 1] && whole[j - 2] == whole[end - 2] && whole[j] == out[i];
      ASSERT_TRUE(said) << "round " << round << ", guess " << i;
    }
    guessed += !out.empty();
    // Where nothing was guessed, the last two tokens stand nowhere else.
    if (!out.empty()) continue;
    for (size_t j = 2; j < tokens.size(); ++j) {
      ASSERT_FALSE(tokens[j - 1] == tokens.back() && tokens[j - 2] == tokens[tokens.size() - 2]) << "round " << round;
    }
  }
  EXPECT_GT(guessed, 1000u);
}

TEST(PromptLookup, AMatchIsTheLongestOfAll) {
  Random random(9);
  for (int round = 0; round < 3000; ++round) {
    Tokens tokens(2 + random.Below(40));
    for (TokenId& t : tokens) t = static_cast<TokenId>(random.Below(3));
    size_t longest = 0, next = 0;
    for (size_t j = 1; j < tokens.size(); ++j) {
      size_t n = 0;
      while (n < j && n < 32 && tokens[j - 1 - n] == tokens[tokens.size() - 1 - n]) ++n;
      if (n >= longest && n > 0) {
        longest = n;
        next = j;
      }
    }
    const Tokens out = LookUp(tokens, 1);
    const Tokens want = longest < 2 ? Tokens() : Tokens{tokens[next]};
    ASSERT_EQ(out, want) << "round " << round;
  }
}

TEST(PromptLookup, LongTextOfOneTokenIsQuick) {
  const Tokens tokens(200000, 1);
  Tokens out;
  for (int i = 0; i < 1000; ++i) LookUpDraft(tokens, tokens, 8, out);  // quadratic work would take minutes
  EXPECT_EQ(out, Tokens(8, 1));
}

}  // namespace
}  // namespace baton
