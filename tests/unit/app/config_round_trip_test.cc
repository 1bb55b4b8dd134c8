// Settings out and in again, whatever their values; every typo of every key; files that are almost config files.
#include <filesystem>

#include "app/cli.h"
#include "app/config.h"
#include "base/random.h"
#include "tests/support/test_pch.h"
#include "tests/unit/app/run_program.h"

namespace baton {
namespace {

using testing::HasSubstr;
using testing::Not;

class ConfigFileTest : public testing::Test {
 protected:
  ConfigFileTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "baton-round-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~ConfigFileTest() override { std::filesystem::remove_all(folder_); }
  std::string File(const std::string& text) {
    std::ofstream(folder_ + "/c.yaml", std::ios::binary) << text;
    return folder_ + "/c.yaml";
  }
  std::string Error(const std::string& text) {
    const auto loaded = LoadConfig(File(text), {}, {});
    EXPECT_EQ(loaded.status().code(), StatusCode::kInvalid) << text;
    return loaded.status().message();
  }
  std::string folder_;
};

std::string RandomText(Random& random) {
  static const std::vector<std::string> kPieces = {"a", "Z", "0", " ", "  ", ":", ": ", "#", " #", "'", "\"", "\\", "\\n", "\n", "\t", "[", "]", "{", "}", "&x", "*x", "!", "%", "@", "`", "|", ">", "-", "- ", "?",
                                                   "~", "null", "true", "1e3", "0x1", "\x01", "\x1f", "\x7f", "\xc3\xa9", "\xe2\x80\xa8", "\xf0\x9f\x8e\xbd", "=", "<<", "---", "..."};
  std::string text;
  for (uint64_t n = random.Below(7); n > 0; --n) text += kPieces[random.Below(kPieces.size())];
  return text;
}

/// A value that the option takes, as a flag gives it.
std::string RandomValue(Random& random, const Option& o) {
  if (std::holds_alternative<bool*>(o.target)) return random.Below(2) == 0 ? "true" : "false";
  if (!o.choices.empty()) return o.choices[random.Below(o.choices.size())];
  if (o.key == "model.block_tokens") return std::to_string(16 * (1 + random.Below(64)));
  const double high = o.max == 0 && o.min == 0 ? 1e6 : o.max;
  if (std::holds_alternative<double*>(o.target)) return fmt::format("{}", o.min + random.Uniform() * (high - o.min));
  if (std::holds_alternative<uint32_t*>(o.target) || std::holds_alternative<uint64_t*>(o.target)) return std::to_string(static_cast<uint64_t>(o.min + random.Uniform() * (high - o.min)));
  if (std::holds_alternative<std::string*>(o.target)) return RandomText(random);
  std::string items;
  for (uint64_t n = random.Below(4); n > 0; --n) items += RandomText(random) + ",";
  return items;
}

TEST_F(ConfigFileTest, WhateverIsPrintedIsReadAgainTheSame) {
  Random random(21);
  for (int round = 0; round < 150; ++round) {
    Config scratch;
    std::map<std::string, std::string> flags;
    for (const Option& o : OptionTable(scratch)) {
      if (!o.secret && random.Below(2) == 0) flags[o.key] = RandomValue(random, o);
    }
    auto first = LoadConfig("", {}, flags);
    ASSERT_TRUE(first.ok()) << first.status().ToString();
    const std::string yaml = ConfigYaml(*first);
    auto second = LoadConfig(File(yaml), {}, {});
    ASSERT_TRUE(second.ok()) << second.status().ToString() << "\n" << yaml;
    const auto a = OptionTable(first->config), b = OptionTable(second->config);
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(OptionText(a[i]), OptionText(b[i])) << a[i].key << " in round " << round << "\n" << yaml;
      if (const auto* list = std::get_if<std::vector<std::string>*>(&a[i].target)) {
        EXPECT_EQ(**list, *std::get<std::vector<std::string>*>(b[i].target)) << a[i].key;
      }
    }
  }
}

TEST_F(ConfigFileTest, ServingFromWhatWasPrintedSetsNoKeyThatEverybodyKnows) {
  Config scratch;
  std::map<std::string, std::string> flags;
  for (const Option& o : OptionTable(scratch)) {
    if (o.secret) flags[o.key] = "sesame";
  }
  ASSERT_GE(flags.size(), 4u);
  auto loaded = LoadConfig("", {}, flags);
  ASSERT_TRUE(loaded.ok());
  const std::string yaml = ConfigYaml(*loaded);
  EXPECT_THAT(yaml, Not(HasSubstr("sesame")));
  auto again = LoadConfig(File(yaml), {}, {});
  ASSERT_TRUE(again.ok()) << again.status().ToString();
  for (const Option& o : OptionTable(again->config)) {
    if (!o.secret) continue;
    EXPECT_EQ(OptionText(o), "") << o.key;
    EXPECT_THAT(yaml, HasSubstr("# " + o.key.substr(o.key.find('.') + 1) + ": (hidden)")) << "it is said that there is one";
  }
}

/// All texts at one edit from `name`.
std::vector<std::string> Typos(const std::string& name) {
  std::vector<std::string> typos;
  for (size_t i = 0; i < name.size(); ++i) {
    typos.push_back(name.substr(0, i) + name.substr(i + 1));
    typos.push_back(name.substr(0, i) + 'q' + name.substr(i + 1));
    typos.push_back(name.substr(0, i) + name[i] + name.substr(i));
    if (i + 1 < name.size() && name[i] != name[i + 1]) typos.push_back(name.substr(0, i) + name[i + 1] + name[i] + name.substr(i + 2));
  }
  return typos;
}

TEST_F(ConfigFileTest, EveryTypoOfEveryKeyNamesTheKey) {
  Config scratch;
  std::vector<std::string> keys;
  for (const Option& o : OptionTable(scratch)) keys.push_back(o.key);
  for (const std::string& key : keys) {
    const size_t dot = key.find('.');
    for (const std::string& typo : Typos(key.substr(dot + 1))) {
      const std::string wrong = key.substr(0, dot + 1) + typo;
      if (std::find(keys.begin(), keys.end(), wrong) != keys.end()) continue;
      const auto flag = LoadConfig("", {}, {{wrong, "1"}});
      ASSERT_EQ(flag.status().code(), StatusCode::kInvalid) << wrong;
      const std::string& message = flag.status().message();
      EXPECT_THAT(message, HasSubstr("\"" + wrong + "\""));
      const size_t near = message.find("did you mean \"");
      ASSERT_NE(near, std::string::npos) << message;
      const std::string named = message.substr(near + 14, message.find('"', near + 14) - near - 14);
      EXPECT_EQ(named.substr(0, dot + 1), key.substr(0, dot + 1)) << wrong << " was taken for another section's";
      EXPECT_NE(std::find(keys.begin(), keys.end(), named), keys.end()) << named;
    }
  }
}

TEST_F(ConfigFileTest, TyposOfSectionsNameTheSection) {
  for (const char* section : {"model", "cluster", "gateway", "engine", "store", "transport", "router", "log"}) {
    for (const std::string& typo : Typos(section)) {
      if (typo == section) continue;
      const std::string message = Error("# comment\n" + typo + ":\n  x: 1\n");
      EXPECT_THAT(message, HasSubstr(folder_ + "/c.yaml:2: ")) << typo;
      EXPECT_THAT(message, HasSubstr("\"" + typo + "\"")) << message;
      if (typo.size() > 2) {
        EXPECT_THAT(message, HasSubstr("did you mean \"")) << message;
      }
    }
  }
}

TEST_F(ConfigFileTest, AlmostConfigFiles) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"gateway:\n  port: 1\n---\nlog:\n  json: true\n", "2 YAML documents"},
      {"gateway:\n  api_keys: [a, \"b,c\"]\n", "must not hold a comma"},
      {"gateway:\n  port: [1]\n", "gateway.port must be a integer, not a list"},
      {"gateway:\n  port: {a: 1}\n", "gateway.port must be a integer, not a map"},
      {"gateway:\n  api_keys: {a: 1}\n", "gateway.api_keys must be a list, not a map"},
      {"gateway:\n  api_keys: [[a]]\n", "plain text"},
      {"gateway:\n  port: ~\n", "gateway.port: \"\" is not allowed"},
      {"gateway:\n  port: 1\ngateway:\n  port: 2\n", "given twice"},
      {"gateway.port: 1\n", "\"gateway.port\""},
      {"gateway:\n\tport: 1\n", "c.yaml:2"},
      {"gateway:\n  port: 1\n port: 2\n", "c.yaml:3"},
      {"gateway: {port: 1\n", "c.yaml:"},
      {"gateway:\n  host: *nothing\n", "c.yaml:2"},
      {"port\n", "map of sections"},
      {"7\n", "map of sections"},
      {"\"gateway\"\n", "map of sections"},
      {"gateway:\n  <<: {port: 1}\n", "gateway.<<"},
      {"? {a: b}\n: c\n", "plain text"},
      {std::string("gateway:\n  port: 1\0\n", 20), ""}};
  for (const auto& [text, words] : cases) EXPECT_THAT(Error(text), HasSubstr(words)) << text;
}

