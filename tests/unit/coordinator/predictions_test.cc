#include "coordinator/predictions.h"

#include "tests/unit/coordinator/coordinator_support.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Instant At(double seconds) { return Instant(FromSeconds(1000 + seconds)); }
constexpr WorkerId kDecode{1}, kPrefill{2};

RouteQuery Query(uint64_t request, uint32_t tokens) {
  RouteQuery query;
  query.request = RequestId(request);
  query.prompt_tokens = tokens;
  query.block_tokens = 64;
  return query;
}
RouteCandidate Remote(uint32_t cached = 0) { return {kDecode, kPrefill, cached, CacheSource::kNone, {}}; }
RouteCandidate Local(uint32_t cached = 0) { return {kDecode, WorkerId(), cached, CacheSource::kNone, {}}; }

WorkerLoad LoadOf(const Predictions& predictions, WorkerId worker, double at = 0) {
  std::vector<WorkerView> views(3);
  for (uint32_t i = 0; i < 3; ++i) views[i].id = WorkerId(i + 1), views[i].load.free_blocks = 100;
  predictions.AddTo(views, At(at));
  EXPECT_EQ(views[2].load.running + views[2].load.queued_prefill_tokens, 0u) << "nothing was routed to it";
  return views.at(worker.value - 1).load;
}
std::vector<PrefixMatch> MatchOf(const Predictions& predictions, std::span<const BlockKey> keys) {
  std::vector<PrefixMatch> out;
  predictions.Match(keys, out);
  return out;
}

TEST(Predictions, LoadGoesToWhoComputesAndWhoDecodes) {
  Predictions predictions({});
  predictions.Routed(Query(1, 640), Remote(128), {}, At(0));
  EXPECT_EQ(LoadOf(predictions, kPrefill).queued_prefill_tokens, 512u);
  EXPECT_EQ(LoadOf(predictions, kPrefill).running, 0u);
  EXPECT_EQ(LoadOf(predictions, kDecode).queued_prefill_tokens, 0u);
  EXPECT_EQ(LoadOf(predictions, kDecode).running, 1u);
  EXPECT_EQ(LoadOf(predictions, kDecode).free_blocks, 89u);
  predictions.Routed(Query(2, 640), Local(), {}, At(0));
  EXPECT_EQ(LoadOf(predictions, kDecode).queued_prefill_tokens, 640u);
  EXPECT_EQ(LoadOf(predictions, kDecode).running, 2u);
}

TEST(Predictions, LoadEndsByReportByEndByDeathAndByAge) {
  Predictions predictions({.settle_s = 0.1});
  predictions.Routed(Query(1, 640), Remote(), {}, At(0));
  predictions.Routed(Query(2, 640), Remote(), {}, At(0.05));
  predictions.Reported(kPrefill, {}, At(0.12));
  EXPECT_EQ(LoadOf(predictions, kPrefill).queued_prefill_tokens, 640u) << "the younger is not in that report";
  EXPECT_EQ(LoadOf(predictions, kDecode).running, 2u) << "another worker's report says nothing";
  predictions.Finished(RequestId(2), Remote());
  EXPECT_EQ(LoadOf(predictions, kPrefill).queued_prefill_tokens, 0u);
  EXPECT_EQ(LoadOf(predictions, kDecode).running, 1u);
  predictions.Finished(RequestId(2), Remote());
  EXPECT_EQ(LoadOf(predictions, kDecode).running, 1u);
  predictions.Drop(kDecode);
  EXPECT_EQ(LoadOf(predictions, kDecode).running, 0u);
  predictions.Routed(Query(3, 640), Remote(), {}, At(1));
  predictions.Expire(At(10));
  EXPECT_EQ(LoadOf(predictions, kDecode).running, 0u);
  EXPECT_EQ(LoadOf(predictions, kPrefill).queued_prefill_tokens, 0u);
}

