// A command in this process, with its input and what it printed.
#pragma once

#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "app/cli.h"

namespace baton {

struct Outcome {
  int code;
  std::string out, err;
  nlohmann::json json() const { return nlohmann::json::parse(out, nullptr, false); }
};

inline Outcome RunBaton(std::vector<std::string> arguments, const std::string& input = "") {
  std::istringstream lines(input);
  std::streambuf* old = std::cin.rdbuf(lines.rdbuf());
  std::cin.clear();
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const int code = RunProgram({std::move(arguments), {}, {}});
  std::cin.rdbuf(old);
  std::string err = testing::internal::GetCapturedStderr();
  return {code, testing::internal::GetCapturedStdout(), std::move(err)};
}

}  // namespace baton
