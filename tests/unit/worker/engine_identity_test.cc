// Promise 1 of the contract at the engine: tokens and logprob bits of greedy and seeded requests are the same alone, in any
// batch, in chunks of any size, on any number of threads, from a warm pool, preempted, and moved in the middle.
#include <filesystem>

#include "engine_support.h"

namespace baton {
namespace {

struct Subject {
  std::function<std::unique_ptr<Model>(uint32_t threads)> load;
  uint32_t vocab = 0;
  uint32_t longest_prompt = 0, answer = 0;
};

constexpr size_t kRequests = 16;
constexpr uint32_t kBlockTokens = 16;

class Identity {
 public:
  explicit Identity(const Subject& subject) : subject_(subject), one_thread_(subject.load(1)), two_threads_(subject.load(2)) {
    for (uint64_t i = 0; i < kRequests; ++i) {
      const size_t length = 1 + (i * 7919 + 5) % subject.longest_prompt;
      auto prompt = TestPrompt(i % 3 == 0 ? subject.longest_prompt : length, i / 2, subject.vocab);
      requests_.push_back(MakeRequest(i + 1, prompt, subject.answer, i % 2 == 0 ? GreedyParams() : SeededParams(i)));
      requests_.back().request.ignore_eos = i % 4 != 0;
    }
  }

  void CheckAll() {
    for (const auto& request : requests_) alone_.push_back(PlainAnswer(*one_thread_, request.request));
    for (const size_t batch : {1, 2, 8, 16}) Check("batches of " + std::to_string(batch), *one_thread_, {}, 1000, batch);
    for (const uint32_t chunk : {16, 64, 512}) {
      EngineConfig config;
      config.prefill_chunk_tokens = chunk;
      config.step_token_budget = 2 * chunk + 7;
      Check("chunks of " + std::to_string(chunk), *two_threads_, config, 1000, kRequests);
    }
    CheckWarm();
    const size_t largest = (subject_.longest_prompt + subject_.answer) / kBlockTokens + 1;
    EXPECT_GT(Check("a pool for two", *two_threads_, {}, 2 * largest, kRequests), 0u) << "nothing was preempted";
    CheckMoved();
  }

 private:
  EngineBench Bench(Model& model, const EngineConfig& config, size_t blocks) { return EngineBench(model, {.config = config, .blocks = blocks}); }

  /// Runs all requests, `batch` at a time; gives the number of preemptions.
  uint64_t Check(const std::string& name, Model& model, const EngineConfig& config, size_t blocks, size_t batch) {
    EngineBench bench = Bench(model, config, blocks);
    for (size_t i = 0; i < kRequests; i += batch) {
      for (size_t j = i; j < i + batch; ++j) EXPECT_TRUE(bench.Submit(requests_[j]).ok());
      bench.Drain();
    }
    for (size_t i = 0; i < kRequests; ++i) ExpectSameAnswer(bench.Get(i + 1), alone_[i], name + ", request " + std::to_string(i));
    EXPECT_EQ(bench.pool->stats().referenced, 0u);
    return bench.engine->load().preemptions;
  }

  void CheckWarm() {
    EngineBench bench = Bench(*two_threads_, {}, 1000);
    uint32_t cached = 0;
    for (uint64_t round = 0; round < 2; ++round) {
      for (size_t i = 0; i < kRequests; ++i) {
        auto request = requests_[i];
        request.request.id = RequestId(1 + i + 100 * round);
        EXPECT_TRUE(bench.Submit(request).ok());
        bench.Drain();
        if (round == 1) cached += bench.Get(101 + i).stats.cached_tokens;
        ExpectSameAnswer(bench.Get(1 + i + 100 * round), alone_[i], "warm pool, round " + std::to_string(round) + ", request " + std::to_string(i));
      }
    }
    EXPECT_GT(cached, kRequests * subject_.longest_prompt / 4);
  }

  void CheckMoved() {
    EngineBench bench = Bench(*two_threads_, {}, 1000);
    for (size_t i = 0; i < kRequests; ++i) {
      const auto done = static_cast<uint32_t>(1 + i % (subject_.answer - 1));
      if (alone_[i].tokens.size() <= done) continue;  // it had stopped by then
      auto request = requests_[i];
      request.request.prompt.insert(request.request.prompt.end(), alone_[i].tokens.begin(), alone_[i].tokens.begin() + done);
      request.request.generated = done;
      request.request.max_tokens -= done;
      EXPECT_TRUE(bench.Submit(request).ok());
      bench.Drain();
      Answer rest = alone_[i];
      rest.tokens.erase(rest.tokens.begin(), rest.tokens.begin() + done);
      rest.logprob_bits.erase(rest.logprob_bits.begin(), rest.logprob_bits.begin() + done);
      rest.events.erase(rest.events.begin(), rest.events.begin() + done);
      ExpectSameAnswer(bench.Get(i + 1), rest, "moved, request " + std::to_string(i));
    }
  }

  const Subject subject_;
  std::unique_ptr<Model> one_thread_, two_threads_;
  std::vector<EngineRequest> requests_;
  std::vector<Answer> alone_;
};

Subject File(const std::string& path, LoadOptions options, uint32_t longest_prompt, uint32_t answer) {
  options.path = path;
  options.block_tokens = kBlockTokens;
  const auto load = [options](uint32_t threads) {
    LoadOptions with_threads = options;
    with_threads.threads = threads;
    auto model = LoadModel(with_threads);
    EXPECT_TRUE(model.ok()) << model.status().ToString();
    return std::move(*model);
  };
  return {load, 300, longest_prompt, answer};
}

TEST(EngineIdentity, FakeModel) {
  Identity({[](uint32_t) { return SmallModel(300, kBlockTokens); }, 300, 150, 24}).CheckAll();
}

TEST(EngineIdentity, TinyCheckpoints) {
  const std::string golden = BATON_SHARED_DIR "/golden/";
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "no reference data at " << golden;
  Identity(File(golden + "checkpoints/tiny-qwen2-f32", {}, 150, 24)).CheckAll();
  LoadOptions int8;
  int8.kv_dtype = "int8";
  Identity(File(golden + "gguf/tiny-llama3-q4_1.gguf", int8, 100, 16)).CheckAll();
}

TEST(EngineIdentity, DemoModel) {
  const char* path = std::getenv("BATON_DEMO_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set BATON_DEMO_MODEL to the demo model's GGUF file";
  Identity(File(path, {}, 50, 40)).CheckAll();
}

}  // namespace
}  // namespace baton
