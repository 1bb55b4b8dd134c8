// `baton store` on folders made here, and DynamicCache files both ways against the reference data.
#include <cstring>
#include <filesystem>

#include "app/cli.h"
#include "app/dynamic_cache.h"
#include "kvstore/block_store.h"
#include "model/quant.h"

namespace baton {
namespace {

namespace fs = std::filesystem;

class StoreCommandTest : public ::testing::Test {
 protected:
  StoreCommandTest() {
    std::string name = (fs::temp_directory_path() / "baton-store-command-XXXXXX").string();
    root_ = mkdtemp(name.data());
  }
  ~StoreCommandTest() override {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  std::string Path(const std::string& name) const { return root_ + "/" + name; }
  static std::string Golden(const std::string& name) { return std::string(BATON_SHARED_DIR) + "/golden/cache/" + name + ".safetensors"; }

  /// Runs `baton store ARGS…`; gives the exit code and the JSON lines.
  std::pair<int, std::vector<nlohmann::json>> Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "store");
    arguments.push_back("--json");
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int code = RunProgram({arguments, {}, {}});
    errors_ = ::testing::internal::GetCapturedStderr();
    std::vector<nlohmann::json> rows;
    std::istringstream out(::testing::internal::GetCapturedStdout());
    for (std::string line; std::getline(out, line);) rows.push_back(nlohmann::json::parse(line));
    return {code, rows};
  }

