#include "worker/step_meter.h"

#include <algorithm>

namespace baton {
namespace {

constexpr uint32_t kEnoughTokens = 16;  // fewer say little about a chunk's speed
constexpr double kWeight = 0.2;         // of the newest: about the last ten steps count
constexpr double kOutlier = 8;          // times what was known: somebody else had the processor
constexpr uint32_t kLeastAlone = 32, kLeastBeside = 4;  // prompt tokens of a step, however slow the machine

void Smooth(double& value, double sample) { value = value == 0 ? sample : value + kWeight * (sample - value); }

}  // namespace

void StepMeter::Add(uint32_t decode_rows, uint32_t guesses, uint32_t prefill_tokens, double seconds) {
  if (seconds <= 0) return;  // a clock that stands still measures nothing
  Smooth(step_s_, seconds);
  if (prefill_tokens >= kEnoughTokens) Smooth(prefill_tokens_per_s_, (prefill_tokens + decode_rows) / seconds);
  if (prefill_tokens == 0) {
    Smooth(decode_step_s_, seconds);
    decode_cost_.Add(decode_rows + guesses, seconds);
    return;
  }
  const double alone = ExpectedDecode(decode_rows + guesses);
  if (decode_rows == 0 || alone == 0) return;
  double token_s = std::max(0.0, seconds - alone) / prefill_tokens;
  if (token_beside_s_ > 0) token_s = std::min(token_s, kOutlier * token_beside_s_);
  Smooth(token_beside_s_, token_s);
}

double StepMeter::ExpectedDecode(uint32_t rows) const {
  if (decode_step_s_ == 0) return 0;
  const StepCost cost = decode_cost_.cost();
  return cost.fixed_s + rows * cost.row_s;
}

uint32_t StepTokens(const PrefillLimits& l) {
  double most = l.step_token_budget;
  if (l.target_step_s > 0 && l.prefill_tokens_per_s > 0) most = std::max<double>(kLeastAlone, l.target_step_s * l.prefill_tokens_per_s);
  if (l.decode_rows > 0 && l.slowdown > 0 && l.decode_s > 0) {
    // Until it is measured, a prompt's token is taken to cost what it costs in a chunk of its own, or a row's share.
    const double token_s = l.token_beside_s > 0          ? l.token_beside_s
                           : l.prefill_tokens_per_s > 0 ? 1 / l.prefill_tokens_per_s
                                                         : l.decode_s / l.decode_rows;
    most = std::min(most, std::max<double>(kLeastBeside, (l.slowdown - 1) * l.decode_s / token_s));
  }
  return static_cast<uint32_t>(std::min<double>(l.step_token_budget, l.decode_rows + most));
}

}  // namespace baton
