// Time as a constructor argument. Production passes SystemClock; tests and simulation pass FakeClock. Nothing outside
// this file reads the operating system's clock.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace baton {

using Duration = std::chrono::nanoseconds;
/// A point on a clock that never goes back; its zero means nothing.
using Instant = std::chrono::time_point<std::chrono::steady_clock, Duration>;

inline double ToSeconds(Duration d) { return std::chrono::duration<double>(d).count(); }
/// At most a century either way, so that an instant and it have a sum; no number is no time.
inline Duration FromSeconds(double s) {
  constexpr double kCentury = 100 * 365.25 * 86400;
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(s >= -kCentury ? std::min(s, kCentury) : s < -kCentury ? -kCentury : 0));
}

/// Thread: any.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant Now() const = 0;
  /// Seconds since 1970-01-01 UTC, for things people read and for files; it can jump.
  virtual double UnixSeconds() const = 0;
};

class SystemClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()); }
  double UnixSeconds() const override {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
};

/// A clock that moves only when told to.
class FakeClock final : public Clock {
 public:
  Instant Now() const override { return Instant(Duration(nanos_.load())); }
  double UnixSeconds() const override { return 1.7e9 + static_cast<double>(nanos_.load()) * 1e-9; }
  void Advance(Duration d) { nanos_ += d.count(); }

 private:
  std::atomic<int64_t> nanos_{1'000'000'000};
};

}  // namespace baton
