// A warming job on virtual time: what it computes, in which order and how often, whatever the workers and the store do to it.
#include "app/warm_driver.h"

#include <kj/timer.h>

#include <set>

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

using testing::HasSubstr;

constexpr uint32_t kBlock = 4;

BlockKey Root(const std::string& tenant) { return RootKey({{}, "layout", "exact", tenant}); }
std::vector<BlockKey> ChainOf(const std::string& tenant, std::span<const TokenId> tokens) { return KeyChain(Root(tenant), tokens, kBlock); }

/// Blocks named by letters.
std::vector<TokenId> Prompt(const std::string& letters) {
  std::vector<TokenId> tokens;
  for (const char c : letters) tokens.insert(tokens.end(), kBlock, c);
  return tokens;
}
std::string Letters(std::span<const TokenId> tokens) {
  std::string letters;
  for (size_t i = 0; i < tokens.size(); i += kBlock) letters += static_cast<char>(tokens[i]);
  return letters;
}

class PlayedStore final : public WarmStore {
 public:
  kj::Promise<Result<size_t>> Held(BlockKey, std::vector<BlockKey> keys) override {
    longest_question = std::max(longest_question, keys.size());
    if (!error.ok()) return Result<size_t>(error);
    size_t count = 0;
    while (count < keys.size() && blocks.contains(keys[count])) ++count;
    return Result<size_t>(count);
  }
  kj::Promise<Status> Flush() override {
    ++flushes;
    return flush_error;
  }
  void Put(std::span<const BlockKey> keys) {
    for (const BlockKey& key : keys) {
      if (blocks.size() < capacity) blocks.insert(key);
    }
  }
  std::set<BlockKey> blocks;
  size_t capacity = SIZE_MAX, longest_question = 0;
  Status error, flush_error;
  int flushes = 0;
};

/// Computes each prompt in a virtual second and writes its blocks a tenth later; `refuse` may say no.
class PlayedWorkers final : public Backend {
 public:
  PlayedWorkers(kj::Timer& timer, PlayedStore& store) : timer_(timer), store_(store) { card_.block_tokens = kBlock; }
  ~PlayedWorkers() noexcept override = default;
  struct Run : GenerationHandle {
    explicit Run(PlayedWorkers& workers) : workers(workers) { workers.most = std::max(workers.most, ++workers.running); }
    ~Run() noexcept override { --workers.running; }
    PlayedWorkers& workers;
    kj::Promise<void> work = nullptr;
  };
  const ModelCard& card() const override { return card_; }
  std::unique_ptr<GenerationHandle> Generate(GenerateRequest request, GenerationSink& sink) override {
    requests.push_back(request);
    auto run = std::make_unique<Run>(*this);
    const Status refusal = refuse ? refuse(request) : OkStatus();
    if (!refusal.ok()) {
      run->work = timer_.afterDelay(10 * kj::MILLISECONDS).then([&sink, refusal, this] { sink.OnError(refusal, retry_after_s); }).eagerlyEvaluate(nullptr);
      return run;
    }
    run->work = timer_.afterDelay(1 * kj::SECONDS).then([this, &sink, request] {
      const auto chain = ChainOf(request.tenant, request.prompt);
      size_t before = 0;
      while (before < chain.size() && (store_.blocks.contains(chain[before]) || unwritten_.contains(chain[before]))) ++before;
      computed += chain.size() - before;
      unwritten_.insert(chain.begin(), chain.end());
      writes_.add(timer_.afterDelay(100 * kj::MILLISECONDS).then([this, chain] { store_.Put(chain); }));
      sink.OnEnd(FinishReason::kLength, {});
    }).eagerlyEvaluate(nullptr);
    return run;
  }
  Status Health() override { return OkStatus(); }
  kj::Promise<Result<std::string>> ClusterJson() override { return Result<std::string>(std::string()); }
  kj::Promise<Result<std::string>> ExplainRoute(std::vector<TokenId>, uint32_t, std::string) override { return Result<std::string>(std::string()); }
  kj::Promise<Result<std::string>> ExplainRequest(RequestId) override { return Result<std::string>(std::string()); }
  kj::Promise<std::string> MetricsText() override { return std::string(); }
  kj::Promise<Status> Drain(WorkerId) override { return OkStatus(); }
  kj::Promise<Result<HeldBlocks>> HoldCache(CacheRecord, HoldMode) override { return Result<HeldBlocks>(HeldBlocks{}); }
  kj::Promise<Status> ReleaseCache(std::string) override { return OkStatus(); }
  kj::Promise<std::vector<CacheRecord>> StoredCaches(std::string, std::string) override { return std::vector<CacheRecord>{}; }
  kj::Promise<Result<std::string>> ExplainCache(std::vector<TokenId>, std::string) override { return Result<std::string>(std::string()); }
  kj::Promise<Status> SetRole(WorkerId, std::string) override { return OkStatus(); }

