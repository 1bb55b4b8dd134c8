// `baton config` and `baton version`.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/build_info.h"
#include "app/cli.h"
#include "app/config.h"

namespace baton {

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
  return std::fflush(stdout) == 0 ? 0 : 1;
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

}  // namespace baton
