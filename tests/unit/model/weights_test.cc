// Model files of both formats under canonical names: the golden checkpoints, the GGUF files made
// from them, the demo model.
#include "model/weights.h"

#include <cmath>
#include <cstdlib>

#include "base/random.h"
#include "model/gguf.h"
#include "model/safetensors.h"
#include "tests/unit/model/format_support.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using namespace testing_formats;  // NOLINT(google-build-using-namespace)

std::unique_ptr<WeightFile> Open(const std::string& path) {
  auto file = OpenWeights(path);
  EXPECT_TRUE(file.ok()) << file.status().ToString();
  return file.ok() ? std::move(file).value() : nullptr;
}

std::vector<float> Values(const Tensor& tensor) {
  std::vector<float> out(tensor.rows() * tensor.cols());
  Dequantize(tensor.type, tensor.data.data(), out.size(), out.data());
  return out;
}

class GoldenWeights : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(Golden("checkpoints"))) GTEST_SKIP() << "no golden data";
  }
};

TEST_F(GoldenWeights, LlamaSpelledTheOldWay) {
  const auto file = Open(Golden("checkpoints/tiny-llama-tied-f32"));
  ASSERT_NE(file, nullptr);
  const ModelInfo& info = file->info();
  EXPECT_EQ(info.name, "tiny-llama-tied-f32");
  EXPECT_EQ(info.architecture, "llama");
  EXPECT_THAT((std::vector<uint32_t>{info.vocab, info.hidden, info.layers, info.heads,
                                     info.kv_heads, info.head_dim, info.ffn, info.max_positions}),
              ElementsAre(1760, 64, 4, 4, 2, 16, 160, 2048));
  EXPECT_EQ(info.rope_theta, 10000);
  EXPECT_EQ(info.norm_eps, 1e-5);
  EXPECT_EQ(info.rope_scaling.factor, 1);
  EXPECT_TRUE(info.tied);
  EXPECT_FALSE(info.qkv_bias);
  EXPECT_FALSE(info.quantised);
  EXPECT_THAT(info.eos_ids, ElementsAre(2));
  EXPECT_EQ(info.bos_id, 1);
  EXPECT_EQ(file->Find("lm_head.weight"), nullptr);
  EXPECT_EQ(file->tensors().size(), 2u + 9 * 4);
  EXPECT_THAT(file->Find("model.layers.3.self_attn.k_proj.weight")->shape, ElementsAre(32, 64));
  EXPECT_EQ(Open(Golden("checkpoints/tiny-llama-tied-bf16"))->Find("model.norm.weight")->type,
            TensorType::kBF16);
}

TEST_F(GoldenWeights, LlamaShardedSpelledBothWays) {
  const auto new_way = Open(Golden("checkpoints/tiny-llama-untied-f32-sharded"));
  const auto old_way = Open(Golden("checkpoints/tiny-llama-untied-bf16"));
  ASSERT_TRUE(new_way != nullptr && old_way != nullptr);
  for (const WeightFile* file : {new_way.get(), old_way.get()}) {
    const ModelInfo& info = file->info();
    EXPECT_EQ(info.head_dim, 32u);
    EXPECT_EQ(info.hidden, 96u);
    EXPECT_EQ(info.rope_theta, 500000);
    EXPECT_EQ(info.rope_scaling.factor, 8);
    EXPECT_EQ(info.rope_scaling.low_freq_factor, 1);
    EXPECT_EQ(info.rope_scaling.high_freq_factor, 4);
    EXPECT_EQ(info.rope_scaling.original_max_positions, 64);
    EXPECT_FALSE(info.tied);
    EXPECT_THAT(info.eos_ids, ElementsAre(2008, 2015, 2016));
    EXPECT_EQ(info.bos_id, 2007);
    EXPECT_THAT(file->Find("model.layers.0.self_attn.q_proj.weight")->shape, ElementsAre(192, 96));
    EXPECT_THAT(file->Find("lm_head.weight")->shape, ElementsAre(2018, 96));
  }
  EXPECT_NE(new_way->info().fingerprint, old_way->info().fingerprint);
  // The bf16 checkpoint is the f32 one rounded.
  for (const Tensor* tensor : new_way->tensors()) {
    std::vector<float> values = Values(*tensor);
    std::vector<std::byte> rounded(values.size() * 2);
    ASSERT_TRUE(Quantize(TensorType::kBF16, values.data(), values.size(), rounded.data()).ok());
    EXPECT_EQ(AsText(rounded), AsText(old_way->Find(tensor->name)->data)) << tensor->name;
  }
}

