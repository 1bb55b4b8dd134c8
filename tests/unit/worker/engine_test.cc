// The engine on the fake model: answers, the pool and the hand-off, one behaviour a test.
#include "worker/engine.h"

#include "base/bytes.h"
#include "base/random.h"
#include "engine_support.h"

namespace baton {
namespace {

TEST_F(EngineTest, OneRequestGetsThePlainAnswer) {
  for (const size_t prompt : {1, 3, 4, 5, 8, 37}) {
    for (const SamplingParams& params : {GreedyParams(), SeededParams(3)}) {
      EngineBench bench(model_);
      ASSERT_TRUE(bench.Submit(MakeRequest(1, TestPrompt(prompt, prompt), 13, params)).ok());
      bench.Drain();
      Answer& got = bench.Get(1);
      EXPECT_EQ(got.reason, FinishReason::kLength);
      EXPECT_EQ(got.stats.prompt_tokens, prompt);
      EXPECT_EQ(got.stats.cached_tokens, 0u);
      ExpectSameAnswer(got, PlainAnswer(*fake_, MakeRequest(1, TestPrompt(prompt, prompt), 13, params).request), std::to_string(prompt));
      ExpectClean(bench);
    }
  }
}

TEST_F(EngineTest, StopTokensEndTheAnswerAndAreGiven) {
  auto request = MakeRequest(1, TestPrompt(9, 1), 40, GreedyParams());
  const Answer whole = PlainAnswer(*fake_, request.request);
  request.request.stop_tokens = {whole.tokens[5]};
  const size_t first = std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[5]) - whole.tokens.begin();
  EngineBench bench(model_);
  ASSERT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  EXPECT_EQ(bench.Get(1).reason, FinishReason::kStop);
  EXPECT_EQ(bench.Get(1).tokens, std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + static_cast<long>(first) + 1));
}

TEST_F(EngineTest, ASecondTurnFindsTheFirst) {
  EngineBench bench(model_);
  auto prompt = TestPrompt(10, 1);
  ASSERT_TRUE(bench.Submit(MakeRequest(1, prompt, 7, GreedyParams())).ok());
  bench.Drain();
  for (const TokenId token : bench.Get(1).tokens) prompt.push_back(token);
  prompt.push_back(5);
  model_.tokens = 0;
  ASSERT_TRUE(bench.Submit(MakeRequest(2, prompt, 5, GreedyParams())).ok());
  bench.Drain();
  EXPECT_EQ(bench.Get(2).stats.cached_tokens, 16u);  // 10 + 7 - 1 positions were computed: four full blocks
  EXPECT_EQ(model_.tokens, prompt.size() - 16 + 4);
  ExpectSameAnswer(bench.Get(2), PlainAnswer(*fake_, MakeRequest(2, prompt, 5, GreedyParams()).request), "second turn");
  ExpectClean(bench);
}

TEST_F(EngineTest, APromptThatIsWhollyCachedComputesOneTokenAndWritesNoSharedBlock) {
  EngineBench bench(model_);
  const auto prompt = TestPrompt(12, 2);
  ASSERT_TRUE(bench.Submit(MakeRequest(1, prompt, 1, GreedyParams())).ok());
  bench.Drain();
  const auto shared = bench.pool->Lookup(KeyChain(TestRoot(), prompt, 4));
  ASSERT_EQ(shared.size(), 3u);
  std::vector<std::byte> before(bench.pool->data(shared[2]), bench.pool->data(shared[2]) + bench.pool->block_bytes());
  const auto* address = bench.pool->data(shared[2]);
  model_.tokens = 0;
  model_.fail = [&](std::span<const SequenceSlice> batch) {
    EXPECT_NE(batch[0].blocks[2], address) << "a shared block would be written";
    return OkStatus();
  };
  ASSERT_TRUE(bench.Submit(MakeRequest(2, prompt, 1, GreedyParams())).ok());
  bench.Drain();
  EXPECT_EQ(model_.tokens, 1u);
  EXPECT_EQ(bench.Get(2).stats.cached_tokens, 11u);
  ExpectSameAnswer(bench.Get(2), bench.Get(1), "cached whole");
  EXPECT_EQ(0, std::memcmp(before.data(), address, before.size()));
  for (const BlockId block : shared) bench.pool->Unref(block);
  ExpectClean(bench);
}

TEST_F(EngineTest, WhollyCachedInAPoolWithNoBlockToSpare) {
  EngineBench bench(model_, {.blocks = 3});
  const auto prompt = TestPrompt(12, 2);
  for (uint64_t id = 1; id <= 3; ++id) {
    ASSERT_TRUE(bench.Submit(MakeRequest(id, prompt, 1, GreedyParams())).ok());
    bench.Drain();
    ExpectSameAnswer(bench.Get(id), bench.Get(1), "tight pool");
  }
  EXPECT_EQ(bench.Get(3).stats.cached_tokens, 8u);
  ExpectClean(bench);
}

