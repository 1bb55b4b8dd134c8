// `baton bench policy`: the share of a trace's blocks that each eviction policy would find, by the size of the store, beside
// what knowing the future could reach; as a table, as JSON lines, and as a drawing.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/trace.h"
#include "kvstore/tier_simulator.h"

namespace baton {
namespace {

struct BenchPolicyCommand {
  std::string trace, svg;
  std::vector<std::string> policies = {"lru", "s3fifo", "cost"};
  std::vector<uint64_t> capacities = {1000, 2000, 5000, 10000, 20000, 30000, 50000};
  bool json = false;
};

constexpr const char* kBound = "offline";

/// Hit ratios by policy (the bound last) and capacity.
struct Curves {
  std::vector<std::string> names;
  std::vector<std::vector<double>> ratios;
};

Result<Curves> Measure(const BenchPolicyCommand& c) {
  ASSIGN_OR_RETURN(const std::vector<TraceRequest> requests, ReadTrace(c.trace));
  BlockTrace trace;
  for (const TraceRequest& request : requests) trace.push_back(request.hash_ids);
  Curves curves{c.policies, {}};
  for (const std::string& name : c.policies) {
    std::vector<double>& row = curves.ratios.emplace_back();
    for (const uint64_t capacity : c.capacities) {
      ASSIGN_OR_RETURN(auto policy, MakeCachePolicy(name));
      TierSimulator tier(std::move(policy), capacity);
      for (const auto& request : trace) tier.Replay(request);
      row.push_back(tier.hit_ratio());
    }
  }
  curves.names.push_back(kBound);
  curves.ratios.emplace_back();
  for (const uint64_t capacity : c.capacities) curves.ratios.back().push_back(OfflineHitRatio(trace, capacity));
  return curves;
}

/// Lines over a logarithmic axis of blocks.
std::string Draw(const BenchPolicyCommand& c, const Curves& curves) {
  constexpr double kWidth = 640, kHeight = 400, kLeft = 60, kRight = 90, kTop = 30, kBottom = 50;
  constexpr const char* kColours[] = {"#1f77b4", "#2ca02c", "#d62728", "#9467bd", "#8c564b"};
  const auto [least, most] = std::minmax_element(c.capacities.begin(), c.capacities.end());
  const double low = std::log10(static_cast<double>(*least)), span = std::max(std::log10(static_cast<double>(*most)) - low, 1e-9);
  double top = 0;
  for (const auto& row : curves.ratios) top = std::max(top, *std::max_element(row.begin(), row.end()));
  top = std::ceil(std::max(top, 0.05) * 20) / 20;
  const auto x = [&](uint64_t blocks) { return kLeft + (std::log10(static_cast<double>(blocks)) - low) / span * (kWidth - kLeft - kRight); };
  const auto y = [&](double ratio) { return kHeight - kBottom - ratio / top * (kHeight - kTop - kBottom); };
  std::string out = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n", kWidth, kHeight);
  for (int i = 0; i <= 5; ++i) {
    const double ratio = top * i / 5;
    out += fmt::format("<path d=\"M{} {:.1f}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:.2f}</text>\n", kLeft, y(ratio),
                       kWidth - kRight, kLeft - 6, y(ratio) + 4, ratio);
  }
  for (const uint64_t blocks : c.capacities) {
    out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x(blocks), kHeight - kBottom + 18, blocks);
  }
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">blocks held</text><text x=\"{}\" y=\"18\">share of blocks found</text>\n",
                     (kLeft + kWidth - kRight) / 2, kHeight - 12, kLeft);
  for (size_t i = 0; i < curves.names.size(); ++i) {
    std::string line;
    for (size_t n = 0; n < c.capacities.size(); ++n) line += fmt::format("{}{:.1f} {:.1f}", n == 0 ? "M" : "L", x(c.capacities[n]), y(curves.ratios[i][n]));
    const bool bound = curves.names[i] == kBound;
    const char* colour = bound ? "#555" : kColours[i % std::size(kColours)];
    out += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", line, colour, bound ? " stroke-dasharray=\"5 4\"" : "");
    out += fmt::format("<text x=\"{}\" y=\"{}\" fill=\"{}\">{}</text>\n", kWidth - kRight + 8, kTop + 16 * static_cast<double>(i) + 4, colour, curves.names[i]);
  }
  return out + "</svg>\n";
}

int RunBenchPolicy(BenchPolicyCommand& c) {
  std::sort(c.capacities.begin(), c.capacities.end());
  const auto curves = Measure(c);
  if (!curves.ok()) return Fail(curves.status());
  if (!c.json) {
    std::printf("%8s", "blocks");
    for (const std::string& name : curves->names) std::printf(" %8s", name.c_str());
    std::printf("\n");
  }
  for (size_t n = 0; n < c.capacities.size(); ++n) {
    nlohmann::ordered_json row = {{"blocks", c.capacities[n]}};
    if (!c.json) std::printf("%8llu", static_cast<unsigned long long>(c.capacities[n]));
    for (size_t i = 0; i < curves->names.size(); ++i) {
      row[curves->names[i]] = curves->ratios[i][n];
      if (!c.json) std::printf(" %8.4f", curves->ratios[i][n]);
    }
    std::printf("%s\n", c.json ? row.dump().c_str() : "");
  }
  if (c.svg.empty()) return 0;
  std::ofstream file(c.svg);
  file << Draw(c, *curves);
  return file.flush() ? 0 : Fail(UnavailableError("cannot write {}", c.svg));
}

}  // namespace

void AddBenchPolicyCommand(CLI::App& bench, CommandContext& context) {
  auto command = std::make_shared<BenchPolicyCommand>();
  BenchPolicyCommand& c = *command;
  CLI::App* app = bench.add_subcommand("policy", "hit ratios of the eviction policies over a trace, beside the offline bound");
  app->add_option("--trace", c.trace, "requests in the Mooncake form, a JSON object a line")->required();
  app->add_option("--policies", c.policies, "lru, s3fifo, cost")->delimiter(',');
  app->add_option("--capacities", c.capacities, "sizes of the store in blocks")->delimiter(',')->check(CLI::Range(1, 1'000'000'000));
  app->add_option("--svg", c.svg, "also draws the curves into this file");
  app->add_flag("--json", c.json, "one JSON object a line");
  app->callback([command, &context] { context.exit_code = RunBenchPolicy(*command); });
}

}  // namespace baton
