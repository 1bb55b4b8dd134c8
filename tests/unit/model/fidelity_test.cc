// What the integer arithmetic costs in truth: KL divergence to f32 arithmetic on the demo model's own weights, over text.
#include "model/model.h"
#include "model/tokenizer.h"

namespace baton {
namespace {

constexpr size_t kTexts = 6, kTokens = 512;  // 3,072 tokens

/// The first tokens of this repository's own prose.
std::vector<std::vector<TokenId>> Texts(const std::string& model) {
  const auto tokenizer = Tokenizer::Load(model);
  EXPECT_TRUE(tokenizer.ok());
  std::string text;
  for (const char* name : {"README.md", "LICENSE", "docs/config.md", "docs/benchmarks.md", "base/status.h", "model/model.h", "model/kernels/kernels.h"}) {
    std::ifstream in(fmt::format("{}/{}", BATON_SOURCE_DIR, name));
    text.append(std::istreambuf_iterator<char>(in), {});
  }
  const std::vector<TokenId> all = (*tokenizer)->Encode(text);
  std::vector<std::vector<TokenId>> texts;
  for (size_t i = 0; (i + 1) * kTokens <= all.size() && i < kTexts; ++i) texts.emplace_back(all.begin() + i * kTokens, all.begin() + (i + 1) * kTokens);
  return texts;
}

/// Log-probabilities of every position of one text, [token][vocab].
std::vector<float> LogProbabilities(Model& model, const std::vector<TokenId>& text) {
  const size_t vocab = model.info().vocab;
  std::vector<std::vector<std::byte>> memory(CeilDiv(text.size(), model.kv_layout().block_tokens), std::vector<std::byte>(model.kv_layout().BlockBytes()));
  std::vector<std::byte*> blocks;
  for (auto& block : memory) blocks.push_back(block.data());
  std::vector<float> logits(text.size() * vocab);
  const SequenceSlice slice{text, 0, blocks, static_cast<uint32_t>(text.size()), logits.data()};
  EXPECT_TRUE(model.Forward(std::span(&slice, 1)).ok());
  for (size_t t = 0; t < text.size(); ++t) {
    float* row = &logits[t * vocab];
    const float top = *std::max_element(row, row + vocab);
    double total = 0;
    for (size_t v = 0; v < vocab; ++v) total += std::exp(double{row[v]} - top);
    for (size_t v = 0; v < vocab; ++v) row[v] = static_cast<float>(row[v] - top - std::log(total));
  }
  return logits;
}

struct Divergence {
  double kl = 0, same_top = 0;  // means over positions
};

Divergence Compare(const std::vector<float>& truth, const std::vector<float>& other, size_t vocab) {
  Divergence d;
  const size_t rows = truth.size() / vocab;
  for (size_t t = 0; t < rows; ++t) {
    const float *p = &truth[t * vocab], *q = &other[t * vocab];
    for (size_t v = 0; v < vocab; ++v) d.kl += std::exp(double{p[v]}) * (double{p[v]} - q[v]) / rows;
    d.same_top += static_cast<double>(std::max_element(p, p + vocab) - p == std::max_element(q, q + vocab) - q) / rows;
  }
  return d;
}

TEST(Fidelity, IntegerArithmeticStaysNearF32) {
  const char* path = std::getenv("BATON_DEMO_MODEL");
  if (path == nullptr) GTEST_SKIP() << "BATON_DEMO_MODEL is not set";
  const auto texts = Texts(path);
  ASSERT_EQ(texts.size(), kTexts);
  std::map<std::string, std::unique_ptr<Model>> models;
  for (const char* numerics : {"f32", "exact", "fast"}) {
    LoadOptions options;
    options.path = path;
    options.numerics = numerics;
    auto model = LoadModel(options);
    ASSERT_TRUE(model.ok()) << model.status().ToString();
    models[numerics] = std::move(*model);
  }
  std::map<std::string, Divergence> mean;
  for (const auto& text : texts) {
    const std::vector<float> truth = LogProbabilities(*models["f32"], text);
    for (const char* numerics : {"exact", "fast"}) {
      const Divergence d = Compare(truth, LogProbabilities(*models[numerics], text), models["f32"]->info().vocab);
      mean[numerics].kl += d.kl / kTexts;
      mean[numerics].same_top += d.same_top / kTexts;
    }
  }
  for (const auto& [numerics, d] : mean) std::printf("%s: mean KL divergence %.3g, same first token %.2f %%\n", numerics.c_str(), d.kl, 100 * d.same_top);
  EXPECT_LE(mean["exact"].kl, 1e-4);
  EXPECT_GE(mean["exact"].same_top, 0.994);
  EXPECT_LE(mean["fast"].kl, 3e-3);
}

}  // namespace
}  // namespace baton
