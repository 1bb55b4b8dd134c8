// `baton store explain` on folders that hold what the test put there for a tiny model.
#include <filesystem>
#include <fstream>

#include "app/cli.h"
#include "app/cluster_backend.h"
#include "app/rank_parts.h"
#include "kvstore/store_identity.h"
#include "model/model.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

class StoreExplainTest : public ::testing::Test {
 protected:
  StoreExplainTest() {
    LoadOptions options;
    options.path = model_path_;
    const auto described = DescribeModel(options);
    EXPECT_TRUE(described.ok()) << described.status().message();
    model_ = IdentityOf(described->info, described->layout, described->numerics, "");
  }
  void Store(std::span<const TokenId> tokens, const std::string& tenant = "", const std::string& secret = "") {
    BlockStoreConfig config = TestConfig(folder_.path());
    config.identity = StoreIdentity{model_.fingerprint, model_.numerics, model_.kv_layout}.ToString();
    const auto store = OpenTestStore(config);
    const BlockKey root = TenantRoot(model_, secret, tenant);
    const auto keys = KeyChain(root, tokens, model_.block_tokens);
    for (size_t i = 0; i < keys.size(); ++i) {
      TestBlock block = MakeTestBlock(keys[i].Prefix64(), 4096);
      block.header.key = keys[i];
      block.header.parent = i == 0 ? root : keys[i - 1];
      block.header.depth = static_cast<uint32_t>(i);
      const auto part = tokens.subspan(i * model_.block_tokens, model_.block_tokens);
      block.header.token_ids.assign(part.begin(), part.end());
      EXPECT_TRUE(store->Put(block.header, block.bytes).ok());
    }
    EXPECT_TRUE(store->Flush().ok());
  }
  static std::vector<TokenId> Tokens(size_t n) {
    std::vector<TokenId> tokens;
    for (size_t i = 0; i < n; ++i) tokens.push_back(static_cast<TokenId>(50 + i));
    return tokens;
  }
  std::string File(const std::string& name, const nlohmann::json& content) {
    std::filesystem::create_directories(folder_.path("files"));
    const std::string path = folder_.path("files") + "/" + name;
    std::ofstream(path) << content.dump();
    return path;
  }
  /// Runs `baton store explain …`; the exit code, and what it printed.
  int Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"store", "explain", "--path", folder_.path(), "--model", model_path_});
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int code = RunProgram({arguments, {}, {}});
    errors_ = ::testing::internal::GetCapturedStderr();
    out_ = ::testing::internal::GetCapturedStdout();
    return code;
  }
  std::vector<nlohmann::json> Rows(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    EXPECT_EQ(Run(std::move(arguments)), 0) << errors_;
    std::vector<nlohmann::json> rows;
    std::istringstream lines(out_);
    for (std::string line; std::getline(lines, line);) rows.push_back(nlohmann::json::parse(line));
    return rows;
  }
  static std::string Reasons(const std::vector<nlohmann::json>& rows) {
    std::string reasons;
    for (const auto& row : rows) reasons += std::string(reasons.empty() ? "" : " ") + row.at("reason").get<std::string>();
    return reasons;
  }

  const std::string model_path_ = std::string(BATON_SHARED_DIR) + "/golden/checkpoints/tiny-llama-tied-f32";
  TempFolder folder_;
  ModelIdentity model_;
  std::string out_, errors_;
};

TEST_F(StoreExplainTest, HitsAndTheTokenThatDiffers) {
  Store(Tokens(256));
  auto asked = Tokens(300);
  asked[130] = 9;
  const auto rows = Rows({"--tokens", File("tokens.json", asked)});
  EXPECT_EQ(Reasons(rows), "hit hit token_differs never_stored");
  EXPECT_EQ(rows[0]["tiers"], nlohmann::json::array({"disk"}));
  EXPECT_EQ(rows[2]["position"], 130);
  EXPECT_EQ(rows[2]["asked"], 9);
  EXPECT_EQ(rows[2]["stored"], 180);
  EXPECT_EQ(Run({"--tokens", File("tokens.json", asked)}), 0);
  EXPECT_THAT(out_, ::testing::HasSubstr("block 2 (tokens 128 to 191): token differs at position 130: asked 9 '"));
  EXPECT_THAT(out_, ::testing::HasSubstr("300 tokens: 4 full blocks, and 44 tokens that no block holds"));
}

TEST_F(StoreExplainTest, APromptAsText) {
  Store(Tokens(64));
  std::string text;
  for (int i = 0; i < 200; ++i) text += "word ";
  const auto rows = Rows({"--prompt", text});
  ASSERT_FALSE(rows.empty());
  EXPECT_EQ(rows[0]["reason"], "token_differs");
  EXPECT_EQ(Rows({"--prompt", "short"}).size(), 0u) << "less than a block";
}

TEST_F(StoreExplainTest, AnotherTenantModelOrForm) {
  Store(Tokens(128), "alice", "secret");
  const std::string tokens = File("tokens.json", Tokens(128));
  EXPECT_EQ(Reasons(Rows({"--tokens", tokens, "--tenant", "alice", "--tenant-secret", "secret"})), "hit hit");
  EXPECT_EQ(Reasons(Rows({"--tokens", tokens, "--tenant", "alice", "--tenant-secret", "other"})), "salt never_stored");
  EXPECT_EQ(Reasons(Rows({"--tokens", tokens})), "salt never_stored");
  EXPECT_EQ(Reasons(Rows({"--tokens", tokens, "--tenant", "alice", "--tenant-secret", "secret", "--cache-salt", "x"})), "salt never_stored");
  EXPECT_EQ(Reasons(Rows({"--tokens", tokens, "--kv-dtype", "f32"})), "dtype dtype");
  EXPECT_EQ(Reasons(Rows({"--tokens", tokens, "--numerics", "bf16"})), "numerics numerics");
  EXPECT_EQ(Reasons(Rows({"--tokens", tokens, "--block-tokens", "128"})), "block_tokens");
  EXPECT_EQ(Run({"--tokens", tokens, "--kv-dtype", "f32"}), 0);
  EXPECT_THAT(out_, ::testing::HasSubstr("no block can hit: dtype differs"));
}

TEST_F(StoreExplainTest, WrongUsage) {
  EXPECT_NE(Run({}), 0) << "no prompt";
  EXPECT_NE(Run({"--prompt", "a", "--tokens", "b"}), 0) << "two";
  EXPECT_EQ(Run({"--prompt", "a"}), 2) << "no such folder";
  EXPECT_FALSE(std::filesystem::exists(folder_.path())) << "a look makes nothing";
  Store(Tokens(64));
  EXPECT_EQ(Run({"--tokens", folder_.path() + "/nothing.json"}), 2);
  EXPECT_EQ(Run({"--tokens", File("bad.json", {{"x", 1}})}), 2);
}

}  // namespace
}  // namespace baton
