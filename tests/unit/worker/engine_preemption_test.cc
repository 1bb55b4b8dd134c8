// A request that gave its blocks to others: they stay in the pool while there is room, what left it is brought back where the
// listener can, and the answer is the plain one whatever happened in between.
#include "base/bytes.h"
#include "engine_support.h"

namespace baton {
namespace {

/// A recorder that also stands for the store: it keeps the bytes of every sealed block and brings them back when told to.
class StoringRecorder final : public Recorder {
 public:
  StoringRecorder(BlockPool& pool, Model& model) : Recorder(pool), pool_(pool), bytes_(model.kv_layout().BlockBytes()) {}
  void OnSealed(RequestId id, SealedBlock block) override {
    stored_[block.key.Prefix64()] = {std::vector<std::byte>(pool_.data(block.block), pool_.data(block.block) + bytes_), block.parent, block.digest};
    Recorder::OnSealed(id, std::move(block));
  }
  bool OnResume(RequestId id, std::span<const BlockKey> keys) override {
    asked.push_back({id, {keys.begin(), keys.end()}});
    return answers_later;
  }
  /// What the store would bring: the blocks that are here, then `most` stored ones.
  std::vector<BlockId> Bring(const std::vector<BlockKey>& keys, size_t most = SIZE_MAX) {
    std::vector<BlockId> out = pool_.Lookup(keys);
    for (size_t i = out.size(); i < keys.size() && most > 0; ++i, --most) {
      const auto stored = stored_.find(keys[i].Prefix64());
      auto fresh = stored == stored_.end() ? Result<std::vector<BlockId>>(NotFoundError("not stored")) : pool_.Allocate(1);
      if (!fresh.ok()) break;
      std::memcpy(pool_.data((*fresh)[0]), stored->second.bytes.data(), bytes_);
      pool_.Publish((*fresh)[0], keys[i], stored->second.parent, stored->second.digest);
      out.push_back((*fresh)[0]);
      ++brought;
    }
    return out;
  }

  struct Asked {
    RequestId id;
    std::vector<BlockKey> keys;
  };
  std::vector<Asked> asked;
  bool answers_later = true;
  size_t brought = 0;

 private:
  struct Stored {
    std::vector<std::byte> bytes;
    BlockKey parent;
    Digest128 digest;
  };
  BlockPool& pool_;
  const size_t bytes_;
  std::map<uint64_t, Stored> stored_;
};

class Preemption : public EngineTest {
 protected:
  void Make(size_t blocks, EngineConfig config = {}) {
    config.speculative_tokens = 0;
    pool_ = std::move(BlockPool::Create(blocks, model_.kv_layout().BlockBytes())).value();
    recorder_ = std::make_unique<StoringRecorder>(*pool_, model_);
    engine_ = Engine::Create(config, model_, *pool_, *recorder_, clock_);
  }
  /// A low request decodes, then a high one takes all the room until it ends; gives the low one's plain answer.
  Answer PreemptByPriority(uint32_t low_answer, bool use_pool = true) {
    auto low = MakeRequest(1, TestPrompt(10, 1), low_answer, SeededParams(1));
    low.use_pool = use_pool;
    EXPECT_TRUE(engine_->Submit(low).ok());
    for (int i = 0; i < 8; ++i) engine_->Step();  // 10 tokens of prompt and 7 of the answer are computed: four full blocks
    auto high = MakeRequest(2, TestPrompt(26, 2), 3, GreedyParams());
    high.request.priority = 1;
    EXPECT_TRUE(engine_->Submit(high).ok());
    return PlainAnswer(*fake_, low.request);
  }
  void StepUntilAsked() {
    for (int i = 0; i < 200 && recorder_->asked.empty(); ++i) engine_->Step();
    ASSERT_FALSE(recorder_->asked.empty());
  }
  void Drain() {
    for (int i = 0; i < 2000 && engine_->Step(); ++i) {
    }
  }
  void ExpectIdle() {
    EXPECT_EQ(engine_->load().running + engine_->load().waiting, 0u);
    EXPECT_EQ(pool_->stats().referenced, 0u);
  }

