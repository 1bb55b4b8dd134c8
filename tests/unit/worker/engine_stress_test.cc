// Hundreds of random requests on the fake model in pools that are too small for them, with cancels, deadlines, priorities,
// hand-offs and moves: each ends exactly once, with the plain answer as far as it got, and no block is lost.
#include "base/bytes.h"
#include "base/random.h"
#include "engine_support.h"

namespace baton {
namespace {

struct Plan {
  EngineRequest request;
  Answer plain;
  size_t submit_step = 0, cancel_step = SIZE_MAX, release_step = 0;
};

class Stress {
 public:
  explicit Stress(uint64_t seed) : random_(seed), fake_(SmallModel(50, 4)), watched_(*fake_) {
    BenchOptions options;
    options.blocks = 12 + random_.Below(30);
    options.config.max_running = static_cast<uint32_t>(1 + random_.Below(8));
    options.config.step_token_budget = static_cast<uint32_t>(1 + random_.Below(40));
    options.config.prefill_chunk_tokens = static_cast<uint32_t>(1 + random_.Below(20));
    options.config.speculative_tokens = static_cast<uint32_t>(random_.Below(7));
    bench_ = std::make_unique<EngineBench>(watched_, options);
  }

  void Run(size_t count) {
    for (uint64_t id = 1; id <= count; ++id) plans_[id] = MakePlan(id);
    for (size_t step = 0, idle = 0; idle < 5; ++step) {
      ASSERT_LT(step, 200000u) << "the engine does not come to an end";
      bool waiting = Act(step);
      bench_->clock.Advance(FromSeconds(0.001));
      if (!bench_->engine->Step() && !waiting) ++idle;
      else idle = 0;
    }
    for (auto& [id, plan] : plans_) bench_->engine->ReleaseHeld(RequestId(id));
    for (const auto& [id, plan] : plans_) Check(id, plan);
    EXPECT_EQ(bench_->engine->load().running + bench_->engine->load().waiting, 0u);
    EXPECT_EQ(bench_->pool->stats().referenced, 0u);
  }
  uint64_t preemptions() const { return bench_->engine->load().preemptions; }
  uint64_t accepted() const { return bench_->engine->load().accepted_tokens; }
  size_t ended_by(FinishReason reason) const {
    size_t n = 0;
    for (const auto& [id, answer] : bench_->recorder->answers) n += answer.reason == reason;
    return n;
  }

 private:
  Plan MakePlan(uint64_t id) {
    Plan plan;
    // A few shared beginnings, so that prefixes are found, deferred and evicted.
    auto prompt = TestPrompt(1 + random_.Below(20), random_.Below(4));
    const auto tail = TestPrompt(random_.Below(6), id);
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    const auto answer = static_cast<uint32_t>(1 + random_.Below(20));
    plan.request = MakeRequest(id, prompt, answer, random_.Below(2) == 0 ? GreedyParams() : SeededParams(id));
    GenerateRequest& g = plan.request.request;
    g.priority = random_.Below(4) == 0 ? static_cast<int32_t>(random_.Below(3)) : 0;
    if (random_.Below(4) == 0) g.stop_tokens = {static_cast<TokenId>(random_.Below(50)), static_cast<TokenId>(random_.Below(50))};
    if (random_.Below(12) == 0) g.deadline_s = 0.001 * static_cast<double>(1 + random_.Below(60));
    plan.request.use_pool = random_.Below(6) != 0;
    plan.plain = PlainAnswer(*fake_, g);
    if (random_.Below(2) == 0) {  // guesses, some of them right
      g.prediction = plan.plain.tokens;
      for (size_t i = random_.Below(3); i < g.prediction.size(); i += 1 + random_.Below(6)) g.prediction[i] = static_cast<TokenId>(random_.Below(50));
    }
    if (random_.Below(5) == 0) {
      plan.request.prefill_only = true;
      plan.request.push_layers = random_.Below(3) != 0;
    }
    plan.submit_step = random_.Below(300);
    if (random_.Below(5) == 0) plan.cancel_step = plan.submit_step + random_.Below(80);
    plan.release_step = plan.submit_step + random_.Below(200);
    return plan;
  }

