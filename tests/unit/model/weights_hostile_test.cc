// Model files that lie: every refusal names what is wrong, and nothing crashes.
#include "base/random.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/unit/model/format_support.h"
#include "tests/unit/model/tiny_hf.h"

namespace baton {
namespace {

using testing::HasSubstr;
using namespace testing_formats;  // NOLINT(google-build-using-namespace)

class HostileGguf : public testing::Test {
 protected:
  std::string ErrorOf(const GgufBuilder& b) { return ErrorOf(b.Build()); }
  std::string ErrorOf(const std::string& content) {
    auto file = OpenWeights(dir_.Write("m.gguf", content));
    if (file.ok()) return "no error";
    EXPECT_EQ(file.status().code(), StatusCode::kInvalid) << file.status().ToString();
    EXPECT_THAT(file.status().message(), HasSubstr("m.gguf"));
    return file.status().message();
  }
  /// A model whose key `name` was changed by `change` (called after the others, on a builder
  /// without that key).
  std::string WithKeys(const std::function<void(GgufBuilder&)>& add, const TinyShape& shape = {},
                       const std::string& arch = "llama") {
    GgufBuilder b;
    AddTinyKeys(b, arch, shape);
    add(b);
    AddTinyTensors(b, arch, TinyShape{});
    return ErrorOf(b);
  }
  TempDir dir_;
};

TEST_F(HostileGguf, TheTinyModelItselfIsFine) {
  for (const std::string arch : {"llama", "qwen2"}) {
    GgufBuilder b;
    AddTinyTensors(AddTinyKeys(b, arch, {}), arch, {});
    auto file = OpenWeights(dir_.Write("m.gguf", b.Build()));
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    EXPECT_EQ((*file)->info().qkv_bias, arch == "qwen2");
    EXPECT_TRUE((*file)->info().tied);
    EXPECT_EQ((*file)->info().name, "m");
    const Tensor* q = (*file)->Find("model.layers.0.self_attn.q_proj.weight");
    ASSERT_NE(q, nullptr);
    // Row r of the file begins with 2 + r * 32 / 64. llama: canonical row 1 of head 0 is file row
    // 2; row 8 is file row 1; row 16 + 9 (head 1, second half) is file row 16 + 3.
    float first[32];
    for (const auto& [row, from] :
         arch == "llama" ? std::map<int, int>{{0, 0}, {1, 2}, {8, 1}, {25, 19}, {31, 31}}
                         : std::map<int, int>{{0, 0}, {1, 1}, {8, 8}, {25, 25}, {31, 31}}) {
      std::memcpy(first, q->data.data() + static_cast<size_t>(row) * q->RowBytes(), sizeof first);
      EXPECT_EQ(first[0], 2 + static_cast<float>(from) / 2) << arch << " row " << row;
    }
  }
}

TEST_F(HostileGguf, LlamaBiasesArePermutedToo) {
  GgufBuilder b;
  AddTinyTensors(AddTinyKeys(b, "llama", {}), "qwen2", {});  // llama keys, tensors with biases
  auto file = OpenWeights(dir_.Write("m.gguf", b.Build()));
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_TRUE((*file)->info().qkv_bias);
  float bias[16];
  std::memcpy(bias, (*file)->Find("model.layers.0.self_attn.k_proj.bias")->data.data(),
              sizeof bias);
  EXPECT_EQ(bias[1], 6 + 2.f / 64);
  EXPECT_EQ(bias[8], 6 + 1.f / 64);
}

TEST_F(HostileGguf, MissingAndWrongKeys) {
  EXPECT_THAT(ErrorOf(GgufBuilder()), HasSubstr("'general.architecture' is missing"));
  EXPECT_THAT(ErrorOf(GgufBuilder().String("general.architecture", "gemma3")),
              HasSubstr("'gemma3' is not supported; llama and qwen2"));
  EXPECT_THAT(ErrorOf(GgufBuilder().U32("general.architecture", 1)), HasSubstr("not a string"));
  EXPECT_THAT(ErrorOf(GgufBuilder().String("general.architecture", "llama")),
              HasSubstr("llama.block_count"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.U32("llama.attention.key_length", 15); }),
              HasSubstr("odd"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.U32("llama.attention.key_length", 0); }),
              HasSubstr("head dimension is 0"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.U32("llama.attention.value_length", 8); }),
              HasSubstr("values of 8"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.U32("llama.rope.dimension_count", 8); }),
              HasSubstr("RoPE over 8 of 16"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.U32("llama.expert_count", 8); }),
              HasSubstr("8 experts"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.String("llama.rope.scaling.type", "yarn"); }),
              HasSubstr("'yarn' is not supported"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.F32("llama.rope.freq_base", std::nanf("")); }),
              HasSubstr("RoPE base"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.F32("llama.rope.freq_base", -1); }),
              HasSubstr("RoPE base is -1"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.U32("llama.rope.freq_base", 1); }),
              HasSubstr("not a float"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.U32("tokenizer.ggml.eos_token_id", 8); }),
              HasSubstr("end token 8"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.U32("tokenizer.ggml.bos_token_id", 8); }),
              HasSubstr("start token 8"));
  EXPECT_THAT(WithKeys([](GgufBuilder& b) { b.Value("tokenizer.ggml.eos_token_id", 5, Raw(-7)); }),
              HasSubstr("no token"));
  EXPECT_EQ(WithKeys([](GgufBuilder& b) { b.U32("tokenizer.ggml.bos_token_id", UINT32_MAX); }),
            "no error");
  EXPECT_THAT(WithKeys([](GgufBuilder& b) {
                b.Strings("tokenizer.ggml.tokens", std::vector<std::string>(9, "t"));
              }),
              HasSubstr("9 tokens"));
}

