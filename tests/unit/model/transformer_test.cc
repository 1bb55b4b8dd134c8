// The transformer against the reference data, and against itself: not one bit may depend on chunks, batch, threads or ISA.
#include "model/safetensors.h"
#include "model/transformer.h"

namespace baton {
namespace {

const std::string kGolden = std::string(BATON_SHARED_DIR) + "/golden/";

struct Computed {
  std::vector<float> logits;
  std::vector<std::vector<std::byte>> blocks;
};

std::unique_ptr<Model> Load(const std::string& name, LoadOptions options = {}) {
  options.path = kGolden + name;
  auto model = LoadModel(options);
  EXPECT_TRUE(model.ok()) << model.status().ToString();
  return model.ok() ? std::move(*model) : nullptr;
}

/// All rows of logits, computed in chunks.
Computed Compute(Model& model, const std::vector<TokenId>& tokens, size_t chunk) {
  Computed run;
  const KvLayout& layout = model.kv_layout();
  std::vector<std::byte*> pointers;
  run.blocks.resize(CeilDiv(tokens.size(), layout.block_tokens));
  for (auto& block : run.blocks) {
    block.assign(layout.BlockBytes(), std::byte{0x7b});  // not zero: whatever is read before it is written shows
    pointers.push_back(block.data());
  }
  run.logits.resize(tokens.size() * model.info().vocab);
  for (size_t at = 0; at < tokens.size(); at += chunk) {
    const size_t n = std::min(chunk, tokens.size() - at);
    SequenceSlice slice{std::span(tokens).subspan(at, n), static_cast<uint32_t>(at), pointers, static_cast<uint32_t>(n),
                        run.logits.data() + at * model.info().vocab};
    const Status status = model.Forward(std::span(&slice, 1));
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  return run;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in, nullptr, false);
}

class TransformerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kGolden)) GTEST_SKIP() << "no reference data at " << kGolden;
  }
};

TEST_F(TransformerTest, GoldenLogitsAndKeysWithinTolerance) {
  for (const std::string name : {"tiny-llama-tied-f32", "tiny-llama-untied-f32-sharded", "tiny-llama-tied-bf16", "tiny-llama-untied-bf16",
                                 "tiny-qwen2-f32", "tiny-qwen2-bf16-sharded"}) {
    LoadOptions options;
    options.numerics = "f32";
    options.kv_dtype = "f32";
    const auto model = Load("checkpoints/" + name, options);
    ASSERT_NE(model, nullptr);
    for (const std::string test : {"short1", "short2"}) {
      const auto reference = ReadJson(kGolden + "refs/" + name + "/" + test + ".json");
      const auto tensors = SafetensorsFile::Open(kGolden + "refs/" + name + "/" + test + ".safetensors");
      ASSERT_TRUE(reference.is_object() && tensors.ok()) << name << test;
      const auto ids = reference["input_ids"].get<std::vector<TokenId>>();
      const Computed run = Compute(*model, ids, ids.size());
      const auto* logits = (*tensors)->Find("logits");
      ASSERT_NE(logits, nullptr);
      ASSERT_EQ(logits->data.size(), run.logits.size() * sizeof(float));
      const auto* expected = reinterpret_cast<const float*>(logits->data.data());
      float worst = 0;
      for (size_t i = 0; i < run.logits.size(); ++i) worst = std::max(worst, std::fabs(run.logits[i] - expected[i]));
      EXPECT_LE(worst, 2e-4f) << name << " " << test;
    }
  }
}

