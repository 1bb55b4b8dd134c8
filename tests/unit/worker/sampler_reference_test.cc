// The sampler against a plain one: every step written as its definition says, over a full sort, in doubles. Thousands of random rows,
// histories and parameters, with ties, spikes, banned tokens and every step on and off.
#include <cmath>
#include <limits>
#include <set>

#include "base/random.h"
#include "worker/sampler.h"

namespace baton {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  std::vector<float> logits;
  std::vector<TokenId> tokens;
  size_t generated = 0;
  SamplingParams params;
};

/// The scores after the steps that change them.
std::vector<double> PlainScores(const Case& c) {
  const SamplingParams& p = c.params;
  std::vector<double> scores(c.logits.begin(), c.logits.end());
  const std::set<TokenId> seen(c.tokens.begin(), c.tokens.end());
  for (const TokenId id : seen) {
    double& s = scores[static_cast<size_t>(id)];
    s = s < 0 ? s * p.repetition_penalty : s / p.repetition_penalty;
  }
  std::map<TokenId, int> written;
  for (size_t i = c.tokens.size() - c.generated; i < c.tokens.size(); ++i) ++written[c.tokens[i]];
  for (const auto& [id, count] : written) scores[static_cast<size_t>(id)] -= p.presence_penalty + p.frequency_penalty * count;
  for (const auto& [id, bias] : p.logit_bias) scores[static_cast<size_t>(id)] += bias;
  const size_t n = p.no_repeat_ngram;
  for (size_t i = 0; n > 0 && i + n <= c.tokens.size(); ++i) {  // what followed the last n - 1 tokens before must not follow again
    if (std::equal(c.tokens.end() - static_cast<ptrdiff_t>(n - 1), c.tokens.end(), c.tokens.begin() + static_cast<ptrdiff_t>(i))) {
      scores[static_cast<size_t>(c.tokens[i + n - 1])] = -kInfinity;
    }
  }
  return scores;
}

/// The probability of each token after temperature, top_k, top_p, min_p and typical_p in this order; 0: not drawn.
std::vector<double> PlainProbabilities(const Case& c, const std::vector<double>& scores) {
  const SamplingParams& p = c.params;
  std::vector<size_t> order;  // best first; of equals the lower id
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] > -kInfinity) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  if (p.top_k > 0 && p.top_k < order.size()) {
    const double last = scores[order[p.top_k - 1]];
    std::erase_if(order, [&](size_t i) { return scores[i] < last; });  // all that equal the last stay
  }
  const double best = scores[order.front()];
  std::vector<double> weight(scores.size(), 0);
  double total = 0;
  for (const size_t i : order) total += weight[i] = std::exp((scores[i] - best) / p.temperature);
  if (p.top_p < 1) {
    double dropped = 0;
    while (order.size() > 1 && dropped + weight[order.back()] <= (1 - p.top_p) * total) {
      dropped += weight[order.back()];
      order.pop_back();
    }
  }
  std::erase_if(order, [&](size_t i) { return weight[i] < p.min_p; });
  if (p.typical_p < 1) {
    double sum = 0, entropy = 0;
    for (const size_t i : order) sum += weight[i];
    for (const size_t i : order) entropy -= weight[i] > 0 ? weight[i] / sum * std::log(weight[i] / sum) : 0;
    const auto surprise = [&](size_t i) { return std::abs(-std::log(weight[i] / sum) - entropy); };
    std::vector<size_t> nearest = order;
    std::stable_sort(nearest.begin(), nearest.end(), [&](size_t a, size_t b) { return surprise(a) < surprise(b); });
    double mass = 0, bar = kInfinity;
    for (const size_t i : nearest) {
      mass += weight[i];
      bar = surprise(i);
      if (mass >= p.typical_p * sum) break;
    }
    std::erase_if(order, [&](size_t i) { return surprise(i) > bar * (1 + 1e-6) + 1e-6; });
  }
  std::vector<double> out(scores.size(), 0);
  double sum = 0;
  for (const size_t i : order) sum += weight[i];
  for (const size_t i : order) out[i] = weight[i] / sum;
  return out;
}