TEST_F(ConfigFileTest, WritingsThatAreTheSameFile) {
  const std::string tags = "gateway:\n  port: 8123\n  api_keys:\n    - a\n    - b\nlog:\n  json: true\n";
  for (const std::string& text : {tags, "\xef\xbb\xbf" + tags, "---\n" + tags, "%YAML 1.2\n---\n" + tags + "...\n", std::string("{gateway: {port: 8123, api_keys: [a, b]}, log: {json: true}}"),
                                  std::string("{\"gateway\":{\"port\":8123,\"api_keys\":[\"a\",\"b\"]},\"log\":{\"json\":true}}"),
                                  std::string("gateway:\r\n  port: 8123\r\n  api_keys: a, b\r\nlog:\r\n  json: on\r\n"),
                                  std::string("gateway:\n  port: '8123'\nlog:\n  json: \"yes\"\ngateway:\n  api_keys: [a, b]\n")}) {
    const auto loaded = LoadConfig(File(text), {}, {});
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString() << "\n" << text;
    EXPECT_EQ(loaded->config.gateway.port, 8123u) << text;
    EXPECT_EQ(loaded->config.gateway.api_keys, (std::vector<std::string>{"a", "b"})) << text;
    EXPECT_TRUE(loaded->config.log.json) << text;
  }
  for (const char* empty : {"", "\n", "# nothing\n", "---\n", "gateway:\n", "{}", "gateway: ~\nlog: {}\n"}) {
    EXPECT_TRUE(LoadConfig(File(empty), {}, {}).ok()) << empty;
  }
}

