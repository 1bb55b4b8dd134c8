#include "worker/sampler.h"

#include <cmath>
#include <limits>

#include "base/random.h"
#include "model/safetensors.h"

namespace baton {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

SamplingParams Greedy() {
  SamplingParams p;
  p.temperature = 0;
  return p;
}

std::vector<float> RandomLogits(size_t vocab, uint64_t seed, double width = 8) {
  Random random(seed);
  std::vector<float> out(vocab);
  for (float& x : out) {
    double sum = 0;
    for (int i = 0; i < 6; ++i) sum += random.Uniform() - 0.5;  // nearly normal
    x = static_cast<float>(sum * width / 2);
  }
  return out;
}

TokenEvent SampleOk(std::span<const float> logits, const SamplingParams& params, const std::vector<TokenId>& tokens, size_t generated = 0) {
  Sampler sampler(static_cast<uint32_t>(logits.size()));
  auto event = sampler.Sample(logits, params, {tokens, generated});
  EXPECT_TRUE(event.ok()) << event.status().ToString();
  return event.ok() ? *event : TokenEvent{};
}

/// The probability of each id under the golden README's steps.
std::vector<double> Probabilities(std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history, size_t* kept) {
  Penalties penalties(static_cast<uint32_t>(logits.size()));
  Candidates candidates;
  candidates.Build(penalties.Apply(logits, params, history), params);
  *kept = candidates.ids().size();
  double total = 0;
  for (const float w : candidates.weights()) total += w;
  std::vector<double> out(logits.size(), 0);
  for (size_t i = 0; i < candidates.ids().size(); ++i) out[candidates.ids()[i]] = candidates.weights()[i] / total;
  return out;
}

std::vector<float> Floats(const SafetensorsTensor& tensor) {
  std::vector<float> out(tensor.data.size() / sizeof(float));
  std::memcpy(out.data(), tensor.data.data(), tensor.data.size());
  return out;
}

SamplingParams ParamsOf(const nlohmann::json& json) {
  SamplingParams p;
  for (const auto& [name, value] : json.items()) {
    if (name == "temperature") p.temperature = value;
    else if (name == "top_k") p.top_k = value;
    else if (name == "top_p") p.top_p = value;
    else if (name == "min_p") p.min_p = value;
    else if (name == "typical_p") p.typical_p = value;
    else if (name == "repetition_penalty") p.repetition_penalty = value;
    else if (name == "no_repeat_ngram_size") p.no_repeat_ngram = value;
    else ADD_FAILURE() << "a parameter this test does not know: " << name;
  }
  return p;
}

TEST(Sampler, GoldenDistributions) {
  const std::string folder = std::string(BATON_SHARED_DIR) + "/golden/sampling/";
  std::ifstream in(folder + "sampling.json");
  if (!in) GTEST_SKIP() << "no reference data at " << folder;
  const auto golden = nlohmann::json::parse(in);
  const auto tensors = SafetensorsFile::Open(folder + "sampling.safetensors");
  ASSERT_TRUE(tensors.ok());
  for (const auto& test : golden["cases"]) {
    const std::string name = test["name"];
    const auto logits = Floats(*(*tensors)->Find(test["logits"].get<std::string>()));
    const auto expected = Floats(*(*tensors)->Find(test["probs"].get<std::string>()));
    const auto previous = test["prev_ids"].get<std::vector<TokenId>>();
    const SamplingParams params = ParamsOf(test["params"]);
    size_t kept = 0;
    auto got = Probabilities(logits, params, {previous, 0}, &kept);
    EXPECT_EQ(kept, test["kept"].get<size_t>()) << name;
    std::vector<double> want(expected.begin(), expected.end());
    if (name == "ties top_p" || name == "all equal") {  // which of the equal ids survive is arbitrary
      std::sort(got.begin(), got.end());
      std::sort(want.begin(), want.end());
    } else {
      EXPECT_EQ(std::max_element(got.begin(), got.end()) - got.begin(), test["argmax"].get<TokenId>()) << name;
      SamplingParams greedy = params;
      greedy.temperature = 0;
      if (params.typical_p == 1) {  // which alone may drop the best
        EXPECT_EQ(SampleOk(logits, greedy, previous).token, test["argmax"].get<TokenId>()) << name;
      }
    }
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6) << name << " id " << i;
  }
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  std::vector<float> logits(1000, -1);
  logits[7] = logits[412] = logits[999] = 3;
  EXPECT_EQ(SampleOk(logits, Greedy(), {1}).token, 7);
  for (size_t vocab = 1; vocab < 40; ++vocab) {  // every length around the lanes
    std::vector<float> row(vocab, 0);
    row.back() = 1;
    EXPECT_EQ(SampleOk(row, Greedy(), {}).token, static_cast<TokenId>(vocab - 1));
  }
}