TEST_F(TransformerTest, GreedyIdsEqualTheReference) {
  for (const std::string name : {"tiny-llama-tied-f32", "tiny-llama-untied-f32-sharded", "tiny-qwen2-f32"}) {
    LoadOptions options;
    options.kv_dtype = "f32";
    const auto model = Load("checkpoints/" + name, options);
    const auto reference = ReadJson(kGolden + "refs/" + name + "/short1.json");
    auto tokens = reference["input_ids"].get<std::vector<TokenId>>();
    const auto expected = reference["greedy"]["ids"].get<std::vector<TokenId>>();
    const size_t prompt = tokens.size();
    for (size_t i = 0; i < expected.size(); ++i) {
      const Computed run = Compute(*model, tokens, tokens.size());
      const auto row = run.logits.end() - model->info().vocab;
      tokens.push_back(static_cast<TokenId>(std::max_element(row, run.logits.end()) - row));
    }
    EXPECT_EQ(std::vector<TokenId>(tokens.begin() + static_cast<long>(prompt), tokens.end()), expected) << name;
  }
}

TEST_F(TransformerTest, ChunksThreadsAndIsaChangeNoBit) {
  for (const auto& [name, numerics] : std::vector<std::pair<std::string, std::string>>{
           {"checkpoints/tiny-llama-tied-f32", "f32"}, {"checkpoints/tiny-qwen2-bf16-sharded", "bf16"},
           {"gguf/tiny-qwen2-q8_0.gguf", "exact"}, {"gguf/tiny-qwen2-q8_0.gguf", "fast"}}) {
    for (const std::string dtype : {"f32", "f16", "bf16", "int8"}) {
      LoadOptions options;
      options.numerics = numerics;
      options.kv_dtype = dtype;
      options.block_tokens = 16;
      options.threads = 1;
      const auto model = Load(name, options);
      ASSERT_NE(model, nullptr);
      std::vector<TokenId> tokens;
      for (int i = 0; i < 150; ++i) tokens.push_back((i * 37 + 11) % 300);
      const Computed whole = Compute(*model, tokens, tokens.size());
      for (const size_t chunk : {1, 7, 16, 64}) EXPECT_TRUE(SameBits(whole.logits, Compute(*model, tokens, chunk).logits)) << name << dtype << chunk;
      options.threads = 3;
      options.isa = "scalar";
      const auto scalar = Load(name, options);
      EXPECT_TRUE(SameBits(whole.logits, Compute(*scalar, tokens, 64).logits)) << name << dtype << " scalar, 3 threads";
    }
  }
}

TEST_F(TransformerTest, ALongContextSharedOutByThreadsChangesNoBit) {
  for (const std::string dtype : {"f16", "int8"}) {
    LoadOptions options;
    options.kv_dtype = dtype;
    options.threads = 1;
    const auto alone = Load("gguf/tiny-qwen2-q8_0.gguf", options);
    ASSERT_NE(alone, nullptr);
    const uint32_t length = std::min(1100u, alone->info().max_positions);
    std::vector<TokenId> tokens;
    for (uint32_t i = 0; i < length; ++i) tokens.push_back(static_cast<TokenId>((i * 37 + 11) % 300));
    const Computed whole = Compute(*alone, tokens, tokens.size());
    for (const uint32_t threads : {2u, 3u, 5u}) {
      options.threads = threads;
      const auto model = Load("gguf/tiny-qwen2-q8_0.gguf", options);
      Computed run = Compute(*model, tokens, 333);
      EXPECT_TRUE(SameBits(whole.logits, run.logits)) << dtype << threads;
      std::vector<std::byte*> pointers;
      for (auto& block : run.blocks) pointers.push_back(block.data());
      for (const uint32_t start : {length - 1, 257u, 256u, 255u}) {  // single rows, whose spans are shared out
        std::vector<float> logits(model->info().vocab);
        SequenceSlice slice{std::span(tokens).subspan(start, 1), start, pointers, 1, logits.data()};
        ASSERT_TRUE(model->Forward(std::span(&slice, 1)).ok());
        EXPECT_EQ(0, std::memcmp(logits.data(), &whole.logits[size_t{start} * logits.size()], logits.size() * sizeof(float))) << dtype << threads << " " << start;
      }
    }
  }
}

