// DynamicCache files that are broken or lie about themselves: refused with a message that names file and reason, and nothing on disk.
#include <cstring>
#include <filesystem>

#include "app/dynamic_cache.h"
#include "base/random.h"
#include "tests/support/test_pch.h"
#include "tests/unit/app/run_program.h"

namespace baton {
namespace {

using testing::HasSubstr;
using Metadata = std::map<std::string, std::string>;

/// A sound cache of 5 tokens, 2 layers of 2 heads of 4; cases change one thing each.
struct CacheText {
  Metadata metadata = {{"format", "hf_dynamic_cache"}, {"version", "1"}, {"layout", "BHTD"}, {"rope", "applied"}, {"batch_size", "1"}, {"token_ids", "[5,6,7,8,9]"}, {"model", "m"}};
  std::vector<uint64_t> shape = {1, 2, 5, 4};
  std::vector<SafetensorsTensor> more;
  std::vector<std::string> names = {"layers.0.key", "layers.0.value", "layers.1.key", "layers.1.value"};
};

class HostileCacheTest : public testing::Test {
 protected:
  HostileCacheTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "baton-hostile-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~HostileCacheTest() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Write(const CacheText& c) {
    uint64_t n = 1;
    for (const uint64_t d : c.shape) n *= d;
    std::vector<float> data(n);
    for (size_t i = 0; i < n; ++i) data[i] = static_cast<float>(i) * 0.25f;
    std::vector<SafetensorsTensor> tensors;
    for (const std::string& name : c.names) tensors.push_back({name, SafetensorsType::kF32, c.shape, std::as_bytes(std::span(data))});
    tensors.insert(tensors.end(), c.more.begin(), c.more.end());
    EXPECT_TRUE(WriteSafetensors(Path("c.safetensors"), tensors, c.metadata).ok());
    return Path("c.safetensors");
  }
  std::string Refusal(const CacheText& c) {
    const auto file = OpenDynamicCache(Write(c));
    EXPECT_EQ(file.status().code(), StatusCode::kInvalid) << (file.ok() ? "it was taken" : file.status().ToString());
    EXPECT_THAT(file.status().message(), HasSubstr("c.safetensors"));
    EXPECT_LT(file.status().message().size(), 1000u) << "a message is for reading";
    return file.status().message();
  }
  static StoreIdentity Identity(const KvLayout& layout) { return {Sha256(AsBytes("model")), "f32", layout.ToString()}; }
  std::string folder_;
};

TEST_F(HostileCacheTest, WhatItsMetadataMustSay) {
  EXPECT_TRUE(OpenDynamicCache(Write({})).ok());
  const std::vector<std::tuple<std::string, std::string, std::string>> cases = {
      {"format", "other", "format=other"},     {"format", "", "format="},        {"version", "2", "version=2"},          {"layout", "BTHD", "layout=BTHD"},
      {"rope", "none", "rope=none"},           {"batch_size", "2", "batch_size=2"}, {"num_layers", "3", "num_layers=3"}, {"num_layers", "x", "num_layers=x"}};
  for (const auto& [name, value, words] : cases) {
    CacheText c;
    c.metadata[name] = value;
    EXPECT_THAT(Refusal(c), HasSubstr(words));
  }
  for (const char* name : {"format", "layout", "rope", "token_ids"}) {
    CacheText c;
    c.metadata.erase(name);
    EXPECT_THAT(Refusal(c), HasSubstr(name));
  }
  for (const char* name : {"version", "batch_size", "model"}) {
    CacheText c;
    c.metadata.erase(name);
    EXPECT_TRUE(OpenDynamicCache(Write(c)).ok()) << name << " may be left out";
  }
}

TEST_F(HostileCacheTest, TokenIdsThatAreNone) {
  const std::string deep = std::string(300000, '[') + std::string(300000, ']');
  const std::vector<std::pair<std::string, std::string>> cases = {{"", "token_ids"},
                                                                  {"5,6,7,8,9", "not valid JSON"},
                                                                  {"{}", "not a list"},
                                                                  {"\"[5]\"", "not a list"},
                                                                  {"[]", "5 positions and 0 token ids"},
                                                                  {"[5,6,7]", "5 positions and 3 token ids"},
                                                                  {"[5,6,7,8,9,10,11]", "5 positions and 7 token ids"},
                                                                  {"[5,6,7,8,-9]", "entry 4 is -9"},
                                                                  {"[5,6,7,8,2147483648]", "entry 4 is 2147483648"},
                                                                  {"[5,6,7,8,18446744073709551615]", "entry 4"},
                                                                  {"[5,6,7,8,9.0]", "entry 4 is 9.0"},
                                                                  {"[5,6,7,8,\"9\"]", "entry 4 is \"9\""},
                                                                  {"[5,6,7,8,null]", "entry 4 is null"},
                                                                  {"[5,6,7,8,[9]]", "entry 4 is [9]"},
                                                                  {"[5,6,7,8,\"" + std::string(100000, 'x') + "\"]", "entry 4 is \"xxx"},
                                                                  {deep, "nested deeper"}};
  for (const auto& [ids, words] : cases) {
    CacheText c;
    c.metadata["token_ids"] = ids;
    EXPECT_THAT(Refusal(c), HasSubstr(words)) << ids.substr(0, 60);
  }
  CacheText c;
  c.metadata["token_ids"] = "[5,6,7,8,9,10]";
  const auto one_more = OpenDynamicCache(Write(c));
  ASSERT_TRUE(one_more.ok()) << one_more.status().ToString();
  EXPECT_EQ(one_more->token_ids, (std::vector<TokenId>{5, 6, 7, 8, 9})) << "generate() leaves the last token out of its cache";
}

TEST_F(HostileCacheTest, TensorsOfOtherShapes) {
  const std::vector<std::pair<std::vector<uint64_t>, std::string>> shapes = {{{2, 2, 5, 4}, "batch of 2"}, {{2, 5, 4}, "3 dimensions"}, {{1, 2, 5, 4, 1}, "5 dimensions"}, {{1, 2, 0, 4}, "dimension of 0"},
                                                                             {{1, 0, 5, 4}, "dimension of 0"}, {{0, 2, 5, 4}, "batch of 0"}};
  for (const auto& [shape, words] : shapes) {
    CacheText c;
    c.shape = shape;
    EXPECT_THAT(Refusal(c), HasSubstr(words));
  }
  for (const std::vector<std::string>& names : {std::vector<std::string>{}, {"layers.0.value"}, {"layers.1.key", "layers.1.value"}, {"key", "value"}}) {
    CacheText c;
    c.names = names;
    EXPECT_THAT(Refusal(c), HasSubstr("layers.0.key"));
  }
  for (const std::vector<std::string>& names : {std::vector<std::string>{"layers.0.key"}, {"layers.0.key", "layers.0.value", "layers.1.key"}}) {
    CacheText c;
    c.names = names;
    EXPECT_THAT(Refusal(c), HasSubstr(".value is missing"));
  }
  const std::vector<uint16_t> halves(40);
  CacheText mixed;
  mixed.names = {"layers.0.key", "layers.0.value", "layers.1.key"};
  mixed.more = {{"layers.1.value", SafetensorsType::kF16, {1, 2, 5, 4}, std::as_bytes(std::span(halves))}};
  EXPECT_THAT(Refusal(mixed), HasSubstr("another shape or type"));
  const std::vector<int32_t> integers(40);
  CacheText whole;
  whole.names = {};
  whole.more = {{"layers.0.key", SafetensorsType::kI32, {1, 2, 5, 4}, std::as_bytes(std::span(integers))}};
  EXPECT_THAT(Refusal(whole), HasSubstr("F32, F16 or BF16"));
}

TEST_F(HostileCacheTest, PositionsOfOtherShapes) {
  const std::vector<int32_t> positions(15, 1);
  const std::vector<int64_t> longs(15, 1);
  const std::vector<SafetensorsTensor> bad = {{"position_ids", SafetensorsType::kI32, {15}, std::as_bytes(std::span(positions))},
                                              {"position_ids", SafetensorsType::kI32, {5, 3}, std::as_bytes(std::span(positions))},
                                              {"position_ids", SafetensorsType::kI32, {3, 4}, std::as_bytes(std::span(positions)).first(48)},
                                              {"position_ids", SafetensorsType::kF32, {3, 5}, std::as_bytes(std::span(positions))},
                                              {"position_ids", SafetensorsType::kI64, {3, 5}, std::as_bytes(std::span(longs))}};
  for (const SafetensorsTensor& tensor : bad) {
    CacheText c;
    c.more = {tensor};
    const auto file = OpenDynamicCache(Write(c));
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    EXPECT_THAT(SplitDynamicCache(*file, Identity(file->layout), file->layout).status().message(), HasSubstr("position_ids must be I32 of shape [3, 5]"));
  }
}

TEST_F(HostileCacheTest, MetadataThatNoBlockCouldCarry) {
  CacheText c;
  c.metadata["note"] = std::string(70 << 10, 'n');
  const auto file = OpenDynamicCache(Write(c));
  ASSERT_TRUE(file.ok());
  EXPECT_THAT(SplitDynamicCache(*file, Identity(file->layout), file->layout).status().message(), HasSubstr("leave some of it out"));
  c.metadata["note"] = std::string(60 << 10, 'n');
  const auto fits = OpenDynamicCache(Write(c));
  ASSERT_TRUE(fits.ok());
  EXPECT_TRUE(SplitDynamicCache(*fits, Identity(fits->layout), fits->layout).ok());
}

TEST_F(HostileCacheTest, BytesChangedAnywhereAreReadOrRefused) {
  Write({});
  std::ifstream in(Path("c.safetensors"), std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  Random random(9);
  int taken = 0;
  for (int round = 0; round < 500; ++round) {
    std::string text = whole;
    if (round % 5 == 0) text.resize(random.Below(whole.size()));
    else for (uint64_t n = 1 + random.Below(4); n > 0; --n) text[random.Below(round % 2 == 0 ? 600 : text.size())] = static_cast<char>(random.Below(256));
    std::ofstream(Path("c.safetensors"), std::ios::binary) << text;
    const auto file = OpenDynamicCache(Path("c.safetensors"));
    if (!file.ok()) {
      EXPECT_THAT(file.status().message(), HasSubstr("c.safetensors")) << round;
      continue;
    }
    ++taken;
    EXPECT_EQ(file->token_ids.size(), file->tokens);
    const auto blocks = SplitDynamicCache(*file, Identity(file->layout), file->layout);
    if (blocks.ok()) {
      EXPECT_EQ(blocks->size(), 1u);
    }
  }
  EXPECT_GT(taken, 20) << "most of the bytes are numbers";
}

/// `baton store import` of a file that is refused makes nothing: a folder would be bound to what it never held.
TEST_F(HostileCacheTest, ARefusedImportLeavesNoFolder) {
  const std::string good = Write({}), folder = Path("store");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {{{"--kv-dtype", "int8"}, "int8"},
                                                                               {{"--kv-dtype", "f61"}, "f61"},
                                                                               {{"--numerics", "exactly"}, "exactly"},
                                                                               {{"--numerics", "f32 kv=v9"}, "f32 kv=v9"},
                                                                               {{"--compression", "gzip"}, "gzip"},
                                                                               {{"--block-tokens", "0"}, "--block-tokens"},
                                                                               {{"--block-tokens", "1025"}, "--block-tokens"},
                                                                               {{"--key-file", "/nowhere/keys"}, "/nowhere/keys"},
                                                                               {{"--model", "/nowhere/m.gguf"}, "/nowhere/m.gguf"}};
  for (const auto& [flags, words] : cases) {
    std::vector<std::string> arguments = {"store", "import", "--path", folder, good};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Outcome run = RunBaton(arguments);
    EXPECT_EQ(run.code, 2) << words << run.err;
    EXPECT_EQ(run.out, "") << words;
    EXPECT_THAT(run.err, HasSubstr(words));
    EXPECT_FALSE(std::filesystem::exists(folder)) << words;
  }
  EXPECT_EQ(RunBaton({"store", "import", "--path", folder, Path("none")}).code, 2);
  EXPECT_EQ(RunBaton({"store", "import", "--path", folder, folder_}).code, 2);
  EXPECT_FALSE(std::filesystem::exists(folder));
  EXPECT_EQ(RunBaton({"store", "import", "--path", folder, good}).code, 0);
}

TEST_F(HostileCacheTest, TheFilesBeforeABadOneAreTaken) {
  const std::string good = Write({}), folder = Path("store");
  std::filesystem::copy(good, Path("good.safetensors"));
  CacheText other;
  other.metadata["model"] = "another";
  const Outcome run = RunBaton({"store", "import", "--path", folder, Path("good.safetensors"), Write(other), "--json"});
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(run.err, HasSubstr("another name"));
  EXPECT_EQ(run.json()["blocks"], 1) << "one row, for the first";
  EXPECT_EQ(RunBaton({"store", "stat", "--path", folder, "--json"}).json()["blocks"], 1);
}

/// What Baton exported names its model by fingerprint; a model of the same shapes must not get it, whatever --model says.
TEST_F(HostileCacheTest, ACacheOfAnotherModelIsRefusedAlsoWithAModel) {
  const std::string model = BATON_SHARED_DIR "/golden/checkpoints/tiny-qwen2-f32", other = BATON_SHARED_DIR "/golden/checkpoints/tiny-llama-tied-f32";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << "no reference data at " << model;
  const std::string file = BATON_SHARED_DIR "/golden/cache/tiny-qwen2-f32_turn1.safetensors", pack = Path("pack.safetensors");
  ASSERT_EQ(RunBaton({"store", "import", "--path", Path("a"), "--model", model, file}).code, 0);
  const auto own = OpenDynamicCache(file);
  ASSERT_TRUE(own.ok());
  // As a cluster's own blocks are exported: without a name that somebody gave, by the fingerprint of the model.
  const std::string identity = RunBaton({"store", "stat", "--path", Path("a"), "--json"}).json()["identity"];
  const std::string fingerprint = identity.substr(identity.find("model=") + 6, 64);
  Metadata metadata = own->file->metadata();
  const auto write = [&](const std::string& name) {
    metadata["model"] = name;
    EXPECT_TRUE(WriteSafetensors(pack, own->file->tensors(), metadata).ok());
    return pack;
  };
  EXPECT_EQ(RunBaton({"store", "import", "--path", Path("b"), "--model", model, write(fingerprint)}).code, 0);
  EXPECT_EQ(RunBaton({"store", "import", "--path", Path("b"), write(fingerprint)}).code, 0) << "it says itself whose it is";
  std::string flipped = fingerprint;
  flipped.back() = flipped.back() == '0' ? '1' : '0';
  for (const std::string& with : {model, other}) {
    const std::string folder = Path(with == model ? "b" : "c");
    const Outcome run = RunBaton({"store", "import", "--path", folder, "--model", with, write(with == model ? flipped : fingerprint)});
    EXPECT_EQ(run.code, 2) << with;
    EXPECT_THAT(run.err, testing::AnyOf(HasSubstr("of another model"), HasSubstr("another model's cache"))) << with;
  }
  EXPECT_FALSE(std::filesystem::exists(Path("c")));
  EXPECT_EQ(RunBaton({"store", "import", "--path", Path("d"), "--model", model, write("some-org/some-name")}).code, 0) << "of a file with a name --model says whose it is";
}

TEST_F(HostileCacheTest, ExportSaysWhichTokensItCannotFind) {
  const std::string folder = Path("store"), out = Path("out.safetensors");
  ASSERT_EQ(RunBaton({"store", "import", "--path", folder, Write({})}).code, 0);
  const std::vector<std::pair<std::string, std::string>> cases = {{"[1,2,3]", "holds no block"}, {"[]", "empty list"},   {"{}", "not a list"},          {"[5,-6]", "entry 1 is -6"},
                                                                  {"[5", "parse error"},         {"", "parse error"},    {std::string(100000, '['), "nested deeper"}, {"[5,6,\"7\"]", "entry 2"}};
  for (const auto& [ids, words] : cases) {
    std::ofstream(Path("ids.json")) << ids;
    const Outcome run = RunBaton({"store", "export", "--path", folder, "--tokens", Path("ids.json"), out});
    EXPECT_EQ(run.code, 2) << ids.substr(0, 20);
    EXPECT_THAT(run.err, testing::AllOf(HasSubstr(words), HasSubstr(words[0] == 'h' ? "store" : "ids.json"))) << ids.substr(0, 20);
    EXPECT_FALSE(std::filesystem::exists(out));
  }
  const Outcome missing = RunBaton({"store", "export", "--path", folder, "--tokens", Path("none.json"), out});
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, testing::AllOf(HasSubstr("none.json"), HasSubstr("No such file"))) << "not: no list";
  for (const std::string& key : {std::string("12"), std::string(64, 'g'), std::string(63, '0'), std::string(65, '0'), std::string()}) {
    EXPECT_EQ(RunBaton({"store", "export", "--path", folder, "--key", key, out}).code, 2) << key;
  }
  const Outcome foreign = RunBaton({"store", "export", "--path", folder, "--key", std::string(64, '0'), out});
  EXPECT_EQ(foreign.code, 2);
  EXPECT_THAT(foreign.err, HasSubstr(std::string(64, '0')));
}

}  // namespace
}  // namespace baton
