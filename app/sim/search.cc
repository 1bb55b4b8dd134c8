#include "app/sim/search.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>

namespace baton {
namespace {

/// Seconds of engine that the trace needs at the very least: every prefix found, every batch full.
struct LeastWork {
  double prefill_s = 0, decode_s = 0, span_s = 0;
};

LeastWork WorkOf(const SimConfig& config, const std::vector<TraceRequest>& trace) {
  const StepSpeed& cost = config.worker.cost;
  LeastWork work;
  std::unordered_set<uint64_t> known;
  for (const TraceRequest& request : trace) {
    size_t cached = 0;
    for (const uint64_t id : request.hash_ids) cached += known.insert(id).second ? 0 : 1;
    const double fresh = std::max(1.0, request.prompt_tokens - static_cast<double>(cached) * config.block_tokens);
    work.prefill_s += fresh / cost.prefill_tokens_per_s;
    work.decode_s += request.answer_tokens * (cost.per_stream_s + cost.base_s / std::max(1u, config.worker.max_running));
  }
  work.span_s = std::max(1e-9, trace.back().at_s / config.rate_scale);
  return work;
}

/// Whether engines that are always busy could do it within the trace's time and twice the SLO's.
bool CouldDo(const LeastWork& work, const SimConfig& config, const SimSearchRow& row) {
  const double time_s = work.span_s + 2 * config.slo_ttft_s;
  if (row.mixed > 0) return work.prefill_s + work.decode_s <= row.mixed * time_s;
  // A decode worker may take short prompts, so only the sum and the answers bind.
  return work.decode_s <= row.decode * time_s && work.prefill_s + work.decode_s <= (row.prefill + row.decode) * time_s;
}

std::vector<SimSearchRow> Splits(const SimSearchGoal& goal) {
  std::vector<SimSearchRow> rows;
  for (uint32_t workers = 1; workers <= goal.max_workers; ++workers) {
    rows.push_back({.mixed = workers, .price = workers * goal.mixed_price});
    for (uint32_t prefill = 1; prefill < workers; ++prefill) {
      rows.push_back({.prefill = prefill, .decode = workers - prefill, .price = prefill * goal.prefill_price + (workers - prefill) * goal.decode_price});
    }
  }
  std::stable_sort(rows.begin(), rows.end(), [](const SimSearchRow& a, const SimSearchRow& b) { return a.price < b.price; });
  return rows;
}

nlohmann::ordered_json RowJson(const SimSearchRow& row) {
  return {{"prefill", row.prefill},       {"decode", row.decode},         {"mixed", row.mixed},         {"price", row.price}, {"good_share", row.good_share},
          {"ttft_p99_s", row.ttft_p99_s}, {"itl_p99_s", row.itl_p99_s},   {"busy_share", row.busy_share}, {"meets", row.meets}};
}

}  // namespace

std::string SimSearchResult::Json() const {
  std::string text;
  for (const SimSearchRow& row : tried) text += RowJson(row).dump() + "\n";
  nlohmann::ordered_json whole = {{"found", found()}, {"tried", tried.size()}, {"skipped", skipped}};
  if (found()) whole["cheapest"] = RowJson(tried.back());
  return text + whole.dump();
}

Result<SimSearchResult> SearchSplit(const SimConfig& config, const std::vector<TraceRequest>& trace, const SimSearchGoal& goal) {
  const double prices[] = {goal.prefill_price, goal.decode_price, goal.mixed_price};
  for (const double price : prices) {
    if (!(price > 0) || !std::isfinite(price)) return InvalidError("the price of a worker must be above 0");
  }
  if (!(goal.share > 0) || goal.share > 1) return InvalidError("--search-share is {}, it must be above 0 and at most 1", goal.share);
  const LeastWork work = WorkOf(config, trace);
  SimSearchResult result;
  for (SimSearchRow& row : Splits(goal)) {
    if (!CouldDo(work, config, row)) {
      ++result.skipped;
      continue;
    }
    SimConfig one = config;
    std::tie(one.prefill_workers, one.decode_workers, one.mixed_workers) = std::tie(row.prefill, row.decode, row.mixed);
    ASSIGN_OR_RETURN(const SimReport report, Simulate(one, trace));
    row.good_share = report.good_share();
    row.ttft_p99_s = report.ttft_s.Percentile(0.99);
    row.itl_p99_s = report.itl_s.Percentile(0.99);
    row.busy_share = report.busy_share;
    row.meets = row.good_share >= goal.share;
    result.tried.push_back(row);
    if (row.meets) break;
  }
  return Result<SimSearchResult>(std::move(result));
}

}  // namespace baton