TEST_F(TransformerTest, NeighboursInTheBatchChangeNoBit) {
  LoadOptions options;
  options.block_tokens = 16;
  const auto model = Load("gguf/tiny-qwen2-q8_0.gguf", options);
  ASSERT_NE(model, nullptr);
  const size_t vocab = model->info().vocab;
  std::vector<std::vector<TokenId>> prompts(5);
  for (size_t p = 0; p < prompts.size(); ++p) {
    for (size_t i = 0; i < 5 + p * 17; ++i) prompts[p].push_back(static_cast<TokenId>((i * 13 + p * 7) % 300));
  }
  std::vector<std::vector<std::vector<std::byte>>> blocks(prompts.size());
  std::vector<std::vector<std::byte*>> pointers(prompts.size());
  std::vector<std::vector<float>> logits(prompts.size(), std::vector<float>(vocab));
  std::vector<SequenceSlice> batch;
  for (size_t p = 0; p < prompts.size(); ++p) {
    blocks[p].resize(CeilDiv(prompts[p].size(), 16), std::vector<std::byte>(model->kv_layout().BlockBytes()));
    for (auto& block : blocks[p]) pointers[p].push_back(block.data());
    batch.push_back({prompts[p], 0, pointers[p], 1, logits[p].data()});
  }
  ASSERT_TRUE(model->Forward(batch).ok());
  for (size_t p = 0; p < prompts.size(); ++p) {
    const Computed alone = Compute(*model, prompts[p], prompts[p].size());
    EXPECT_EQ(0, std::memcmp(alone.logits.data() + (prompts[p].size() - 1) * vocab, logits[p].data(), vocab * sizeof(float))) << p;
  }
}

TEST_F(TransformerTest, BadInputIsAnErrorAndWritesNothing) {
  const auto model = Load("gguf/tiny-qwen2-q8_0.gguf");
  std::vector<std::byte> block(model->kv_layout().BlockBytes(), std::byte{7});
  std::byte* pointer = block.data();
  std::vector<float> logits(model->info().vocab);
  for (const TokenId bad : {TokenId{-1}, static_cast<TokenId>(model->info().vocab)}) {
    const std::vector<TokenId> tokens = {1, bad};
    SequenceSlice slice{tokens, 0, std::span(&pointer, 1), 1, logits.data()};
    EXPECT_EQ(model->Forward(std::span(&slice, 1)).code(), StatusCode::kInvalid);
  }
  const std::vector<TokenId> one = {1};
  SequenceSlice far{one, model->info().max_positions, std::span(&pointer, 1), 1, logits.data()};
  EXPECT_EQ(model->Forward(std::span(&far, 1)).code(), StatusCode::kInvalid);
  SequenceSlice uncovered{one, 64, std::span(&pointer, 1), 1, logits.data()};
  EXPECT_EQ(model->Forward(std::span(&uncovered, 1)).code(), StatusCode::kInvalid);
  EXPECT_TRUE(std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{7}; }));
}

TEST_F(TransformerTest, OptionsThatCannotBeAreRefused) {
  LoadOptions options;
  options.path = kGolden + "checkpoints/tiny-qwen2-f32";
  const auto code = [&](auto change) {
    LoadOptions changed = options;
    change(changed);
    return LoadModel(changed).status().code();
  };
  EXPECT_EQ(code([](LoadOptions& o) { o.numerics = "exact"; }), StatusCode::kInvalid);
  EXPECT_EQ(code([](LoadOptions& o) { o.numerics = "f64"; }), StatusCode::kInvalid);
  EXPECT_EQ(code([](LoadOptions& o) { o.kv_dtype = "f64"; }), StatusCode::kInvalid);
  EXPECT_EQ(code([](LoadOptions& o) { o.isa = "sse9"; }), StatusCode::kInvalid);
  EXPECT_EQ(code([](LoadOptions& o) { o.device = "cuda"; }), StatusCode::kUnavailable);
  EXPECT_EQ(code([](LoadOptions& o) { o.path += "-none"; }), StatusCode::kNotFound);
}

}  // namespace
}  // namespace baton
