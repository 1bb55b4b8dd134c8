// `baton top`: a live view of a running cluster in the terminal, from /admin/cluster, /health and /metrics.
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "app/cli.h"
#include "app/http_client.h"
#include "base/clock.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

struct TopCommand {
  std::string url = "http://127.0.0.1:8000", api_key;
  double interval_s = 1;
  bool json = false, once = false;
};

/// The samples of a Prometheus text that have no labels, and those of baton_gateway_requests_total summed.
std::map<std::string, double> ReadMetrics(const std::string& text) {
  std::map<std::string, double> values;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t space = line.rfind(' ');
    if (line.empty() || line[0] == '#' || space == std::string::npos) continue;
    const std::string name = line.substr(0, line.find_first_of("{ "));
    if (line[name.size()] == '{' && name != "baton_gateway_requests_total") continue;
    values[name] += std::strtod(line.c_str() + space + 1, nullptr);
  }
  return values;
}

struct Sample {
  double time_s = 0;
  std::map<std::string, double> metrics;
};

/// One refresh. `before` is the sample of the last one, for rates; it becomes this one's.
Result<Json> Refresh(HttpApiClient& client, kj::AsyncIoContext& io, const Clock& clock, Sample& before) {
  auto health = client.Get("/health").wait(io.waitScope);
  if (!health.ok()) return health.status();
  auto metrics = client.Get("/metrics").wait(io.waitScope);
  if (!metrics.ok()) return metrics.status();
  auto cluster = client.Get("/admin/cluster").wait(io.waitScope);
  if (!cluster.ok()) return cluster.status();
  if (cluster->status != 200) return UnavailableError("/admin/cluster answered {}: {} (see --api-key)", cluster->status, cluster->ErrorMessage());
  Sample now{ToSeconds(clock.Now().time_since_epoch()), ReadMetrics(metrics->body)};
  const auto rate = [&](const std::string& name) {
    const double seconds = now.time_s - before.time_s;
    return before.metrics.count(name) && seconds > 0 ? (now.metrics[name] - before.metrics[name]) / seconds : 0.0;
  };
  Json out = {{"ready", health->status == 200}, {"reason", health->status == 200 ? "" : health->ErrorMessage()},
              {"connections", now.metrics["baton_gateway_connections"]}, {"running_answers", now.metrics["baton_gateway_running_answers"]},
              {"requests_per_s", rate("baton_gateway_requests_total")}, {"prompt_tokens_per_s", rate("baton_gateway_prompt_tokens_total")},
              {"cached_tokens_per_s", rate("baton_gateway_cached_tokens_total")}, {"generated_tokens_per_s", rate("baton_gateway_generated_tokens_total")}};
  auto shown = ParseJson(cluster->body);
  if (!shown.ok()) return UnavailableError("/admin/cluster did not answer JSON");
  out["cluster"] = std::move(*shown);
  before = std::move(now);
  return out;
}

std::string Cell(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_number_float()) return value.dump();
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value.get<double>());
  return text;
}

/// A list of objects as columns, as wide as their widest cell.
void PrintTable(const Json& rows) {
  std::vector<std::string> columns;
  for (const Json& row : rows) {
    for (const auto& [name, value] : row.items()) {
      if (std::find(columns.begin(), columns.end(), name) == columns.end()) columns.push_back(name);
    }
  }
  std::vector<std::vector<std::string>> cells = {columns};
  for (const Json& row : rows) {
    std::vector<std::string> line;
    for (const std::string& name : columns) line.push_back(row.contains(name) ? Cell(row[name]) : "");
    cells.push_back(std::move(line));
  }
  for (const auto& line : cells) {
    for (size_t c = 0; c < columns.size(); ++c) {
      size_t width = 0;
      for (const auto& other : cells) width = std::max(width, std::min<size_t>(other[c].size(), 40));
      std::printf("  %-*s", static_cast<int>(width), line[c].substr(0, 40).c_str());
    }
    std::printf("\n");
  }
}

void Print(const Json& view, const std::string& url) {
  std::printf("%s  %s%s\n", url.c_str(), view["ready"].get<bool>() ? "ready" : "not ready: ", view["reason"].get<std::string>().c_str());
  for (const auto& [name, value] : view.items()) {
    if (value.is_number()) std::printf("  %-24s %s\n", name.c_str(), Cell(value).c_str());
  }
  for (const auto& [name, value] : view["cluster"].items()) {
    if (value.is_array() && !value.empty() && value[0].is_object()) {
      std::printf("%s\n", name.c_str());
      PrintTable(value);
    } else {
      std::printf("  %-24s %s\n", name.c_str(), Cell(value).c_str());
    }
  }
}

int RunTop(const TopCommand& c) {
  auto url = ParseUrl(c.url);
  if (!url.ok()) return Fail(url.status());
  auto io = kj::setupAsyncIo();
  HttpApiClient client(io, *url, c.api_key, 10);
  const SystemClock clock;
  Sample before;
  while (true) {
    auto view = Refresh(client, io, clock, before);
    if (!view.ok()) return Fail(view.status());
    if (c.json) {
      std::printf("%s\n", view->dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    } else {
      if (!c.once) std::printf("\x1b[H\x1b[2J");  // home, clear
      Print(*view, c.url);
    }
    std::fflush(stdout);
    if (c.once) return 0;
    io.provider->getTimer().afterDelay(static_cast<int64_t>(c.interval_s * 1e3) * kj::MILLISECONDS).wait(io.waitScope);
  }
}

}  // namespace

void AddTopCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<TopCommand>();
  TopCommand& c = *command;
  CLI::App* app = program.add_subcommand("top", "live view of a running cluster");
  app->add_option("--url", c.url, "the gateway, http://HOST:PORT")->capture_default_str();
  app->add_option("--api-key", c.api_key, "the gateway.admin_key");
  app->add_option("--interval-s", c.interval_s, "seconds between refreshes")->capture_default_str()->check(CLI::Range(0.05, 3600.0));
  app->add_flag("--once", c.once, "one refresh, then end");
  app->add_flag("--json", c.json, "one JSON object a refresh");
  app->callback([command, &context] { context.exit_code = RunTop(*command); });
}

}  // namespace baton
