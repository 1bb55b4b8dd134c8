#include "engine_support.h"

#include <bit>

#include "base/bytes.h"
#include "base/random.h"
#include "worker/sampler.h"

namespace baton {

Recorder::~Recorder() { DropSealed(); }

void Recorder::DropSealed() {
  for (const auto& [id, blocks] : sealed) {
    for (const SealedBlock& block : blocks) pool_.Unref(block.block);
  }
  sealed.clear();
}

void Recorder::OnToken(RequestId id, const TokenEvent& event) {
  Answer& answer = answers[id.value];
  EXPECT_FALSE(answer.ended) << "a token after the end of " << id.value;
  answer.events.push_back(event);
  answer.tokens.push_back(event.token);
  answer.logprob_bits.push_back(std::bit_cast<uint32_t>(event.logprob));
  if (on_token) on_token(id, event);
}

void Recorder::OnEnd(RequestId id, FinishReason reason, const RequestStats& stats, const Status& status) {
  Answer& answer = answers[id.value];
  EXPECT_FALSE(answer.ended) << "a second end of " << id.value;
  EXPECT_EQ(reason == FinishReason::kError, !status.ok()) << status.ToString();
  answer.ended = true;
  answer.reason = reason;
  answer.stats = stats;
  answer.status = status;
  if (on_end) on_end(id);
}

void Recorder::OnSealed(RequestId id, SealedBlock block) {
  EXPECT_FALSE(answers[id.value].ended);
  EXPECT_EQ(block.digest, Xxh3({pool_.data(block.block), pool_.block_bytes()}));
  EXPECT_EQ(block.key, NextKey(block.parent, block.tokens));
  ++sealed_count;
  if (keep_sealed) sealed[id.value].push_back(std::move(block));
  else pool_.Unref(block.block);
}

void Recorder::OnLayer(RequestId id, uint32_t layer, uint32_t begin, uint32_t end, const std::vector<BlockId>& blocks) {
  EXPECT_FALSE(answers[id.value].ended);
  layers[id.value].push_back({layer, begin, end, blocks});
}

EngineBench::EngineBench(Model& m, BenchOptions options) : model(m) {
  pool = std::move(BlockPool::Create(options.blocks, model.kv_layout().BlockBytes())).value();
  recorder = std::make_unique<Recorder>(*pool);
  engine = Engine::Create(options.config, model, *pool, *recorder, clock);
}

void EngineBench::Drain(size_t limit) {
  size_t steps = 0;
  while (engine->Step()) ASSERT_LT(++steps, limit) << "the engine does not come to an end";
  EXPECT_EQ(engine->load().running + engine->load().waiting, 0u) << "requests are left";
}

KvLayout SmallLayout(uint32_t block_tokens) {
  return {.layers = 2, .kv_heads = 2, .head_dim = 8, .block_tokens = block_tokens, .dtype = KvDtype::kF16};
}

std::unique_ptr<Model> SmallModel(uint32_t vocab, uint32_t block_tokens) { return MakeFakeModel(vocab, SmallLayout(block_tokens)); }

BlockKey TestRoot() { return RootKey({.kv_layout = "test", .numerics = "f32"}); }

std::vector<TokenId> TestPrompt(size_t tokens, uint64_t seed, uint32_t vocab) {
  Random random(seed);
  std::vector<TokenId> out(tokens);
  for (TokenId& token : out) token = static_cast<TokenId>(random.Below(vocab));
  return out;
}

EngineRequest MakeRequest(uint64_t id, std::vector<TokenId> prompt, uint32_t max_tokens, SamplingParams sampling) {
  EngineRequest r;
  r.request.id = RequestId(id);
  r.request.prompt = std::move(prompt);
  r.request.max_tokens = max_tokens;
  r.request.sampling = std::move(sampling);
  r.root = TestRoot();
  return r;
}

SamplingParams GreedyParams() {
  SamplingParams p;
  p.temperature = 0;
  p.logprobs = 2;
  return p;
}

SamplingParams SeededParams(uint64_t seed) {
  SamplingParams p;
  p.temperature = 0.9;
  p.top_k = 30;
  p.top_p = 0.95;
  p.repetition_penalty = 1.1;
  p.presence_penalty = 0.3;
  p.frequency_penalty = 0.1;
  p.seed = seed;
  p.logprobs = 2;
  return p;
}

Answer PlainAnswer(Model& model, const GenerateRequest& request, const std::function<void()>& after_pass) {
  const KvLayout& layout = model.kv_layout();
  const uint32_t vocab = model.info().vocab;
  std::vector<std::vector<std::byte>> memory(CeilDiv(request.prompt.size() + request.max_tokens, layout.block_tokens),
                                             std::vector<std::byte>(layout.BlockBytes()));
  std::vector<std::byte*> blocks;
  for (auto& block : memory) blocks.push_back(block.data());
  std::vector<TokenId> tokens = request.prompt;
  std::vector<float> logits(vocab);
  Sampler sampler(vocab);
  Answer answer;
  for (size_t computed = 0; answer.tokens.size() < request.max_tokens;) {
    SequenceSlice slice{std::span(tokens).subspan(computed), static_cast<uint32_t>(computed), blocks, 1, logits.data()};
    EXPECT_TRUE(model.Forward(std::span(&slice, 1)).ok());
    if (after_pass) after_pass();
    computed = tokens.size();
    auto event = sampler.Sample(logits, request.sampling, {tokens, request.generated + answer.tokens.size()});
    EXPECT_TRUE(event.ok());
    tokens.push_back(event->token);
    answer.events.push_back(*event);
    answer.tokens.push_back(event->token);
    answer.logprob_bits.push_back(std::bit_cast<uint32_t>(event->logprob));
    const auto among = [&](const std::vector<TokenId>& ids) { return std::find(ids.begin(), ids.end(), event->token) != ids.end(); };
    if (among(request.stop_tokens) || (!request.ignore_eos && among(model.info().eos_ids))) break;
  }
  return answer;
}

void ExpectSameAnswer(const Answer& got, const Answer& want, const std::string& where) {
  EXPECT_EQ(got.tokens, want.tokens) << where;
  EXPECT_EQ(got.logprob_bits, want.logprob_bits) << where;
  ASSERT_EQ(got.events.size(), want.events.size()) << where;
  for (size_t i = 0; i < got.events.size(); ++i) {
    ASSERT_EQ(got.events[i].top.size(), want.events[i].top.size()) << where;
    for (size_t j = 0; j < got.events[i].top.size(); ++j) {
      EXPECT_EQ(got.events[i].top[j].token, want.events[i].top[j].token) << where;
      EXPECT_EQ(std::bit_cast<uint32_t>(got.events[i].top[j].logprob), std::bit_cast<uint32_t>(want.events[i].top[j].logprob)) << where;
    }
  }
}

Status WatchedModel::Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) {
  if (before) before();
  if (fail) RETURN_IF_ERROR(fail(batch));
  size_t count = 0;
  for (const SequenceSlice& slice : batch) count += slice.tokens.size();
  tokens += count;
  largest_pass = std::max(largest_pass, count);
  ++passes;
  if (!after_layer) return inner_.Forward(batch, on_layer);
  return inner_.Forward(batch, [&](uint32_t layer) {
    after_layer(layer);
    if (on_layer) on_layer(layer);
  });
}

}  // namespace baton
