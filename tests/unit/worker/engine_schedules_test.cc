// Random schedules against the plain run: whatever the batch, chunk, budget, threads, pool, cache hits, preemption, cancels,
// priorities, moves, speculation and number of choices, each token, each logprob and each byte of the logits it was drawn from
// are those of one sequence computed alone. A few here; BATON_SCHEDULES=10000 for the full count.
#include <bit>
#include <filesystem>

#include "base/bytes.h"
#include "base/random.h"
#include "engine_support.h"

namespace baton {
namespace {

/// Hashes every row of logits, and tells which row a token was drawn from: the engine samples runs in the order of the batch.
class RowWatch final : public Model {
 public:
  explicit RowWatch(Model& inner) : inner_(inner) {}
  const ModelInfo& info() const override { return inner_.info(); }
  const KvLayout& kv_layout() const override { return inner_.kv_layout(); }
  Numerics numerics() const override { return inner_.numerics(); }
  Status Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) override {
    RETURN_IF_ERROR(inner_.Forward(batch, on_layer));
    slices_.clear();
    place_.clear();
    for (const SequenceSlice& slice : batch) {
      if (slice.logit_rows == 0) continue;
      auto& rows = slices_.emplace_back();
      const size_t vocab = info().vocab;
      for (uint32_t row = 0; row < slice.logit_rows; ++row) rows.push_back(Xxh3_64(std::as_bytes(std::span(slice.logits + row * vocab, vocab))));
      rows_ += rows.size();
    }
    return OkStatus();
  }
  /// The bytes behind the next token of `id`.
  uint64_t NextRow(RequestId id) {
    const auto [place, first] = place_.try_emplace(id.value, std::pair<size_t, size_t>(place_.size(), 0));
    if (!first) ++place->second.second;
    return slices_.at(place->second.first).at(place->second.second);
  }
  size_t rows() const { return rows_; }

 private:
  Model& inner_;
  std::vector<std::vector<uint64_t>> slices_;               // of the last pass, those with logits
  std::map<uint64_t, std::pair<size_t, size_t>> place_;     // request to slice and row
  size_t rows_ = 0;
};

/// A request, its plain answer, and the hash of each row of logits.
struct Known {
  GenerateRequest request;
  Answer plain;
  std::vector<uint64_t> rows;
};

struct Totals {
  uint64_t tokens = 0, preempted = 0, cached = 0, cancelled = 0, accepted = 0, rejected = 0, moved = 0;
};

constexpr uint32_t kAnswer = 14, kBlockTokens = 16;

SamplingParams Style(uint64_t i) {
  SamplingParams params = i % 3 == 0 ? GreedyParams() : SeededParams(i / 4);
  if (i % 5 == 0) params.frequency_penalty = -1.5;  // repeats itself: guesses come true without a prediction
  if (i % 7 == 0) params.logit_bias = {{static_cast<TokenId>(i % 40), 4.0f}, {5, -100.0f}};
  return params;
}

std::vector<Known> MakeKnown(Model& model, uint32_t vocab) {
  std::vector<Known> all;
  for (uint64_t i = 0; i < 32; ++i) {
    auto prompt = TestPrompt(8 + 12 * (i % 4), i % 4, vocab);  // four beginnings of 8 to 44 tokens
    const auto tail = TestPrompt(i % 9, i / 2, vocab);
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    if (i % 5 == 0) prompt.insert(prompt.end(), prompt.begin(), prompt.begin() + 8);
    Known known{MakeRequest(1, prompt, kAnswer, Style(i)).request, {}, {}};
    known.request.ignore_eos = i % 2 == 0;
    RowWatch watch(model);
    known.plain = PlainAnswer(watch, known.request, [&] { known.rows.push_back(watch.NextRow(RequestId(1))); });
    known.request.prediction = known.plain.tokens;
    for (size_t j = i % 6; j < known.request.prediction.size(); j += 1 + i % 6) known.request.prediction[j] = static_cast<TokenId>(j);
    all.push_back(std::move(known));
  }
  return all;
}

class Schedule {
 public:
  Schedule(uint64_t seed, Model& model, const std::vector<Known>& known, Totals& totals)
      : random_(seed), watch_(model), known_(known), totals_(totals), bench_(watch_, Options()) {
    bench_.recorder->on_token = [this](RequestId id, const TokenEvent& event) { Compare(id, event); };
  }

  void Run() {
    const size_t count = 1 + random_.Below(6);
    for (uint64_t id = 1; id <= count; ++id) Add(id);
    for (size_t step = 0, idle = 0; idle < 3 && step < 5000; ++step) {
      bool waiting = false;
      for (auto& [id, p] : plans_) {
        if (p.submit_step == step) {
          ASSERT_TRUE(bench_.Submit(p.request).ok());
        }
        if (p.cancel_step == step) bench_.engine->Cancel(RequestId(id));
        waiting |= p.submit_step > step;
      }
      idle = bench_.engine->Step() || waiting ? 0 : idle + 1;
    }
    for (const auto& [id, p] : plans_) Finish(id, p);
    EXPECT_EQ(bench_.pool->stats().referenced, 0u);
    totals_.preempted += bench_.engine->load().preemptions;
  }

 private:
  struct Plan {
    EngineRequest request;
    const Known* known = nullptr;
    uint32_t done = 0;  // tokens it was given as already generated
    size_t submit_step = 0, cancel_step = SIZE_MAX;
  };

