// Speeds of an engine, smoothed over its last steps, and how many prompt tokens a step takes by them. Thread: one.
#pragma once

#include <cstdint>

#include "worker/speculation.h"

namespace baton {

class StepMeter {
 public:
  /// A step of `decode_rows` rows of one token, `guesses` behind them and `prefill_tokens` others took `seconds`.
  void Add(uint32_t decode_rows, uint32_t guesses, uint32_t prefill_tokens, double seconds);
  double step_s() const { return step_s_; }
  double prefill_tokens_per_s() const { return prefill_tokens_per_s_; }
  double decode_step_s() const { return decode_step_s_; }
  /// What a prompt's token adds to a step in which answers run; 0 = not measured yet.
  double token_beside_s() const { return token_beside_s_; }
  /// Of steps without prompts.
  StepCost decode_cost() const { return decode_cost_.cost(); }
  /// Seconds that `rows` decode rows take alone; 0 = not measured yet.
  double ExpectedDecode(uint32_t rows) const;

 private:
  double step_s_ = 0, prefill_tokens_per_s_ = 0, decode_step_s_ = 0, token_beside_s_ = 0;
  StepCostMeter decode_cost_;
};

/// What bounds the prompt tokens of one step. Seconds of 0 are not known, or no bound.
struct PrefillLimits {
  uint32_t decode_rows = 0, step_token_budget = 512;
  double target_step_s = 0;         // longest step
  double slowdown = 0;              // longest step in which answers run, in steps without prompts
  double prefill_tokens_per_s = 0;  // measured
  double decode_s = 0;              // what the decode rows take alone
  double token_beside_s = 0;        // what a prompt's token adds to them
};
/// The tokens of the next step, decode rows included. A pure function: a prompt never delays running answers by more than
/// `slowdown` allows, nor any step by more than its target, and always gets on.
uint32_t StepTokens(const PrefillLimits& limits);

}  // namespace baton