  std::function<Status(const GenerateRequest&)> refuse;
  double retry_after_s = 0.5;
  std::vector<GenerateRequest> requests;
  uint32_t running = 0, most = 0;
  size_t computed = 0;

 private:
  struct Errors final : kj::TaskSet::ErrorHandler {
    void taskFailed(kj::Exception&& e) override { ADD_FAILURE() << e.getDescription().cStr(); }
  };
  kj::Timer& timer_;
  PlayedStore& store_;
  ModelCard card_;
  std::set<BlockKey> unwritten_;
  Errors errors_;
  kj::TaskSet writes_{errors_};
};

class WarmDriverTest : public testing::Test {
 public:
  ~WarmDriverTest() noexcept override = default;

 protected:
  void Add(const std::string& letters, const std::string& tenant = "") { plan_->Add(Root(tenant), tenant, Prompt(letters)); }
  void Hold(const std::string& letters, const std::string& tenant = "") { store_.Put(ChainOf(tenant, Prompt(letters))); }
  bool Holds(const std::string& letters, const std::string& tenant = "") {
    const auto chain = ChainOf(tenant, Prompt(letters));
    return std::all_of(chain.begin(), chain.end(), [&](const BlockKey& key) { return store_.blocks.contains(key); });
  }
  /// Runs the job until it ends or `seconds` of virtual time have passed; then it is killed, and the status is kCancelled.
  Status Run(double seconds = 1e6) {
    progress_ = {};
    std::optional<Status> ended;
    WarmDriver driver(*plan_, limits_, progress_, workers_, store_, timer_, clock_);
    auto job = driver.Run().then([&ended](Status status) { ended = status; }).eagerlyEvaluate(nullptr);
    const Instant end = clock_.Now() + FromSeconds(seconds);
    scope_.poll();
    while (!ended && clock_.Now() < end) {
      KJ_IF_MAYBE(next, timer_.nextEvent()) {
        const auto step = *next - timer_.now();
        clock_.Advance(std::chrono::nanoseconds(step / kj::NANOSECONDS));
        timer_.advanceTo(*next);
      } else {
        ADD_FAILURE() << "the job waits for nothing";
        break;
      }
      scope_.poll();
    }
    return ended ? *ended : CancelledError("killed");
  }
  std::vector<std::string> Asked() const {
    std::vector<std::string> out;
    for (const GenerateRequest& request : workers_.requests) out.push_back(Letters(request.prompt));
    return out;
  }

  kj::EventLoop loop_;
  kj::WaitScope scope_{loop_};
  kj::TimerImpl timer_{kj::origin<kj::TimePoint>()};
  FakeClock clock_;
  std::optional<WarmPlan> plan_{std::in_place, kBlock};
  WarmLimits limits_;
  WarmProgress progress_;
  PlayedStore store_;
  PlayedWorkers workers_{timer_, store_};
};

