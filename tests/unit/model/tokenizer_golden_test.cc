// Every vector of golden/tokenizers and the text cases of golden/refs.
#include <cstdlib>
#include <filesystem>

#include "base/bytes.h"
#include "model/detokenizer.h"
#include "model/tokenizer.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;
const std::string kGolden = std::string(BATON_SHARED_DIR) + "/golden/";

Json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return Json::parse(in, nullptr, false);
}

std::string Hex(const std::string& bytes) { return HexEncode(AsBytes(bytes)); }

struct Kind {
  std::string vectors, model;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.vectors << " " << kind.model; }

class TokenizerGolden : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    std::string path = kGolden + GetParam().model;
    if (GetParam().model == "demo") {
      const char* demo = std::getenv("BATON_DEMO_MODEL");
      if (demo == nullptr) GTEST_SKIP() << "BATON_DEMO_MODEL is not set";
      path = demo;
    }
    vectors_ = ReadJson(kGolden + "tokenizers/" + GetParam().vectors + ".json");
    if (vectors_.is_discarded()) GTEST_SKIP() << "no reference data";
    auto loaded = Tokenizer::Load(path);
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
    tokenizer_ = *loaded;
  }
  Json vectors_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(TokenizerGolden, Encode) {
  size_t n = 0;
  for (const Json& c : vectors_["encode"]) {
    const auto text = c["text"].get<std::string>();
    const auto ids = tokenizer_->Encode(text, {.parse_special = true});
    EXPECT_EQ(ids, c["ids"].get<std::vector<TokenId>>()) << text;
    EXPECT_EQ(tokenizer_->EncodeTrusted(text, std::string(text.size(), '\0')), ids) << text;
    const Json& plain = c.contains("ids_special_as_text") ? c["ids_special_as_text"] : c["ids"];
    EXPECT_EQ(tokenizer_->Encode(text), plain.get<std::vector<TokenId>>()) << text;
    EXPECT_EQ(tokenizer_->Decode(ids), c.value("decoded", text));
    if (c.contains("decoded_skip_special")) {
      EXPECT_EQ(tokenizer_->Decode(ids, true), c["decoded_skip_special"].get<std::string>());
    }
    ++n;
  }
  EXPECT_GT(n, 400u);
}

TEST_P(TokenizerGolden, Decode) {
  for (const Json& c : vectors_["decode"]) {
    const auto ids = c["ids"].get<std::vector<TokenId>>();
    const auto decoded = c["decoded"].get<std::string>();
    EXPECT_EQ(tokenizer_->Decode(ids), decoded) << c["ids"];
    if (c.contains("decoded_skip_special")) {
      EXPECT_EQ(tokenizer_->Decode(ids, true), c["decoded_skip_special"].get<std::string>());
    }
    std::string bytes;
    for (const TokenId id : ids) bytes += tokenizer_->TokenBytes(id);
    EXPECT_EQ(Hex(bytes), c["bytes_hex"].get<std::string>());
  }
}

TEST_P(TokenizerGolden, DecodeStream) {
  for (const Json& c : vectors_["decode_stream"]) {
    StreamDecoder decoder(tokenizer_);
    const auto ids = c["ids"].get<std::vector<TokenId>>();
    std::string all;
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::string chunk = decoder.Push(ids[i]);
      const Json& expected = c["chunks"][i];
      EXPECT_EQ(chunk, expected.is_null() ? "" : expected.get<std::string>()) << c["ids"] << " at " << i;
      all += chunk;
    }
    all += decoder.Finish();
    EXPECT_EQ(all, tokenizer_->Decode(ids));
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden,
                         ::testing::Values(Kind{"qwen2", "checkpoints/tiny-qwen2-f32"}, Kind{"qwen2", "checkpoints/tiny-qwen2_5_vl-f32"},
                                           Kind{"qwen2", "gguf/tiny-qwen2-f16.gguf"}, Kind{"llama3", "checkpoints/tiny-llama-untied-bf16"},
                                           Kind{"llama3", "gguf/tiny-llama3-q4_1.gguf"}, Kind{"spm", "checkpoints/tiny-llama-tied-f32"},
                                           Kind{"spm", "gguf/tiny-llama-spm-q5_1.gguf"}, Kind{"smollm2", "demo"}));

TEST(TokenizerRefs, TextCasesOfEveryCheckpoint) {
  std::error_code error;
  size_t cases = 0;
  for (const auto& folder : std::filesystem::directory_iterator(kGolden + "refs", error)) {
    if (!folder.is_directory()) continue;
    const std::string name = folder.path().filename().string();
    auto tokenizer = Tokenizer::Load(kGolden + "checkpoints/" + name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    for (const char* which : {"short1", "short2", "long"}) {
      const Json c = ReadJson(folder.path().string() + "/" + which + ".json");
      if (c.is_discarded() || !c.contains("text")) continue;
      const auto want = c["input_ids"].get<std::vector<TokenId>>();
      EXPECT_EQ((*tokenizer)->Encode(c["text"].get<std::string>(), {.add_special = true}), want) << name << " " << which;
      ++cases;
    }
  }
  if (cases == 0) GTEST_SKIP() << "no reference data";
  EXPECT_GE(cases, 12u);
}

}  // namespace
}  // namespace baton