  std::string root_, errors_;
};

void ExpectSameCache(const std::string& a_path, const std::string& b_path) {
  const auto a = SafetensorsFile::Open(a_path), b = SafetensorsFile::Open(b_path);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status().ToString() << b.status().ToString();
  ASSERT_EQ((*a)->tensors().size(), (*b)->tensors().size());
  for (const SafetensorsTensor& tensor : (*a)->tensors()) {
    const SafetensorsTensor* other = (*b)->Find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(tensor.type, other->type);
    EXPECT_EQ(tensor.shape, other->shape);
    EXPECT_TRUE(std::equal(tensor.data.begin(), tensor.data.end(), other->data.begin(), other->data.end())) << tensor.name;
  }
  ASSERT_EQ((*a)->metadata().size(), (*b)->metadata().size());
  for (const auto& [name, value] : (*a)->metadata()) {
    const auto it = (*b)->metadata().find(name);
    ASSERT_NE(it, (*b)->metadata().end()) << name;
    if (name == "token_ids") {
      EXPECT_EQ(nlohmann::json::parse(value), nlohmann::json::parse(it->second));
    } else {
      EXPECT_EQ(value, it->second) << name;
    }
  }
}

TEST_F(StoreCommandTest, ImportThenExportGivesTheSameFile) {
  for (const std::string name : {"tiny-qwen2-f32_turn1", "tiny-qwen2-f32_turn2", "tiny-qwen2_5_vl-f32_one_image"}) {
    for (const std::string block_tokens : {"1", "16", "64", "1024"}) {
      const std::string folder = Path(name + block_tokens), file = Path("out.safetensors");
      auto [code, rows] = Run({"import", "--path", folder, "--block-tokens", block_tokens, Golden(name)});
      ASSERT_EQ(code, 0) << errors_;
      ASSERT_EQ(rows.size(), 1u);
      EXPECT_EQ(Run({"export", "--path", folder, "--output", file, "--key", rows[0]["key"]}).first, 0) << errors_;
      ExpectSameCache(Golden(name), file);
      EXPECT_EQ(Run({"export", "--path", folder, file}).first, 0) << errors_;  // the only chain needs no name
      ExpectSameCache(Golden(name), file);
    }
  }
}

TEST_F(StoreCommandTest, ALaterTurnSharesTheBlocksOfTheFirst) {
  const std::string folder = Path("s");
  ASSERT_EQ(Run({"import", "--path", folder, "--block-tokens", "16", Golden("tiny-qwen2-f32_turn1"), Golden("tiny-qwen2-f32_turn2")}).first, 0) << errors_;
  auto [code, rows] = Run({"stat", "--path", folder});
  ASSERT_EQ(code, 0);
  EXPECT_EQ(rows[0]["blocks"], 4 + 6 - 3);  // 57 and 82 tokens, three full blocks in common
  EXPECT_EQ(rows[0]["chains"], 2);
  EXPECT_EQ(Run({"export", "--path", folder, Path("x.safetensors")}).first, 2);  // which chain?
  EXPECT_THAT(errors_, ::testing::HasSubstr("2 chains"));
  const auto turn1 = OpenDynamicCache(Golden("tiny-qwen2-f32_turn1"));
  ASSERT_TRUE(turn1.ok());
  std::ofstream(Path("ids.json")) << nlohmann::json(turn1->token_ids).dump();
  EXPECT_EQ(Run({"export", "--path", folder, "--tokens", Path("ids.json"), Path("x.safetensors")}).first, 0) << errors_;
  ExpectSameCache(Golden("tiny-qwen2-f32_turn1"), Path("x.safetensors"));
  std::ofstream(Path("no.json")) << "[1,2,3]";
  EXPECT_EQ(Run({"export", "--path", folder, "--tokens", Path("no.json"), Path("x.safetensors")}).first, 2);
  std::ofstream(Path("bad.json")) << "{\"a\":1}";
  EXPECT_EQ(Run({"export", "--path", folder, "--tokens", Path("bad.json"), Path("x.safetensors")}).first, 2);
}

TEST_F(StoreCommandTest, HalfPrecisionRoundsOnceAndThenStays) {
  for (const std::string dtype : {"f16", "bf16"}) {
    const std::string folder = Path(dtype), first = Path(dtype + "1.safetensors"), second = Path(dtype + "2.safetensors");
    ASSERT_EQ(Run({"import", "--path", folder, "--kv-dtype", dtype, Golden("tiny-qwen2-f32_turn1")}).first, 0) << errors_;
    ASSERT_EQ(Run({"export", "--path", folder, first}).first, 0) << errors_;
    ASSERT_EQ(Run({"import", "--path", Path(dtype + "again"), first}).first, 0) << errors_;
    ASSERT_EQ(Run({"export", "--path", Path(dtype + "again"), second}).first, 0) << errors_;
    ExpectSameCache(first, second);
    const auto exact = OpenDynamicCache(Golden("tiny-qwen2-f32_turn1")), rounded = OpenDynamicCache(first);
    ASSERT_TRUE(exact.ok() && rounded.ok());
    const Bytes from = exact->file->Find("layers.0.key")->data, to = rounded->file->Find("layers.0.key")->data;
    ASSERT_EQ(from.size(), 2 * to.size());
    for (size_t i = 0; i < to.size() / 2; ++i) {
      float value = 0;
      uint16_t bits = 0;
      std::memcpy(&value, from.data() + 4 * i, 4);
      std::memcpy(&bits, to.data() + 2 * i, 2);
      const float back = dtype == "bf16" ? quant::Bf16ToFloat(bits) : quant::HalfToFloat(bits);
      ASSERT_LE(std::abs(back - value), std::abs(value) / (dtype == "bf16" ? 256 : 2048) + 1e-7f);
    }
  }
}

TEST_F(StoreCommandTest, RefusesWhatIsNoCache) {
  const std::string folder = Path("s");
  EXPECT_EQ(Run({"import", "--path", folder, Path("absent.safetensors")}).first, 2);
  EXPECT_EQ(Run({"import", "--path", folder, Golden("ops")}).first, 2);  // no cache's metadata
  EXPECT_THAT(errors_, ::testing::HasSubstr("hf_dynamic_cache"));
  std::ofstream(Path("text.safetensors")) << "hello";
  EXPECT_EQ(Run({"import", "--path", folder, Path("text.safetensors")}).first, 2);
  EXPECT_FALSE(fs::exists(folder));
  ASSERT_EQ(Run({"import", "--path", folder, Golden("tiny-qwen2-f32_turn1")}).first, 0);
  EXPECT_EQ(Run({"import", "--path", folder, Golden("tiny-qwen2_5_vl-f32_one_image")}).first, 2);  // of another model
  EXPECT_THAT(errors_, ::testing::HasSubstr("own folder"));

  const auto write = [&](std::map<std::string, std::string> change, std::vector<uint64_t> shape, const std::string& missing = "") {
    std::map<std::string, std::string> metadata = {{"format", "hf_dynamic_cache"}, {"version", "1"}, {"layout", "BHTD"}, {"rope", "applied"},
                                                   {"batch_size", "1"}, {"token_ids", "[1,2,3]"}};
    for (const auto& [name, value] : change) metadata[name] = value;
    uint64_t n = 1;
    for (const uint64_t d : shape) n *= d;
    const std::vector<float> data(n, 1.0f);
    std::vector<SafetensorsTensor> tensors;
    for (const std::string name : {"layers.0.key", "layers.0.value"}) {
      if (name != missing) tensors.push_back({name, SafetensorsType::kF32, shape, std::as_bytes(std::span(data))});
    }
    const std::string path = Path("made.safetensors");
    EXPECT_TRUE(WriteSafetensors(path, tensors, metadata).ok());
    return OpenDynamicCache(path).status();
  };
  EXPECT_TRUE(write({}, {1, 2, 3, 4}).ok());
  EXPECT_TRUE(write({{"token_ids", "[1,2,3,4]"}}, {1, 2, 3, 4}).ok());  // as generate() leaves it: the last id has no position
  for (const auto& [change, shape] : std::vector<std::pair<std::map<std::string, std::string>, std::vector<uint64_t>>>{
           {{{"format", "other"}}, {1, 2, 3, 4}}, {{{"rope", "none"}}, {1, 2, 3, 4}}, {{{"layout", "BTHD"}}, {1, 2, 3, 4}},
           {{{"version", "2"}}, {1, 2, 3, 4}}, {{{"batch_size", "2"}}, {1, 2, 3, 4}}, {{{"token_ids", "[1,2]"}}, {1, 2, 3, 4}},
           {{{"token_ids", "{"}}, {1, 2, 3, 4}}, {{{"token_ids", "[1,2,-3]"}}, {1, 2, 3, 4}}, {{{"token_ids", "[1,2,\"3\"]"}}, {1, 2, 3, 4}},
           {{{"num_layers", "2"}}, {1, 2, 3, 4}}, {{}, {2, 2, 3, 4}}, {{}, {2, 3, 4}}, {{}, {1, 2, 0, 4}}}) {
    EXPECT_EQ(write(change, shape).code(), StatusCode::kInvalid);
  }
  EXPECT_EQ(write({}, {1, 2, 3, 4}, "layers.0.value").code(), StatusCode::kInvalid);
  EXPECT_EQ(write({}, {1, 2, 3, 4}, "layers.0.key").code(), StatusCode::kInvalid);
}

TEST_F(StoreCommandTest, VerifyTellsScrubDropsRmRemoves) {
  const std::string folder = Path("s");
  ASSERT_EQ(Run({"import", "--path", folder, "--block-tokens", "16", Golden("tiny-qwen2-f32_turn2")}).first, 0);
  auto [ls_code, rows] = Run({"ls", "--path", folder});
  ASSERT_EQ(ls_code, 0);
  ASSERT_EQ(rows.size(), 6u);
  EXPECT_EQ(rows[0]["depth"], 0);
  EXPECT_EQ(rows[5]["tokens"], 82 - 5 * 16);
  auto [good, report] = Run({"verify", "--path", folder});
  EXPECT_EQ(good, 0);
  EXPECT_EQ(report.back()["checked"], 6);
  {
    std::fstream extent(folder + "/extents/000000", std::ios::in | std::ios::out | std::ios::binary);
    extent.seekp(2 * 5 * 4096 + 4096 + 77);  // the payload of the third record: a page of header, four of payload
    extent.put('x');
  }
  auto [bad, bad_rows] = Run({"verify", "--path", folder});
  EXPECT_EQ(bad, 1);
  ASSERT_EQ(bad_rows.size(), 2u);
  EXPECT_EQ(bad_rows[0]["key"], rows[2]["key"]);
  EXPECT_EQ(bad_rows[1]["corrupt"], 1);
  EXPECT_EQ(Run({"ls", "--path", folder}).second.size(), 6u);  // verify changes nothing
  EXPECT_EQ(Run({"scrub", "--path", folder}).first, 0);
  EXPECT_EQ(Run({"stat", "--path", folder}).second[0]["quarantined"], 1);
  EXPECT_EQ(Run({"verify", "--path", folder}).first, 0);
  EXPECT_EQ(Run({"ls", "--path", folder}).second.size(), 5u);
  EXPECT_EQ(Run({"export", "--path", folder, "--key", rows[5]["key"], Path("x.safetensors")}).first, 2);  // the chain has a gap

  EXPECT_EQ(Run({"rm", "--path", folder}).first, 2);
  EXPECT_EQ(Run({"rm", "--path", folder, "--key", "12"}).first, 2);
  EXPECT_EQ(Run({"rm", "--path", folder, "--key", rows[2]["key"]}).first, 2);  // gone already
  auto [rm_code, removed] = Run({"rm", "--path", folder, "--key", rows[3]["key"]});
  EXPECT_EQ(rm_code, 0);
  EXPECT_EQ(removed[0]["removed"], 3);  // and what follows it
  EXPECT_EQ(Run({"rm", "--path", folder, "--all"}).second[0]["removed"], 2);
  const auto gc = Run({"gc", "--path", folder});
  EXPECT_EQ(gc.first, 0);
  EXPECT_GT(gc.second[0]["freed_bytes"], 4 * 16384);
  for (const char* action : {"ls", "stat", "verify", "scrub", "gc"}) EXPECT_EQ(Run({action, "--path", Path("absent")}).first, 2) << action;
  EXPECT_FALSE(fs::exists(Path("absent")));
}

TEST_F(StoreCommandTest, ASealedFolderNeedsItsKeyFile) {
  const std::string folder = Path("s"), keys = Path("keys"), out = Path("x.safetensors");
  std::ofstream(keys) << "default " << std::string(64, 'd') << "\n";
  ASSERT_EQ(Run({"import", "--path", folder, "--key-file", keys, "--block-tokens", "16", Golden("tiny-qwen2-f32_turn1")}).first, 0) << errors_;
  EXPECT_EQ(Run({"export", "--path", folder, "--key-file", keys, out}).first, 0) << errors_;
  ExpectSameCache(Golden("tiny-qwen2-f32_turn1"), out);
  EXPECT_NE(Run({"export", "--path", folder, out}).first, 0);
  EXPECT_EQ(Run({"ls", "--path", folder}).second.size(), 4u);
  const auto [code, rows] = Run({"verify", "--path", folder});
  EXPECT_EQ(code, 0);
  EXPECT_EQ(rows.back()["locked"], 4);
  for (const char* action : {"scrub", "gc"}) {
    EXPECT_EQ(Run({action, "--path", folder}).first, 2) << action;
    EXPECT_THAT(errors_, ::testing::HasSubstr("store.key_file"));
  }
  EXPECT_EQ(Run({"verify", "--path", folder, "--key-file", keys}).second.back()["checked"], 4);
  EXPECT_EQ(Run({"verify", "--path", folder, "--key-file", Path("absent")}).first, 2);
  std::ofstream(keys) << "default " << std::string(64, 'e') << "\n";  // the old key is gone, and with it what it sealed
  EXPECT_EQ(Run({"gc", "--path", folder, "--key-file", keys}).first, 0) << errors_;
  EXPECT_EQ(Run({"ls", "--path", folder}).second.size(), 0u);
}

TEST_F(StoreCommandTest, AFolderInUseCanBeReadNotChanged) {
  const std::string folder = Path("s");
  ASSERT_EQ(Run({"import", "--path", folder, Golden("tiny-qwen2-f32_turn1")}).first, 0);
  BlockStoreConfig config;
  config.path = folder;
  auto owner = OpenBlockStore(config);
  ASSERT_TRUE(owner.ok());
  for (const char* action : {"ls", "stat", "verify"}) EXPECT_EQ(Run({action, "--path", folder}).first, 0) << action;
  EXPECT_EQ(Run({"export", "--path", folder, Path("x.safetensors")}).first, 0);
  for (const char* action : {"scrub", "gc"}) {
    EXPECT_EQ(Run({action, "--path", folder}).first, 1) << action;
    EXPECT_THAT(errors_, ::testing::HasSubstr("in use by process"));
  }
}

}  // namespace
}  // namespace baton