TEST_F(EngineTest, SealedBlocksCarryKeyDigestAndTokensInOrder) {
  EngineBench bench(model_);
  bench.recorder->keep_sealed = true;
  auto prompt = TestPrompt(10, 4);
  ASSERT_TRUE(bench.Submit(MakeRequest(1, prompt, 8, GreedyParams())).ok());
  bench.Drain();
  for (const TokenId token : bench.Get(1).tokens) prompt.push_back(token);
  const auto keys = KeyChain(TestRoot(), std::span(prompt).first(17), 4);
  const auto& sealed = bench.recorder->sealed[1];
  ASSERT_EQ(sealed.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(sealed[i].key, keys[i]);
    EXPECT_EQ(sealed[i].parent, i == 0 ? TestRoot() : keys[i - 1]);
    EXPECT_EQ(sealed[i].depth, i);
    EXPECT_EQ(sealed[i].tokens, std::vector<TokenId>(prompt.begin() + static_cast<long>(i) * 4, prompt.begin() + static_cast<long>(i) * 4 + 4));
    EXPECT_EQ(bench.pool->DigestOf(sealed[i].block), sealed[i].digest);
  }
  EXPECT_EQ(bench.Get(1).stats.cache_write_tokens, 16u);
  EXPECT_EQ(bench.pool->stats().referenced, 4u);  // the receiver's
  ExpectClean(bench);
}

TEST_F(EngineTest, WithoutThePoolNothingIsFoundPublishedOrSealed) {
  EngineBench bench(model_);
  for (uint64_t id = 1; id <= 2; ++id) {
    auto request = MakeRequest(id, TestPrompt(12, 2), 6, GreedyParams());
    request.use_pool = false;
    ASSERT_TRUE(bench.Submit(std::move(request)).ok());
    bench.Drain();
    EXPECT_EQ(bench.Get(id).stats.cached_tokens, 0u);
  }
  EXPECT_EQ(bench.recorder->sealed_count, 0u);
  EXPECT_EQ(bench.pool->stats().free, bench.pool->stats().total);
}

TEST_F(EngineTest, ReadyBlocksAreTakenOverAndPublished) {
  EngineBench one(model_), two(model_);
  const auto prompt = TestPrompt(11, 6);
  ASSERT_TRUE(one.Submit(MakeRequest(1, prompt, 6, GreedyParams())).ok());
  one.Drain();
  auto blocks = two.pool->Allocate(4);  // landed from elsewhere, one more reserved
  ASSERT_TRUE(blocks.ok());
  const auto found = one.pool->Lookup(KeyChain(TestRoot(), prompt, 4));
  for (size_t i = 0; i < 2; ++i) std::memcpy(two.pool->data((*blocks)[i]), one.pool->data(found[i]), one.pool->block_bytes());
  for (const BlockId block : found) one.pool->Unref(block);
  auto request = MakeRequest(7, prompt, 6, GreedyParams());
  request.blocks = *blocks;
  request.ready_tokens = 8;
  request.cached_tokens = 4;
  model_.tokens = 0;
  ASSERT_TRUE(two.Submit(std::move(request)).ok());
  two.Drain();
  EXPECT_EQ(model_.tokens, 3u + 5u);
  EXPECT_EQ(two.Get(7).stats.cached_tokens, 4u);
  ExpectSameAnswer(two.Get(7), one.Get(1), "handed over");
  EXPECT_EQ(two.recorder->sealed_count, 2u) << "blocks 2 and 3 were computed here";
  EXPECT_EQ(two.pool->Peek(KeyChain(TestRoot(), prompt, 4)), 2u) << "what landed serves the next turn";
  ExpectClean(two);
}

TEST_F(EngineTest, FirstTokenFromElsewhereGoesOnWithTheSecond) {
  EngineBench prefill(model_), decode(model_);
  prefill.recorder->keep_sealed = true;
  for (const uint32_t size : {7u, 8u, 9u}) {
    const auto prompt = TestPrompt(size, 40 + size);
    auto first = MakeRequest(size, prompt, 6, SeededParams(8));
    first.prefill_only = true;
    first.push_layers = true;
    ASSERT_TRUE(prefill.Submit(first).ok());
    prefill.Drain();
    ASSERT_EQ(prefill.Get(size).tokens.size(), 1u);
    EXPECT_EQ(prefill.Get(size).reason, FinishReason::kNone);
    const auto& blocks = prefill.recorder->layers[size].back().blocks;
    auto landed = decode.pool->Allocate(blocks.size());
    for (size_t i = 0; i < blocks.size(); ++i) std::memcpy(decode.pool->data((*landed)[i]), prefill.pool->data(blocks[i]), prefill.pool->block_bytes());
    prefill.engine->ReleaseHeld(RequestId(size));
    auto rest = MakeRequest(size, prompt, 6, SeededParams(8));
    rest.blocks = *landed;
    rest.ready_tokens = size;
    rest.first_token = prefill.Get(size).events[0];
    ASSERT_TRUE(decode.Submit(std::move(rest)).ok());
    decode.Drain();
    Answer joined = prefill.Get(size);
    for (const TokenEvent& event : decode.Get(size).events) {
      joined.events.push_back(event);
      joined.tokens.push_back(event.token);
      joined.logprob_bits.push_back(std::bit_cast<uint32_t>(event.logprob));
    }
    ExpectSameAnswer(joined, PlainAnswer(*fake_, MakeRequest(size, prompt, 6, SeededParams(8)).request), std::to_string(size));
    EXPECT_EQ(decode.Get(size).reason, FinishReason::kLength);
  }
  ExpectClean(prefill);
  ExpectClean(decode);
}

