// What the engine's tests share: a listener that records, a bench of model, pool and engine, and an oracle that generates the
// plain way, one sequence, whole prompt, its own blocks.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "worker/engine.h"

namespace baton {

struct Answer {
  std::vector<TokenEvent> events;
  std::vector<TokenId> tokens;
  std::vector<uint32_t> logprob_bits;
  bool ended = false;
  FinishReason reason = FinishReason::kNone;
  RequestStats stats;
  Status status;
};

struct LayerReport {
  uint32_t layer, begin, end;
  std::vector<BlockId> blocks;
};

/// Records everything and checks what an engine promises of its calls.
class Recorder : public EngineListener {
 public:
  explicit Recorder(BlockPool& pool) : pool_(pool) {}
  ~Recorder() override;
  void OnToken(RequestId id, const TokenEvent& event) override;
  void OnEnd(RequestId id, FinishReason reason, const RequestStats& stats, const Status& status) override;
  void OnSealed(RequestId id, SealedBlock block) override;
  void OnLayer(RequestId id, uint32_t layer, uint32_t begin, uint32_t end, const std::vector<BlockId>& blocks) override;
  /// Gives back the references that came with sealed blocks.
  void DropSealed();

  std::map<uint64_t, Answer> answers;
  std::map<uint64_t, std::vector<SealedBlock>> sealed;
  std::map<uint64_t, std::vector<LayerReport>> layers;
  size_t sealed_count = 0;
  std::function<void(RequestId, const TokenEvent&)> on_token;
  std::function<void(RequestId)> on_end;
  bool keep_sealed = false;  // else the reference goes back at once

 private:
  BlockPool& pool_;
};

struct BenchOptions {
  EngineConfig config;
  size_t blocks = 64;
};

/// Model, pool, listener and engine. The model is the caller's where given.
struct EngineBench {
  explicit EngineBench(Model& model, BenchOptions options = {});
  Answer& Get(uint64_t id) { return recorder->answers[id]; }
  Status Submit(EngineRequest request) { return engine->Submit(std::move(request)); }
  /// Steps until nothing is left to do; fails the test after `limit` steps.
  void Drain(size_t limit = 200000);

  Model& model;
  FakeClock clock;
  std::unique_ptr<BlockPool> pool;
  std::unique_ptr<Recorder> recorder;
  std::unique_ptr<Engine> engine;
};

KvLayout SmallLayout(uint32_t block_tokens = 4);
std::unique_ptr<Model> SmallModel(uint32_t vocab = 50, uint32_t block_tokens = 4);
BlockKey TestRoot();
std::vector<TokenId> TestPrompt(size_t tokens, uint64_t seed, uint32_t vocab = 50);
EngineRequest MakeRequest(uint64_t id, std::vector<TokenId> prompt, uint32_t max_tokens, SamplingParams sampling = {});
SamplingParams GreedyParams();
SamplingParams SeededParams(uint64_t seed);

/// The answer of one sequence computed alone, in one piece, without pool or engine; `after_pass` is called behind each Forward.
Answer PlainAnswer(Model& model, const GenerateRequest& request, const std::function<void()>& after_pass = {});

/// Tokens, logprob bits and alternatives are the same.
void ExpectSameAnswer(const Answer& got, const Answer& want, const std::string& where);

/// Passes calls on to `inner`, counting what it computes; `fail` may refuse a batch.
class WatchedModel final : public Model {
 public:
  explicit WatchedModel(Model& inner) : inner_(inner) {}
  const ModelInfo& info() const override { return inner_.info(); }
  const KvLayout& kv_layout() const override { return inner_.kv_layout(); }
  Numerics numerics() const override { return inner_.numerics(); }
  Status Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) override;

  size_t tokens = 0, passes = 0, largest_pass = 0;
  std::function<Status(std::span<const SequenceSlice>)> fail;
  std::function<void()> before;
  std::function<void(uint32_t layer)> after_layer;  // when its K and V are written, before the caller hears of it

 private:
  Model& inner_;
};

/// A fake model that is watched.
class EngineTest : public testing::Test {
 protected:
  /// The engine gave back every block.
  void ExpectClean(EngineBench& bench) {
    bench.recorder->DropSealed();
    EXPECT_EQ(bench.pool->stats().referenced, 0u);
  }
  std::unique_ptr<Model> fake_ = SmallModel();
  WatchedModel model_{*fake_};
};

}  // namespace baton