TEST_F(HostileGguf, ImpossibleDimensions) {
  const auto with = [&](auto member, auto value) {
    TinyShape shape;
    shape.*member = value;
    return WithKeys([](GgufBuilder&) {}, shape);
  };
  EXPECT_THAT(with(&TinyShape::heads, 0), HasSubstr("number of heads is 0"));
  EXPECT_THAT(with(&TinyShape::kv_heads, 0), HasSubstr("KV heads is 0"));
  EXPECT_THAT(with(&TinyShape::kv_heads, 3), HasSubstr("KV heads is 3"));
  EXPECT_THAT(with(&TinyShape::hidden, 0), HasSubstr("hidden size is 0"));
  EXPECT_THAT(with(&TinyShape::hidden, 0xffffffffu), HasSubstr("hidden size is 4294967295"));
  EXPECT_THAT(with(&TinyShape::ffn, 0), HasSubstr("feed-forward size is 0"));
  EXPECT_THAT(
      with(&TinyShape::ffn, 96),
      HasSubstr(
          "'blk.0.ffn_gate.weight' has shape [64, 32]; the model's dimensions ask for [96, 32]"));
  EXPECT_THAT(with(&TinyShape::layers, 0), HasSubstr("number of layers is 0"));
  EXPECT_THAT(with(&TinyShape::layers, 0xffffffffu), HasSubstr("number of layers"));
  EXPECT_THAT(with(&TinyShape::layers, 3),
              HasSubstr("tensor 'model.layers.2.input_layernorm.weight' is missing"));
  EXPECT_THAT(with(&TinyShape::layers, 1),
              HasSubstr("'blk.1.attn_norm.weight' is not part of a llama model of 1 layers"));
  TinyShape uneven;
  uneven.heads = 4;
  uneven.kv_heads = 3;
  EXPECT_THAT(WithKeys([](GgufBuilder&) {}, uneven),
              HasSubstr("4 heads are no multiple of 3 KV heads"));
}

TEST_F(HostileGguf, PerLayerArrays) {
  const auto with = [&](std::vector<uint32_t> counts) {
    GgufBuilder b;
    b.String("general.architecture", "llama")
        .U32("llama.block_count", 2)
        .U32("llama.context_length", 128);
    b.U32("llama.embedding_length", 32)
        .U32("llama.feed_forward_length", 64)
        .U32("llama.attention.head_count", 2);
    b.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    std::string raw;
    for (const uint32_t count : counts) raw += Raw(count);
    b.Array("llama.attention.head_count_kv", 4, counts.size(), raw);
    return ErrorOf(AddTinyTensors(b, "llama", {}));
  };
  EXPECT_EQ(with({1, 1}), "no error");
  EXPECT_THAT(with({1, 2}), HasSubstr("differs between layers"));
  EXPECT_THAT(with({}), HasSubstr("no usable element"));
}