  FakeClock clock_;
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<StoringRecorder> recorder_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(Preemption, BlocksStayInThePoolWhileThereIsRoom) {
  Make(60, {.max_running = 1});  // a slot is taken, no block is
  const Answer plain = PreemptByPriority(20);
  model_.tokens = 0;
  Drain();
  EXPECT_EQ(engine_->load().preemptions, 1u);
  EXPECT_TRUE(recorder_->asked.empty()) << "nothing was lost";
  ExpectSameAnswer(recorder_->answers[1], plain, "parked in the pool");
  // The high one's 26 + 2, and of the low one only what no full block held: position 16 on.
  EXPECT_EQ(model_.tokens, 28u + (10 + 20 - 1 - 16));
  ExpectIdle();
}

TEST_F(Preemption, LostBlocksAreBroughtBackAndNotComputed) {
  Make(8);
  const Answer plain = PreemptByPriority(20);
  StepUntilAsked();
  EXPECT_EQ(recorder_->asked[0].id, RequestId(1));
  EXPECT_EQ(recorder_->asked[0].keys.size(), 4u);
  EXPECT_LT(pool_->Peek(recorder_->asked[0].keys), 4u);
  const size_t before = model_.tokens;
  engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys));
  Drain();
  EXPECT_EQ(model_.tokens - before, 10u + 20 - 1 - 16) << "a brought block was computed again";
  EXPECT_GT(recorder_->brought, 0u);
  ExpectSameAnswer(recorder_->answers[1], plain, "brought back");
  EXPECT_EQ(recorder_->asked.size(), 1u);
  ExpectIdle();
}

TEST_F(Preemption, WhatTheStoreLacksIsComputed) {
  for (const size_t most : {0, 1, 2, 3}) {
    Make(8);
    const Answer plain = PreemptByPriority(20);
    StepUntilAsked();
    const size_t before = model_.tokens, have = pool_->Peek(recorder_->asked[0].keys);
    engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys, most));
    Drain();
    EXPECT_EQ(model_.tokens - before, 29 - 4 * std::min<size_t>(4, have + most));
    ExpectSameAnswer(recorder_->answers[1], plain, "brought " + std::to_string(most));
    ExpectIdle();
  }
}

TEST_F(Preemption, AListenerWithoutAStoreMeansComputing) {
  Make(8);
  recorder_->answers_later = false;
  const Answer plain = PreemptByPriority(20);
  Drain();
  EXPECT_EQ(recorder_->asked.size(), 1u);
  ExpectSameAnswer(recorder_->answers[1], plain, "computed again");
  ExpectIdle();
}

TEST_F(Preemption, OthersRunWhileOneWaitsForItsBlocks) {
  Make(8);
  const Answer plain = PreemptByPriority(20);
  StepUntilAsked();
  ASSERT_TRUE(engine_->Submit(MakeRequest(3, TestPrompt(5, 3), 6, GreedyParams())).ok());
  Drain();
  EXPECT_TRUE(recorder_->answers[3].ended) << "a request behind it was held up";
  EXPECT_FALSE(recorder_->answers[1].ended);
  EXPECT_EQ(engine_->load().waiting, 1u);
  engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys));
  Drain();
  ExpectSameAnswer(recorder_->answers[1], plain, "after another");
  ExpectIdle();
}

TEST_F(Preemption, OnlyTheFirstAnswerCounts) {
  Make(8);
  const Answer plain = PreemptByPriority(20);
  StepUntilAsked();
  engine_->Resume(RequestId(1), {});
  engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys));  // a second answer is dropped, its blocks too
  Drain();
  ExpectSameAnswer(recorder_->answers[1], plain, "the first answer counts");
  ExpectIdle();
}

TEST_F(Preemption, CancelledWhileItsBlocksAreOnTheWay) {
  Make(8);
  (void)PreemptByPriority(20);
  StepUntilAsked();
  engine_->Cancel(RequestId(1));
  Drain();
  EXPECT_EQ(recorder_->answers[1].reason, FinishReason::kCancelled);
  engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys));  // too late
  Drain();
  ExpectIdle();
}

TEST_F(Preemption, CancelledBetweenTheAnswerAndTheStep) {
  Make(8);
  (void)PreemptByPriority(20);
  StepUntilAsked();
  engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys));
  engine_->Cancel(RequestId(1));
  Drain();
  EXPECT_EQ(recorder_->answers[1].reason, FinishReason::kCancelled);
  ExpectIdle();
}

TEST_F(Preemption, ItsDeadlineEndsTheWait) {
  Make(8);
  auto low = MakeRequest(1, TestPrompt(10, 1), 20, SeededParams(1));
  low.request.deadline_s = 5;
  ASSERT_TRUE(engine_->Submit(low).ok());
  for (int i = 0; i < 8; ++i) engine_->Step();
  auto high = MakeRequest(2, TestPrompt(26, 2), 3, GreedyParams());
  high.request.priority = 1;
  ASSERT_TRUE(engine_->Submit(high).ok());
  StepUntilAsked();
  clock_.Advance(FromSeconds(6));
  Drain();
  EXPECT_EQ(recorder_->answers[1].status.code(), StatusCode::kDeadline);
  engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys));
  Drain();
  ExpectIdle();
}

