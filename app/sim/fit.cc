#include "app/sim/fit.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "kvstore/file_layer.h"

namespace baton {
namespace {

struct Measured {
  std::vector<std::pair<double, double>> steps;  // streams, seconds
  std::vector<double> prefill_rates;             // prompt tokens a second, everything counted
  double transfer_bytes_per_s = 0;
};

bool Positive(double value) { return value > 0 && std::isfinite(value); }

void TakeJson(const nlohmann::json& line, Measured& measured) {
  const auto number = [&line](const char* name, double otherwise) {
    const auto it = line.find(name);
    return it != line.end() && it->is_number() ? it->get<double>() : otherwise;
  };
  const double streams = number("batch", 1), decode = number("decode_tokens_per_s", 0), prefill = number("prefill_tokens_per_s", 0);
  if (Positive(decode) && Positive(streams)) measured.steps.emplace_back(streams, streams / decode);
  if (Positive(prefill)) measured.prefill_rates.push_back(prefill);
}

/// The gauges of each worker come in the page's order, so the n-th of one belongs to the n-th of another.
struct Gauges {
  std::vector<double> streams, step_s, prefill, transfer;
};

void TakeMetric(const std::string& text, Gauges& gauges) {
  const size_t name_end = text.find_first_of("{ "), value = text.rfind(' ');
  if (text.empty() || text[0] == '#' || name_end == std::string::npos || value == std::string::npos) return;
  const std::string name = text.substr(0, name_end);
  const double number = std::strtod(text.c_str() + value, nullptr);
  if (name == "baton_worker_running_sequences") gauges.streams.push_back(number);
  if (name == "baton_worker_decode_step_seconds") gauges.step_s.push_back(number);
  if (name == "baton_worker_prefill_tokens_per_second") gauges.prefill.push_back(number);
  if (name == "baton_worker_transfer_bytes_per_second") gauges.transfer.push_back(number);
}

void TakeGauges(const Gauges& gauges, Measured& measured) {
  for (size_t i = 0; i < gauges.step_s.size(); ++i) {
    if (Positive(gauges.step_s[i])) measured.steps.emplace_back(i < gauges.streams.size() ? std::max(1.0, gauges.streams[i]) : 1, gauges.step_s[i]);
  }
  for (const double rate : gauges.prefill) {
    if (Positive(rate)) measured.prefill_rates.push_back(rate);
  }
  for (const double rate : gauges.transfer) measured.transfer_bytes_per_s = std::max(measured.transfer_bytes_per_s, rate);
}

void FitSteps(const std::vector<std::pair<double, double>>& steps, StepSpeed& cost) {
  double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (const auto& [x, y] : steps) {
    n += 1;
    sx += x;
    sy += y;
    sxx += x * x;
    sxy += x * y;
  }
  const double spread = n * sxx - sx * sx;
  cost.per_stream_s = spread > 1e-9 ? std::max(0.0, (n * sxy - sx * sy) / spread) : 0;
  cost.base_s = std::max(0.0, (sy - cost.per_stream_s * sx) / n);
}

}  // namespace

Status FitText(std::string_view text, SimConfig& config) {
  Measured measured;
  Gauges gauges;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object()) TakeJson(json, measured);
    else TakeMetric(line, gauges);
  }
  TakeGauges(gauges, measured);
  if (measured.steps.empty() || measured.prefill_rates.empty()) {
    return InvalidError("nothing here says how fast an engine is; give lines of `baton bench engine --json` (best with several --batch), or the text of /metrics "
                        "after some traffic");
  }
  StepSpeed& cost = config.worker.cost;
  FitSteps(measured.steps, cost);
  std::sort(measured.prefill_rates.begin(), measured.prefill_rates.end());
  const double rate = measured.prefill_rates[measured.prefill_rates.size() / 2];
  // What was measured holds a step's base too, once for each step's tokens.
  const double per_token_s = 1 / rate - cost.base_s / std::max(1u, std::min(config.worker.step_token_budget, config.worker.prefill_chunk_tokens));
  cost.prefill_tokens_per_s = per_token_s > 0.1 / rate ? 1 / per_token_s : rate;
  if (Positive(measured.transfer_bytes_per_s)) config.transfer_bytes_per_s = measured.transfer_bytes_per_s;
  return OkStatus();
}

Status FitFile(const std::string& path, SimConfig& config) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return FitText(text, config).WithContext(path);
}

}  // namespace baton
