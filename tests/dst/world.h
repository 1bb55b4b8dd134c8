// Virtual time, chance and hosts: what everything simulated stands on. Events run one after the other on one thread in an order
// that the seed alone decides; nothing here or above it asks the operating system for time or luck.
//
// A host is where one process lives. It can be paused (SIGSTOP: nothing on it runs, what was due runs when it goes on), killed
// (its kernel closes its connections) or dark (power off: silence), and its wall clock can be wrong. Hosts can be parted.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/random.h"

namespace baton::dst {

struct Host {
  std::string name;
  size_t number = 0;
  bool running = false;  // a process lives here
  bool paused = false;
  bool dark = false;
  uint64_t life = 0;                   // grows with each start of the process
  double wall_offset_s = 0;            // of its wall clock
  kj::TimerImpl* timer = nullptr;      // of the process
  std::vector<std::function<void()>> postponed;  // until it goes on
};

class World {
 public:
  World(uint64_t seed, kj::WaitScope& scope) : random_(seed), scope_(scope) {}
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Host& AddHost(std::string name);
  std::vector<std::unique_ptr<Host>>& hosts() { return hosts_; }

  Instant now() const { return now_; }
  double seconds() const { return ToSeconds(now_ - kBegin); }
  kj::TimePoint kj_now() const { return kj::origin<kj::TimePoint>() + now_.time_since_epoch().count() * kj::NANOSECONDS; }
  kj::WaitScope& scope() { return scope_; }

  bool Chance(double p) { return random_.Uniform() < p; }
  double Between(double low, double high) { return low + (high - low) * random_.Uniform(); }
  uint64_t Below(uint64_t bound) { return random_.Below(bound); }

  /// Runs `work` after `delay_s`, outside of the loop's events.
  void After(double delay_s, std::function<void()> work);
  /// The same on a host's process: dropped when that life is over, postponed while it is paused.
  void AfterOn(Host& host, double delay_s, std::function<void()> work);
  /// Now, or when the host goes on; dropped when it does not live.
  void On(Host& host, uint64_t life, std::function<void()> work);
  void GoOn(Host& host);

  void Part(const Host& a, const Host& b) { parted_.insert(std::minmax(a.number, b.number)); }
  void Join(const Host& a, const Host& b) { parted_.erase(std::minmax(a.number, b.number)); }
  bool Parted(const Host& a, const Host& b) const { return parted_.contains(std::minmax(a.number, b.number)); }

  /// Runs until `done` or until virtual time `limit_s`; `check` after each step. False: the limit came first.
  bool Run(double limit_s, const std::function<bool()>& done, const std::function<void()>& check);
  /// Grows with everything that happened: equal runs have equal values.
  void Note(uint64_t value) { trace_ = (trace_ ^ value) * 0x100000001b3ull + (trace_ >> 29); }
  uint64_t trace() const { return trace_; }
  uint64_t steps() const { return steps_; }
  /// Drops what was still to happen.
  void Clear();

 private:
  static constexpr Instant kBegin{std::chrono::seconds(1000)};
  struct Event {
    Instant at;
    uint64_t order;
    std::shared_ptr<std::function<void()>> work;
    bool operator<(const Event& other) const { return std::pair(at, order) > std::pair(other.at, other.order); }
  };
  Instant NextTime() const;

  Random random_;
  kj::WaitScope& scope_;
  Instant now_ = kBegin;
  uint64_t order_ = 0, trace_ = 0xcbf29ce484222325ull, steps_ = 0;
  std::priority_queue<Event> events_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::set<std::pair<size_t, size_t>> parted_;
};

/// A host's clock: one steady time for all, wall time with the host's error.
class HostClock final : public Clock {
 public:
  HostClock(const World& world, const Host& host) : world_(world), host_(host) {}
  Instant Now() const override { return world_.now(); }
  double UnixSeconds() const override { return 1.7e9 + world_.seconds() + host_.wall_offset_s; }

 private:
  const World& world_;
  const Host& host_;
};

}  // namespace baton::dst
