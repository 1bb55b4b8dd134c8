// The arithmetic of an answer: how many choices, tokens and indices for every n, best_of, number of prompts, limit and form, counted
// here by their definition.
#include "base/random.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

struct Wanted {
  uint64_t prompt = 0, cached = 0, written = 0, completion = 0;
};

class UsageOfAnswers : public testing::TestWithParam<int> {
 protected:
  static FakeScript Saying(size_t tokens) {
    FakeScript script;
    for (size_t i = 0; i < tokens; ++i) script.tokens.push_back(static_cast<TokenId>('a' + i));
    return script;
  }
  void Expect(const nlohmann::json& usage, const Wanted& want) {
    EXPECT_EQ(usage["prompt_tokens"], want.prompt);
    EXPECT_EQ(usage["completion_tokens"], want.completion);
    EXPECT_EQ(usage["total_tokens"], want.prompt + want.completion);
    EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], want.cached);
    EXPECT_EQ(usage["prompt_tokens_details"]["cache_write_tokens"], want.written);
    EXPECT_EQ(usage["completion_tokens_details"]["accepted_prediction_tokens"], 0);
    EXPECT_EQ(usage["completion_tokens_details"]["rejected_prediction_tokens"], 0);
  }
  GatewayServer server_;
};

TEST_P(UsageOfAnswers, CountsPromptsOnceAndEveryGeneratedToken) {
  Random random(static_cast<uint64_t>(GetParam()));
  for (int round = 0; round < 25; ++round) {
    const size_t prompts = 1 + random.Below(3), n = 1 + random.Below(3);
    const bool stream = random.Below(2) != 0;
    const size_t best_of = stream ? n : n + random.Below(3), limit = 1 + random.Below(8);
    Json body = {{"prompt", Json::array()}, {"n", n}, {"best_of", best_of}, {"max_tokens", limit}, {"stream", stream}};
    if (stream) body["stream_options"] = {{"include_usage", true}};
    Wanted want;
    std::vector<size_t> lengths;
    for (size_t p = 0; p < prompts; ++p) {
      body["prompt"].push_back(std::string(1 + random.Below(9), 'p'));
      const uint64_t size = body["prompt"].back().get<std::string>().size();
      want.prompt += size;
      want.cached += size / 2;  // as the fake has it
      want.written += size - size / 2;
      for (size_t i = 0; i < best_of; ++i) {
        lengths.push_back(random.Below(10));
        server_.backend().Push(Saying(lengths.back()));
        want.completion += std::min(lengths.back(), limit);
      }
    }
    SCOPED_TRACE(body.dump());
    const HttpReply reply = Post(server_.port(), "/v1/completions", body);
    ASSERT_EQ(reply.status, 200) << reply.body;
    if (!stream) {
      const auto json = reply.json();
      Expect(json["usage"], want);
      ASSERT_EQ(json["choices"].size(), prompts * n);
      for (size_t i = 0; i < prompts * n; ++i) EXPECT_EQ(json["choices"][i]["index"], i);
      continue;
    }
    const auto events = Events(reply.body);
    ASSERT_GE(events.size(), 2u);
    EXPECT_EQ(events.back(), "[DONE]");
    const auto& last = events[events.size() - 2];
    EXPECT_TRUE(last["choices"].empty());
    Expect(last["usage"], want);
    std::map<size_t, size_t> pieces, ends;
    for (size_t i = 0; i + 2 < events.size(); ++i) {
      ASSERT_EQ(events[i]["choices"].size(), 1u);
      EXPECT_TRUE(events[i]["usage"].is_null());
      const auto& choice = events[i]["choices"][0];
      const size_t index = choice["index"];
      EXPECT_EQ(ends.count(index), 0u) << "nothing comes behind a choice's end";
      if (choice["finish_reason"].is_null()) ++pieces[index];
      else ends[index] = i;
      if (!choice["finish_reason"].is_null()) {
        EXPECT_EQ(choice["finish_reason"], lengths[index] > limit ? "length" : "stop");
      }
    }
    ASSERT_EQ(ends.size(), prompts * n);
    for (size_t i = 0; i < prompts * n; ++i) EXPECT_EQ(pieces[i], std::min(lengths[i], limit)) << "one event a token";
  }
  EXPECT_TRUE(server_.backend().AwaitRunning(0));
}