TEST_F(WarmDriverTest, EachBlockIsComputedOnceAndTheStoreIsFlushed) {
  Add("ABCD");
  Add("ABCEF");
  Add("XY", "tenant");
  ASSERT_TRUE(Run().ok());
  EXPECT_TRUE(Holds("ABCD") && Holds("ABCEF") && Holds("XY", "tenant"));
  EXPECT_EQ(workers_.computed, plan_->blocks());
  EXPECT_EQ(progress_.blocks, 8u);
  EXPECT_EQ(progress_.to_do, 8u);
  EXPECT_EQ(progress_.skipped + progress_.failed + progress_.left_out, 0u);
  EXPECT_TRUE(progress_.complete);
  EXPECT_EQ(store_.flushes, 1);
  std::set<uint64_t> ids;
  for (const GenerateRequest& request : workers_.requests) {
    EXPECT_EQ(request.max_tokens, 1u);
    EXPECT_EQ(request.sampling.temperature, 0);
    EXPECT_LT(request.priority, 0) << "whoever waits for an answer goes first";
    EXPECT_EQ(request.tenant, Letters(request.prompt) == "XY" ? "tenant" : "");
    EXPECT_TRUE(ids.insert(request.id.value).second) << "requests are told apart";
  }
  EXPECT_EQ(Asked().front(), "ABC") << "what two prompts share";
}

TEST_F(WarmDriverTest, NothingToDoIsDone) {
  EXPECT_TRUE(Run().ok());
  EXPECT_TRUE(progress_.complete);
  Add("ABC");
  Hold("ABC");
  EXPECT_TRUE(Run().ok());
  EXPECT_TRUE(progress_.complete);
  EXPECT_EQ(progress_.skipped, 3u);
  EXPECT_EQ(progress_.to_do, 0u);
  EXPECT_TRUE(workers_.requests.empty());
}

/// Random forests, stores that hold some of them, limits, and kills at any time: each block is computed once, none is forgotten.
TEST_F(WarmDriverTest, KilledAndRunAgainItComputesEachBlockOnce) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(seed);
    store_.blocks.clear();
    PlayedWorkers workers(timer_, store_);
    std::vector<std::string> prompts;
    for (uint64_t n = 1 + random.Below(12); n > 0; --n) {
      std::string letters = prompts.empty() ? "" : prompts[random.Below(prompts.size())];
      letters.resize(random.Below(letters.size() + 1));
      for (uint64_t more = 1 + random.Below(6); more > 0; --more) letters += static_cast<char>('A' + random.Below(4));
      prompts.push_back(letters);
    }
    std::set<BlockKey> wanted;
    for (const std::string& p : prompts) {
      const auto chain = ChainOf("", Prompt(p));
      wanted.insert(chain.begin(), chain.end());
    }
    Hold(prompts[random.Below(prompts.size())]);
    const size_t held = store_.blocks.size();
    WarmLimits limits;
    limits.requests = static_cast<uint32_t>(1 + random.Below(4));
    limits.unwritten_blocks = static_cast<uint32_t>(1 + random.Below(10));
    size_t computed = 0, skipped = held;
    Status status = CancelledError("");
    for (int run = 0; !status.ok(); ++run) {
      ASSERT_LT(run, 100) << "seed " << seed << " makes no progress";
      WarmPlan plan(kBlock);
      for (const std::string& p : prompts) plan.Add(Root(""), "", Prompt(p));
      ASSERT_EQ(plan.blocks(), wanted.size());
      WarmProgress progress;
      std::optional<Status> ended;
      {
        WarmDriver driver(plan, limits, progress, workers, store_, timer_, clock_);
        auto job = driver.Run().then([&ended](Status s) { ended = s; }).eagerlyEvaluate(nullptr);
        scope_.poll();
        EXPECT_EQ(progress.skipped, skipped) << "seed " << seed;
        for (uint64_t events = 40 + random.Below(200); !ended && events > 0; --events) {
          KJ_IF_MAYBE(next, timer_.nextEvent()) {
            clock_.Advance(std::chrono::nanoseconds((*next - timer_.now()) / kj::NANOSECONDS));
            timer_.advanceTo(*next);
          }
          scope_.poll();
        }
      }
      // What a worker had computed when the job died is written all the same.
      for (int i = 0; i < 50; ++i) {
        clock_.Advance(std::chrono::milliseconds(20));
        timer_.advanceTo(timer_.now() + 20 * kj::MILLISECONDS);
        scope_.poll();
      }
      EXPECT_LE(progress.blocks, progress.to_do);
      computed += progress.blocks;
      skipped = store_.blocks.size();
      if (ended) status = *ended;
      EXPECT_EQ(workers.running, 0u) << "a job that died left something running";
    }
    EXPECT_EQ(store_.blocks, wanted) << "seed " << seed;
    EXPECT_EQ(workers.computed, wanted.size() - held) << "seed " << seed << ": a block was computed twice";
    EXPECT_LE(computed, wanted.size() - held);
    EXPECT_LE(workers.most, limits.requests) << "seed " << seed;
  }
}