TEST_F(HostileGguf, MissingWrongAndUnknownTensors) {
  for (const std::string name : {"token_embd.weight", "output_norm.weight", "blk.1.attn_v.weight",
                                 "blk.0.ffn_down.weight"}) {
    GgufBuilder b;
    AddTinyTensors(AddTinyKeys(b, "llama", {}), "llama", {}, name);
    EXPECT_THAT(ErrorOf(b), HasSubstr("is missing")) << name;
  }
  const auto with = [&](const std::function<void(GgufBuilder&)>& add, std::string_view skip = "") {
    GgufBuilder b;
    AddTinyTensors(AddTinyKeys(b, "llama", {}), "llama", {}, skip);
    add(b);
    return ErrorOf(b);
  };
  EXPECT_THAT(
      with([](GgufBuilder& b) { b.Tensor("blk.0.attn_q_norm.weight", {16}, 0, FloatData(16)); }),
      HasSubstr("another architecture"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.Tensor("blk.", {1}, 0, FloatData(1)); }),
              HasSubstr("another architecture"));
  EXPECT_EQ(with([](GgufBuilder& b) { b.Tensor("something.else", {1}, 0, FloatData(1)); }),
            "no error");
  EXPECT_THAT(
      with([](GgufBuilder& b) { b.Tensor("output_norm.weight", {32}, 8, std::string(34, '\0')); },
           "output_norm.weight"),
      HasSubstr("'output_norm.weight' is Q8_0; norms and biases must be"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.Tensor("rope_freqs.weight", {7}, 0, FloatData(7, 1)); }),
              HasSubstr("7 RoPE frequency divisors for 8"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.Tensor("rope_freqs.weight", {8}, 0, FloatData(8)); }),
              HasSubstr("divisor is 0"));
  EXPECT_THAT(
      with([](GgufBuilder& b) { b.Tensor("rope_freqs.weight", {8}, 1, std::string(16, 'x')); }),
      HasSubstr("must be F32"));
  EXPECT_THAT(with(
                  [](GgufBuilder& b) {
                    b.Tensor("blk.1.attn_q.weight", {16, 32}, 0, FloatData(512));
                  },
                  "blk.1.attn_q.weight"),
              HasSubstr("'blk.1.attn_q.weight' has shape [32, 16]"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.Tensor("blk.1.attn_q.weight", {32}, 0, FloatData(32)); },
                   "blk.1.attn_q.weight"),
              HasSubstr("has shape [1, 32]"));
  EXPECT_THAT(
      with([](GgufBuilder& b) { b.Tensor("model.layers.0.attn_q.weight", {1}, 0, FloatData(1)); }),
      HasSubstr("no error"));
}

TEST_F(HostileGguf, TruncationsAndFlippedBytes) {
  TinyShape shape;
  shape.layers = 1;
  GgufBuilder b;
  const std::string whole = AddTinyTensors(AddTinyKeys(b, "llama", shape), "llama", shape).Build();
  EXPECT_EQ(ErrorOf(whole), "no error");
  for (size_t length = 0; length < 2000; length += 7)
    EXPECT_NE(ErrorOf(whole.substr(0, length)), "no error");
  Random random(23);
  for (int round = 0; round < 2000; ++round) {
    std::string text = whole;
    text[random.Below(1400)] =
        static_cast<char>(random.Below(256));  // the header; the data may hold anything
    (void)OpenWeights(dir_.Write("flip.gguf", text)).ok();
  }
}

