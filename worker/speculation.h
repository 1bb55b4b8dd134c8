// When checking guessed tokens pays. A step over more rows takes longer, and a guessed row yields a token only if all guesses
// before it come true: rows are added while each yields more tokens a second than the step does without it. So many rows are
// checked where a step waits for memory (few sequences), few or none where it computes (many, or a prefill chunk), and none for
// a sequence whose guesses fail. What is checked changes no bit of an answer, only its speed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace baton {

/// Seconds of a step over n rows: fixed_s + n * row_s. Only their ratio decides anything.
struct StepCost {
  double fixed_s = 0, row_s = 0;
};

/// Learns StepCost from the engine's own steps. Thread: one.
class StepCostMeter {
 public:
  void Add(uint32_t rows, double seconds);
  StepCost cost() const;

 private:
  // Weighted sums over the last steps, for a regression of seconds on rows.
  double weight_ = 0, rows_ = 0, seconds_ = 0, rows_squared_ = 0, product_ = 0;
};

/// How often a sequence's guesses come true. Thread: one.
class DraftRecord {
 public:
  /// `accepted` of the guesses came true, then one failed if `failed`.
  void Add(uint32_t accepted, bool failed);
  /// A guess was not worth checking: it will be tried again after a while.
  void Skip();
  /// Of a guess whose predecessors all came true; in (0, 1).
  double rate() const { return rate_; }

 private:
  double rate_ = 0.6;
};

struct DraftOffer {
  uint32_t tokens = 0;  // guessed
  double rate = 0;      // probability that each comes true if those before it did
};

/// How many of each offer's tokens to check in a step that computes `planned` tokens anyway. A pure function; `counts` is
/// overwritten, one entry an offer.
void ShareRows(const StepCost& cost, uint32_t planned, std::span<const DraftOffer> offers, std::vector<uint32_t>& counts);

}  // namespace baton
