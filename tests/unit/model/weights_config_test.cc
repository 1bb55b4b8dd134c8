// config.json in every spelling that is met, and the RoPE frequencies that follow from it.
#include <functional>

#include "model/thread_pool.h"
#include "model/transformer_weights.h"
#include "tests/unit/model/tiny_hf.h"

namespace baton {
namespace {

using testing::ElementsAre;
using namespace testing_formats;  // NOLINT(google-build-using-namespace)
using Json = nlohmann::json;

struct Spelling {
  const char* name;
  Json changes;
  std::function<void(const ModelInfo&)> check;
};
void PrintTo(const Spelling& spelling, std::ostream* out) { *out << spelling.name; }

class ConfigSpelling : public testing::TestWithParam<Spelling>, protected TinyHf {};

TEST_P(ConfigSpelling, IsUnderstood) {
  WriteTensors();
  config_.merge_patch(GetParam().changes);
  dir_.Write("config.json", config_.dump());
  const auto file = OpenWeights(dir_.path().string());
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  GetParam().check((*file)->info());
}

const Json kLlama3{{"factor", 8.0}, {"low_freq_factor", 1.5}, {"high_freq_factor", 3.5}, {"original_max_position_embeddings", 4096}};
Json WithType(const char* key, Json more = {}) {
  Json rope = kLlama3;
  rope[key] = "llama3";
  rope.merge_patch(more.is_null() ? Json::object() : more);
  return rope;
}
void ExpectLlama3(const ModelInfo& info) {
  const RopeScaling& rope = info.rope_scaling;
  EXPECT_THAT((std::vector<double>{rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_max_positions}), ElementsAre(8, 1.5, 3.5, 4096));
}

INSTANTIATE_TEST_SUITE_P(
    Hf, ConfigSpelling,
    testing::Values(
        Spelling{"defaults", Json::object(), [](const ModelInfo& i) {
          EXPECT_EQ(i.rope_theta, 10000);
          EXPECT_EQ(i.max_positions, 2048u);
          EXPECT_EQ(i.head_dim, 4u);
          EXPECT_EQ(i.rope_scaling.factor, 1);
          EXPECT_TRUE(i.tied) << "there is no lm_head";
          EXPECT_TRUE(i.eos_ids.empty());
          EXPECT_EQ(i.bos_id, -1);
        }},
        Spelling{"theta_beside", {{"rope_theta", 500000}}, [](const ModelInfo& i) { EXPECT_EQ(i.rope_theta, 500000); }},
        Spelling{"theta_inside_rope_parameters", {{"rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "default"}}}}, [](const ModelInfo& i) { EXPECT_EQ(i.rope_theta, 1e6); }},
        Spelling{"theta_inside_wins", {{"rope_theta", 10000.0}, {"rope_parameters", {{"rope_theta", 2e6}}}}, [](const ModelInfo& i) { EXPECT_EQ(i.rope_theta, 2e6); }},
        Spelling{"scaling_null", {{"rope_scaling", nullptr}}, [](const ModelInfo& i) { EXPECT_EQ(i.rope_scaling.factor, 1); }},
        Spelling{"scaling_by_rope_type", {{"rope_scaling", WithType("rope_type")}}, ExpectLlama3},
        Spelling{"scaling_by_type", {{"rope_scaling", WithType("type")}}, ExpectLlama3},
        Spelling{"scaling_in_rope_parameters", {{"rope_parameters", WithType("rope_type", {{"rope_theta", 5e5}})}}, [](const ModelInfo& i) {
          ExpectLlama3(i);
          EXPECT_EQ(i.rope_theta, 5e5);
        }},
        Spelling{"scaling_of_mere_default", {{"rope_scaling", {{"type", "default"}}}}, [](const ModelInfo& i) { EXPECT_EQ(i.rope_scaling.factor, 1); }},
        Spelling{"partial_rotary_of_all", {{"rope_parameters", {{"partial_rotary_factor", 1.0}}}}, [](const ModelInfo& i) { EXPECT_EQ(i.rope_theta, 10000); }},
        Spelling{"head_dim_null", {{"head_dim", nullptr}}, [](const ModelInfo& i) { EXPECT_EQ(i.head_dim, 4u); }},
        Spelling{"head_dim_given", {{"head_dim", 4}}, [](const ModelInfo& i) { EXPECT_EQ(i.head_dim, 4u); }},
        Spelling{"tied_said", {{"tie_word_embeddings", true}}, [](const ModelInfo& i) { EXPECT_TRUE(i.tied); }},
        Spelling{"eos_one", {{"eos_token_id", 3}}, [](const ModelInfo& i) { EXPECT_THAT(i.eos_ids, ElementsAre(3)); }},
        Spelling{"eos_list", {{"eos_token_id", {3, 1, 3}}}, [](const ModelInfo& i) { EXPECT_THAT(i.eos_ids, ElementsAre(3, 1)); }},
        Spelling{"eos_null", {{"eos_token_id", nullptr}}, [](const ModelInfo& i) { EXPECT_TRUE(i.eos_ids.empty()); }},
        Spelling{"bos", {{"bos_token_id", 2}}, [](const ModelInfo& i) { EXPECT_EQ(i.bos_id, 2); }},
        Spelling{"bos_in_a_list", {{"bos_token_id", {2}}}, [](const ModelInfo& i) { EXPECT_EQ(i.bos_id, 2); }},
        Spelling{"sliding_window_unused", {{"use_sliding_window", false}, {"sliding_window", 32768}, {"max_window_layers", 28}}, [](const ModelInfo& i) { EXPECT_EQ(i.layers, 1u); }},
        Spelling{"full_attention_named", {{"layer_types", {"full_attention"}}}, [](const ModelInfo& i) { EXPECT_EQ(i.layers, 1u); }},
        Spelling{"foreign_keys", {{"torch_dtype", "bfloat16"}, {"dtype", "float32"}, {"pretraining_tp", 1}, {"architectures", {"X"}}, {"attention_dropout", 0.0}},
                 [](const ModelInfo& i) { EXPECT_EQ(i.architecture, "llama"); }},
        Spelling{"positions", {{"max_position_embeddings", 131072}}, [](const ModelInfo& i) { EXPECT_EQ(i.max_positions, 131072u); }}),
    [](const auto& info) { return std::string(info.param.name); });

class ConfigFiles : public testing::Test, protected TinyHf {
 protected:
  Result<std::unique_ptr<WeightFile>> Open() {
    dir_.Write("config.json", config_.dump());
    return OpenWeights(dir_.path().string());
  }
};

TEST_F(ConfigFiles, HeadsWithoutAKvCountAreTheirOwn) {
  config_.erase("num_key_value_heads");
  tensors_["model.layers.0.self_attn.k_proj.weight"] = tensors_["model.layers.0.self_attn.v_proj.weight"] = {8, 8};
  WriteTensors();
  const auto file = Open();
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ((*file)->info().kv_heads, 2u);
}

TEST_F(ConfigFiles, AHeadOfItsOwnUnties) {
  tensors_["lm_head.weight"] = {4, 8};
  WriteTensors();
  auto file = Open();
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_FALSE((*file)->info().tied);
  EXPECT_NE((*file)->Find("lm_head.weight"), nullptr);
  config_["tie_word_embeddings"] = true;  // the config decides; the tensor stays unread
  file = Open();
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_TRUE((*file)->info().tied);
}

TEST_F(ConfigFiles, QwenNeedsItsBiasesAndLlamaHasNone) {
  config_["model_type"] = "qwen2";
  WriteTensors();
  EXPECT_THAT(Open().status().message(), testing::HasSubstr("q_proj.bias"));
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {8};
  for (const char* name : {"k_proj", "v_proj"}) tensors_[std::string("model.layers.0.self_attn.") + name + ".bias"] = {4};
  WriteTensors();
  const auto file = Open();
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_TRUE((*file)->info().qkv_bias);
  EXPECT_EQ((*file)->info().max_positions, 32768u) << "transformers' default for Qwen2";
}

TEST_F(ConfigFiles, GenerationConfigWinsWhereItSpeaks) {
  WriteTensors();
  config_["eos_token_id"] = 1;
  config_["bos_token_id"] = 1;
  dir_.Write("generation_config.json", R"({"eos_token_id": [2, 3], "temperature": 0.7})");
  const auto file = Open();
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_THAT((*file)->info().eos_ids, ElementsAre(2, 3));
  EXPECT_EQ((*file)->info().bos_id, 1);
  dir_.Write("generation_config.json", "{broken");
  EXPECT_FALSE(Open().ok());
}

TEST_F(ConfigFiles, TheFingerprintFollowsWhatIsComputed) {
  WriteTensors();
  std::vector<Digest256> seen;
  const auto add = [&](const Json& changes) {
    TinyHf other;
    config_ = other.config_;
    config_.merge_patch(changes);
    const auto file = Open();
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    seen.push_back((*file)->info().fingerprint);
  };
  const Json others[] = {{{"rope_theta", 20000}}, {{"rms_norm_eps", 1e-6}}, {{"rope_scaling", WithType("rope_type")}}, {{"max_position_embeddings", 99}}};
  add(Json::object());
  for (const Json& changes : others) add(changes);
  for (size_t i = 0; i < seen.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(seen[i], seen[j]) << i << " and " << j;
  }
  add({{"torch_dtype", "float16"}, {"transformers_version", "5.0"}, {"use_cache", false}});
  EXPECT_EQ(seen.back(), seen[0]) << "nothing that is computed changed";
}

/// Golden README §3, computed by hand in double: theta, head_dim, scaling, inverse frequencies.
struct RopeCase {
  double theta;
  uint64_t head_dim;
  RopeScaling scaling;
  std::vector<double> frequencies;
};

TEST(RopeFrequencies, EqualTheTable) {
  const std::vector<RopeCase> cases{
      {500000, 32, {8, 1, 4, 8192},  // three bands: kept, blended (the ninth), divided
       {1.0, 0.440366603, 0.193922745, 0.0853971003, 0.0376060309, 0.0165604401, 0.00729266474, 0.00321144599, 0.000524846161, 7.78465527e-05, 3.4281022e-05, 1.50962172e-05,
        6.64786987e-06, 2.92749987e-06, 1.28917317e-06, 5.6770881e-07}},
      {10000, 16, {4, 1, 4, 64}, {1.0, 0.254647909, 0.0254647909, 0.00790569415, 0.0025, 0.000790569415, 0.00025, 7.90569415e-05}},
      {500000, 16, {32, 1, 4, 8192}, {1.0, 0.193922745, 0.0376060309, 0.00729266474, 0.000429556797, 8.57025549e-06, 1.66196747e-06, 3.22293293e-07}},
      {10000, 16, {}, {1.0, 0.316227766, 0.1, 0.0316227766, 0.01, 0.00316227766, 0.001, 0.000316227766}}};
  ThreadPool pool(1);
  for (const RopeCase& c : cases) {
    TinyHf model(c.head_dim);
    model.WriteTensors();
    model.config_["head_dim"] = c.head_dim;
    model.config_["rope_theta"] = c.theta;
    if (c.scaling.factor != 1) {
      model.config_["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", c.scaling.factor}, {"low_freq_factor", c.scaling.low_freq_factor},
                                       {"high_freq_factor", c.scaling.high_freq_factor}, {"original_max_position_embeddings", c.scaling.original_max_positions}};
    }
    model.dir_.Write("config.json", model.config_.dump());
    const auto file = OpenWeights(model.dir_.path().string());
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    const auto weights = LoadTransformerWeights(**file, Numerics::kF32, "", pool);
    ASSERT_TRUE(weights.ok()) << weights.status().ToString();
    ASSERT_EQ(weights->inverse_frequencies.size(), c.frequencies.size());
    for (size_t j = 0; j < c.frequencies.size(); ++j) EXPECT_NEAR(weights->inverse_frequencies[j], c.frequencies[j], 2e-7 * c.frequencies[j]) << c.theta << " at " << j;
  }
}

}  // namespace
}  // namespace baton
