// The engine on real checkpoints against the reference data: greedy ids, logits, caches, perplexity, with the tolerances of
// golden/README.md §2.
#include <filesystem>

#include "base/bytes.h"
#include "engine_support.h"
#include "model/kv_read.h"
#include "model/safetensors.h"
#include "worker/sampler.h"

namespace baton {
namespace {

const std::string kGolden = BATON_SHARED_DIR "/golden/";
constexpr double kLogitTolerance = 2e-4, kCacheTolerance = 1e-4;

using Json = nlohmann::json;

Json ReadJson(const std::string& path) {
  std::ifstream in(kGolden + path);
  EXPECT_TRUE(in) << path;
  return Json::parse(in, nullptr, false);
}

class Tensors {
 public:
  explicit Tensors(const std::string& path) : file_(SafetensorsFile::Open(kGolden + path)) { EXPECT_TRUE(file_.ok()) << path; }
  std::vector<float> Get(const std::string& name) const {
    const SafetensorsTensor* tensor = (*file_)->Find(name);
    EXPECT_NE(tensor, nullptr) << name;
    if (tensor == nullptr) return {};
    std::vector<float> out(tensor->data.size() / sizeof(float));
    std::memcpy(out.data(), tensor->data.data(), tensor->data.size());
    return out;
  }

 private:
  Result<std::unique_ptr<SafetensorsFile>> file_;
};

std::unique_ptr<Model> Load(const std::string& path, const std::string& numerics, const std::string& kv_dtype = "f32") {
  LoadOptions options;
  options.path = path;
  options.numerics = numerics;
  options.kv_dtype = kv_dtype;
  auto model = LoadModel(options);
  EXPECT_TRUE(model.ok()) << model.status().ToString();
  return model.ok() ? std::move(*model) : nullptr;
}

/// One sequence's own blocks.
struct Cache {
  Cache(const Model& model, size_t positions) : layout(model.kv_layout()), memory(CeilDiv(positions, layout.block_tokens) * layout.BlockBytes()) {
    for (size_t at = 0; at < memory.size(); at += layout.BlockBytes()) blocks.push_back(memory.data() + at);
  }
  const KvLayout layout;
  std::vector<std::byte> memory;
  std::vector<std::byte*> blocks;
};

/// Logits of the last `rows` of tokens[start, ...), which are computed on top of what the cache holds.
std::vector<float> Forward(Model& model, Cache& cache, std::span<const TokenId> tokens, uint32_t start, uint32_t rows, std::vector<float>* hidden = nullptr) {
  std::vector<float> logits(size_t{rows} * model.info().vocab);
  const auto slice_tokens = tokens.subspan(start);
  if (hidden != nullptr) hidden->resize((model.info().layers + 1) * slice_tokens.size() * model.info().hidden);
  const SequenceSlice slice{slice_tokens, start, cache.blocks, rows, logits.data(), hidden != nullptr ? hidden->data() : nullptr};
  const Status status = model.Forward(std::span(&slice, 1));
  EXPECT_TRUE(status.ok()) << status.ToString();
  return logits;
}

double Worst(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) worst = std::max(worst, std::fabs(double{a[i]} - b[i]));
  return worst;
}

/// [kv_heads][n][head_dim] of the cache against a reference of the same form.
double WorstKv(const Cache& cache, uint32_t layer, uint32_t which, uint32_t n, std::span<const float> reference) {
  std::vector<float> got(size_t{cache.layout.kv_heads} * n * cache.layout.head_dim);
  for (uint32_t head = 0; head < cache.layout.kv_heads; ++head) {
    for (uint32_t p = 0; p < n; ++p) ReadKvVector(cache.layout, cache.blocks, layer, which, head, p, &got[(head * n + p) * cache.layout.head_dim]);
  }
  return Worst(got, reference);
}

SamplingParams Greedy(double repetition_penalty = 1) {
  SamplingParams p;
  p.temperature = 0;
  p.repetition_penalty = repetition_penalty;
  return p;
}

/// Answers of all requests, run together.
std::map<uint64_t, Answer> RunAll(Model& model, const std::vector<EngineRequest>& requests) {
  EngineBench bench(model, {.blocks = 400});
  for (const EngineRequest& request : requests) EXPECT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  return bench.recorder->answers;
}

/// Ids equal the reference's; where they part, the reference's margin there must be below `excused` (what follows has another
/// past and is not compared).
void ExpectGreedy(const std::vector<TokenId>& got, const Json& reference, double excused, const std::string& where) {
  const Json& ids = reference.is_object() ? reference["ids"] : reference;
  ASSERT_LE(got.size(), ids.size()) << where;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == ids[i].get<TokenId>()) continue;
    EXPECT_LT(reference["margin_top1_top2"][i].get<double>(), excused) << where << ": token " << i << " is " << got[i] << ", should be " << ids[i];
    return;
  }
}