TEST_F(GoldenWeights, Qwen2) {
  for (const std::string name : {"tiny-qwen2-f32", "tiny-qwen2-bf16-sharded"}) {
    const auto file = Open(Golden("checkpoints/" + name));
    ASSERT_NE(file, nullptr);
    const ModelInfo& info = file->info();
    EXPECT_EQ(info.architecture, "qwen2");
    EXPECT_EQ(info.vocab, 2432u);
    EXPECT_EQ(info.rope_theta, 1e6);
    EXPECT_EQ(info.norm_eps, 1e-6);
    EXPECT_TRUE(info.tied);
    EXPECT_TRUE(info.qkv_bias);
    EXPECT_THAT(info.eos_ids, ElementsAre(2402, 2400));
    EXPECT_THAT(file->Find("model.layers.1.self_attn.v_proj.bias")->shape, ElementsAre(32));
  }
}

TEST_F(GoldenWeights, OtherArchitecturesAreNamed) {
  for (const std::string name : {"tiny-qwen2_5_vl-f32", "tiny-qwen2_5_vl-bf16-sharded"}) {
    const auto file = OpenWeights(Golden("checkpoints/" + name));
    ASSERT_EQ(file.status().code(), StatusCode::kInvalid);
    EXPECT_THAT(file.status().message(),
                HasSubstr("'qwen2_5_vl' is not supported; llama and qwen2 are"));
  }
}

/// Quantising the checkpoint's rows in canonical order must give the GGUF's bytes as the loader
/// presents them: this covers names, shapes, the undone permutation and the encoders at once.
void ExpectSameWeights(const std::string& gguf, const std::string& checkpoint) {
  const auto a = Open(Golden("gguf/" + gguf + ".gguf")),
             b = Open(Golden("checkpoints/" + checkpoint));
  ASSERT_TRUE(a != nullptr && b != nullptr);
  ASSERT_EQ(a->tensors().size(), b->tensors().size());
  for (const Tensor* tensor : a->tensors()) {
    const Tensor* original = b->Find(tensor->name);
    ASSERT_NE(original, nullptr) << tensor->name;
    ASSERT_EQ(original->shape, tensor->shape);
    ASSERT_EQ(tensor->data.size(), tensor->rows() * tensor->RowBytes());
    const std::vector<float> values = Values(*original);
    std::vector<std::byte> bytes(tensor->data.size());
    ASSERT_TRUE(Quantize(tensor->type, values.data(), values.size(), bytes.data()).ok());
    EXPECT_TRUE(AsText(bytes) == AsText(tensor->data)) << gguf << " " << tensor->name;
  }
  const ModelInfo &x = a->info(), &y = b->info();
  EXPECT_EQ(x.architecture, y.architecture);
  EXPECT_EQ((std::vector{x.vocab, x.hidden, x.layers, x.heads, x.kv_heads, x.head_dim, x.ffn,
                         x.max_positions}),
            (std::vector{y.vocab, y.hidden, y.layers, y.heads, y.kv_heads, y.head_dim, y.ffn,
                         y.max_positions}));
  EXPECT_EQ(x.tied, y.tied);
  EXPECT_EQ(x.qkv_bias, y.qkv_bias);
  EXPECT_EQ(x.rope_theta, y.rope_theta);
  EXPECT_FLOAT_EQ(static_cast<float>(x.norm_eps), static_cast<float>(y.norm_eps));
  EXPECT_EQ(x.bos_id, y.bos_id);
  ASSERT_FALSE(x.eos_ids.empty());
  EXPECT_THAT(y.eos_ids, testing::Contains(x.eos_ids.front()));
}