  BenchOptions Options() {
    BenchOptions options;
    options.config.max_running = static_cast<uint32_t>(1 + random_.Below(6));
    options.config.step_token_budget = static_cast<uint32_t>(1 + random_.Below(90));
    options.config.prefill_chunk_tokens = static_cast<uint32_t>(1 + random_.Below(70));
    options.config.speculative_tokens = random_.Below(3) == 0 ? 0 : static_cast<uint32_t>(1 + random_.Below(9));
    options.blocks = random_.Below(2) == 0 ? 6 + random_.Below(6) : 60;  // the longest request needs five
    return options;
  }

  void Add(uint64_t id) {
    Plan& p = plans_[id];
    p.known = &known_[random_.Below(known_.size())];
    if (id > 1 && random_.Below(3) == 0) p.known = plans_[id - 1].known;  // the same again: a cache hit, or a choice of one prompt
    p.request.request = p.known->request;
    p.request.request.id = RequestId(id);
    p.request.root = TestRoot();
    if (random_.Below(2) == 0) p.request.request.prediction.clear();
    p.request.request.priority = static_cast<int32_t>(random_.Below(3));
    p.request.use_pool = random_.Below(5) != 0;
    const size_t answer = p.known->plain.tokens.size();
    if (answer > 1 && random_.Below(4) == 0) {  // moved here in the middle
      p.done = static_cast<uint32_t>(1 + random_.Below(answer - 1));
      auto& prompt = p.request.request.prompt;
      prompt.insert(prompt.end(), p.known->plain.tokens.begin(), p.known->plain.tokens.begin() + p.done);
      p.request.request.generated = p.done;
      p.request.request.max_tokens -= p.done;
      ++totals_.moved;
    }
    p.submit_step = random_.Below(25);
    if (random_.Below(6) == 0) p.cancel_step = p.submit_step + random_.Below(15);
  }

  void Compare(RequestId id, const TokenEvent& event) {
    const Plan& p = plans_.at(id.value);
    const size_t at = p.done + bench_.Get(id.value).tokens.size() - 1;
    ASSERT_LT(at, p.known->rows.size()) << "request " << id.value << " does not end";
    EXPECT_EQ(watch_.NextRow(id), p.known->rows[at]) << "logits of request " << id.value << ", token " << at;
    EXPECT_EQ(event.token, p.known->plain.tokens[at]) << "request " << id.value << ", token " << at;
    EXPECT_EQ(std::bit_cast<uint32_t>(event.logprob), p.known->plain.logprob_bits[at]) << "request " << id.value << ", token " << at;
    ++totals_.tokens;
    totals_.accepted += event.predicted;
    totals_.rejected += event.rejected_tokens;
  }

  void Finish(uint64_t id, const Plan& p) {
    const Answer& got = bench_.Get(id);
    EXPECT_TRUE(got.ended) << "request " << id;
    totals_.cached += got.stats.cached_tokens;
    totals_.cancelled += got.reason == FinishReason::kCancelled;
    if (got.reason == FinishReason::kCancelled) {
      EXPECT_NE(p.cancel_step, SIZE_MAX);
    } else {
      EXPECT_EQ(p.done + got.tokens.size(), p.known->plain.tokens.size()) << "request " << id;
    }
  }

  Random random_;
  RowWatch watch_;
  const std::vector<Known>& known_;
  Totals& totals_;
  EngineBench bench_;
  std::map<uint64_t, Plan> plans_;
};

void RunSchedules(const std::vector<Model*>& models, uint32_t vocab, uint64_t count) {
  const std::vector<Known> known = MakeKnown(*models[0], vocab);
  Totals totals;
  for (uint64_t seed = 1; seed <= count; ++seed) {
    SCOPED_TRACE("schedule " + std::to_string(seed));
    Schedule(seed, *models[seed % models.size()], known, totals).Run();
    if (testing::Test::HasFailure()) return;
  }
  // The schedules were what they are meant to be.
  EXPECT_GT(totals.tokens, count * 20);
  EXPECT_GT(totals.preempted, count / 20);
  EXPECT_GT(totals.cached, count * 5);
  EXPECT_GT(totals.cancelled, count / 20);
  EXPECT_GT(totals.accepted, count);
  EXPECT_GT(totals.rejected, count / 2);
  EXPECT_GT(totals.moved, count / 4);
  std::printf("%lu schedules: %lu tokens with equal logits, %lu preemptions, %lu cached tokens, %lu cancelled, guesses %lu right %lu wrong, %lu moved\n",
              count, totals.tokens, totals.preempted, totals.cached, totals.cancelled, totals.accepted, totals.rejected, totals.moved);
}

uint64_t Count(uint64_t few) {
  const char* asked = std::getenv("BATON_SCHEDULES");
  return asked == nullptr ? few : std::strtoull(asked, nullptr, 10);
}

TEST(EngineSchedules, FakeModel) {
  const auto model = SmallModel(300, kBlockTokens);
  RunSchedules({model.get()}, 300, Count(100));
}

TEST(EngineSchedules, TinyCheckpoint) {
  LoadOptions options;
  options.path = BATON_SHARED_DIR "/golden/gguf/tiny-llama3-q4_1.gguf";
  if (!std::filesystem::exists(options.path)) GTEST_SKIP() << "no reference data at " << options.path;
  options.block_tokens = kBlockTokens;
  options.threads = 1;
  const auto one = LoadModel(options);
  options.threads = 2;
  const auto two = LoadModel(options);
  ASSERT_TRUE(one.ok() && two.ok());
  RunSchedules({one->get(), two->get()}, 300, Count(100));
}

}  // namespace
}  // namespace baton
