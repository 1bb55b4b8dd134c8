// The checks of the simulation find what they are there to find.
#include "tests/dst/clients.h"

#include "base/log.h"
#include "tests/dst/simulation.h"
#include "tests/support/test_pch.h"

namespace baton::dst {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// An ask whose right answer is 5, 6, 7, told by hand.
struct Told {
  Told() {
    GenerateRequest request;
    request.id = RequestId(3);
    request.prompt = {1, 2, 3};
    request.max_tokens = 3;
    Answer want;
    for (const TokenId token : {5, 6, 7}) {
      want.tokens.push_back(token);
      want.events.push_back({token, -0.5f, {}});
    }
    ask = std::make_unique<Ask>(request, want, [this](const std::string& what) { violations.push_back(what); });
    stats.prompt_tokens = 3;
  }
  void Tokens(std::initializer_list<TokenId> tokens) {
    for (const TokenId token : tokens) ask->OnToken({token, -0.5f, {}});
  }
  std::vector<std::string> violations;
  RequestStats stats;
  std::unique_ptr<Ask> ask;
};

TEST(Ask, TheRightAnswerIsNoViolation) {
  Told t;
  t.ask->OnRoute(t.stats);
  t.Tokens({5, 6, 7});
  t.ask->OnEnd(FinishReason::kLength, t.stats);
  EXPECT_THAT(t.violations, IsEmpty());
  EXPECT_TRUE(t.ask->over());
}

TEST(Ask, EachWrongThingIsOne) {
  const auto only = [](const std::function<void(Told&)>& what) {
    Told t;
    t.ask->OnRoute(t.stats);
    what(t);
    EXPECT_EQ(t.violations.size(), 1u);
    return t.violations.empty() ? std::string() : t.violations[0];
  };
  EXPECT_THAT(only([](Told& t) { t.Tokens({5, 5}); }), HasSubstr("token 5 instead of 6"));
  EXPECT_THAT(only([](Told& t) { t.Tokens({6}); }), HasSubstr("token 6 instead of 5")) << "a lost token";
  EXPECT_THAT(only([](Told& t) { t.Tokens({5, 6, 7, 8}); }), HasSubstr("too many"));
  EXPECT_THAT(only([](Told& t) { t.ask->OnToken({5, -0.25f, {}}); }), HasSubstr("logprob"));
  EXPECT_THAT(only([](Told& t) { t.ask->OnToken({5, -0.5f, {{5, -0.5f}}}); }), HasSubstr("alternatives"));
  EXPECT_THAT(only([](Told& t) { t.ask->OnEnd(FinishReason::kLength, t.stats); }), HasSubstr("early"));
  EXPECT_THAT(only([](Told& t) {
                t.Tokens({5, 6, 7});
                t.ask->OnEnd(FinishReason::kStop, t.stats);
              }),
              HasSubstr("reason"));
  EXPECT_THAT(only([](Told& t) {
                t.Tokens({5, 6, 7});
                t.ask->OnEnd(FinishReason::kLength, t.stats);
                t.Tokens({5});
              }),
              HasSubstr("after the end"));
  EXPECT_THAT(only([](Told& t) {
                t.Tokens({5});
                t.ask->OnError(UnavailableError("gone"), 1);
              }),
              HasSubstr("gone"));
  EXPECT_THAT(only([](Told& t) { t.ask->OnError(InvalidError("bad"), 0); }), HasSubstr("bad"));
  EXPECT_THAT(only([](Told& t) {
                t.stats.cached_tokens = 3;
                t.ask->OnRoute(t.stats);
              }),
              HasSubstr("cached_tokens"));
  EXPECT_THAT(only([](Told& t) {
                t.stats.prompt_tokens = 9;
                t.ask->OnRoute(t.stats);
              }),
              HasSubstr("prompt_tokens"));
}

TEST(Ask, ANewRequestMayBeToldToComeBack) {
  Told t;
  t.ask->OnError(ExhaustedError("later"), 3);
  EXPECT_THAT(t.violations, IsEmpty());
  EXPECT_TRUE(t.ask->refused());
  Told early;
  early.Tokens({5});
  EXPECT_THAT(early.violations, ElementsAre(HasSubstr("before the route")));
}

// ---- whole runs ----

class Seeds : public ::testing::Test {
 protected:
  Seeds() { spdlog::set_level(spdlog::level::off); }
  ~Seeds() override { spdlog::set_level(level_); }

 private:
  const spdlog::level::level_enum level_ = spdlog::get_level();
};

TEST_F(Seeds, AreDeterministic) {
  for (const uint64_t seed : {3u, 11u, 42u}) {
    const Outcome first = RunSeed(seed), second = RunSeed(seed);
    EXPECT_EQ(first.trace, second.trace) << seed;
    EXPECT_EQ(first.tokens, second.tokens) << seed;
    EXPECT_THAT(first.violations, IsEmpty()) << seed;
    EXPECT_GT(first.tokens, 0u) << seed;
  }
  EXPECT_NE(RunSeed(3).trace, RunSeed(4).trace);
}

TEST_F(Seeds, AClientThatHearsTooLittleIsNoticed) {
  // One ask believes that it is over after its first token, so that the next one comes "after the end".
  RunOptions options;
  options.tamper = [](Ask& ask) {
    if (ask.request().id == RequestId(1)) ask.on_token = [&ask] { ask.OnEnd(FinishReason::kLength, {}); };
  };
  size_t noticed = 0;
  for (uint64_t seed = 1; seed <= 10; ++seed) noticed += RunSeed(seed, options).violations.empty() ? 0 : 1;
  EXPECT_GT(noticed, 5u);
}

TEST_F(Seeds, DoWhatTheyAreFor) {
  Outcome sum;
  for (uint64_t seed = 100; seed < 140; ++seed) {
    const Outcome one = RunSeed(seed);
    sum.requests += one.requests;
    sum.faults += one.faults;
    sum.left += one.left;
    sum.tokens += one.tokens;
    sum.moves += one.moves;
  }
  EXPECT_GT(sum.requests, 100u);
  EXPECT_GT(sum.faults, 50u);
  EXPECT_GT(sum.left, 3u);
  EXPECT_GT(sum.tokens, 500u);
  EXPECT_GT(sum.moves, 3u) << "streams that went on elsewhere";
}

}  // namespace
}  // namespace baton::dst