TEST_F(ConfigFileTest, MutatedFilesAreReadOrRefusedNeverMore) {
  auto defaults = LoadConfig("", {}, {});
  const std::string whole = ConfigYaml(*defaults);
  Random random(5);
  for (int round = 0; round < 400; ++round) {
    std::string text = whole;
    for (uint64_t edits = 1 + random.Below(4); edits > 0; --edits) {
      const size_t at = random.Below(text.size());
      if (random.Below(3) == 0) text.erase(at, random.Below(40));
      else text[at] = static_cast<char>(random.Below(256));
    }
    const auto loaded = LoadConfig(File(text), {}, {});
    if (loaded.ok()) continue;
    EXPECT_EQ(loaded.status().code(), StatusCode::kInvalid);
    EXPECT_THAT(loaded.status().message(), HasSubstr("c.yaml")) << "round " << round;
  }
}

/// One row of the page's tables.
struct PageRow {
  std::string key, value, unit, allowed, meaning;
};
std::vector<PageRow> PageRows() {
  std::vector<PageRow> rows;
  std::istringstream page(ConfigMarkdown());
  for (std::string line; std::getline(page, line);) {
    if (line.rfind("| `", 0) != 0) continue;
    std::vector<std::string> cells;
    for (size_t at = 2; at < line.size();) {
      const size_t end = line.find(" |", at);
      if (end == std::string::npos) break;
      cells.push_back(line.substr(at, end - at));
      at = end + 3;
    }
    EXPECT_EQ(cells.size(), 5u) << line;
    if (cells.size() == 5) rows.push_back({cells[0].substr(1, cells[0].size() - 2), cells[1], cells[2], cells[3], cells[4]});
  }
  return rows;
}