TEST_F(GoldenWeights, GgufEqualsItsCheckpoint) {
  ExpectSameWeights("tiny-llama-spm-q5_1", "tiny-llama-tied-f32");
  ExpectSameWeights("tiny-llama3-q4_1", "tiny-llama-untied-f32-sharded");
  ExpectSameWeights("tiny-qwen2-f16", "tiny-qwen2-f32");
  ExpectSameWeights("tiny-qwen2-q8_0", "tiny-qwen2-f32");
}

TEST_F(GoldenWeights, RopeFrequencyDivisorsAreTheLlama3Scaling) {
  const auto file = Open(Golden("gguf/tiny-llama3-q4_1.gguf"));
  ASSERT_NE(file, nullptr);
  const ModelInfo& info = file->info();
  EXPECT_TRUE(info.quantised);
  EXPECT_EQ(info.rope_scaling.factor, 1) << "the divisors already hold it";
  ASSERT_EQ(info.rope_freq_divisors.size(), 16u);
  for (size_t j = 0; j < 16; ++j) {  // golden README, section 3, with f = 8, l = 1, h = 4, o = 64
    const double inv = std::pow(500000.0, -2.0 * static_cast<double>(j) / 32),
                 wave = 2 * M_PI / inv;
    const double s = (64 / wave - 1) / 3;
    const double scaled = wave < 16 ? inv : wave > 64 ? inv / 8 : (1 - s) * inv / 8 + s * inv;
    EXPECT_NEAR(info.rope_freq_divisors[j], inv / scaled, 1e-4) << j;
  }
  EXPECT_TRUE(Open(Golden("gguf/tiny-qwen2-q8_0.gguf"))->info().rope_freq_divisors.empty());
}

TEST_F(GoldenWeights, FingerprintsNameTheFunction) {
  const auto once = Open(Golden("checkpoints/tiny-qwen2-f32")),
             again = Open(Golden("checkpoints/tiny-qwen2-f32/"));
  EXPECT_EQ(once->info().fingerprint, again->info().fingerprint);
  EXPECT_EQ(again->info().name, "tiny-qwen2-f32");
  EXPECT_NE(once->info().fingerprint, Open(Golden("gguf/tiny-qwen2-f16.gguf"))->info().fingerprint);
  EXPECT_NE(Open(Golden("gguf/tiny-qwen2-q8_0.gguf"))->info().fingerprint,
            Open(Golden("gguf/tiny-qwen2-f16.gguf"))->info().fingerprint);
}