TEST_F(EngineTest, AFirstTokenThatEndsTheAnswerEndsItAtOnce) {
  EngineBench bench(model_);
  for (uint64_t id = 1; id <= 2; ++id) {
    auto blocks = bench.pool->Allocate(1);
    auto request = MakeRequest(id, TestPrompt(3, 1), id == 1 ? 1 : 9, GreedyParams());
    if (id == 2) request.request.stop_tokens = {33};
    request.blocks = *blocks;
    request.ready_tokens = 3;
    request.first_token = TokenEvent{.token = 33};
    ASSERT_TRUE(bench.Submit(std::move(request)).ok());
  }
  bench.Drain();
  EXPECT_EQ(bench.Get(1).reason, FinishReason::kLength);
  EXPECT_EQ(bench.Get(2).reason, FinishReason::kStop);
  EXPECT_EQ(model_.passes, 0u);
  EXPECT_TRUE(bench.Get(1).tokens.empty());
  ExpectClean(bench);
}

TEST_F(EngineTest, LayersAreReportedChunkByChunkAndBlocksHeldUntilReleased) {
  BenchOptions options;
  options.config.prefill_chunk_tokens = 5;
  EngineBench bench(model_, options);
  const auto prompt = TestPrompt(14, 3);
  ASSERT_TRUE(bench.Submit(MakeRequest(1, std::vector<TokenId>(prompt.begin(), prompt.begin() + 6), 1, GreedyParams())).ok());
  bench.Drain();
  auto request = MakeRequest(2, prompt, 1, GreedyParams());
  request.prefill_only = request.push_layers = true;
  ASSERT_TRUE(bench.Submit(std::move(request)).ok());
  bench.Drain();
  const auto& reports = bench.recorder->layers[2];
  ASSERT_EQ(reports.size(), 4u);  // [4, 9) and [9, 14), two layers each; [0, 4) was found
  const uint32_t begins[] = {4, 4, 9, 9}, ends[] = {9, 9, 14, 14};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(reports[i].layer, i % 2);
    EXPECT_EQ(reports[i].begin, begins[i]);
    EXPECT_EQ(reports[i].end, ends[i]);
    EXPECT_EQ(reports[i].blocks, reports[0].blocks);
    EXPECT_EQ(reports[i].blocks.size(), 4u);
  }
  EXPECT_EQ(bench.pool->stats().referenced, 4u) << "held after the end";
  EXPECT_EQ(bench.Submit(MakeRequest(2, prompt, 1)).code(), StatusCode::kInvalid) << "the id is held too";
  bench.engine->ReleaseHeld(RequestId(2));
  bench.engine->ReleaseHeld(RequestId(2));
  ExpectClean(bench);
}

TEST_F(EngineTest, ReleaseBeforeTheEndTakesEffectAtTheEnd) {
  BenchOptions options;
  options.config.prefill_chunk_tokens = 4;
  EngineBench bench(model_, options);
  auto request = MakeRequest(1, TestPrompt(14, 3), 1, GreedyParams());
  request.prefill_only = request.push_layers = true;
  ASSERT_TRUE(bench.Submit(std::move(request)).ok());
  ASSERT_TRUE(bench.engine->Step());
  bench.engine->ReleaseHeld(RequestId(1));
  EXPECT_EQ(bench.pool->stats().referenced, 4u);
  bench.Drain();
  EXPECT_EQ(bench.Get(1).tokens.size(), 1u);
  ExpectClean(bench);
}

TEST_F(EngineTest, AnEngineThatEndsWithHeldAndRunningRequestsGivesAllBlocksBack) {
  EngineBench bench(model_);
  auto pushed = MakeRequest(1, TestPrompt(9, 1), 1);
  pushed.push_layers = pushed.prefill_only = true;
  ASSERT_TRUE(bench.Submit(std::move(pushed)).ok());
  ASSERT_TRUE(bench.Submit(MakeRequest(2, TestPrompt(9, 2), 50)).ok());
  for (int i = 0; i < 3; ++i) bench.engine->Step();
  auto given = MakeRequest(3, TestPrompt(9, 3), 5);
  given.blocks = *bench.pool->Allocate(2);
  ASSERT_TRUE(bench.Submit(std::move(given)).ok());
  EXPECT_GT(bench.pool->stats().referenced, 5u);
  bench.engine.reset();
  ExpectClean(bench);
}

}  // namespace
}  // namespace baton
