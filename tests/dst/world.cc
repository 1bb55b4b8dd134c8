#include "tests/dst/world.h"

namespace baton::dst {

Host& World::AddHost(std::string name) {
  auto host = std::make_unique<Host>();
  host->name = std::move(name);
  host->number = hosts_.size();
  hosts_.push_back(std::move(host));
  return *hosts_.back();
}

void World::After(double delay_s, std::function<void()> work) {
  events_.push({now_ + FromSeconds(delay_s), order_++, std::make_shared<std::function<void()>>(std::move(work))});
}

void World::AfterOn(Host& host, double delay_s, std::function<void()> work) {
  After(delay_s, [this, &host, life = host.life, work = std::move(work)]() mutable { On(host, life, std::move(work)); });
}

void World::On(Host& host, uint64_t life, std::function<void()> work) {
  if (!host.running || host.life != life) return;
  if (!host.paused) return work();
  host.postponed.push_back([this, &host, life, work = std::move(work)]() mutable { On(host, life, std::move(work)); });
}

void World::GoOn(Host& host) {
  if (!std::exchange(host.paused, false)) return;
  for (auto& work : std::exchange(host.postponed, {})) After(0, std::move(work));
}

Instant World::NextTime() const {
  Instant next = events_.empty() ? Instant::max() : events_.top().at;
  for (const auto& host : hosts_) {
    if (host->timer == nullptr || host->paused) continue;
    KJ_IF_MAYBE(at, host->timer->nextEvent()) {
      next = std::min(next, Instant(Duration((*at - kj::origin<kj::TimePoint>()) / kj::NANOSECONDS)));
    }
  }
  return next;
}

bool World::Run(double limit_s, const std::function<bool()>& done, const std::function<void()>& check) {
  while (true) {
    scope_.poll();
    check();
    if (done()) return true;
    const Instant next = std::max(now_, NextTime());
    if (next == Instant::max() || ToSeconds(next - kBegin) > limit_s) return false;
    now_ = next;
    ++steps_;
    for (const auto& host : hosts_) {
      if (host->timer != nullptr && !host->paused) host->timer->advanceTo(kj_now());
    }
    if (events_.empty() || events_.top().at > now_) continue;
    const Event event = events_.top();
    events_.pop();
    Note(static_cast<uint64_t>(now_.time_since_epoch().count()) ^ event.order);
    (*event.work)();
  }
}

void World::Clear() {
  while (!events_.empty()) events_.pop();
  for (const auto& host : hosts_) host->postponed.clear();
}

}  // namespace baton::dst