/// Logits of different shapes; multiples of 1/8, so that ties are frequent and exact.
std::vector<float> RandomLogits(Random& random) {
  const size_t vocab = 1 + random.Below(400);
  std::vector<float> logits(vocab);
  const uint64_t shape = random.Below(4);
  for (float& x : logits) {
    if (shape == 0) x = static_cast<float>(static_cast<int64_t>(random.Below(17)) - 8) / 8;        // many ties
    else if (shape == 1) x = static_cast<float>(static_cast<int64_t>(random.Below(20000)) - 10000) / 1024;
    else if (shape == 2) x = random.Below(20) == 0 ? 12.0f + static_cast<float>(random.Below(9)) / 8 : -static_cast<float>(random.Below(64)) / 8;  // spikes
    else x = 2.5f;                                                                                  // all equal
  }
  return logits;
}

Case RandomCase(Random& random) {
  Case c;
  c.logits = RandomLogits(random);
  const size_t vocab = c.logits.size();
  for (uint64_t n = random.Below(60); n > 0; --n) c.tokens.push_back(static_cast<TokenId>(random.Below(std::min<size_t>(vocab, 12))));
  c.generated = random.Below(c.tokens.size() + 1);
  SamplingParams& p = c.params;
  p.seed = random.Next64();
  p.temperature = std::array{0.25, 0.5, 1.0, 2.0}[random.Below(4)];
  if (random.Below(3) == 0) p.repetition_penalty = std::array{0.5, 1.25, 2.0}[random.Below(3)];
  if (random.Below(3) == 0) p.presence_penalty = std::array{-1.0, 0.5, 2.0}[random.Below(3)];
  if (random.Below(3) == 0) p.frequency_penalty = std::array{-0.25, 0.125, 1.0}[random.Below(3)];
  if (random.Below(5) == 0) p.no_repeat_ngram = static_cast<uint32_t>(1 + random.Below(4));
  for (uint64_t n = random.Below(4) == 0 ? random.Below(5) : 0; n > 0; --n) p.logit_bias[static_cast<TokenId>(random.Below(vocab))] = static_cast<float>(static_cast<int64_t>(random.Below(41)) - 20);
  if (random.Below(2) != 0) p.top_k = static_cast<uint32_t>(1 + random.Below(vocab + 3));
  if (random.Below(2) != 0) p.top_p = random.Uniform();
  if (random.Below(3) == 0) p.min_p = random.Uniform() / 2;
  if (random.Below(4) == 0) p.typical_p = 0.05 + 0.9 * random.Uniform();
  return c;
}

class SamplerReference : public ::testing::TestWithParam<uint64_t> {};

TEST_P(SamplerReference, ScoresAreThoseOfTheDefinition) {
  Random random(GetParam());
  for (int round = 0; round < 800; ++round) {
    const Case c = RandomCase(random);
    Penalties penalties(static_cast<uint32_t>(c.logits.size()));
    const auto got = penalties.Apply(c.logits, c.params, {c.tokens, c.generated});
    const auto want = PlainScores(c);
    for (size_t i = 0; i < want.size(); ++i) {
      if (want[i] == -kInfinity) {
        ASSERT_EQ(got[i], -std::numeric_limits<float>::infinity()) << round << " id " << i;
      } else {
        ASSERT_NEAR(got[i], want[i], 2e-6 * (1 + std::abs(want[i]))) << round << " id " << i;
      }
    }
  }
}

/// Both see the same scores (those of the sampler, to the bit), so that only the filters are compared: the same tokens stay, with the
/// same probabilities. Where a sum ends within rounding of its bound, either neighbour may be the last.
TEST_P(SamplerReference, TheSameTokensStayWithTheSameProbabilities) {
  Random random(GetParam() + 1000);
  int compared = 0, near = 0;
  for (int round = 0; round < 800; ++round) {
    const Case c = RandomCase(random);
    Penalties penalties(static_cast<uint32_t>(c.logits.size()));
    const auto scores = penalties.Apply(c.logits, c.params, {c.tokens, c.generated});
    const std::vector<double> exact(scores.begin(), scores.end());
    if (*std::max_element(exact.begin(), exact.end()) == -kInfinity) continue;  // all banned
    const auto want = PlainProbabilities(c, exact);
    Candidates candidates;
    candidates.Build(scores, c.params);
    ASSERT_TRUE(std::is_sorted(candidates.ids().begin(), candidates.ids().end()));
    std::vector<double> got(want.size(), 0);
    double sum = 0;
    for (const float w : candidates.weights()) sum += w;
    for (size_t i = 0; i < candidates.ids().size(); ++i) got[static_cast<size_t>(candidates.ids()[i])] = candidates.weights()[i] / sum;
    size_t differ = 0;
    for (size_t i = 0; i < want.size(); ++i) differ += (want[i] > 0) != (got[i] > 0);
    ++compared;
    if (differ > 0) {
      ++near;
      continue;
    }
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5) << round << " id " << i;
  }
  EXPECT_GT(compared, 700);
  EXPECT_LE(near, compared / 50) << "of so many rounds with different tokens a bound is not within rounding";
}

