#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace baton {

Status InitLogging(const LogConfig& config) {
  const auto level = spdlog::level::from_str(config.level);
  if (level == spdlog::level::off && config.level != "off") {
    return InvalidError("log.level '{}' is unknown; use trace, debug, info, warn, error or off", config.level);
  }
  auto logger = std::make_shared<spdlog::logger>("baton", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_level(level);
  if (config.json) {
    logger->set_pattern(R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","role":")" + config.role + R"(","message":"%v"})");
  } else {
    logger->set_pattern("%H:%M:%S.%e %^%L%$ " + (config.role.empty() ? std::string() : config.role + " ") + "%v");
  }
  logger->flush_on(spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
  return OkStatus();
}

}  // namespace baton
