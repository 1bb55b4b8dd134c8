#include <unistd.h>

#include "app/cli.h"

int main(int argc, char** argv) {
  auto line = baton::SplitCommandLine(argc, argv, environ);
  return line.ok() ? baton::RunProgram(*line) : baton::Fail(line.status());
}
