// Speeds of an engine, smoothed over its last steps. Thread: one.
#pragma once

#include <cstdint>

namespace baton {

class StepMeter {
 public:
  /// A step of `decode_rows` rows of one token and `prefill_tokens` others took `seconds`.
  void Add(uint32_t decode_rows, uint32_t prefill_tokens, double seconds) {
    if (seconds <= 0) return;  // a clock that stands still measures nothing
    Smooth(step_s_, seconds);
    if (prefill_tokens >= kEnoughTokens) Smooth(prefill_tokens_per_s_, (prefill_tokens + decode_rows) / seconds);
    if (prefill_tokens == 0) Smooth(decode_step_s_, seconds);
  }
  double step_s() const { return step_s_; }
  double prefill_tokens_per_s() const { return prefill_tokens_per_s_; }
  double decode_step_s() const { return decode_step_s_; }

 private:
  static constexpr uint32_t kEnoughTokens = 16;  // fewer say little about a chunk's speed
  static constexpr double kWeight = 0.2;         // of the newest: about the last ten steps count
  static void Smooth(double& value, double sample) { value = value == 0 ? sample : value + kWeight * (sample - value); }

  double step_s_ = 0, prefill_tokens_per_s_ = 0, decode_step_s_ = 0;
};

}  // namespace baton