TEST_F(Preemption, BroughtBlocksGoBackWhenItIsPreemptedBeforeItStarts) {
  Make(8);
  const Answer plain = PreemptByPriority(20);
  StepUntilAsked();
  engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys));
  auto higher = MakeRequest(3, TestPrompt(30, 9), 2, GreedyParams());
  higher.request.priority = 5;
  ASSERT_TRUE(engine_->Submit(higher).ok());
  Drain();
  EXPECT_TRUE(recorder_->answers[3].ended);
  for (int i = 0; i < 5 && !recorder_->answers[1].ended; ++i) {
    for (const auto& asked : std::exchange(recorder_->asked, {})) engine_->Resume(asked.id, recorder_->Bring(asked.keys));
    Drain();
  }
  ExpectSameAnswer(recorder_->answers[1], plain, "preempted twice");
  ExpectIdle();
}

TEST_F(Preemption, TheEnginesEndGivesBroughtBlocksBack) {
  Make(8);
  (void)PreemptByPriority(20);
  StepUntilAsked();
  engine_->Resume(RequestId(1), recorder_->Bring(recorder_->asked[0].keys));
  engine_.reset();
  EXPECT_EQ(pool_->stats().referenced, 0u);
}

TEST_F(Preemption, WithoutThePoolEverythingIsComputedAgain) {
  Make(8);
  const Answer plain = PreemptByPriority(20, /*use_pool=*/false);
  Drain();
  EXPECT_TRUE(recorder_->asked.empty());
  EXPECT_EQ(engine_->load().preemptions, 1u);
  ExpectSameAnswer(recorder_->answers[1], plain, "no pool");
  ExpectIdle();
}

/// A cancel after each number of steps, of each of three requests that fight for blocks: the others' answers are the plain ones.
TEST_F(Preemption, ACancelAtEachStepHurtsNobody) {
  std::vector<EngineRequest> requests;
  std::vector<Answer> plain;
  for (uint64_t id = 1; id <= 3; ++id) {
    requests.push_back(MakeRequest(id, TestPrompt(4 + 3 * id, id), 12, SeededParams(id)));
    requests.back().request.priority = static_cast<int32_t>(id);
    requests.back().request.prediction = PlainAnswer(*fake_, requests.back().request).tokens;
    plain.push_back(PlainAnswer(*fake_, requests.back().request));
  }
  uint64_t preemptions = 0;
  for (uint64_t victim = 1; victim <= 3; ++victim) {
    for (int at = 0; at < 40; ++at) {
      EngineBench bench(model_, {.config = {.prefill_chunk_tokens = 4, .speculative_tokens = at % 3 == 0 ? 3u : 0u}, .blocks = 9});
      for (int step = 0; step < 400; ++step) {
        if (step % 3 == 0 && step < 9) {
          ASSERT_TRUE(bench.Submit(requests[static_cast<size_t>(step) / 3]).ok());
        }
        if (step == at) bench.engine->Cancel(RequestId(victim));
        bench.engine->Step();
      }
      for (uint64_t id = 1; id <= 3; ++id) {
        const Answer& got = bench.Get(id);
        ASSERT_TRUE(got.ended) << "victim " << victim << " at " << at;
        if (got.reason == FinishReason::kCancelled) {
          EXPECT_EQ(id, victim);
          EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), plain[id - 1].tokens.begin()));
        } else {
          ExpectSameAnswer(got, plain[id - 1], "victim " + std::to_string(victim) + " at " + std::to_string(at));
        }
      }
      preemptions += bench.engine->load().preemptions;
      ExpectClean(bench);
    }
  }
  EXPECT_GT(preemptions, 50u);
}

/// n choices and best_of hold the prompt's full blocks once and a tail of their own.
TEST_F(Preemption, ChoicesShareThePromptsBlocks) {
  constexpr uint64_t kChoices = 8;
  EngineBench bench(model_, {.config = {.speculative_tokens = 0}, .blocks = 100});
  const auto prompt = TestPrompt(42, 1);  // ten full blocks and two tokens
  for (uint64_t id = 1; id <= kChoices; ++id) ASSERT_TRUE(bench.Submit(MakeRequest(id, prompt, 8, SeededParams(id))).ok());
  size_t most = 0;
  while (bench.engine->Step()) {
    most = std::max(most, bench.pool->stats().referenced);
    const auto& answers = bench.recorder->answers;
    if (std::any_of(answers.begin(), answers.end(), [](const auto& entry) { return entry.second.ended; })) break;
    EXPECT_LE(bench.pool->stats().referenced, 10 + kChoices * 2);
  }
  EXPECT_GE(most, 10 + kChoices) << "each has a tail of its own";
  bench.Drain();
  for (uint64_t id = 1; id <= kChoices; ++id) {
    ExpectSameAnswer(bench.Get(id), PlainAnswer(*fake_, MakeRequest(id, prompt, 8, SeededParams(id)).request), "choice " + std::to_string(id));
  }
  ExpectClean(bench);
}

}  // namespace
}  // namespace baton
