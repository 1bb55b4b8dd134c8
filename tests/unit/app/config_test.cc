#include "app/config.h"

#include <yaml-cpp/yaml.h>

namespace baton {
namespace {

using testing::HasSubstr;

class ConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "baton-config-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string File(const std::string& text) {
    const std::string path = (folder_ / "c.yaml").string();
    std::ofstream(path) << text;
    return path;
  }
  std::string Error(const std::string& text) {
    auto loaded = LoadConfig(File(text), {}, {});
    EXPECT_FALSE(loaded.ok()) << text;
    return loaded.status().message();
  }
  std::filesystem::path folder_;
};

TEST_F(ConfigTest, LaterSourcesWinAndNameTheirOrigin) {
  const std::string file = File("gateway:\n  port: 9001\n  host: 0.0.0.0\nengine:\n  max_running: 8\n");
  auto loaded = LoadConfig(file, {{"BATON_GATEWAY_PORT", "9002"}, {"BATON_LOG_JSON", "true"}}, {{"engine.max_running", "9"}});
  ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
  EXPECT_EQ(loaded->config.gateway.port, 9002u);
  EXPECT_EQ(loaded->config.gateway.host, "0.0.0.0");
  EXPECT_EQ(loaded->config.engine.max_running, 9u);
  EXPECT_TRUE(loaded->config.log.json);
  EXPECT_EQ(loaded->origins["gateway.port"], "environment BATON_GATEWAY_PORT");
  EXPECT_EQ(loaded->origins["gateway.host"], "file " + file + ":3");
  EXPECT_EQ(loaded->origins["engine.max_running"], "flag");
  EXPECT_EQ(loaded->origins["store.path"], "default");
}

TEST_F(ConfigTest, UnknownKeysNameTheNearest) {
  EXPECT_THAT(Error("gateway:\n  prot: 1\n"), testing::AllOf(HasSubstr("c.yaml:2"), HasSubstr("gateway.prot"), HasSubstr("did you mean \"gateway.port\"")));
  EXPECT_THAT(Error("gatway:\n  port: 1\n"), HasSubstr("did you mean \"gateway\""));
  auto flag = LoadConfig("", {}, {{"store.memroy_bytes", "1"}});
  ASSERT_FALSE(flag.ok());
  EXPECT_THAT(flag.status().message(), testing::AllOf(HasSubstr("--store.memroy_bytes"), HasSubstr("store.memory_bytes")));
  EXPECT_EQ(NearestName("zzzzzzzzzzzz", {"gateway.port"}), "");
}

TEST_F(ConfigTest, WrongValuesSayWhatIsAllowed) {
  EXPECT_THAT(Error("gateway:\n  port: 70000\n"), testing::AllOf(HasSubstr("gateway.port"), HasSubstr("70000"), HasSubstr("65535")));
  EXPECT_THAT(Error("gateway:\n  port: -1\n"), HasSubstr("gateway.port"));
  EXPECT_THAT(Error("gateway:\n  port: eighty\n"), HasSubstr("eighty"));
  EXPECT_THAT(Error("model:\n  kv_dtype: f61\n"), HasSubstr("f32, f16, bf16, int8"));
  EXPECT_THAT(Error("log:\n  json: maybe\n"), HasSubstr("true or false"));
  EXPECT_THAT(Error("store:\n  ttl_s: nan\n"), HasSubstr("store.ttl_s"));
  EXPECT_THAT(Error("model:\n  block_tokens: 60\n"), HasSubstr("multiple of 16"));
  EXPECT_THAT(Error("gateway:\n  port: [1, 2]\n"), HasSubstr("must be a integer"));
  EXPECT_THAT(Error("gateway:\n  port: 1\n  port: 2\n"), HasSubstr("port"));
}

TEST_F(ConfigTest, BrokenFilesAreErrorsWithTheirPlace) {
  EXPECT_THAT(Error("gateway: [\n"), HasSubstr("c.yaml:"));
  EXPECT_THAT(Error("- 1\n"), HasSubstr("map of sections"));
  EXPECT_THAT(Error("gateway: 7\n"), HasSubstr("must be a map"));
  EXPECT_THAT(Error(std::string(2 << 20, '#')), HasSubstr("not a config file"));
  EXPECT_EQ(LoadConfig((folder_ / "none.yaml").string(), {}, {}).status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(LoadConfig(folder_.string(), {}, {}).ok());
  EXPECT_TRUE(LoadConfig(File(""), {}, {}).ok());
  EXPECT_TRUE(LoadConfig(File("gateway:\n"), {}, {}).ok());
}

TEST_F(ConfigTest, ListsComeFromYamlAndText) {
  auto yaml = LoadConfig(File("cluster:\n  roles: [coordinator+gateway, decode]\n"), {}, {});
  auto flag = LoadConfig("", {}, {{"cluster.roles", "coordinator+gateway, decode"}});
  ASSERT_TRUE(yaml.ok() && flag.ok());
  EXPECT_THAT(yaml->config.cluster.roles, testing::ElementsAre("coordinator+gateway", "decode"));
  EXPECT_EQ(yaml->config.cluster.roles, flag->config.cluster.roles);
}

TEST_F(ConfigTest, PrintedConfigReadsBackTheSame) {
  auto first = LoadConfig("", {}, {{"gateway.port", "1234"}, {"model.name", "a \"quoted\" name"}});
  ASSERT_TRUE(first.ok());
  auto second = LoadConfig(File(ConfigYaml(*first)), {}, {});
  ASSERT_TRUE(second.ok()) << second.status().ToString();
  const auto a = OptionTable(first->config), b = OptionTable(second->config);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(OptionText(a[i]), OptionText(b[i])) << a[i].key;
}

TEST_F(ConfigTest, SecretsAreNotPrinted) {
  auto loaded = LoadConfig("", {}, {{"gateway.admin_key", "sesame"}});
  ASSERT_TRUE(loaded.ok());
  EXPECT_THAT(ConfigYaml(*loaded), testing::Not(HasSubstr("sesame")));
}

TEST_F(ConfigTest, SchemaAndPageNameEveryKeyAndDefaultsAreInRange) {
  Config config;
  const auto schema = nlohmann::json::parse(ConfigSchema());
  const std::string page = ConfigMarkdown();
  std::set<std::string> keys;
  for (const Option& option : OptionTable(config)) {
    EXPECT_TRUE(keys.insert(option.key).second) << option.key;
    const size_t dot = option.key.find('.');
    EXPECT_TRUE(schema["properties"][option.key.substr(0, dot)]["properties"].contains(option.key.substr(dot + 1)));
    EXPECT_THAT(page, HasSubstr("`" + option.key + "`"));
    EXPECT_FALSE(option.doc.empty()) << option.key;
    const std::string text = OptionText(option);
    EXPECT_TRUE(SetOption(option, text).ok()) << option.key << " refuses its own default " << text;
  }
}

TEST_F(ConfigTest, TheCommittedPageIsTheTable) {
  std::ifstream in(std::string(BATON_SOURCE_DIR) + "/docs/config.md");
  const std::string page((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(page, ConfigMarkdown()) << "run: build/bin/baton config --doc > docs/config.md";
}

}  // namespace
}  // namespace baton
