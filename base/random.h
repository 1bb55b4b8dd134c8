// Counter-based randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11). A draw is
// a pure function of (seed, position), so a moved or restarted request samples the very same tokens. The standard
// library's distributions and shuffles are unspecified and banned.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace baton {

/// The ten-round Philox4x32 block for a 64-bit key and a 128-bit counter.
std::array<uint32_t, 4> Philox4x32(uint64_t key, uint64_t counter_low, uint64_t counter_high);

/// A uniform double in [0, 1) with 53 random bits: draw `index` of position `position` under `seed`.
double UniformAt(uint64_t seed, uint64_t position, uint32_t index = 0);

/// A stream of draws for shuffles, jitter and tests. Thread: one.
class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  uint64_t Next64();
  /// Uniform in [0, bound) without modulo bias; bound > 0.
  uint64_t Below(uint64_t bound);
  /// Uniform in [0, 1).
  double Uniform() { return static_cast<double>(Next64() >> 11) * 0x1.0p-53; }
  template <typename Container>
  void Shuffle(Container& c) {
    for (size_t i = c.size(); i > 1; --i) std::swap(c[i - 1], c[Below(i)]);
  }

 private:
  uint64_t seed_;
  uint64_t counter_ = 0;
};

/// A seed from the operating system, for requests that name none.
uint64_t EntropySeed();

}  // namespace baton