TEST(Sampler, DrawFollowsTheProbabilities) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(3.0f), -kInfinity, std::log(4.0f)};
  std::vector<int> counts(logits.size());
  SamplingParams params;
  params.seed = 11;
  std::vector<TokenId> tokens;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    ++counts[SampleOk(logits, params, tokens).token];
    tokens.push_back(0);
    if (tokens.size() == 500) {
      tokens.clear();
      ++params.seed;
    }
  }
  EXPECT_EQ(counts[3], 0);
  const double expected[] = {0.1, 0.2, 0.3, 0, 0.4};
  for (size_t i = 0; i < logits.size(); ++i) EXPECT_NEAR(counts[i] / double{kDraws}, expected[i], 0.015) << i;
}

TEST(Sampler, DrawIsTheInverseOfTheSum) {
  const auto logits = RandomLogits(5000, 3);
  SamplingParams params;
  params.temperature = 0.9;
  Candidates candidates;
  candidates.Build(logits, params);
  double total = 0, below = 0;
  for (const float w : candidates.weights()) total += w;
  for (size_t i = 0; i < candidates.ids().size(); i += 37) {
    below = 0;
    for (size_t j = 0; j < i; ++j) below += candidates.weights()[j];
    EXPECT_EQ(candidates.Draw((below + candidates.weights()[i] / 2) / total), candidates.ids()[i]);
  }
  EXPECT_EQ(candidates.Draw(0), 0);
  EXPECT_EQ(candidates.Draw(std::nextafter(1.0, 0.0)), 4999);
}

TEST(Sampler, SeedAndPositionAloneDecideTheDraw) {
  const auto logits = RandomLogits(3000, 5);
  SamplingParams params;
  params.seed = 99;
  Sampler used(3000);
  std::set<TokenId> seen;
  for (size_t n = 0; n < 40; ++n) {
    const std::vector<TokenId> a(n, 1), b(n, 2);
    const auto first = used.Sample(logits, params, {a, 0});
    const auto second = SampleOk(logits, params, b, n);  // another sampler, other tokens of the same number
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(first->token, second.token);
    seen.insert(first->token);
  }
  EXPECT_GT(seen.size(), 30u);
}

TEST(Sampler, RepetitionPenaltyCountsEachIdOnce) {
  const std::vector<float> logits = {2, -2, 4, 1};
  SamplingParams params;
  params.repetition_penalty = 2;
  Penalties penalties(4);
  const std::vector<TokenId> tokens = {0, 1, 1, 0, 1};
  const auto scores = penalties.Apply(logits, params, {tokens, 2});
  EXPECT_THAT(std::vector<float>(scores.begin(), scores.end()), testing::ElementsAre(1, -4, 4, 1));
  const std::vector<TokenId> other = {3};
  const auto again = penalties.Apply(logits, params, {other, 0});  // no memory of the call before
  EXPECT_THAT(std::vector<float>(again.begin(), again.end()), testing::ElementsAre(2, -2, 4, 0.5));
}

TEST(Sampler, PresenceAndFrequencyCountOutputOnly) {
  const std::vector<float> logits = {1, 1, 1, 1};
  SamplingParams params;
  params.presence_penalty = 0.5;
  params.frequency_penalty = 0.25;
  Penalties penalties(4);
  const std::vector<TokenId> tokens = {0, 1, 2, 2, 1, 2};
  const auto scores = penalties.Apply(logits, params, {tokens, 3});
  EXPECT_THAT(std::vector<float>(scores.begin(), scores.end()), testing::ElementsAre(1, 0.25, 0, 1));
}

TEST(Sampler, LogitBiasForcesAndForbids) {
  const auto logits = RandomLogits(500, 7);
  const TokenId best = ArgMax(logits);
  SamplingParams params = Greedy();
  params.logit_bias[best] = -100;
  EXPECT_NE(SampleOk(logits, params, {1}).token, best);
  params = SamplingParams{};
  params.logit_bias[123] = 100;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    params.seed = seed;
    EXPECT_EQ(SampleOk(logits, params, {1}).token, 123);
  }
}

