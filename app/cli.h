// The program's commands. Each adds itself to the CLI and says how it ended: 0 done, 1 failed, 2 wrong usage.
#pragma once

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

struct ConfigCommand {
  bool print = false, doc = false, schema = false;
  std::string file;
};
int RunConfig(const ConfigCommand& command, const CommandLine& line);
int RunVersion(bool json);
struct DoctorCommand {
  bool json = false;
  std::string config_file;
};
int RunDoctor(const DoctorCommand& command, const CommandLine& line);

struct BenchEngineCommand {
  std::string model, numerics, kv_dtype = "f16", isa = "auto";
  uint32_t prompt_tokens = 512, generate_tokens = 64, batch = 1, threads = 0, repeats = 3;
  bool json = false;
};
int RunBenchEngine(const BenchEngineCommand& command);

/// Prints a failure to stderr and gives its exit code: 2 for kInvalid and kNotFound of what was typed, else 1.
int Fail(const Status& status);

}  // namespace baton