TEST(ConfigPageTest, HasARowOfFiveCellsForEachOptionInOrder) {
  Config config;
  const auto table = OptionTable(config);
  const auto rows = PageRows();
  ASSERT_EQ(rows.size(), table.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const Option& o = table[i];
    EXPECT_EQ(rows[i].key, o.key);
    EXPECT_EQ(rows[i].value, OptionText(o).empty() ? "(empty)" : "`" + OptionText(o) + "`") << o.key;
    EXPECT_EQ(rows[i].unit, o.unit) << o.key;
    EXPECT_EQ(rows[i].meaning, o.doc) << o.key;
    for (const std::string& choice : o.choices) EXPECT_THAT(rows[i].allowed, HasSubstr(choice)) << o.key;
  }
}

TEST(OptionTableTest, NamesEndInTheirUnitsAndRangesHoldTheDefaults) {
  const std::map<std::string, std::string> endings = {{"seconds", "_s"}, {"bytes", "_bytes"}, {"tokens", "_tokens"}, {"bytes/s", "_bytes_per_s"}};
  Config config;
  for (const Option& o : OptionTable(config)) {
    if (const auto ending = endings.find(o.unit); ending != endings.end() && o.key != "engine.step_token_budget") {
      EXPECT_TRUE(o.key.ends_with(ending->second)) << o.key << " is in " << o.unit;
    }
    EXPECT_LE(o.min, o.max) << o.key;
    EXPECT_FALSE(o.doc.ends_with('.')) << o.key;
    EXPECT_EQ(o.doc.find('|'), std::string::npos) << o.key << " would break its table";
    if (o.secret) {
      EXPECT_EQ(OptionText(o), "") << o.key << ": a secret that is in the source is none";
    }
  }
}

TEST(SettingsTest, ACommandThatTakesNoneSaysSo) {
  const std::vector<std::vector<std::string>> commands = {{"generate", "--model", "m", "--prompt", "p"}, {"logits", "--model", "m", "--tokens", "t", "--out", "o"}, {"tokenize", "--model", "m"},
                                                          {"detokenize", "--model", "m"}, {"render", "--model", "m"}, {"store", "ls", "--path", "p"}, {"top", "--once"}, {"chat"}, {"version"},
                                                          {"bench", "engine", "--model", "m"}, {"bench", "router"}};
  for (const auto& arguments : commands) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    EXPECT_EQ(RunProgram({arguments, {{"model.numerics", "fast"}}, {}}), 2) << arguments.front();
    const std::string err = testing::internal::GetCapturedStderr();
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "") << arguments.front();
    EXPECT_THAT(err, HasSubstr("--model.numerics is a setting, and `baton " + arguments.front() + "` takes none")) << err;
    EXPECT_THAT(err, HasSubstr("serve")) << "those that do";
  }
  testing::internal::CaptureStderr();
  EXPECT_EQ(RunProgram({{"generat"}, {{"model.numerics", "fast"}}, {}}), 2);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("\"generate\"")) << "a misspelt command is said first";
}

TEST(SettingsTest, PrintTakesThemFromEverywhere) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(RunProgram({{"config", "--print"}, {{"gateway.port", "1234"}}, {{"BATON_LOG_LEVEL", "warn"}, {"BATON_BINARY", "x"}, {"BATON_", ""}}}), 0) << "variables of others are none of ours";
  const std::string out = testing::internal::GetCapturedStdout();
  EXPECT_THAT(out, HasSubstr("  port: 1234  # "));
  EXPECT_THAT(out, HasSubstr("; environment BATON_LOG_LEVEL\n"));
}

}  // namespace
}  // namespace baton
