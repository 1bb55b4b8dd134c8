// Logging: one sink on stderr, lines of "time level room message key=value". Results go to stdout, never through here.
#pragma once

#include <spdlog/spdlog.h>

#include <string>
#include <string_view>

#include "base/status.h"

namespace baton {

struct LogConfig {
  std::string level = "info";  // trace, debug, info, warn, error, off
  bool json = false;           // one JSON object a line instead of text
  std::string role;            // printed on each line, for example "decode-2"
};
/// Sets up the process's logger. Errors: kInvalid for an unknown level.
Status InitLogging(const LogConfig& config);

#define LOG_DEBUG(...) SPDLOG_LOGGER_CALL(spdlog::default_logger_raw(), spdlog::level::debug, __VA_ARGS__)
#define LOG_INFO(...) SPDLOG_LOGGER_CALL(spdlog::default_logger_raw(), spdlog::level::info, __VA_ARGS__)
#define LOG_WARN(...) SPDLOG_LOGGER_CALL(spdlog::default_logger_raw(), spdlog::level::warn, __VA_ARGS__)
#define LOG_ERROR(...) SPDLOG_LOGGER_CALL(spdlog::default_logger_raw(), spdlog::level::err, __VA_ARGS__)

}  // namespace baton
