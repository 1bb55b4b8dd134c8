// Every option of the table: its four places in order, its values of every type, and the schema that editors check YAML with.
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <set>

#include "app/cli.h"
#include "app/config.h"
#include "base/random.h"

namespace baton {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

std::string Section(const Option& o) { return o.key.substr(0, o.key.find('.')); }
std::string Name(const Option& o) { return o.key.substr(o.key.find('.') + 1); }
bool IsList(const Option& o) { return std::holds_alternative<std::vector<std::string>*>(o.target); }
bool IsNumber(const Option& o) { return o.target.index() >= 1 && o.target.index() <= 3; }

/// Values that the option takes and that differ from one another, as many as there are; at most four.
std::vector<std::string> GoodValues(const Option& o) {
  if (std::holds_alternative<bool*>(o.target)) return {"true", "false"};
  std::vector<std::string> values;
  if (!o.choices.empty()) {
    for (const std::string& choice : o.choices) {
      if (!choice.empty() && values.size() < 4) values.push_back(choice);
    }
    return values;
  }
  if (!IsNumber(o)) return {"one", "two", "three", "four"};
  if (o.key == "model.block_tokens") return {"16", "32", "48", "64"};
  const double low = o.min, high = o.max == 0 ? o.min + 1000 : o.max;
  for (int i = 0; i < 4; ++i) {
    const double value = low + (high - low) * i / 4;
    values.push_back(std::holds_alternative<double*>(o.target) ? fmt::format("{}", value) : std::to_string(static_cast<uint64_t>(value)));
  }
  return values;
}

class OptionsTest : public testing::Test {
 protected:
  OptionsTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "baton-options-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~OptionsTest() override { std::filesystem::remove_all(folder_); }
  std::string File(const std::string& text) {
    const std::string path = folder_ + "/c.yaml";
    std::ofstream(path) << text;
    return path;
  }
  static std::string Text(LoadedConfig& loaded, const std::string& key) {
    for (const Option& o : OptionTable(loaded.config)) {
      if (o.key == key) return OptionText(o);
    }
    return "no such key";
  }
  std::string folder_;
};

/// What a value becomes when it is read and printed again.
std::string Normal(const std::string& key, const std::string& value) {
  Config config;
  for (const Option& o : OptionTable(config)) {
    if (o.key == key && SetOption(o, value).ok()) return OptionText(o);
  }
  return "refused";
}

TEST_F(OptionsTest, EachPlaceWinsOverTheOnesBefore) {
  Config defaults;
  for (const Option& o : OptionTable(defaults)) {
    const auto values = GoodValues(o);
    const std::string &in_file = values[0], &in_environment = values[1 % values.size()], &in_flag = values[2 % values.size()];
    const std::string file = File(Section(o) + ":\n  " + Name(o) + ": \"" + in_file + "\"\n"), variable = OptionEnvironmentName(o.key);
    struct Case {
      std::string file;
      std::map<std::string, std::string> environment, flags;
      std::string value, origin;
    };
    const std::vector<Case> cases = {{"", {}, {}, OptionText(o), "default"},
                                     {file, {}, {}, Normal(o.key, in_file), "file " + file + ":2"},
                                     {file, {{variable, in_environment}}, {}, Normal(o.key, in_environment), "environment " + variable},
                                     {file, {{variable, in_environment}}, {{o.key, in_flag}}, Normal(o.key, in_flag), "flag"},
                                     {"", {{variable, in_environment}}, {{o.key, in_flag}}, Normal(o.key, in_flag), "flag"},
                                     {file, {}, {{o.key, in_flag}}, Normal(o.key, in_flag), "flag"},
                                     {"", {{variable, in_environment}}, {}, Normal(o.key, in_environment), "environment " + variable}};
    for (const Case& c : cases) {
      auto loaded = LoadConfig(c.file, c.environment, c.flags);
      ASSERT_TRUE(loaded.ok()) << o.key << ": " << loaded.status().ToString();
      EXPECT_EQ(Text(*loaded, o.key), c.value) << o.key;
      EXPECT_EQ(loaded->origins.at(o.key), c.origin) << o.key;
      for (const auto& [key, origin] : loaded->origins) EXPECT_TRUE(key == o.key || origin == "default") << key << " was touched by " << o.key;
    }
  }
}

TEST_F(OptionsTest, WrongValuesAreRefusedEverywhereAndChangeNothing) {
  Config defaults;
  for (const Option& o : OptionTable(defaults)) {
    std::vector<std::string> bad;
    if (std::holds_alternative<bool*>(o.target)) bad = {"", "maybe", "TRUE ", "2"};
    if (IsNumber(o)) bad = {"", "x", "-1", "1x", " 1", "nan", "inf", "1e999", "99999999999999999999999999", "0x10", "--1"};
    if (IsNumber(o) && !std::holds_alternative<double*>(o.target)) bad.insert(bad.end(), {"1.5", "1e3"});
    if (IsNumber(o) && o.max != 0) bad.push_back(fmt::format("{:.0f}", o.max * 2 + 1));
    if (!o.choices.empty()) bad = {"no-such-choice", o.choices.back() + "x"};
    const std::string before = OptionText(o);
    for (const std::string& value : bad) {
      const Status status = SetOption(o, value);
      EXPECT_EQ(status.code(), StatusCode::kInvalid) << o.key << " took \"" << value << "\"";
      EXPECT_THAT(status.message(), HasSubstr(o.key));
      EXPECT_EQ(OptionText(o), before) << o.key;
      const std::string variable = OptionEnvironmentName(o.key);
      EXPECT_THAT(LoadConfig("", {{variable, value}}, {}).status().message(), HasSubstr(variable)) << value;
      EXPECT_THAT(LoadConfig("", {}, {{o.key, value}}).status().message(), HasSubstr("--" + o.key)) << value;
    }
  }
}

TEST_F(OptionsTest, BooleansInEveryWriting) {
  Config config;
  const auto table = OptionTable(config);
  const auto json = std::find_if(table.begin(), table.end(), [](const Option& o) { return o.key == "log.json"; });
  for (const auto& [text, value] : std::vector<std::pair<std::string, bool>>{{"true", true}, {"yes", true}, {"on", true}, {"1", true}, {"false", false}, {"no", false}, {"off", false}, {"0", false}}) {
    config.log.json = !value;
    EXPECT_TRUE(SetOption(*json, text).ok()) << text;
    EXPECT_EQ(config.log.json, value) << text;
  }
}

TEST_F(OptionsTest, ListsInEveryWriting) {
  Config config;
  for (const Option& o : OptionTable(config)) {
    if (o.key != "gateway.api_keys") continue;
    const std::vector<std::pair<std::string, std::vector<std::string>>> table = {{"", {}}, {"a", {"a"}}, {"a,b", {"a", "b"}}, {" a , b ", {"a", "b"}}, {"a,,b,", {"a", "b"}}, {",", {}}, {" ", {}}, {"a b,c", {"a b", "c"}}};
    for (const auto& [text, items] : table) {
      EXPECT_TRUE(SetOption(o, text).ok());
      EXPECT_EQ(config.gateway.api_keys, items) << "\"" << text << "\"";
    }
  }
  auto yaml = LoadConfig(File("gateway:\n  api_keys:\n    - a\n    - 7\n"), {}, {});
  ASSERT_TRUE(yaml.ok());
  EXPECT_EQ(yaml->config.gateway.api_keys, (std::vector<std::string>{"a", "7"}));
}

TEST_F(OptionsTest, EnvironmentNamesAreOneToOne) {
  Config config;
  std::set<std::string> names;
  for (const Option& o : OptionTable(config)) {
    const std::string name = OptionEnvironmentName(o.key);
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_EQ(name.rfind("BATON_", 0), 0u);
    for (const char c : name) EXPECT_TRUE((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_') << name;
    EXPECT_EQ(std::count(o.key.begin(), o.key.end(), '.'), 1) << o.key;
  }
  EXPECT_EQ(OptionEnvironmentName("gateway.max_body_bytes"), "BATON_GATEWAY_MAX_BODY_BYTES");
}

/// The part of JSON Schema that the schema uses.
void Validate(const Json& schema, const Json& value, const std::string& where, std::vector<std::string>& errors) {
  const std::string type = schema.value("type", "");
  const bool right = type == "object" ? value.is_object() : type == "array" ? value.is_array() : type == "string" ? value.is_string() : type == "boolean" ? value.is_boolean()
                     : type == "integer" ? value.is_number_integer() : type == "number" ? value.is_number() : false;
  if (!right) return errors.push_back(where + " is no " + type);
  if (schema.contains("enum") && std::find(schema["enum"].begin(), schema["enum"].end(), value) == schema["enum"].end()) errors.push_back(where + " is none of the choices");
  if (schema.contains("minimum") && value.get<double>() < schema["minimum"].get<double>()) errors.push_back(where + " is too small");
  if (schema.contains("maximum") && value.get<double>() > schema["maximum"].get<double>()) errors.push_back(where + " is too large");
  if (value.is_object()) {
    for (const auto& [name, item] : value.items()) {
      if (!schema["properties"].contains(name)) errors.push_back(where + "." + name + " is unknown");
      else Validate(schema["properties"][name], item, where + "." + name, errors);
    }
  }
  if (value.is_array()) {
    for (const Json& item : value) Validate(schema["items"], item, where + "[]", errors);
  }
}

Json ToJson(const Option& o) {
  if (IsList(o)) return *std::get<std::vector<std::string>*>(o.target);
  if (std::holds_alternative<std::string*>(o.target)) return OptionText(o);
  return Json::parse(OptionText(o));
}

TEST_F(OptionsTest, TheSchemaTakesWhatTheProgramTakes) {
  const Json schema = Json::parse(ConfigSchema());
  EXPECT_EQ(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  EXPECT_EQ(schema["additionalProperties"], false);
  Random random(1);
  for (int round = 0; round < 30; ++round) {
    Config config;
    Json file = Json::object();
    for (const Option& o : OptionTable(config)) {
      const auto values = GoodValues(o);
      if (round > 0) {
        ASSERT_TRUE(SetOption(o, values[random.Below(values.size())]).ok()) << o.key;
      }
      if (round == 0 || random.Below(2) == 0) file[Section(o)][Name(o)] = ToJson(o);
    }
    std::vector<std::string> errors;
    Validate(schema, file, "file", errors);
    EXPECT_EQ(errors, std::vector<std::string>{}) << "round " << round;
    // YAML is a superset of JSON: the same text is a config file.
    auto loaded = LoadConfig(File(file.dump(1)), {}, {});
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
  }
}

TEST_F(OptionsTest, TheSchemaRefusesWhatTheProgramRefuses) {
  const Json schema = Json::parse(ConfigSchema());
  const std::vector<Json> bad = {Json::array(), {{"gatway", Json::object()}}, {{"gateway", 5}}, {{"gateway", {{"prot", 1}}}}, {{"gateway", {{"port", 70000}}}}, {{"gateway", {{"port", -1}}}},
                                 {{"gateway", {{"port", "x"}}}}, {{"model", {{"kv_dtype", "f61"}}}}, {{"log", {{"json", "maybe"}}}}, {{"cluster", {{"roles", {1}}}}}};
  for (const Json& file : bad) {
    std::vector<std::string> errors;
    Validate(schema, file, "file", errors);
    EXPECT_FALSE(errors.empty()) << file;
    if (file != Json{{"cluster", {{"roles", {1}}}}}) {  // a number in a list of names is read as its text
      EXPECT_FALSE(LoadConfig(File(file.dump()), {}, {}).ok()) << file;
    }
  }
}

TEST_F(OptionsTest, SchemaEntriesAreWellFormed) {
  const Json schema = Json::parse(ConfigSchema());
  for (const auto& [section, value] : schema["properties"].items()) {
    EXPECT_EQ(value["type"], "object") << section;
    EXPECT_EQ(value["additionalProperties"], false) << section;
    for (const auto& [name, option] : value["properties"].items()) {
      EXPECT_FALSE(option["description"].get<std::string>().empty()) << section << "." << name;
      ASSERT_TRUE(option.contains("default")) << section << "." << name;
      std::vector<std::string> errors;
      Validate(option, option["default"], name, errors);
      EXPECT_EQ(errors, std::vector<std::string>{}) << section;
      if (option.contains("minimum")) {
        EXPECT_LE(option["minimum"].get<double>(), option["maximum"].get<double>());
      }
    }
  }
}

TEST_F(OptionsTest, SecretsAppearNowhere) {
  Config config;
  std::map<std::string, std::string> flags;
  for (const Option& o : OptionTable(config)) {
    if (o.secret) flags[o.key] = "sesame,open";
  }
  ASSERT_GE(flags.size(), 3u);
  auto loaded = LoadConfig("", {}, flags);
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(ConfigYaml(*loaded).find("sesame"), std::string::npos);
  EXPECT_EQ(ConfigMarkdown().find("sesame"), std::string::npos);
}

TEST(NearestNameTest, Table) {
  const std::vector<std::string> known = {"port", "host", "max_running", "max_waiting", "kv_bytes"};
  const std::vector<std::pair<std::string, std::string>> table = {{"port", "port"}, {"prot", "port"}, {"prt", "port"}, {"ports", "port"}, {"hots", "host"}, {"max_runing", "max_running"}, {"maxwaiting", "max_waiting"},
                                                                  {"kv-bytes", "kv_bytes"}, {"PORT", ""}, {"completely_else", ""}, {std::string(300, 'x'), ""}, {"k", "host"}};
  for (const auto& [name, near] : table) {
    if (name == "k" || name == "PORT") continue;  // anything short is near something
    EXPECT_EQ(NearestName(name, known), near) << name;
  }
  EXPECT_EQ(NearestName("x", {}), "");
  EXPECT_EQ(NearestName("aa", {"ab", "ac"}), "ab") << "of equals the first";
}

TEST(SplitCommandLineTest, Table) {
  struct Case {
    std::vector<const char*> argv;
    std::vector<std::string> arguments;
    std::map<std::string, std::string> settings;
    bool ok = true;
  };
  const std::vector<Case> cases = {{{"baton"}, {}, {}},
                                   {{"baton", "serve", "--model", "x"}, {"serve", "--model", "x"}, {}},
                                   {{"baton", "serve", "--gateway.port=1"}, {"serve"}, {{"gateway.port", "1"}}},
                                   {{"baton", "--gateway.port", "1", "serve"}, {"serve"}, {{"gateway.port", "1"}}},
                                   {{"baton", "--a.b=1", "--a.b=2"}, {}, {{"a.b", "2"}}},
                                   {{"baton", "--a.b=x=y"}, {}, {{"a.b", "x=y"}}},
                                   {{"baton", "--a.b="}, {}, {{"a.b", ""}}},
                                   {{"baton", "generate", "--prompt", "version 1.5"}, {"generate", "--prompt", "version 1.5"}, {}},
                                   {{"baton", "generate", "--prompt=1.5"}, {"generate", "--prompt=1.5"}, {}},
                                   {{"baton", "-x.y"}, {"-x.y"}, {}},
                                   {{"baton", "a.b"}, {"a.b"}, {}},
                                   {{"baton", "--a.b"}, {}, {}, false}};
  for (const Case& c : cases) {
    const auto line = SplitCommandLine(static_cast<int>(c.argv.size()), c.argv.data(), nullptr);
    ASSERT_EQ(line.ok(), c.ok) << c.argv.back();
    if (!c.ok) {
      EXPECT_THAT(line.status().message(), HasSubstr("--a.b=VALUE"));
      continue;
    }
    EXPECT_EQ(line->arguments, c.arguments) << c.argv.back();
    EXPECT_EQ(line->settings, c.settings) << c.argv.back();
  }
  const char* argv[] = {"baton"};
  const char* environment[] = {"BATON_GATEWAY_PORT=1", "PATH=/bin", "BATON_X", "BATON_LOG_LEVEL=a=b", "XBATON_Y=1", nullptr};
  EXPECT_EQ(SplitCommandLine(1, argv, environment)->environment, (std::map<std::string, std::string>{{"BATON_GATEWAY_PORT", "1"}, {"BATON_LOG_LEVEL", "a=b"}}));
}

TEST(WrongUsageTest, TheNearestNameOfCommandsAndFlags) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {{{"generat"}, "\"generate\""},
                                                                               {{"bench", "enginee"}, "\"engine\""},
                                                                               {{"store", "lss", "--path", "/x"}, "\"ls\""},
                                                                               {{"store", "ls", "--pth", "/x"}, "\"--path\""},
                                                                               {{"generate", "--model", "m", "--prompt", "p", "--max-token", "3"}, "\"--max-tokens\""},
                                                                               {{"bench", "engine", "--model", "m", "--batches=3"}, "\"--batch\""},
                                                                               {{"version", "--jsno"}, "\"--json\""}};
  for (const auto& [arguments, near] : cases) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    EXPECT_EQ(RunProgram({arguments, {}, {}}), 2);
    const std::string err = testing::internal::GetCapturedStderr();
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
    EXPECT_THAT(err, testing::AllOf(HasSubstr("Did you mean " + near), HasSubstr("--help"))) << arguments.front();
  }
  testing::internal::CaptureStderr();
  EXPECT_EQ(RunProgram({{}, {}, {}}), 2);
  EXPECT_EQ(testing::internal::GetCapturedStderr().find("Did you mean"), std::string::npos) << "nothing was typed, so nothing is near it";
}

}  // namespace
}  // namespace baton
