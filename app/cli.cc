#include "app/cli.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string_view>

#include "app/config.h"

namespace baton {

Result<CommandLine> SplitCommandLine(int argc, const char* const* argv, const char* const* environment) {
  CommandLine line;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string key = argument.rfind("--", 0) == 0 ? argument.substr(2, equals == std::string::npos ? equals : equals - 2) : "";
    if (key.find('.') == std::string::npos) {
      line.arguments.push_back(argument);
    } else if (equals != std::string::npos) {
      line.settings[key] = argument.substr(equals + 1);
    } else if (i + 1 < argc) {
      line.settings[key] = argv[++i];
    } else {
      return InvalidError("--{} needs a value: --{}=VALUE", key, key);
    }
  }
  for (const char* const* entry = environment; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos && text.rfind("BATON_", 0) == 0) line.environment[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return Result<CommandLine>(std::move(line));
}

int Fail(const Status& status) {
  std::fprintf(stderr, "baton: %s\n", status.message().c_str());
  return status.code() == StatusCode::kInvalid || status.code() == StatusCode::kNotFound ? 2 : 1;
}

namespace {

/// The word of the line that `app` does not know: where a subcommand is due the first that is none, else the first such flag.
std::string UnknownWord(bool wants_subcommand, const CommandLine& line, const std::vector<std::string>& known, const std::vector<std::string>& path) {
  for (const std::string& word : line.arguments) {
    const bool is_flag = word.rfind("--", 0) == 0;
    const std::string name = word.substr(0, word.find('='));
    const auto among = [&name](const std::vector<std::string>& names) { return std::find(names.begin(), names.end(), name) != names.end(); };
    if (is_flag != wants_subcommand && !among(known) && !among(path)) return name;
  }
  return "";
}

/// The commands that read settings; any other would lose them without a word.
constexpr std::string_view kTakeSettings[] = {"serve", "cluster", "warm", "simulate", "doctor", "config"};

/// kInvalid where a setting was typed to a command that takes none.
Status CheckSettingsAreTaken(const CLI::App& app, const CommandLine& line) {
  if (line.settings.empty() || line.arguments.empty()) return OkStatus();
  const std::string& command = line.arguments.front();
  if (std::find(std::begin(kTakeSettings), std::end(kTakeSettings), command) != std::end(kTakeSettings)) return OkStatus();
  if (app.get_subcommands([&command](const CLI::App* sub) { return sub->get_name() == command; }).empty()) return OkStatus();
  return InvalidError("--{} is a setting, and `baton {}` takes none: {} do. `baton {} --help` lists its own flags", line.settings.begin()->first, command,
                      fmt::join(kTakeSettings, ", "), command);
}

/// CLI11's message, and the nearest command or flag where the word is unknown.
int WrongUsage(const CLI::App& app, const CommandLine& line, const CLI::ParseError& error) {
  std::fprintf(stderr, "baton: %s\n", error.what());
  const CLI::App* shown = &app;
  std::vector<std::string> path = {"baton"};
  while (!shown->get_subcommands().empty()) {
    shown = shown->get_subcommands().front();
    path.push_back(shown->get_name());
  }
  std::vector<std::string> known;
  const auto add_options = [&known](const CLI::App& of) {
    for (const CLI::Option* option : of.get_options()) known.push_back("--" + option->get_single_name());
  };
  bool wants_subcommand = false;
  for (const CLI::App* sub : shown->get_subcommands({})) {
    if (sub->get_name().empty()) {  // a group of options
      add_options(*sub);
    } else {
      known.push_back(sub->get_name());
      wants_subcommand = true;
    }
  }
  add_options(*shown);
  const std::string word = UnknownWord(wants_subcommand, line, known, path);
  const std::string near = word.empty() ? "" : NearestName(word, known);
  if (!near.empty()) std::fprintf(stderr, "Did you mean \"%s\"?\n", near.c_str());
  std::fprintf(stderr, "`%s --help` lists what there is.\n", fmt::format("{}", fmt::join(path, " ")).c_str());
  return 2;
}

}  // namespace

int RunProgram(const CommandLine& line) {
  CLI::App app("Baton serves one language model from many machines; the KV cache is explicit and never changes an answer.", "baton");
  app.require_subcommand(1);
  app.footer("Every setting of `baton config --doc` can be given as --section.key=VALUE or as BATON_SECTION_KEY.");

  CommandContext context{line};
  AddServeCommand(app, context);
  AddClusterCommand(app, context);
  AddChatCommand(app, context);
  AddGenerateCommand(app, context);
  AddLogitsCommand(app, context);
  AddTokenizeCommand(app, context);
  AddDetokenizeCommand(app, context);
  AddRenderCommand(app, context);
  AddWarmCommand(app, context);
  AddStoreCommand(app, context);
  AddSimulateCommand(app, context);
  AddTopCommand(app, context);
  AddDoctorCommand(app, context);
  AddConfigCommand(app, context);
  AddVersionCommand(app, context);
  CLI::App* bench = app.add_subcommand("bench", "measures parts of the program");
  bench->require_subcommand(1);
  AddBenchEngineCommand(*bench, context);
  AddBenchLoadCommand(*bench, context);
  AddBenchPolicyCommand(*bench, context);
  AddBenchMembersCommand(*bench, context);
  AddBenchRouterCommand(*bench, context);
  AddBenchStoreCommand(*bench, context);
  AddBenchTransferCommand(*bench, context);

  if (const Status taken = CheckSettingsAreTaken(app, line); !taken.ok()) return Fail(taken);
  try {  // CLI11 reports by exceptions; none leaves this function
    std::vector<std::string> reversed(line.arguments.rbegin(), line.arguments.rend());
    app.parse(reversed);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return WrongUsage(app, line, error);
  }
  return context.exit_code;
}

}  // namespace baton