TEST_F(WarmDriverTest, NoMoreThanTheStoreCanStillTakeIsUnderWay) {
  for (char c = 'A'; c < 'K'; ++c) Add(std::string(3, c) + "Z");
  limits_.unwritten_blocks = 9;
  limits_.requests = 100;
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(workers_.most, 2u) << "two of four blocks, a third would be twelve";
  EXPECT_TRUE(progress_.complete);
}

TEST_F(WarmDriverTest, TheRateIsKept) {
  for (char c = 'A'; c < 'K'; ++c) Add(std::string(2, c));
  limits_.tokens_per_s = 2;  // 80 tokens: 40 s, but for the last step's own
  const Instant begin = clock_.Now();
  ASSERT_TRUE(Run().ok());
  const double took_s = ToSeconds(clock_.Now() - begin);
  EXPECT_GE(took_s, 36.0);
  EXPECT_LE(took_s, 42.0);
}

TEST_F(WarmDriverTest, ABusyClusterIsAskedAgainUntilItGivesUp) {
  Add("AB");
  int refusals = 5;
  workers_.refuse = [&refusals](const GenerateRequest&) { return refusals-- > 0 ? ExhaustedError("full") : OkStatus(); };
  ASSERT_TRUE(Run().ok());
  EXPECT_TRUE(Holds("AB"));
  EXPECT_EQ(workers_.requests.size(), 6u);
  EXPECT_TRUE(progress_.complete);

  store_.blocks.clear();
  workers_.requests.clear();
  workers_.refuse = [](const GenerateRequest&) { return ExhaustedError("full"); };
  limits_.refused_timeout_s = 10;
  plan_.emplace(kBlock), Add("AB"), Add("CD");
  const Instant begin = clock_.Now();
  const Status status = Run();
  EXPECT_EQ(status.code(), StatusCode::kExhausted);
  EXPECT_NEAR(ToSeconds(clock_.Now() - begin), 10, 1);
  EXPECT_EQ(progress_.failed, 4u);
  EXPECT_FALSE(progress_.complete);
  EXPECT_LT(workers_.requests.size(), 50u) << "it waits as long as it was told";
}

TEST_F(WarmDriverTest, APromptThatIsRefusedFailsAloneWithWhatFollowsIt) {
  Add("ABCD");
  Add("ABEF");
  Add("XY");
  workers_.refuse = [](const GenerateRequest& r) { return Letters(r.prompt) == "AB" ? InvalidError("too long for every worker") : OkStatus(); };
  EXPECT_TRUE(Run().ok()) << "the others say nothing is wrong";
  EXPECT_EQ(progress_.failed, 6u) << "AB, and CD and EF behind it";
  EXPECT_EQ(progress_.blocks, 2u);
  EXPECT_TRUE(Holds("XY"));
  EXPECT_FALSE(progress_.complete);
  EXPECT_THAT(Asked(), testing::UnorderedElementsAre("AB", "XY")) << "what follows is not even tried";
}