TEST_P(SamplerReference, GreedyAndDrawnTokensAreAmongThem) {
  Random random(GetParam() + 2000);
  for (int round = 0; round < 500; ++round) {
    Case c = RandomCase(random);
    c.params.typical_p = 1;
    c.params.top_p = 1;  // no bound that rounding could move
    Sampler sampler(static_cast<uint32_t>(c.logits.size()));
    Penalties penalties(static_cast<uint32_t>(c.logits.size()));
    const auto scores = penalties.Apply(c.logits, c.params, {c.tokens, c.generated});
    const std::vector<double> exact(scores.begin(), scores.end());
    const double best = *std::max_element(exact.begin(), exact.end());
    const auto drawn = sampler.Sample(c.logits, c.params, {c.tokens, c.generated});
    ASSERT_EQ(drawn.ok(), best > -kInfinity);
    if (!drawn.ok()) continue;
    const auto probabilities = PlainProbabilities(c, exact);
    ASSERT_GT(probabilities[static_cast<size_t>(drawn->token)], 0) << round;
    // The draw is the inverse of the running sum over ascending ids; a hair beside a step either neighbour may come.
    const double uniform = UniformAt(c.params.seed, c.tokens.size());
    double below = 0;
    for (size_t i = 0; i < static_cast<size_t>(drawn->token); ++i) below += probabilities[i];
    ASSERT_LE(below, uniform + 1e-5);
    ASSERT_GE(below + probabilities[static_cast<size_t>(drawn->token)], uniform - 1e-5);
    c.params.temperature = 0;
    const auto greedy = sampler.Sample(c.logits, c.params, {c.tokens, c.generated});
    ASSERT_EQ(greedy->token, std::max_element(exact.begin(), exact.end()) - exact.begin()) << "the lowest id of the best";
  }
}

TEST_P(SamplerReference, LogprobsAreTheSoftmaxOfTheModelWhateverTheParameters) {
  Random random(GetParam() + 3000);
  for (int round = 0; round < 300; ++round) {
    Case c = RandomCase(random);
    c.params.logprobs = static_cast<int32_t>(random.Below(25));
    c.params.no_repeat_ngram = 0;
    Sampler sampler(static_cast<uint32_t>(c.logits.size()));
    const auto event = sampler.Sample(c.logits, c.params, {c.tokens, c.generated});
    ASSERT_TRUE(event.ok()) << event.status().ToString();
    double best = -kInfinity, sum = 0;
    for (const float x : c.logits) best = std::max<double>(best, x);
    for (const float x : c.logits) sum += std::exp(x - best);
    const auto logprob = [&](TokenId id) { return c.logits[static_cast<size_t>(id)] - best - std::log(sum); };
    ASSERT_NEAR(event->logprob, logprob(event->token), 1e-4);
    ASSERT_EQ(event->top.size(), std::min<size_t>(static_cast<size_t>(c.params.logprobs), c.logits.size()));
    std::vector<TokenId> order(c.logits.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<TokenId>(i);
    std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return c.logits[static_cast<size_t>(a)] > c.logits[static_cast<size_t>(b)]; });
    for (size_t i = 0; i < event->top.size(); ++i) {
      ASSERT_EQ(event->top[i].token, order[i]) << "best first, of equals the lower id";
      ASSERT_NEAR(event->top[i].logprob, logprob(order[i]), 1e-4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SamplerReference, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace baton