class EngineGolden : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kGolden)) GTEST_SKIP() << "no reference data at " << kGolden;
  }
};

constexpr const char* kF32Checkpoints[] = {"tiny-llama-tied-f32", "tiny-llama-untied-f32-sharded", "tiny-qwen2-f32", "tiny-llama-tied-bf16",
                                           "tiny-llama-untied-bf16", "tiny-qwen2-bf16-sharded"};

TEST_F(EngineGolden, TinyCheckpointsGreedyPenaltyAndEos) {
  size_t stopped = 0;
  for (const std::string name : kF32Checkpoints) {
    const auto model = Load(kGolden + "checkpoints/" + name, "f32");
    ASSERT_NE(model, nullptr);
    std::vector<EngineRequest> requests;
    std::vector<std::pair<Json, std::string>> wanted;
    uint64_t id = 0;
    for (const std::string test : {"short1", "short2", "long", "chat"}) {
      const Json reference = ReadJson("refs/" + name + "/" + test + ".json");
      const auto prompt = reference["input_ids"].get<std::vector<TokenId>>();
      for (const std::string key : {"greedy", "greedy_repetition_penalty"}) {
        if (!reference.contains(key)) continue;
        const double penalty = reference[key].value("penalty", 1.0);
        requests.push_back(MakeRequest(++id, prompt, 32, Greedy(penalty)));
        requests.back().request.ignore_eos = true;
        wanted.push_back({reference[key], name + " " + test + " " + key});
        requests.push_back(MakeRequest(++id, prompt, 32, Greedy(penalty)));  // stops at the model's EOS
        wanted.push_back({Json{{"ids", reference[key]["generate_output_with_eos_stop"]}, {"margin_top1_top2", reference[key]["margin_top1_top2"]}},
                          name + " " + test + " " + key + " with EOS"});
      }
    }
    const auto answers = RunAll(*model, requests);
    for (uint64_t i = 1; i <= id; ++i) {
      const auto& [reference, where] = wanted[i - 1];
      ExpectGreedy(answers.at(i).tokens, reference, 1e-3, where);
      EXPECT_EQ(answers.at(i).tokens.size(), reference["ids"].size()) << where;
      stopped += answers.at(i).reason == FinishReason::kStop;
    }
  }
  EXPECT_GT(stopped, 0u) << "no case stops at an EOS";
}

TEST_F(EngineGolden, TinyCheckpointsBatch) {
  for (const std::string name : kF32Checkpoints) {
    const auto model = Load(kGolden + "checkpoints/" + name, "f32");
    const Json reference = ReadJson("refs/" + name + "/batch.json");
    std::vector<EngineRequest> requests;
    for (size_t i = 0; i < reference["input_ids"].size(); ++i) {
      requests.push_back(MakeRequest(i + 1, reference["input_ids"][i].get<std::vector<TokenId>>(), 32, Greedy()));
      requests.back().request.ignore_eos = true;
    }
    const auto answers = RunAll(*model, requests);
    const Tensors tensors("refs/" + name + "/batch.safetensors");
    const auto last = tensors.Get("last_logits");
    const size_t vocab = model->info().vocab;
    for (size_t i = 0; i < requests.size(); ++i) {
      ExpectGreedy(answers.at(i + 1).tokens, reference["greedy"][i], 1e-3, name + " batch " + std::to_string(i));
      const auto& prompt = requests[i].request.prompt;
      Cache cache(*model, prompt.size());
      EXPECT_LE(Worst(Forward(*model, cache, prompt, 0, 1), std::span(last).subspan(i * vocab, vocab)), kLogitTolerance) << name << " " << i;
    }
  }
}