TEST_F(GoldenWeights, ShardsMustHoldWhatTheIndexSays) {
  const TempDir dir;
  const auto copy = [&](const std::string& into) {
    std::filesystem::copy(Golden("checkpoints/tiny-qwen2-bf16-sharded"), dir.File(into));
    return dir.File(into);
  };
  const std::string moved = copy("missing");
  std::filesystem::remove(moved + "/model-00002-of-00002.safetensors");
  EXPECT_EQ(OpenWeights(moved).status().code(), StatusCode::kNotFound);

  const std::string same = copy("same");
  std::filesystem::copy_file(same + "/model-00001-of-00002.safetensors",
                             same + "/model-00002-of-00002.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(OpenWeights(same).status().message(), HasSubstr("are the same one"));

  const std::string outside = copy("outside"), index = outside + "/model.safetensors.index.json";
  for (const std::string name : {"../x.safetensors", "/etc/passwd", "", "..", "a/b"}) {
    std::ofstream(index) << nlohmann::json{{"weight_map", {{"model.norm.weight", name}}}};
    EXPECT_THAT(OpenWeights(outside).status().message(), HasSubstr("which is no file name"))
        << name;
  }
  std::ofstream(index) << R"({"weight_map":{"no.such":"model-00001-of-00002.safetensors"}})";
  EXPECT_THAT(OpenWeights(outside).status().message(), HasSubstr("tensor 'no.such' is not in"));
  for (const std::string text : {"{}", "[]", "", "{\"weight_map\":{}}", "{\"weight_map\":7}"}) {
    std::ofstream(index) << text;
    EXPECT_EQ(OpenWeights(outside).status().code(), StatusCode::kInvalid) << text;
  }
}

/// The model of the demo, against what the reference reader found in it.
TEST(DemoModel, MatchesTheReferenceMetadata) {
  const char* path = std::getenv("BATON_DEMO_MODEL");
  const std::string json = ReadAll(Golden("smollm2/gguf_metadata.json"));
  if (path == nullptr || json.empty())
    GTEST_SKIP() << "BATON_DEMO_MODEL or the golden data is missing";
  const nlohmann::json want = nlohmann::json::parse(json);
  auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  ASSERT_EQ((*file)->tensors().size(), want["tensors"].size());
  for (const auto& entry : want["tensors"]) {
    const GgufTensor* tensor = (*file)->FindTensor(entry["name"].get<std::string>());
    ASSERT_NE(tensor, nullptr) << entry["name"];
    std::vector<uint64_t> dims = entry["ne (fastest first)"];
    std::reverse(dims.begin(), dims.end());
    EXPECT_EQ(tensor->shape, dims);
    EXPECT_EQ(TensorTypeName(static_cast<uint32_t>(tensor->type)), entry["type"]);
    EXPECT_EQ(tensor->data.size(), entry["n_bytes"].get<uint64_t>());
  }
  for (const auto& check : want["dequant_checks"]) {
    const GgufTensor* tensor = (*file)->FindTensor(check["name"].get<std::string>());
    ASSERT_NE(tensor, nullptr);
    const std::vector<float> values = Values({"", tensor->type, tensor->shape, tensor->data});
    double sum = 0, magnitude = 0;
    for (const float value : values) {
      sum += value;
      magnitude += std::fabs(value);
    }
    EXPECT_NEAR(sum, check["sum"].get<double>(), 1e-6 * magnitude) << check["name"];
    EXPECT_NEAR(magnitude, check["abs_sum"].get<double>(), 1e-6 * magnitude);
    for (size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(values[i], check["first8_row0"][i].get<float>());
      EXPECT_EQ(values[values.size() - 8 + i], check["last8"][i].get<float>());
    }
  }
  for (const auto& entry : want["kv"]) {
    const std::string key = entry["key"];
    if (key.starts_with("GGUF.")) continue;
    ASSERT_TRUE((*file)->Has(key)) << key;
    if (entry["type"] == nlohmann::json{"STRING"}) {
      EXPECT_EQ(*(*file)->GetString(key), entry["value"]) << key;
    } else if (entry["type"] == nlohmann::json{"UINT32"}) {
      EXPECT_EQ(*(*file)->GetUint(key), entry["value"]) << key;
    }
  }
}

TEST(DemoModel, OpensQuickly) {
  const char* path = std::getenv("BATON_DEMO_MODEL");
  if (path == nullptr) GTEST_SKIP() << "BATON_DEMO_MODEL is not set";
  const auto start = std::chrono::steady_clock::now();
  const auto file = Open(path);
  RecordProperty("open_ms", static_cast<int>(std::chrono::duration<double, std::milli>(
                                                 std::chrono::steady_clock::now() - start)
                                                 .count()));
  ASSERT_NE(file, nullptr);
  const ModelInfo& info = file->info();
  EXPECT_THAT((std::vector<uint32_t>{info.vocab, info.hidden, info.layers, info.heads,
                                     info.kv_heads, info.head_dim, info.ffn}),
              ElementsAre(49152, 576, 30, 9, 3, 64, 1536));
  EXPECT_EQ(info.rope_theta, 100000);
  EXPECT_TRUE(info.tied && info.quantised);
  EXPECT_THAT(info.eos_ids, testing::Contains(2));
  EXPECT_EQ(file->tensors().size(), 272u);
}

}  // namespace
}  // namespace baton