  /// Submits, cancels and releases what is due; true while something is still to come.
  bool Act(size_t step) {
    bool more = false;
    for (auto& [id, plan] : plans_) {
      EXPECT_TRUE(step != plan.submit_step || bench_->Submit(plan.request).ok()) << id;
      if (step == plan.cancel_step) bench_->engine->Cancel(RequestId(id));
      if (step == plan.release_step) bench_->engine->ReleaseHeld(RequestId(id));
      more = more || step < std::max({plan.submit_step, plan.release_step, plan.cancel_step == SIZE_MAX ? 0 : plan.cancel_step});
    }
    return more;
  }

  void Check(uint64_t id, const Plan& plan) {
    const Answer& got = bench_->Get(id);
    ASSERT_TRUE(got.ended) << id;
    ASSERT_LE(got.tokens.size(), plan.plain.tokens.size()) << id;
    EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), plan.plain.tokens.begin())) << "tokens of " << id;
    EXPECT_TRUE(std::equal(got.logprob_bits.begin(), got.logprob_bits.end(), plan.plain.logprob_bits.begin())) << "logprobs of " << id;
    switch (got.reason) {
      case FinishReason::kNone:
        EXPECT_TRUE(plan.request.prefill_only && got.tokens.size() == 1) << id;
        break;
      case FinishReason::kStop:
      case FinishReason::kLength:
        EXPECT_EQ(got.tokens.size(), plan.plain.tokens.size()) << id;
        break;
      case FinishReason::kCancelled:
        EXPECT_NE(plan.cancel_step, SIZE_MAX) << id;
        break;
      case FinishReason::kError:
        EXPECT_EQ(got.status.code(), StatusCode::kDeadline) << id << got.status.ToString();
        break;
    }
    CheckLayers(id, plan);
  }

  void CheckLayers(uint64_t id, const Plan& plan) {
    const auto found = bench_->recorder->layers.find(id);
    if (found == bench_->recorder->layers.end()) return;
    EXPECT_TRUE(plan.request.push_layers);
    uint32_t next = found->second[0].begin;
    for (size_t i = 0; i < found->second.size(); i += 2) {
      ASSERT_LT(i + 1, found->second.size());
      for (uint32_t layer = 0; layer < 2; ++layer) {
        const LayerReport& report = found->second[i + layer];
        EXPECT_EQ(report.layer, layer);
        EXPECT_EQ(report.begin, next);
        EXPECT_EQ(report.blocks, found->second[0].blocks);
      }
      next = found->second[i].end;
    }
    EXPECT_TRUE(bench_->Get(id).reason != FinishReason::kNone || next == plan.request.request.prompt.size()) << id;
  }

  Random random_;
  std::unique_ptr<Model> fake_;
  WatchedModel watched_;
  std::unique_ptr<EngineBench> bench_;
  std::map<uint64_t, Plan> plans_;
};

TEST(EngineStress, RandomRequestsInTinyPools) {
  uint64_t preemptions = 0, accepted = 0;
  size_t stopped = 0, cancelled = 0, failed = 0, handed = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Stress stress(seed);
    stress.Run(60);
    preemptions += stress.preemptions();
    accepted += stress.accepted();
    stopped += stress.ended_by(FinishReason::kStop);
    cancelled += stress.ended_by(FinishReason::kCancelled);
    failed += stress.ended_by(FinishReason::kError);
    handed += stress.ended_by(FinishReason::kNone);
    if (testing::Test::HasFailure()) break;
  }
  EXPECT_GT(preemptions, 100u);
  EXPECT_GT(accepted, 500u);
  EXPECT_GT(stopped, 50u);
  EXPECT_GT(cancelled, 50u);
  EXPECT_GT(failed, 20u);
  EXPECT_GT(handed, 100u);
}