TEST_F(WarmDriverTest, WithoutWorkersItEndsAndKeepsWhatIsDone) {
  for (char c = 'A'; c < 'K'; ++c) Add(std::string(1, c));
  limits_.requests = 2;
  workers_.refuse = [this](const GenerateRequest&) { return workers_.requests.size() > 4 ? UnavailableError("no worker of role prefill") : OkStatus(); };
  const Status status = Run();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("no worker"));
  EXPECT_LE(workers_.requests.size(), 6u) << "nothing will go better";
  EXPECT_EQ(progress_.blocks, store_.blocks.size());
  EXPECT_GE(progress_.blocks, 4u);
  EXPECT_FALSE(progress_.complete);
  workers_.refuse = nullptr;
  workers_.requests.clear();
  plan_.emplace(kBlock);
  for (char c = 'A'; c < 'K'; ++c) Add(std::string(1, c));
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(progress_.skipped + progress_.blocks, 10u);
  EXPECT_TRUE(progress_.complete);
}

TEST_F(WarmDriverTest, AStoreThatTakesNoMoreIsSaid) {
  Add("ABCD");
  store_.capacity = 2;
  limits_.write_timeout_s = 7;
  const Status status = Run();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("took 2 of 4 computed blocks in 7 s"));
  EXPECT_THAT(status.message(), HasSubstr("store.disk_bytes"));
  EXPECT_EQ(progress_.failed, 4u);
}

TEST_F(WarmDriverTest, AStoreThatCannotBeAskedEndsTheJobBeforeAnyWork) {
  Add("AB");
  store_.error = UnavailableError("there is no store in this cluster");
  EXPECT_EQ(Run().message(), "there is no store in this cluster");
  EXPECT_TRUE(workers_.requests.empty());
}

TEST_F(WarmDriverTest, AFlushThatFailsIsNoSuccess) {
  Add("AB");
  store_.flush_error = UnavailableError("disk failed");
  EXPECT_EQ(Run().message(), "disk failed");
  EXPECT_FALSE(progress_.complete) << "what is not on disk is not done";
}

TEST_F(WarmDriverTest, ASmallStoreGetsWhatIsUsedMost) {
  Add("ABC");
  Add("ABD");
  Add("XYZ");
  limits_.max_blocks = 4;
  ASSERT_TRUE(Run().ok());
  EXPECT_TRUE(Holds("AB"));
  EXPECT_EQ(progress_.blocks, store_.blocks.size());
  EXPECT_LE(store_.blocks.size(), 4u);
  EXPECT_EQ(progress_.blocks + progress_.left_out, plan_->blocks());
  EXPECT_FALSE(progress_.complete);
  EXPECT_FALSE(Holds("XYZ"));
}

TEST_F(WarmDriverTest, HeldBlocksCountAgainstTheRoom) {
  Add("ABC");
  Add("XY");
  Hold("ABC");
  limits_.max_blocks = 3;
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(progress_.skipped, 3u);
  EXPECT_EQ(progress_.left_out, 2u);
  EXPECT_TRUE(workers_.requests.empty());
  plan_.emplace(kBlock), Add("ABC"), Add("XY");
  limits_.max_blocks = 0;
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(progress_.left_out, 2u);
}

TEST_F(WarmDriverTest, LongPromptsAreAskedForAndComputedInPieces) {
  std::vector<TokenId> tokens;
  for (TokenId i = 0; i < 3000; ++i) tokens.insert(tokens.end(), kBlock, i);
  plan_->Add(Root(""), "", tokens);
  const auto chain = ChainOf("", tokens);
  store_.Put(std::span(chain).first(2500));
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(progress_.skipped, 2500u);
  EXPECT_EQ(progress_.blocks, 500u);
  EXPECT_LE(store_.longest_question, 1024u);
  EXPECT_EQ(workers_.requests.size(), 8u) << "64 blocks at most: what a kill loses is bounded";
  for (size_t i = 0; i + 1 < workers_.requests.size(); ++i) {
    EXPECT_LT(workers_.requests[i].prompt.size(), workers_.requests[i + 1].prompt.size()) << "one after the other";
  }
  EXPECT_EQ(workers_.computed, 500u);
}

}  // namespace
}  // namespace baton