TEST(Sampler, NoRepeatNgramOfOneBansAllThatWasSeen) {
  const std::vector<float> logits = {5, 4, 3, 2};
  SamplingParams params = Greedy();
  params.no_repeat_ngram = 1;
  EXPECT_EQ(SampleOk(logits, params, {0, 1}).token, 2);
  Sampler sampler(4);
  const std::vector<TokenId> all = {0, 1, 2, 3};
  EXPECT_EQ(sampler.Sample(logits, params, {all, 0}).status().code(), StatusCode::kInvalid);
  params.no_repeat_ngram = 9;  // longer than the history
  EXPECT_EQ(SampleOk(logits, params, {0, 1}).token, 0);
}

TEST(Sampler, LogprobsAreTheLogSoftmaxOfTheRawLogits) {
  const auto logits = RandomLogits(4000, 9);
  double sum = 0;
  for (const float x : logits) sum += std::exp(double{x});
  SamplingParams params;
  params.temperature = 0.3;
  params.top_k = 3;
  params.repetition_penalty = 1.5;
  params.logprobs = 5;
  const TokenEvent event = SampleOk(logits, params, {1, 2, 3});
  EXPECT_NEAR(event.logprob, logits[event.token] - std::log(sum), 1e-5);
  std::vector<TokenId> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<TokenId>(i);
  std::sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  ASSERT_EQ(event.top.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(event.top[i].token, order[i]);
    EXPECT_NEAR(event.top[i].logprob, logits[order[i]] - std::log(sum), 1e-5);
  }
  params.logprobs = 0;
  EXPECT_TRUE(SampleOk(logits, params, {1}).top.empty());
  EXPECT_LT(SampleOk(logits, params, {1}).logprob, 0);
  params.logprobs = kMaxLogprobs;  // more than there are tokens: all of them
  EXPECT_EQ(SampleOk(RandomLogits(10, 1), params, {1}).top.size(), 10u);
}

TEST(Sampler, LogitsThatAreNoNumbersAreAnError) {
  for (const float bad : {std::nanf(""), kInfinity}) {
    for (const size_t at : {0, 50, 99}) {
      auto logits = RandomLogits(100, 4);
      logits[at] = bad;
      Sampler sampler(100);
      EXPECT_EQ(sampler.Sample(logits, Greedy(), {}).status().code(), StatusCode::kInternal);
      EXPECT_EQ(sampler.Sample(logits, SamplingParams{}, {}).status().code(), StatusCode::kInternal);
    }
  }
  const std::vector<float> none(10, -kInfinity);
  Sampler sampler(10);
  EXPECT_FALSE(sampler.Sample(none, SamplingParams{}, {}).ok());
}

TEST(Sampler, ExtremeValuesNeverLeaveTheVocabulary) {
  Random random(17);
  const float extremes[] = {-kInfinity, -3e38f, -90, -1e-30f, 0, 1e-30f, 90, 3e38f};
  Sampler sampler(64);
  for (int round = 0; round < 3000; ++round) {
    std::vector<float> logits(64);
    for (float& x : logits) x = extremes[random.Below(8)];
    logits[random.Below(64)] = 1;
    SamplingParams p;
    const double temperatures[] = {0, 1e-300, 1e-6, 0.5, 1, 1000}, masses[] = {0, 1e-12, 0.5, 1 - 1e-16, 1};
    p.temperature = temperatures[random.Below(6)];
    p.top_p = masses[random.Below(5)];
    p.min_p = masses[random.Below(5)];
    p.typical_p = masses[random.Below(5)];
    p.top_k = static_cast<uint32_t>(random.Below(70));
    p.repetition_penalty = round % 3 == 0 ? 0.001 : 1000;
    p.seed = round;
    p.logprobs = 3;
    ASSERT_TRUE(CheckSampling(p, 64).ok());
    const std::vector<TokenId> tokens = {static_cast<TokenId>(random.Below(64)), 5};
    const auto event = sampler.Sample(logits, p, {tokens, 1});
    ASSERT_TRUE(event.ok()) << event.status().ToString();
    ASSERT_TRUE(event->token >= 0 && event->token < 64);
    ASSERT_NE(logits[event->token], -kInfinity);
    ASSERT_TRUE(std::isfinite(event->logprob));
  }
}

