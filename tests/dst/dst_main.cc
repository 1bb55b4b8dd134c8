// Runs seeds of the deterministic simulation: `baton_dst --seeds 1-1000`. A seed that fails prints the command that replays it.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "base/log.h"
#include "tests/dst/simulation.h"

namespace {

struct Range {
  uint64_t first = 1, last = 1;
};

bool ParseRange(const std::string& text, Range* range) {
  char* end = nullptr;
  range->first = range->last = std::strtoull(text.c_str(), &end, 10);
  if (end == text.c_str()) return false;
  if (*end == '\0') return true;
  if (*end != '-') return false;
  const char* begin = end + 1;
  range->last = std::strtoull(begin, &end, 10);
  return end != begin && *end == '\0' && range->last >= range->first;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The whole cluster in one thread under a seed, with faults");
  std::string seeds = "1-1000";
  double most_s = 0;
  bool log = false, trace = false, go_on = false;
  app.add_option("--seeds,--seed", seeds, "one seed or FIRST-LAST");
  app.add_option("--seconds", most_s, "stop after so many real seconds; 0: no limit");
  app.add_flag("--log", log, "what happens, with faults, on stderr");
  app.add_flag("--trace", trace, "a hash of everything that happened, a line a seed");
  app.add_flag("--keep-going", go_on, "do not stop at the first seed that fails");
  CLI11_PARSE(app, argc, argv);
  Range range;
  if (!ParseRange(seeds, &range)) {
    std::fprintf(stderr, "--seeds %s is neither N nor FIRST-LAST\n", seeds.c_str());
    return 2;
  }
  spdlog::set_pattern("%L %v");
  spdlog::set_level(log ? spdlog::level::debug : spdlog::level::off);
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  uint64_t run = 0, failed = 0, tokens = 0, faults = 0, requests = 0, refused = 0, steps = 0;
  double virtual_s = 0;
  for (uint64_t seed = range.first; seed <= range.last && (most_s == 0 || seconds() < most_s); ++seed) {
    const baton::dst::Outcome outcome = baton::dst::RunSeed(seed);
    ++run;
    tokens += outcome.tokens;
    faults += outcome.faults;
    requests += outcome.requests;
    refused += outcome.refused;
    steps += outcome.steps;
    virtual_s += outcome.virtual_s;
    if (trace) std::printf("seed %llu trace %016llx\n", static_cast<unsigned long long>(seed), static_cast<unsigned long long>(outcome.trace));
    if (outcome.violations.empty()) continue;
    ++failed;
    std::printf("seed %llu failed:\n", static_cast<unsigned long long>(seed));
    for (const std::string& violation : outcome.violations) std::printf("  %s\n", violation.c_str());
    std::printf("replay: %s --seed %llu --log\n", argv[0], static_cast<unsigned long long>(seed));
    std::fflush(stdout);
    if (!go_on) break;
  }
  std::printf("%llu seeds, %llu failed; %llu requests (%llu refused), %llu tokens, %llu faults, %llu steps, %.0f virtual seconds in %.1f s\n",
              static_cast<unsigned long long>(run), static_cast<unsigned long long>(failed), static_cast<unsigned long long>(requests),
              static_cast<unsigned long long>(refused), static_cast<unsigned long long>(tokens), static_cast<unsigned long long>(faults),
              static_cast<unsigned long long>(steps), virtual_s, seconds());
  return failed == 0 ? 0 : 1;
}