INSTANTIATE_TEST_SUITE_P(Seeds, UsageOfAnswers, testing::Range(1, 4));

struct BestCase {
  const char* name;
  std::vector<std::vector<TokenId>> said;  // the fake's logprobs fall with the position: a short answer has the better mean
  uint32_t n;
  std::vector<std::string> texts;
};

TEST(BestOf, ReturnsTheLikeliestOfEachPromptAndCountsThemAll) {
  const std::vector<BestCase> cases = {{"the shortest of three", {{'a', 'b', 'c'}, {'d'}, {'e', 'f'}}, 1, {"d"}},
                                       {"two of three, best first", {{'a', 'b', 'c'}, {'d'}, {'e', 'f'}}, 2, {"d", "ef"}},
                                       {"of equals the earlier", {{'a'}, {'b'}, {'c'}}, 2, {"a", "b"}},
                                       {"all of them keep their order", {{'a', 'b'}, {'c'}}, 2, {"ab", "c"}}};
  GatewayServer server;
  for (const BestCase& c : cases) {
    SCOPED_TRACE(c.name);
    uint64_t tokens = 0;
    for (const auto& said : c.said) {
      FakeScript script;
      script.tokens = said;
      tokens += said.size();
      server.backend().Push(script);
    }
    const auto json = Post(server.port(), "/v1/completions", {{"prompt", "x"}, {"n", c.n}, {"best_of", c.said.size()}, {"max_tokens", 9}}).json();
    ASSERT_EQ(json["choices"].size(), c.texts.size());
    for (size_t i = 0; i < c.texts.size(); ++i) {
      EXPECT_EQ(json["choices"][i]["text"], c.texts[i]);
      EXPECT_EQ(json["choices"][i]["index"], i);
      EXPECT_TRUE(json["choices"][i]["logprobs"].is_null()) << "ranked by them, but not asked for";
    }
    EXPECT_EQ(json["usage"]["completion_tokens"], tokens) << "what was thrown away was computed too";
  }
}

TEST(Echo, StandsBeforeEachAnswerOfEachPromptWholeAndStreamed) {
  GatewayServer server;
  const Json prompts = {Json::array({'A', 'B'}), Json::array({'C'})};
  for (const bool stream : {false, true}) {
    for (const uint32_t n : {1u, 2u}) {
      const HttpReply reply = Post(server.port(), "/v1/completions", {{"prompt", prompts}, {"echo", true}, {"n", n}, {"max_tokens", 2}, {"stream", stream}});
      std::map<size_t, std::string> texts;
      if (!stream) {
        const auto json = reply.json();
        for (const auto& choice : json["choices"]) texts[choice["index"]] = choice["text"];
      } else {
        for (const auto& event : Events(reply.body)) {
          if (event.is_object()) texts[event["choices"][0]["index"]] += event["choices"][0]["text"].get<std::string>();
        }
      }
      ASSERT_EQ(texts.size(), 2 * n);
      for (size_t i = 0; i < 2 * n; ++i) EXPECT_EQ(texts[i], i / n == 0 ? "ABHello world" : "CHello world") << stream << n;
    }
  }
  const auto only = Post(server.port(), "/v1/completions", {{"prompt", "abc"}, {"echo", true}, {"max_tokens", 0}}).json();
  EXPECT_EQ(only["choices"][0]["text"], "abc");
  EXPECT_EQ(only["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(only["usage"]["completion_tokens"], 0);
  EXPECT_EQ(only["usage"]["prompt_tokens"], 3);
}

}  // namespace
}  // namespace baton