TEST(Sampler, TopPAgreesWithASortOfEverything) {
  Candidates candidates;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const auto logits = RandomLogits(3000, seed, seed % 2 == 0 ? 8 : 0.5);
    SamplingParams params;
    params.top_p = 0.05 + 0.03 * static_cast<double>(seed);
    candidates.Build(logits, params);
    double total = 0;
    for (const float x : logits) total += std::exp(double{x});
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end());
    double mass = 0;
    size_t dropped = 0;
    while (dropped + 1 < sorted.size() && mass + std::exp(double{sorted[dropped]}) <= (1 - params.top_p) * total) mass += std::exp(double{sorted[dropped++]});
    EXPECT_NEAR(static_cast<double>(candidates.ids().size()), static_cast<double>(sorted.size() - dropped), 1) << seed;
    const float lowest = logits[*std::min_element(candidates.ids().begin(), candidates.ids().end(), [&](TokenId a, TokenId b) { return logits[a] < logits[b]; })];
    EXPECT_EQ(std::count_if(logits.begin(), logits.end(), [lowest](float x) { return x >= lowest; }), static_cast<long>(candidates.ids().size()));
  }
}

TEST(Sampler, LargestIndicesAgreesWithASort) {
  Random random(23);
  std::vector<TokenId> got;
  for (const size_t vocab : {1, 2, 300, 2000}) {
    for (const size_t k : {1, 2, 5, 255, 1999, 5000}) {
      std::vector<float> values(vocab);
      for (float& x : values) x = static_cast<float>(random.Below(50));  // many ties
      LargestIndices(values, k, got);
      std::vector<TokenId> order(vocab);
      for (size_t i = 0; i < vocab; ++i) order[i] = static_cast<TokenId>(i);
      std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return values[a] > values[b]; });
      order.resize(std::min(k, vocab));
      std::sort(order.begin(), order.end());
      std::sort(got.begin(), got.end());
      EXPECT_EQ(got, order) << vocab << " " << k;
    }
  }
}

TEST(Sampler, ExpIsWithinTwoUnitsInTheLastPlace) {
  for (int i = 0; i <= 870000; i += 13) {
    const float x = -static_cast<float>(i) * 1e-4f;
    const double exact = std::exp(double{x});
    ASSERT_NEAR(ExpNonPositive(x) / exact, 1, 2.4e-7) << x;
  }
  EXPECT_EQ(ExpNonPositive(0), 1);
  EXPECT_EQ(ExpNonPositive(-88), 0);
  EXPECT_EQ(ExpNonPositive(-kInfinity), 0);
}

TEST(CheckSampling, NamesTheFieldThatIsWrong) {
  const double nan = std::nan("");
  const auto message = [](auto change) {
    SamplingParams p;
    change(p);
    const Status status = CheckSampling(p, 100);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    return status.message();
  };
  EXPECT_THAT(message([&](auto& p) { p.temperature = nan; }), testing::StartsWith("temperature is nan"));
  EXPECT_THAT(message([](auto& p) { p.temperature = -0.1; }), testing::StartsWith("temperature"));
  EXPECT_THAT(message([](auto& p) { p.top_p = 1.01; }), testing::StartsWith("top_p"));
  EXPECT_THAT(message([&](auto& p) { p.min_p = nan; }), testing::StartsWith("min_p"));
  EXPECT_THAT(message([](auto& p) { p.typical_p = -1; }), testing::StartsWith("typical_p"));
  EXPECT_THAT(message([](auto& p) { p.repetition_penalty = 0; }), testing::StartsWith("repetition_penalty"));
  EXPECT_THAT(message([&](auto& p) { p.presence_penalty = nan; }), testing::StartsWith("presence_penalty"));
  EXPECT_THAT(message([](auto& p) { p.frequency_penalty = 1e9; }), testing::StartsWith("frequency_penalty"));
  EXPECT_THAT(message([](auto& p) { p.logprobs = -2; }), testing::StartsWith("logprobs"));
  EXPECT_THAT(message([](auto& p) { p.logprobs = kMaxLogprobs + 1; }), testing::StartsWith("logprobs"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias[100] = 1; }), testing::HasSubstr("token 100"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias[-1] = 1; }), testing::HasSubstr("token -1"));
  EXPECT_THAT(message([&](auto& p) { p.logit_bias[3] = std::nanf(""); }), testing::HasSubstr("token 3"));
  EXPECT_TRUE(CheckSampling(SamplingParams{}, 100).ok());
}

}  // namespace
}  // namespace baton