TEST(OpenWeights, NothingOrTheWrongThingThere) {
  const TempDir dir;
  EXPECT_EQ(OpenWeights(dir.File("none")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(OpenWeights("").status().code(), StatusCode::kNotFound);
  EXPECT_THAT(OpenWeights(dir.path().string()).status().message(), HasSubstr("no config.json"));
  EXPECT_THAT(OpenWeights(dir.Write("x.bin", "hello")).status().message(),
              HasSubstr("not a GGUF file"));
}

class HostileHf : public testing::Test, protected TinyHf {
 protected:
  std::string ErrorWith(const nlohmann::json& changes) {
    nlohmann::json config = config_;
    config.update(changes);
    return ErrorOfText(config.dump());
  }
  std::string ErrorOfText(const std::string& config) {
    dir_.Write("config.json", config);
    auto file = OpenWeights(dir_.path().string());
    if (file.ok()) return "no error";
    EXPECT_EQ(file.status().code(), StatusCode::kInvalid);
    EXPECT_THAT(file.status().message(), HasSubstr(dir_.path().string()));
    return file.status().message();
  }
};

TEST_F(HostileHf, ConfigKeys) {
  WriteTensors();
  EXPECT_EQ(ErrorWith(nlohmann::json::object()), "no error");
  EXPECT_THAT(ErrorWith({{"model_type", "mamba"}}),
              HasSubstr("'mamba' is not supported; llama and qwen2 are"));
  EXPECT_THAT(ErrorWith({{"model_type", 3}}), HasSubstr("'model_type' is 3, not a string"));
  EXPECT_THAT(ErrorWith({{"hidden_size", nullptr}}), HasSubstr("'hidden_size' is missing"));
  EXPECT_THAT(ErrorWith({{"hidden_size", -8}}), HasSubstr("'hidden_size' is -8, not a count"));
  EXPECT_THAT(ErrorWith({{"hidden_size", "8"}}), HasSubstr("not a count"));
  EXPECT_THAT(ErrorWith({{"hidden_size", 1ull << 40}}), HasSubstr("not a count"));
  EXPECT_THAT(ErrorWith({{"num_attention_heads", 0}}), HasSubstr("number of heads is 0"));
  EXPECT_THAT(ErrorWith({{"num_hidden_layers", 2}}),
              HasSubstr("'model.layers.1.input_layernorm.weight' is missing"));
  EXPECT_THAT(ErrorWith({{"rms_norm_eps", 0}}), HasSubstr("epsilon is 0"));
  EXPECT_THAT(ErrorWith({{"rope_theta", 0}}), HasSubstr("RoPE base is 0"));
  EXPECT_THAT(ErrorWith({{"hidden_act", "gelu"}}), HasSubstr("'gelu' is not supported"));
  EXPECT_THAT(ErrorWith({{"use_sliding_window", true}}), HasSubstr("use_sliding_window"));
  EXPECT_THAT(ErrorWith({{"layer_types", {"sliding_attention"}}}), HasSubstr("layer_types"));
  EXPECT_THAT(ErrorWith({{"attention_bias", true}}), HasSubstr("attention_bias"));
  EXPECT_THAT(ErrorWith({{"quantization_config", {{"quant_method", "awq"}}}}),
              HasSubstr("quantization_config"));
  EXPECT_THAT(ErrorWith({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}),
              HasSubstr("'linear' is not supported"));
  EXPECT_THAT(ErrorWith({{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}}}}),
              HasSubstr("'low_freq_factor' of 'rope_scaling'"));
  EXPECT_THAT(ErrorWith({{"rope_scaling", "x"}}), HasSubstr("not an object"));
  EXPECT_THAT(ErrorWith({{"eos_token_id", 4}}), HasSubstr("end token 4 is outside"));
  EXPECT_THAT(ErrorWith({{"eos_token_id", {1, "x"}}}), HasSubstr("'eos_token_id' is neither"));
  EXPECT_THAT(ErrorWith({{"eos_token_id", {{1}}}}), HasSubstr("'eos_token_id' is neither"));
  EXPECT_THAT(ErrorWith({{"bos_token_id", {1, 2}}}), HasSubstr("'bos_token_id'"));
  EXPECT_THAT(ErrorWith({{"tie_word_embeddings", false}}),
              HasSubstr("'lm_head.weight' is missing"));
  EXPECT_THAT(ErrorWith({{"tie_word_embeddings", "yes"}}), HasSubstr("not true or false"));
  EXPECT_EQ(ErrorWith({{"tie_word_embeddings", true}}), "no error");
}