/// Collects under a lock: the engine runs on its own thread.
class SharedListener final : public EngineListener {
 public:
  explicit SharedListener(BlockPool& pool) : pool_(pool) {}
  void OnToken(RequestId id, const TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    tokens_[id.value].push_back(event.token);
  }
  void OnEnd(RequestId id, FinishReason reason, const RequestStats&, const Status&) override {
    std::lock_guard lock(mutex_);
    EXPECT_TRUE(ends_.emplace(id.value, reason).second) << "a second end of " << id.value;
    changed_.notify_all();
  }
  void OnSealed(RequestId, SealedBlock block) override { pool_.Unref(block.block); }
  void OnLayer(RequestId, uint32_t, uint32_t, uint32_t, const std::vector<BlockId>&) override {}

  bool WaitForEnds(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return ends_.size() >= count; });
  }
  std::map<uint64_t, std::vector<TokenId>> tokens() {
    std::lock_guard lock(mutex_);
    return tokens_;
  }
  std::map<uint64_t, FinishReason> ends() {
    std::lock_guard lock(mutex_);
    return ends_;
  }

 private:
  BlockPool& pool_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, std::vector<TokenId>> tokens_;
  std::map<uint64_t, FinishReason> ends_;
};

TEST(EngineThread, ServesManyThreadsAndLosesNothing) {
  const auto model = SmallModel();
  const SystemClock clock;
  auto pool = std::move(BlockPool::Create(40, model->kv_layout().BlockBytes())).value();
  SharedListener listener(*pool);
  const auto engine = Engine::Create({.max_running = 6}, *model, *pool, listener, clock);
  constexpr uint64_t kThreads = 4, kEach = 40;
  {
    const EngineThread thread(*engine);
    std::vector<std::thread> clients;
    for (uint64_t t = 0; t < kThreads; ++t) {
      clients.emplace_back([&, t] {
        for (uint64_t i = 1; i <= kEach; ++i) {
          const uint64_t id = t * kEach + i;
          auto request = MakeRequest(id, TestPrompt(1 + id % 13, id % 7), 5, SeededParams(id));
          request.prefill_only = request.push_layers = id % 9 == 0;
          EXPECT_TRUE(engine->Submit(std::move(request)).ok());
          if (id % 5 == 0) engine->Cancel(RequestId(id));
          if (id % 9 == 0) engine->ReleaseHeld(RequestId(id));
          (void)engine->load();
        }
      });
    }
    for (std::thread& client : clients) client.join();
    ASSERT_TRUE(listener.WaitForEnds(kThreads * kEach));
  }
  const auto tokens = listener.tokens();
  for (const auto& [id, reason] : listener.ends()) {
    if (reason != FinishReason::kLength) continue;
    EXPECT_EQ(tokens.at(id), PlainAnswer(*model, MakeRequest(id, TestPrompt(1 + id % 13, id % 7), 5, SeededParams(id)).request).tokens) << id;
  }
  EXPECT_EQ(pool->stats().referenced, 0u);
}

TEST(EngineThread, ItsEndCancelsWhatRuns) {
  const auto model = SmallModel();
  const SystemClock clock;
  auto pool = std::move(BlockPool::Create(20000, model->kv_layout().BlockBytes())).value();
  SharedListener listener(*pool);
  const auto engine = Engine::Create({.max_running = 2}, *model, *pool, listener, clock);
  auto thread = std::make_unique<EngineThread>(*engine);
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(engine->Submit(MakeRequest(id, TestPrompt(9, id), 15000)).ok());
  thread.reset();
  ASSERT_EQ(listener.ends().size(), 5u);
  for (const auto& [id, reason] : listener.ends()) EXPECT_EQ(reason, FinishReason::kCancelled);
  EXPECT_EQ(pool->stats().referenced, 0u);
}

}  // namespace
}  // namespace baton
