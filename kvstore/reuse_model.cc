#include "kvstore/reuse_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

namespace baton {
namespace {
constexpr int kFirstOctave = 4;  // ages below 2^4 share a bin
constexpr size_t kMostSnapshots = 128;
}  // namespace

ReuseModel::ReuseModel(uint32_t classes)
    : counts_(classes), hits_(classes, std::vector<double>(kBins)), values_(classes, std::vector<double>(kBins)) {}

int ReuseModel::Bin(int64_t age) {
  const auto x = static_cast<uint64_t>(std::max<int64_t>(age, 1));
  const int octave = std::bit_width(x) - 1;
  const int upper_half = octave > 0 ? static_cast<int>(x >> (octave - 1) & 1) : 0;
  return std::clamp(2 * (octave - kFirstOctave) + upper_half, 0, kBins - 1);
}

double ReuseModel::Edge(int bin) {
  if (bin == 0) return 0;
  return std::ldexp(bin % 2 == 0 ? 1.0 : 1.5, bin / 2 + kFirstOctave);
}

void ReuseModel::TakeSnapshot(int64_t now) {
  Snapshot snapshot{static_cast<double>(now), counts_};
  snapshot.counts.push_back(std::accumulate(counts_.begin(), counts_.end(), 0.0));
  snapshots_.push_back(std::move(snapshot));
  if (snapshots_.size() <= kMostSnapshots) return;
  size_t kept = 0;
  for (size_t i = 1; i < snapshots_.size(); i += 2) {
    if (kept != i) snapshots_[kept] = std::move(snapshots_[i]);
    ++kept;
  }
  snapshots_.resize(kept);
}

/// Waits of a class that began before a tick, by straight lines between the snapshots.
double ReuseModel::Started(size_t cls, double before) const {
  if (before <= 0) return 0;
  const auto after = std::lower_bound(snapshots_.begin(), snapshots_.end(), before, [](const Snapshot& s, double tick) { return s.tick < tick; });
  if (after == snapshots_.end()) return snapshots_.empty() ? 0 : snapshots_.back().counts[cls];
  const bool first = after == snapshots_.begin();
  const double tick = first ? 0 : std::prev(after)->tick, count = first ? 0 : std::prev(after)->counts[cls];
  return count + (after->counts[cls] - count) * (before - tick) / (after->tick - tick);
}

std::vector<double> ReuseModel::LifeTable(size_t cls, const std::vector<double>& hits, double now, double doubt,
                                          const std::vector<double>& prior) const {
  std::vector<double> returns(kBins);
  double waiting = 1;  // share that has not returned before this bin
  for (int bin = 0; bin < kBins; ++bin) {
    const double middle = bin + 1 < kBins ? (Edge(bin) + Edge(bin + 1)) / 2 : Edge(bin);
    const double at_risk = std::max(0.0, Started(cls, now - middle)) * waiting + doubt;
    const double seen = hits[bin] + (doubt > 0 ? doubt * prior[bin] : 0);
    returns[bin] = at_risk > 1 ? std::min(seen / at_risk, 1.0) : 0;
    waiting *= 1 - returns[bin];
  }
  return returns;
}

std::vector<double> ReuseModel::Values(const std::vector<double>& returns) {
  std::vector<double> values(kBins);
  for (int begin = 0; begin < kBins; ++begin) {
    double waiting = 1, time = 0;
    for (int bin = begin; bin + 1 < kBins; ++bin) {
      const double left = waiting * (1 - returns[bin]);
      time += (Edge(bin + 1) - Edge(bin)) * (waiting + left) / 2;
      waiting = left;
      values[begin] = std::max(values[begin], (1 - waiting) / time);
    }
  }
  return values;
}

void ReuseModel::Learn(int64_t now, double doubt) {
  if (snapshots_.empty() || static_cast<double>(now) > snapshots_.back().tick) TakeSnapshot(now);
  std::vector<double> all(kBins);
  for (const std::vector<double>& hits : hits_) std::transform(hits.begin(), hits.end(), all.begin(), all.begin(), std::plus<>());
  const auto tick = static_cast<double>(now);
  const std::vector<double> prior = LifeTable(counts_.size(), all, tick, 0, {});
  for (size_t cls = 0; cls < counts_.size(); ++cls) values_[cls] = Values(LifeTable(cls, hits_[cls], tick, doubt, prior));
}

void ReuseModel::Fade() {
  const auto halve = [](std::vector<double>& v) { std::transform(v.begin(), v.end(), v.begin(), [](double x) { return x / 2; }); };
  halve(counts_);
  for (std::vector<double>& hits : hits_) halve(hits);
  for (Snapshot& snapshot : snapshots_) halve(snapshot.counts);
}

}  // namespace baton
