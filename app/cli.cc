#include "app/cli.h"

#include <CLI/CLI.hpp>
#include <cstdio>

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

/// CLI11's message, and the nearest command or flag where the word is unknown.
int WrongUsage(const CLI::App& app, const CommandLine& line, const CLI::ParseError& error) {
  std::fprintf(stderr, "baton: %s\n", error.what());
  const CLI::App* shown = &app;
  if (!app.get_subcommands().empty()) shown = app.get_subcommands().front();
  std::vector<std::string> known;
  for (const CLI::App* sub : shown->get_subcommands({})) known.push_back(sub->get_name());
  for (const CLI::Option* option : shown->get_options()) known.push_back("--" + option->get_single_name());
  for (const std::string& word : line.arguments) {
    const std::string name = word.substr(0, word.find('='));
    if (std::find(known.begin(), known.end(), name) != known.end() || name == shown->get_name()) continue;
    const std::string near = NearestName(name, known);
    if (!near.empty()) std::fprintf(stderr, "Did you mean \"%s\"?\n", near.c_str());
    break;
  }
  const std::string path = shown == &app ? "baton" : "baton " + shown->get_name();
  std::fprintf(stderr, "`%s --help` lists what there is.\n", path.c_str());
  return 2;
}

void AddBenchEngine(CLI::App& parent, BenchEngineCommand& c) {
  CLI::App* app = parent.add_subcommand("engine", "speed of prompts and answers, and peak memory");
  app->add_option("--model", c.model, "GGUF file or folder of safetensors")->required();
  app->add_option("--prompt-tokens", c.prompt_tokens, "tokens of each prompt")->check(CLI::Range(1, 1000000));
  app->add_option("--generate-tokens", c.generate_tokens, "tokens of each answer")->check(CLI::Range(1, 1000000));
  app->add_option("--batch", c.batch, "sequences at once")->check(CLI::Range(1, 1024));
  app->add_option("--threads", c.threads, "compute threads; 0: one a core")->check(CLI::Range(0, 1024));
  app->add_option("--repeats", c.repeats, "runs; medians are printed")->check(CLI::Range(1, 1000));
  app->add_option("--numerics", c.numerics, "exact, fast, bf16 or f32");
  app->add_option("--kv-dtype", c.kv_dtype, "f32, f16, bf16 or int8");
  app->add_option("--isa", c.isa, "auto, scalar, avx2 or avx512");
  app->add_flag("--json", c.json, "one JSON object");
}

}  // namespace

int RunProgram(const CommandLine& line) {
  CLI::App app("Baton serves one language model from many machines; the KV cache is explicit and never changes an answer.", "baton");
  app.require_subcommand(1);
  app.footer("Every setting of `baton config --doc` can be given as --section.key=VALUE or as BATON_SECTION_KEY.");

  ConfigCommand config;
  CLI::App* config_app = app.add_subcommand("config", "every setting with its default, unit, meaning and origin");
  CLI::Option_group* form = config_app->add_option_group("form", "what to print");
  form->add_flag("--print", config.print, "the settings in force, as YAML with origins");
  form->add_flag("--doc", config.doc, "docs/config.md");
  form->add_flag("--schema", config.schema, "a JSON schema of the config file");
  form->require_option(1);
  config_app->add_option("--config", config.file, "YAML file");

  bool version_json = false;
  CLI::App* version_app = app.add_subcommand("version", "version, commit, instruction set, features compiled in");
  version_app->add_flag("--json", version_json, "one JSON object");

  DoctorCommand doctor;
  CLI::App* doctor_app = app.add_subcommand("doctor", "checks this machine and says what to change");
  doctor_app->add_flag("--json", doctor.json, "one JSON object a check");
  doctor_app->add_option("--config", doctor.config_file, "YAML file whose ports, folders and model are checked");

  BenchEngineCommand bench;
  CLI::App* bench_app = app.add_subcommand("bench", "measures parts of the program");
  bench_app->require_subcommand(1);
  AddBenchEngine(*bench_app, bench);

  try {  // CLI11 reports by exceptions; none leaves this function
    std::vector<std::string> reversed(line.arguments.rbegin(), line.arguments.rend());
    app.parse(reversed);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return WrongUsage(app, line, error);
  }
  if (config_app->parsed()) return RunConfig(config, line);
  if (version_app->parsed()) return RunVersion(version_json);
  if (bench_app->parsed()) return RunBenchEngine(bench);
  return RunDoctor(doctor, line);
}

}  // namespace baton
