// One choice: its text from tokens, stop strings across tokens and characters, and every way it may end.
#include "gateway/choice.h"

#include "base/random.h"
#include "tests/unit/gateway/fake_support.h"

namespace baton {
namespace {

class Heard final : public ChoiceListener {
 public:
  void OnChoiceRoute(const RequestStats& stats) override { routes.push_back(stats.route); }
  void OnChoiceToken(Choice&, std::string_view text, const TokenEvent& event) override {
    pieces.emplace_back(text);
    tokens.push_back(event.token);
  }
  void OnChoiceEnd(Choice& choice, std::string_view rest) override {
    ++ends;
    pieces.emplace_back(rest);
    reason = choice.reason();
  }
  void OnChoiceError(const Status& status, double retry) override {
    errors.push_back(status);
    retry_after_s = retry;
  }
  std::string Text() const {
    std::string text;
    for (const std::string& piece : pieces) text += piece;
    return text;
  }
  std::vector<std::string> pieces, routes;
  std::vector<TokenId> tokens;
  std::vector<Status> errors;
  FinishReason reason = FinishReason::kNone;
  int ends = 0;
  double retry_after_s = 0;
};

class ChoiceTest : public testing::Test {
 protected:
  Choice Make(std::vector<std::string> stops = {}, bool include = false) { return Choice({.keep_text = true, .keep_events = true, .stops = std::move(stops), .include_stop = include}, codec_, heard_); }
  static void Say(Choice& choice, const std::string& bytes) {
    for (const char c : bytes) choice.OnToken({static_cast<uint8_t>(c), -1.0f, {}});
  }
  FakeCodec codec_;
  Heard heard_;
};

TEST_F(ChoiceTest, CollectsTextEventsAndTheMeanLogprob) {
  Choice choice = Make();
  EXPECT_EQ(choice.MeanLogprob(), 0);
  choice.OnToken({FakeCodec::kHello, -1.0f, {}});
  choice.OnToken({FakeCodec::kWorld, -2.0f, {}});
  EXPECT_FALSE(choice.ended());
  RequestStats stats;
  stats.cached_tokens = 9;
  choice.OnEnd(FinishReason::kStop, stats);
  EXPECT_TRUE(choice.ended());
  EXPECT_EQ(choice.text(), "Hello world");
  EXPECT_EQ(choice.tokens(), 2u);
  EXPECT_EQ(choice.events().size(), 2u);
  EXPECT_EQ(choice.MeanLogprob(), -1.5);
  EXPECT_EQ(choice.stats().cached_tokens, 9u);
  EXPECT_EQ(heard_.Text(), choice.text());
  EXPECT_EQ(heard_.ends, 1);
}

TEST_F(ChoiceTest, CharactersComeWhole) {
  const std::string text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z";
  Choice choice = Make();
  Say(choice, text);
  choice.OnEnd(FinishReason::kStop, {});
  EXPECT_EQ(heard_.pieces, (std::vector<std::string>{"a", "", "\xc3\xa9", "", "", "\xe2\x82\xac", "", "", "", "\xf0\x9f\x98\x80", "z", ""}));
  EXPECT_EQ(choice.text(), text);
}

TEST_F(ChoiceTest, AnEndInsideACharacterIsAReplacement) {
  for (const FinishReason reason : {FinishReason::kStop, FinishReason::kLength}) {
    heard_ = {};
    Choice choice = Make();
    Say(choice, "a\xf0\x9f\x98");
    choice.OnEnd(reason, {});
    EXPECT_EQ(choice.text(), "a\xef\xbf\xbd");
    EXPECT_EQ(heard_.reason, reason);
  }
}

TEST_F(ChoiceTest, StopStringsOverTokensAndCharacters) {
  struct Case {
    std::vector<std::string> stops;
    std::string said, text;
    uint32_t tokens;
  };
  const std::vector<Case> cases = {{{"END"}, "abENDcd", "ab", 5},
                                   {{"END"}, "EEND", "E", 4},
                                   {{"aab"}, "aaab", "a", 4},
                                   {{"\xc3\xa9"}, "caf\xc3\xa9 noir", "caf", 5},
                                   {{"\xf0\x9f\x98\x80", "x"}, "ab\xf0\x9f\x98\x80x", "ab", 6},
                                   {{"\n\n"}, "one\ntwo\n\nthree", "one\ntwo", 9},
                                   {{"b", "ab"}, "cab", "c", 3},
                                   {{"a"}, "a", "", 1}};
  for (const Case& c : cases) {
    heard_ = {};
    Choice choice = Make(c.stops);
    Say(choice, c.said);
    EXPECT_EQ(heard_.Text(), c.text) << c.said;
    EXPECT_EQ(choice.text(), c.text) << c.said;
    EXPECT_EQ(choice.reason(), FinishReason::kStop) << c.said;
    EXPECT_EQ(choice.tokens(), c.tokens) << c.said << ": what comes after the stop counts for nothing";
    EXPECT_EQ(heard_.ends, 1);
    choice.OnEnd(FinishReason::kLength, {});
    choice.OnError(InternalError("late"), 1);
    EXPECT_EQ(heard_.ends, 1) << "it had ended already";
    EXPECT_TRUE(heard_.errors.empty());
  }
}

TEST_F(ChoiceTest, AStopThatTheEndCompletes) {
  // The last character is held back until the end of the answer, and completes the stop string then.
  Choice choice = Make({"a\xef\xbf\xbd"});
  Say(choice, "xa\xf0\x9f");
  EXPECT_FALSE(choice.ended());
  choice.OnEnd(FinishReason::kLength, {});
  EXPECT_EQ(choice.text(), "x");
  EXPECT_EQ(choice.reason(), FinishReason::kStop);
}

TEST_F(ChoiceTest, StopsThatStayInTheText) {
  Choice choice = Make({"END"}, true);
  Say(choice, "abENDcd");
  EXPECT_EQ(choice.text(), "abEND");
  EXPECT_EQ(heard_.Text(), "abEND");
}

TEST_F(ChoiceTest, HeldBackTextComesWithTheEnd) {
  Choice choice = Make({"ENDE"});
  Say(choice, "abEND");
  EXPECT_EQ(heard_.Text(), "ab") << "may still become a stop string";
  choice.OnEnd(FinishReason::kLength, {});
  EXPECT_EQ(heard_.Text(), "abEND");
  EXPECT_EQ(choice.text(), "abEND");
  EXPECT_EQ(heard_.reason, FinishReason::kLength);
}

TEST_F(ChoiceTest, EndsThatAreErrors) {
  for (const FinishReason reason : {FinishReason::kCancelled, FinishReason::kError, FinishReason::kNone}) {
    heard_ = {};
    Choice choice = Make();
    choice.OnEnd(reason, {});
    EXPECT_EQ(heard_.ends, 0);
    ASSERT_EQ(heard_.errors.size(), 1u);
    EXPECT_EQ(heard_.errors[0].code(), reason == FinishReason::kCancelled ? StatusCode::kCancelled : StatusCode::kInternal);
    EXPECT_TRUE(choice.ended());
  }
  Choice choice = Make();
  heard_ = {};
  choice.OnError(ExhaustedError("full"), 2.5);
  choice.OnError(InternalError("again"), 0);
  Say(choice, "late");
  ASSERT_EQ(heard_.errors.size(), 1u);
  EXPECT_EQ(heard_.errors[0], ExhaustedError("full"));
  EXPECT_EQ(heard_.retry_after_s, 2.5);
  EXPECT_TRUE(heard_.tokens.empty());
}

TEST_F(ChoiceTest, NoTokensAtAll) {
  Choice choice = Make({"x"});
  choice.EndEmpty();
  EXPECT_EQ(choice.reason(), FinishReason::kLength);
  EXPECT_EQ(choice.text(), "");
  EXPECT_EQ(heard_.ends, 1);
}

TEST_F(ChoiceTest, ReleasingCancelsTheGeneration) {
  auto io = kj::setupAsyncIo();
  FakeBackend backend;
  FakeScript endless;
  endless.tokens = {'a'};
  endless.hang = true;
  {
    backend.Push(endless);
    backend.Push(endless);
    Choice first = Make(), second = Make();
    GenerateRequest request;
    request.prompt = {1, 2, 3};
    request.max_tokens = 5;
    first.Start(backend, request);
    second.Start(backend, request);
    EXPECT_EQ(first.stats().prompt_tokens, 3u) << "known before the workers say anything";
    EXPECT_EQ(backend.running(), 2u);
    first.Release();
    EXPECT_EQ(backend.running(), 1u);
    first.Release();  // once is enough
  }
  EXPECT_EQ(backend.running(), 0u) << "destroying a choice cancels";
}

/// The pieces join to what the whole text gives, whatever the tokens, stops and cuts.
TEST_F(ChoiceTest, RandomAnswersAgreeWithTheirDefinition) {
  Random random(11);
  const std::vector<std::string> alphabet = {"a", "b", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
  for (int round = 0; round < 500; ++round) {
    std::string said;
    for (uint64_t i = 0; i < random.Below(12); ++i) said += alphabet[random.Below(alphabet.size())];
    std::vector<std::string> stops;
    for (uint64_t i = 0; i < random.Below(3); ++i) {
      std::string stop;
      for (uint64_t j = 0; j < 1 + random.Below(3); ++j) stop += alphabet[random.Below(alphabet.size())];
      stops.push_back(stop);
    }
    const bool include = random.Below(2) == 0;
    size_t cut = std::string::npos, kept = 0;
    for (size_t end = 1; end <= said.size() && cut == std::string::npos; ++end) {
      size_t longest = 0;
      for (const std::string& stop : stops) {
        if (stop.size() <= end && said.compare(end - stop.size(), stop.size(), stop) == 0) longest = std::max(longest, stop.size());
      }
      if (longest > 0) cut = end - longest, kept = include ? end : cut;
    }
    heard_ = {};
    Choice choice = Make(stops, include);
    Say(choice, said);
    choice.OnEnd(FinishReason::kLength, {});
    EXPECT_EQ(choice.text(), cut == std::string::npos ? said : said.substr(0, kept)) << said;
    EXPECT_EQ(heard_.Text(), choice.text());
    EXPECT_EQ(choice.reason(), cut == std::string::npos ? FinishReason::kLength : FinishReason::kStop);
    EXPECT_EQ(heard_.ends, 1);
  }
}

}  // namespace
}  // namespace baton