/// Between two reports a queue shrinks as fast as the worker computes, and grows by what is routed to it.
TEST(Predictions, AQueueShrinksAtTheMeasuredRate) {
  Predictions predictions({.settle_s = 0.05});
  WorkerLoad load;
  load.queued_prefill_tokens = 1000;
  load.prefill_tokens_per_s = 1000;
  predictions.Reported(kDecode, load, At(0));
  EXPECT_EQ(LoadOf(predictions, kDecode, 0).queued_prefill_tokens, 1000u);
  EXPECT_EQ(LoadOf(predictions, kDecode, 0.4).queued_prefill_tokens, 600u);
  predictions.Routed(Query(1, 500), Local(), {}, At(0.4));
  EXPECT_EQ(LoadOf(predictions, kDecode, 0.4).queued_prefill_tokens, 1100u);
  EXPECT_EQ(LoadOf(predictions, kDecode, 1).queued_prefill_tokens, 500u) << "what was routed shrinks too";
  EXPECT_EQ(LoadOf(predictions, kDecode, 5).queued_prefill_tokens, 0u);
  predictions.Routed(Query(2, 500), Local(), {}, At(5));
  EXPECT_EQ(LoadOf(predictions, kDecode, 5).queued_prefill_tokens, 500u) << "an idle time is not saved up";
  load.queued_prefill_tokens = 200;
  predictions.Reported(kDecode, load, At(5.01));
  EXPECT_EQ(LoadOf(predictions, kDecode, 5.01).queued_prefill_tokens, 700u) << "too young to be in that report";
  predictions.Reported(kDecode, load, At(5.2));
  EXPECT_EQ(LoadOf(predictions, kDecode, 5.2).queued_prefill_tokens, 200u);
  predictions.Drop(kDecode);
  EXPECT_EQ(LoadOf(predictions, kDecode, 5.2).queued_prefill_tokens, 0u);
}

TEST(Predictions, FreeBlocksNeverWrap) {
  Predictions predictions({});
  predictions.Routed(Query(1, 64'000), Local(), {}, At(0));
  EXPECT_EQ(LoadOf(predictions, kDecode).free_blocks, 0u);
}

TEST(Predictions, PrefixesMatchDownToAKeptKey) {
  Predictions predictions({.min_stride = 4});
  const auto chain = TestChain(1, 100);
  predictions.Routed(Query(1, 6400), Remote(), chain, At(0));
  for (const size_t asked : {4, 5, 8, 31, 99, 100}) {
    const auto matches = MatchOf(predictions, std::span(chain).first(asked));
    ASSERT_EQ(matches.size(), 1u) << asked;
    EXPECT_EQ(matches[0].worker, kPrefill) << "it computes";
    EXPECT_LE(matches[0].blocks, asked);
    EXPECT_GE(matches[0].blocks + std::max<size_t>(4, asked / 5), asked) << "not much is lost";
  }
  EXPECT_EQ(MatchOf(predictions, chain).front().blocks, 100u) << "the same prompt again";
  EXPECT_THAT(MatchOf(predictions, std::span(chain).first(3)), IsEmpty());
  auto other = chain;
  for (size_t i = 10; i < other.size(); ++i) other[i] = TestKey(999'000 + i);
  EXPECT_THAT(MatchOf(predictions, other), ElementsAre(PrefixMatch{kPrefill, 8}));
}

TEST(Predictions, PrefixesExpireAndDieWithTheirWorker) {
  Predictions predictions({.prefix_ttl_s = 1});
  const auto chain = TestChain(1, 8);
  predictions.Routed(Query(1, 512), Remote(), chain, At(0));
  predictions.Routed(Query(2, 512), Local(), chain, At(0));
  predictions.Drop(kPrefill);
  EXPECT_THAT(MatchOf(predictions, chain), ElementsAre(PrefixMatch{kDecode, 8}));
  predictions.Expire(At(1.1));
  EXPECT_THAT(MatchOf(predictions, chain), IsEmpty());
}

TEST(Predictions, RememberedPrefixesAreBounded) {
  Predictions predictions({.max_prefixes = 10});
  for (uint64_t i = 0; i < 100; ++i) predictions.Routed(Query(i, 512), Local(), TestChain(i, 8), At(0));
  size_t known = 0;
  for (uint64_t i = 0; i < 100; ++i) known += MatchOf(predictions, TestChain(i, 8)).size();
  EXPECT_EQ(known, 10u);
  EXPECT_EQ(MatchOf(predictions, TestChain(99, 8)).size(), 1u) << "the newest stay";
}

TEST(Predictions, ACachedPromptLeavesNothingNew) {
  Predictions predictions({});
  const auto chain = TestChain(1, 8);
  predictions.Routed(Query(1, 600), Local(512), chain, At(0));
  EXPECT_THAT(MatchOf(predictions, chain), IsEmpty());
}

}  // namespace
}  // namespace baton