TEST_F(EngineGolden, TinyGguf) {
  for (const std::string name : {"tiny-llama-spm-q5_1", "tiny-llama3-q4_1", "tiny-qwen2-f16", "tiny-qwen2-q8_0"}) {
    const auto model = Load(kGolden + "gguf/" + name + ".gguf", "f32");
    ASSERT_NE(model, nullptr);
    const Json reference = ReadJson("gguf/" + name + ".json");
    const Tensors tensors("gguf/" + name + ".safetensors");
    std::vector<EngineRequest> requests;
    for (size_t i = 0; i < reference["prompts"].size(); ++i) {
      const auto prompt = reference["prompts"][i]["input_ids"].get<std::vector<TokenId>>();
      Cache cache(*model, prompt.size());
      EXPECT_LE(Worst(Forward(*model, cache, prompt, 0, 1), tensors.Get(reference["prompts"][i]["logits_tensor"])), kLogitTolerance) << name << " " << i;
      requests.push_back(MakeRequest(i + 1, prompt, 24, Greedy()));
      requests.back().request.ignore_eos = true;
    }
    const auto answers = RunAll(*model, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      const Json& prompt = reference["prompts"][i];
      ExpectGreedy(answers.at(i + 1).tokens, Json{{"ids", prompt["greedy"]}, {"margin_top1_top2", prompt["margin_top1_top2"]}}, 1e-3, name);
    }
  }
}

TEST_F(EngineGolden, CacheExtendedAndCroppedEqualsFresh) {
  const Json reference = ReadJson("cache/extend_crop.json");
  const auto model = Load(kGolden + "checkpoints/tiny-qwen2-f32", "f32");
  ASSERT_NE(model, nullptr);
  const auto turn1 = reference["turn1_ids"].get<std::vector<TokenId>>(), full = reference["full_ids"].get<std::vector<TokenId>>();
  const auto n1 = static_cast<uint32_t>(turn1.size()), n2 = static_cast<uint32_t>(full.size());
  const Tensors extend("cache/tiny-qwen2-f32_extend.safetensors"), crop("cache/tiny-qwen2-f32_crop.safetensors");
  Cache cache(*model, 200);
  EXPECT_LE(Worst(Forward(*model, cache, turn1, 0, 1), extend.Get("turn1_last_logits")), kLogitTolerance);
  const Tensors state1("cache/tiny-qwen2-f32_turn1.safetensors"), state2("cache/tiny-qwen2-f32_turn2.safetensors");
  const auto check = [&](const Tensors& state, uint32_t n) {
    for (uint32_t layer = 0; layer < model->info().layers; ++layer) {
      EXPECT_LE(WorstKv(cache, layer, 0, n, state.Get(fmt::format("layers.{}.key", layer))), kCacheTolerance);
      EXPECT_LE(WorstKv(cache, layer, 1, n, state.Get(fmt::format("layers.{}.value", layer))), kCacheTolerance);
    }
  };
  check(state1, n1);
  EXPECT_LE(Worst(Forward(*model, cache, full, n1, 1), extend.Get("turn2_logits_incremental_last")), kLogitTolerance);
  check(state2, n2);
  // Cropped back to turn 1: another turn 2 writes over what was there.
  auto other = turn1;
  for (const TokenId token : reference["alt_ids"].get<std::vector<TokenId>>()) other.push_back(token);
  const auto continued = Forward(*model, cache, other, n1, 1);
  EXPECT_LE(Worst(continued, crop.Get("alt_logits_last")), kLogitTolerance);
  Cache fresh(*model, 200);
  EXPECT_EQ(continued, Forward(*model, fresh, other, 0, 1)) << "continuing and computing afresh differ in a bit";
}

class DemoGolden : public EngineGolden {
 protected:
  void SetUp() override {
    EngineGolden::SetUp();
    path_ = std::getenv("BATON_DEMO_MODEL");
    if (path_ == nullptr) GTEST_SKIP() << "set BATON_DEMO_MODEL to the demo model's GGUF file";
  }
  /// The 12 prompts, greedy with and without the penalty, all in one batch.
  void CheckGreedy(Model& model, double excused) {
    const Json prompts = ReadJson("smollm2/prompts.json")["prompts"];
    ASSERT_EQ(prompts.size(), 12u);
    std::vector<EngineRequest> requests;
    std::vector<std::pair<Json, std::string>> wanted;
    for (const Json& prompt : prompts) {
      for (const std::string key : {"greedy", "greedy_repetition_penalty"}) {
        if (!prompt.contains(key)) continue;
        requests.push_back(MakeRequest(requests.size() + 1, prompt["input_ids"].get<std::vector<TokenId>>(), 48, Greedy(prompt[key].value("penalty", 1.0))));
        requests.back().request.ignore_eos = true;
        wanted.push_back({prompt[key], prompt["name"].get<std::string>() + " " + key});
      }
    }
    const auto answers = RunAll(model, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(answers.at(i + 1).tokens.size(), 48u);
      ExpectGreedy(answers.at(i + 1).tokens, wanted[i].first, excused, wanted[i].second);
    }
  }
  double Perplexity(Model& model) {
    const auto ids = ReadJson("smollm2/perplexity.json")["input_ids"].get<std::vector<TokenId>>();
    Cache cache(model, ids.size());
    const auto logits = Forward(model, cache, ids, 0, static_cast<uint32_t>(ids.size()));
    const size_t vocab = model.info().vocab;
    double nll = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto row = std::span(logits).subspan(i * vocab, vocab);
      const double best = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (const float x : row) sum += std::exp(x - best);
      nll += best + std::log(sum) - row[ids[i + 1]];
    }
    return std::exp(nll / static_cast<double>(ids.size() - 1));
  }
  const char* path_ = nullptr;
};

