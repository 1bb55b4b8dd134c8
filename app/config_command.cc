// `baton config` and `baton version`.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/build_info.h"
#include "app/cli.h"
#include "app/config.h"

namespace baton {
namespace {

struct ConfigCommand {
  bool print = false, doc = false, schema = false;
  std::string file;
};

int RunConfig(const ConfigCommand& command, const CommandLine& line) {
  std::string text;
  if (command.doc) {
    text = ConfigMarkdown();
  } else if (command.schema) {
    text = ConfigSchema();
  } else {
    auto loaded = LoadConfig(command.file, line.environment, line.settings);
    if (!loaded.ok()) return Fail(loaded.status());
    text = ConfigYaml(*loaded);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

int RunVersion(bool json) {
  const BuildInfo info = GetBuildInfo();
  if (json) {
    const nlohmann::ordered_json object = {{"version", info.version}, {"isa", info.isa}, {"compiler", info.compiler}, {"features", info.features}};
    std::printf("%s\n", object.dump().c_str());
  } else {
    std::string features;
    for (const std::string& feature : info.features) features += " " + feature;
    std::printf("baton %s\nisa: %s\ncompiler: %s\nfeatures:%s\n", info.version.c_str(), info.isa.c_str(), info.compiler.c_str(), features.c_str());
  }
  return 0;
}

}  // namespace

void AddConfigCommand(CLI::App& program, CommandContext& context) {
  auto c = std::make_shared<ConfigCommand>();
  CLI::App* app = program.add_subcommand("config", "every setting with its default, unit, meaning and origin");
  CLI::Option_group* form = app->add_option_group("form", "what to print");
  form->add_flag("--print", c->print, "the settings in force, as YAML with origins");
  form->add_flag("--doc", c->doc, "docs/config.md");
  form->add_flag("--schema", c->schema, "a JSON schema of the config file");
  form->require_option(1);
  app->add_option("--config", c->file, "YAML file");
  app->callback([c, &context] { context.exit_code = RunConfig(*c, context.line); });
}

void AddVersionCommand(CLI::App& program, CommandContext& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* app = program.add_subcommand("version", "version, commit, instruction set, features compiled in");
  app->add_flag("--json", *json, "one JSON object");
  app->callback([json, &context] { context.exit_code = RunVersion(*json); });
}

}  // namespace baton