TEST_F(HostileHf, ConfigText) {
  WriteTensors();
  for (const std::string text : {"", "{", "[]", "7", "{\"a\":\xff}"})
    EXPECT_NE(ErrorOfText(text), "no error");
  EXPECT_THAT(ErrorOfText("{\"a\":" + std::string(100000, '[')),
              HasSubstr("nested deeper than 64"));
  EXPECT_THAT(ErrorOfText(std::string((16 << 20) + 1, ' ')), HasSubstr("at most"));
  dir_.Write("generation_config.json", R"({"eos_token_id":[3,1,3]})");
  dir_.Write("config.json", config_.dump());
  auto file = OpenWeights(dir_.path().string());
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_THAT((*file)->info().eos_ids, testing::ElementsAre(3, 1));
  const std::string whole = config_.dump();
  Random random(24);
  for (int round = 0; round < 1000; ++round) {
    std::string text = whole;
    text[random.Below(text.size())] = static_cast<char>(random.Below(256));
    dir_.Write("config.json", text);
    (void)OpenWeights(dir_.path().string()).ok();
  }
}

TEST_F(HostileHf, NestedTextConfigAndPrefixes) {
  for (const std::string prefix : {"model.language_model.", "language_model.model."}) {
    std::map<std::string, std::vector<uint64_t>> renamed = {{"vision_tower.x", {1}}};
    for (const auto& [name, shape] : tensors_)
      renamed[prefix + (name.starts_with("model.") ? name.substr(6) : name)] = shape;
    const auto plain = std::exchange(tensors_, renamed);
    WriteTensors();
    tensors_ = plain;
    dir_.Write("config.json",
               nlohmann::json{{"model_type", "llava"}, {"text_config", config_}}.dump());
    auto file = OpenWeights(dir_.path().string());
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    EXPECT_EQ((*file)->info().architecture, "llama");
    EXPECT_NE((*file)->Find("model.layers.0.mlp.up_proj.weight"), nullptr);
    EXPECT_EQ((*file)->Find("vision_tower.x"), nullptr);
  }
}

TEST_F(HostileHf, Tensors) {
  dir_.Write("config.json", config_.dump());
  EXPECT_THAT(ErrorWith(nlohmann::json::object()), HasSubstr("neither model.safetensors nor"));
  WriteTensors(SafetensorsType::kF64);
  EXPECT_THAT(ErrorWith(nlohmann::json::object()), HasSubstr("unsupported type F64"));
  tensors_["model.layers.0.self_attn.q_norm.weight"] = {4};
  WriteTensors();
  EXPECT_THAT(ErrorWith(nlohmann::json::object()),
              HasSubstr("'model.layers.0.self_attn.q_norm.weight' is not part of a llama model"));
  tensors_.erase("model.layers.0.self_attn.q_norm.weight");
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {2};
  tensors_["lm_head.weight"] = {4, 8};
  WriteTensors(SafetensorsType::kF16);
  auto file = OpenWeights(dir_.path().string());
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_FALSE((*file)->info().tied) << "a head without a word about tying is used";
  tensors_["model.layers.0.mlp.down_proj.weight"] = {16, 8};
  WriteTensors();
  EXPECT_THAT(ErrorWith(nlohmann::json::object()),
              HasSubstr("'model.layers.0.mlp.down_proj.weight' has shape [16, 8]; the model's "
                        "dimensions ask for [8, 16]"));
}

TEST_F(HostileHf, UnalignedDataIsCopied) {
  WriteTensors();
  std::string text = ReadAll(dir_.File("model.safetensors"));
  uint64_t length = 0;
  std::memcpy(&length, text.data(), 8);
  text.insert(8 + length, " ");  // a writer that does not pad its header
  text.replace(0, 8, Raw(length + 1));
  dir_.Write("model.safetensors", text);
  dir_.Write("config.json", config_.dump());
  auto file = OpenWeights(dir_.path().string());
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  for (const Tensor* tensor : (*file)->tensors()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->data.data()) % alignof(float), 0u)
        << tensor->name;
  }
}

}  // namespace
}  // namespace baton
