// The program's commands. Each adds itself to the CLI and says how it ended: 0 done, 1 failed, 2 wrong usage.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"

namespace baton {

/// What the user typed, taken apart: `--section.key=value` settings are pulled out before the commands see the rest.
struct CommandLine {
  std::vector<std::string> arguments;           // without the program's name
  std::map<std::string, std::string> settings;  // "gateway.port" → "8001"
  std::map<std::string, std::string> environment;
};
/// Errors: kInvalid for a setting without a value.
Result<CommandLine> SplitCommandLine(int argc, const char* const* argv, const char* const* environment);

/// Runs the program; gives its exit code.
int RunProgram(const CommandLine& line);

/// What a command's callback reads and writes. Lives as long as the program runs.
struct CommandContext {
  const CommandLine& line;
  int exit_code = 0;
};

/// Each adds one command with its flags and help; its callback runs it and sets `exit_code`.
void AddServeCommand(CLI::App& program, CommandContext& context);
void AddClusterCommand(CLI::App& program, CommandContext& context);
void AddChatCommand(CLI::App& program, CommandContext& context);
void AddGenerateCommand(CLI::App& program, CommandContext& context);
void AddLogitsCommand(CLI::App& program, CommandContext& context);
void AddTokenizeCommand(CLI::App& program, CommandContext& context);
void AddDetokenizeCommand(CLI::App& program, CommandContext& context);
void AddRenderCommand(CLI::App& program, CommandContext& context);
void AddWarmCommand(CLI::App& program, CommandContext& context);
void AddStoreCommand(CLI::App& program, CommandContext& context);
void AddSimulateCommand(CLI::App& program, CommandContext& context);
void AddTopCommand(CLI::App& program, CommandContext& context);
void AddDoctorCommand(CLI::App& program, CommandContext& context);
void AddConfigCommand(CLI::App& program, CommandContext& context);
void AddVersionCommand(CLI::App& program, CommandContext& context);
// Below `store`:
void AddStoreExplainCommand(CLI::App& store, CommandContext& context);
// Below `bench`:
void AddBenchEngineCommand(CLI::App& bench, CommandContext& context);
void AddBenchLoadCommand(CLI::App& bench, CommandContext& context);
void AddBenchPolicyCommand(CLI::App& bench, CommandContext& context);
void AddBenchMembersCommand(CLI::App& bench, CommandContext& context);
void AddBenchRouterCommand(CLI::App& bench, CommandContext& context);
void AddBenchStoreCommand(CLI::App& bench, CommandContext& context);
void AddBenchTransferCommand(CLI::App& bench, CommandContext& context);

/// Prints a failure to stderr and gives its exit code: 2 for kInvalid and kNotFound of what was typed, else 1.
int Fail(const Status& status);

}  // namespace baton