TEST_F(DemoGolden, F32IsTheReference) {
  const auto model = Load(path_, "f32");
  ASSERT_NE(model, nullptr);
  const Tensors tensors("smollm2/logits.safetensors");
  const Json prompts = ReadJson("smollm2/prompts.json");
  for (const Json& prompt : prompts["prompts"]) {
    const auto ids = prompt["input_ids"].get<std::vector<TokenId>>();
    Cache cache(*model, ids.size());
    std::vector<float> hidden;
    const auto logits = Forward(*model, cache, ids, 0, 1, &hidden);
    double worst = 0;
    for (size_t i = 0; i < prompt["top100_ids"].size(); ++i) {
      worst = std::max(worst, std::fabs(logits[prompt["top100_ids"][i].get<size_t>()] - prompt["top100_logits"][i].get<double>()));
    }
    EXPECT_LE(worst, kLogitTolerance) << prompt["name"];
    if (prompt.contains("full_logits_tensor") && prompt["full_logits_tensor"].is_string()) {
      EXPECT_LE(Worst(logits, tensors.Get(prompt["full_logits_tensor"])), kLogitTolerance) << prompt["name"];
    }
    if (prompt["name"] != "plain_france") continue;
    const auto n = static_cast<uint32_t>(ids.size());
    for (const uint32_t layer : {0, 1, 14, 29}) {
      EXPECT_LE(WorstKv(cache, layer, 0, n, tensors.Get(fmt::format("plain_france.cache.layers.{}.key", layer))), kCacheTolerance) << layer;
      EXPECT_LE(WorstKv(cache, layer, 1, n, tensors.Get(fmt::format("plain_france.cache.layers.{}.value", layer))), kCacheTolerance) << layer;
    }
    const auto states = tensors.Get("plain_france.hidden_states_last_token");
    const size_t width = model->info().hidden;
    for (uint32_t level = 0; level <= model->info().layers; ++level) {
      const auto got = std::span<const float>(hidden).subspan((level * n + n - 1) * width, width), want = std::span<const float>(states).subspan(level * width, width);
      const double scale = std::max(1.0, std::fabs(double{*std::max_element(want.begin(), want.end(), [](float a, float b) { return std::fabs(a) < std::fabs(b); })}));
      EXPECT_LE(Worst(got, want), 1e-4 * scale) << "hidden state " << level;
    }
  }
  CheckGreedy(*model, 1e-3);
  EXPECT_NEAR(Perplexity(*model), ReadJson("smollm2/perplexity.json")["perplexity"].get<double>(), 21.6314 * 1e-3);
}

TEST_F(DemoGolden, ExactIsWithinThatOfEightBitActivations) {
  const auto model = Load(path_, "exact", "f16");
  ASSERT_NE(model, nullptr);
  const Json prompts = ReadJson("smollm2/prompts.json");
  for (const Json& prompt : prompts["prompts"]) {
    const auto ids = prompt["input_ids"].get<std::vector<TokenId>>();
    EngineBench bench(*model);
    SamplingParams params = Greedy();
    params.logprobs = 100;
    ASSERT_TRUE(bench.Submit(MakeRequest(1, ids, 1, params)).ok());
    bench.Drain();
    std::map<TokenId, float> logprobs;
    for (const TokenLogprob& top : bench.Get(1).events[0].top) logprobs[top.token] = top.logprob;
    for (size_t i = 0; i < 5; ++i) {
      const auto id = prompt["top100_ids"][i].get<TokenId>();
      ASSERT_TRUE(logprobs.contains(id)) << prompt["name"];
      EXPECT_NEAR(logprobs[id], prompt["top100_logits"][i].get<double>() - prompt["logsumexp"].get<double>(), 0.35) << prompt["name"];
    }
  }
  CheckGreedy(*model, 0.3);
  EXPECT_NEAR(Perplexity(*model), ReadJson("smollm2/perplexity.json")["perplexity"].get<double>(), 21.6314 * 1e-2);
}

}  // namespace
}  // namespace baton
