// What is learned of when blocks come back, for the policy "cost". Blocks of a few classes wait for their next use; each
// wait ends with a return after some age, or goes on. From the returns and from how many have waited how long a life table
// gives, for each class and age, the probability to return soon; of that follows the value of holding on:
//
//   value(class, age) = max over T of P(returns within T | has waited `age`) / expected time held until return or T
//
// which is hits a tick of a held block: what Beckmann et al., "LHD: Improving cache hit rate by maximizing hit density",
// NSDI'18, rank by, with the best horizon instead of the cache's own. Ages are counted in ticks (accesses to the tier) and
// kept in bins that double, two to an octave, so that hours of traffic fit a small table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace baton {

/// Thread: one at a time.
class ReuseModel {
 public:
  explicit ReuseModel(uint32_t classes);

  /// A block of this class was used now: a wait begins.
  void Began(uint32_t cls) { counts_[cls] += 1; }
  /// A wait that has just begun belongs to another class.
  void Moved(uint32_t from, uint32_t to) {
    counts_[from] -= 1;
    counts_[to] += 1;
  }
  /// A wait ended after `age` ticks.
  void Returned(uint32_t cls, int64_t age) { hits_[cls][Bin(age)] += 1; }
  /// Works out all values as of tick `now`, which never goes back. A class is believed to be like all others as far as
  /// fewer than `doubt` of its blocks have been seen at an age.
  void Learn(int64_t now, double doubt);
  /// Gives what was seen before half its weight.
  void Fade();
  /// Hits to be hoped for per tick; 0 before the first Learn and at ages nobody returned from.
  double Value(uint32_t cls, int64_t age) const { return values_[cls][Bin(age)]; }

  static constexpr int kBins = 44;
  static int Bin(int64_t age);
  /// The first age of a bin.
  static double Edge(int bin);

 private:
  struct Snapshot {
    double tick;
    std::vector<double> counts;
  };
  void TakeSnapshot(int64_t now);
  double Started(size_t cls, double before) const;
  /// Probability to return within each bin of those that wait at its begin.
  std::vector<double> LifeTable(size_t cls, const std::vector<double>& hits, double now, double doubt, const std::vector<double>& prior) const;
  static std::vector<double> Values(const std::vector<double>& returns);

  std::vector<double> counts_;               // waits begun, by class
  std::vector<std::vector<double>> hits_;    // returns, by class and age
  std::vector<std::vector<double>> values_;  // of the last Learn
  std::vector<Snapshot> snapshots_;          // of counts_, and their sum behind them, ever further apart
};

}  // namespace baton
