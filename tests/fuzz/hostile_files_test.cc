// The hostile shapes without a fuzzer: each is refused with a reason, and the honest file of each format loads, so that the
// lies are told about something that works.
#include "tests/fuzz/hostile_files.h"

#include <filesystem>
#include <fstream>
#include <set>

#include "base/bytes.h"
#include "model/gguf.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "tests/fuzz/fuzz_model.h"

namespace baton {
namespace {

class HostileFiles : public testing::Test {
 protected:
  ~HostileFiles() override { std::filesystem::remove_all(folder_.path()); }
  void Expect(const HostileFile& file, const Status& status) {
    if (file.honest) {
      EXPECT_TRUE(status.ok()) << file.name << ": " << status.ToString();
      return;
    }
    EXPECT_EQ(status.code(), StatusCode::kInvalid) << file.name << ": " << status.ToString();
    EXPECT_FALSE(status.message().empty()) << file.name;
    EXPECT_LT(status.message().size(), 2000u) << file.name << ": a message must not repeat the file";
  }
  FuzzFolder folder_;
};

TEST_F(HostileFiles, NamesAreUniqueAndThereIsAnHonestOne) {
  for (const auto& [target, files] : AllHostileFiles()) {
    std::set<std::string> names;
    bool honest = false;
    for (const HostileFile& file : files) {
      EXPECT_TRUE(names.insert(file.name).second) << target << " has two files " << file.name;
      EXPECT_EQ(file.name.find('/'), std::string::npos) << file.name;
      honest |= file.honest;
    }
    EXPECT_TRUE(honest) << target;
    EXPECT_GE(files.size(), 20u) << target;
  }
}

TEST_F(HostileFiles, GgufIsRefusedAsAModel) {
  for (const HostileFile& file : HostileGguf()) {
    const auto weights = OpenWeights(folder_.Write("m.gguf", AsBytes(file.content)));
    Expect(file, weights.ok() ? OkStatus() : weights.status());
  }
}

TEST_F(HostileFiles, GgufGettersRefuseOtherTypes) {
  for (const HostileFile& file : HostileGguf()) {
    const auto parsed = GgufFile::Parse(AsBytes(file.content), file.name);
    if (!parsed.ok()) continue;
    for (const std::string_view key : (*parsed)->Keys()) {
      const bool text = (*parsed)->GetString(key).ok(), number = (*parsed)->GetInt(key).ok() || (*parsed)->GetUint(key).ok();
      const bool real = (*parsed)->GetFloat(key).ok(), flag = (*parsed)->GetBool(key).ok(), list = (*parsed)->GetCount(key).ok();
      EXPECT_LE(text + number + real + flag + list, 1) << file.name << ": " << key << " answers to two types";
    }
  }
}

TEST_F(HostileFiles, SafetensorsIsRefusedAsAFileOrAsAModel) {
  folder_.Write("config.json", AsBytes(kTinyConfigJson));
  for (const HostileFile& file : HostileSafetensors()) {
    folder_.Write("model.safetensors", AsBytes(file.content));
    const auto weights = OpenWeights(folder_.path());
    Expect(file, weights.ok() ? OkStatus() : weights.status());
  }
}

TEST_F(HostileFiles, HonestModelsCompute) {
  for (const HostileFile& file : HostileGguf()) {
    if (!file.honest) continue;
    LoadOptions options;
    options.path = folder_.Write("m.gguf", AsBytes(file.content));
    options.weights_cache = "none";
    const auto model = LoadModel(options);
    ASSERT_TRUE(model.ok()) << file.name << ": " << model.status().ToString();
    UseModel(options.path);
  }
}

TEST_F(HostileFiles, TokenizerJsonNeverCrashes) {
  for (const HostileFile& file : HostileTokenizerJson()) {
    folder_.Write("tokenizer.json", AsBytes(file.content));
    const auto tokenizer = Tokenizer::Load(folder_.path());
    EXPECT_TRUE(tokenizer.ok() || !file.honest) << file.name << ": " << tokenizer.status().ToString();
    if (tokenizer.ok()) {
      UseTokenizer(folder_.path());
    } else {
      EXPECT_FALSE(tokenizer.status().message().empty()) << file.name;
    }
  }
}

}  // namespace
}  // namespace baton
