#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>
#include <nlohmann/json.hpp>

namespace baton {
namespace {

std::string Quoted(std::string_view text) { return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }

/// One JSON object a line, whatever bytes the message holds.
class JsonFormatter final : public spdlog::formatter {
 public:
  explicit JsonFormatter(std::string role) : role_(std::move(role)), time_("%Y-%m-%dT%H:%M:%S.%e%z", spdlog::pattern_time_type::local, "") {}
  void format(const spdlog::details::log_msg& line, spdlog::memory_buf_t& out) override {
    spdlog::memory_buf_t time;
    time_.format(line, time);
    const spdlog::string_view_t level = spdlog::level::to_string_view(line.level);
    fmt::format_to(std::back_inserter(out), "{{\"time\":\"{}\",\"level\":\"{}\",\"role\":{},\"message\":{}}}\n", std::string_view(time.data(), time.size()),
                   std::string_view(level.data(), level.size()), Quoted(role_), Quoted({line.payload.data(), line.payload.size()}));
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(role_); }

 private:
  const std::string role_;
  spdlog::pattern_formatter time_;
};

}  // namespace

Status InitLogging(const LogConfig& config) {
  const auto level = spdlog::level::from_str(config.level);
  if (level == spdlog::level::off && config.level != "off") {
    return InvalidError("log.level '{}' is unknown; use trace, debug, info, warn, error or off", config.level);
  }
  auto logger = std::make_shared<spdlog::logger>("baton", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_level(level);
  if (config.json) {
    logger->set_formatter(std::make_unique<JsonFormatter>(config.role));
  } else {
    std::string role = config.role.empty() ? "" : config.role + " ";
    for (size_t at = 0; (at = role.find('%', at)) != std::string::npos; at += 2) role.insert(at, 1, '%');  // a pattern's escape
    logger->set_pattern("%H:%M:%S.%e %^%L%$ " + role + "%v");
  }
  logger->flush_on(spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
  return OkStatus();
}

}  // namespace baton
