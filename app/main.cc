#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "app/cli.h"
#include "base/log.h"

int main(int argc, char** argv) {
  static_cast<void>(baton::InitLogging({.level = "warn"}));  // commands that serve set it up as they are told
  auto line = baton::SplitCommandLine(argc, argv, environ);
  const int code = line.ok() ? baton::RunProgram(*line) : baton::Fail(line.status());
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  std::fprintf(stderr, "baton: the result could not be written to stdout: %s\n", std::strerror(errno));
  return code == 0 ? 1 : code;
}
