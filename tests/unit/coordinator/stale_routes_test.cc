// Workers that die, restart, hang, and whose heartbeats, or single events of them, get lost, doubled or late: what the coordinator believes about a block
// is never wrong for longer than the time after which silence counts as death.
#include <set>
#include <utility>

#include "base/random.h"
#include "tests/unit/coordinator/coordinator_support.h"

namespace baton {
namespace {

constexpr double kBeatS = 0.2, kDeadAfterS = 1.8, kBoundS = 2;  // a tick in each beat finds the silent

CoordinatorConfig Config() {
  CoordinatorConfig config;
  config.membership.dead_after_s = kDeadAfterS;
  return config;
}

struct SimWorker {
  MemberInfo member;
  bool up = false;
  double hang_until_s = 0;
  std::set<BlockKey> held;
  std::vector<HeldChange> changes;
  bool snapshot_next = true;
  uint64_t sequence = 0;
};

class StaleRoutes : public CoordinatorTest, public ::testing::WithParamInterface<uint64_t> {
 protected:
  static constexpr size_t kWorkers = 8;
  StaleRoutes() : CoordinatorTest(Config()) {}

  void Gone(const BlockKey& key, size_t worker) { gone_at_[{worker, key}] = now_s_; }

  void Start(size_t w) {
    SimWorker& worker = workers_[w];
    for (const BlockKey& key : worker.held) Gone(key, w);
    auto member = coordinator_.Register(TestInfo("w" + std::to_string(w), {"decode"}));
    ASSERT_TRUE(member.ok());
    ASSERT_TRUE(coordinator_.Announce(member->id, member->incarnation, "tcp", "x").ok());
    worker = SimWorker{.member = *member, .up = true};
  }

  void Change(size_t w) {
    SimWorker& worker = workers_[w];
    for (int i = 0; i < 5; ++i) {
      const BlockKey key = keys_[random_.Below(keys_.size())];
      if (worker.held.insert(key).second) {
        worker.changes.push_back({true, key});
        gone_at_.erase({w, key});
      } else {
        worker.held.erase(key);
        worker.changes.push_back({false, key});
        Gone(key, w);
      }
    }
  }

  void Beat(SimWorker& worker) {
    HeartbeatReport report{++worker.sequence, worker.snapshot_next, false, {}, std::exchange(worker.changes, {})};
    if (report.snapshot) report.changes = Added(std::vector(worker.held.begin(), worker.held.end()));
    worker.snapshot_next = false;
    report.held.emplace();
    for (const BlockKey& key : worker.held) report.held->Count({true, key});
    std::erase_if(report.changes, [this](const HeldChange&) { return random_.Below(100) < 5; });  // single events, which no number counts
    if (random_.Below(100) < 5) return;  // lost, and the worker does not know
    if (random_.Below(100) < 2) late_.push_back({worker.member, report});
    const HeartbeatVerdict verdict = coordinator_.Heartbeat(worker.member.id, worker.member.incarnation, report);
    if (verdict.status.code() == StatusCode::kAborted) worker.up = false;  // it was declared dead while it hung
    worker.snapshot_next = verdict.resync;
  }

  double Oldest() {
    double oldest = 0;
    for (size_t w = 0; w < kWorkers; ++w) {
      for (const BlockKey& key : keys_) {
        const bool held = workers_[w].up && workers_[w].held.count(key) != 0;
        if (held || !coordinator_.index().Holds(workers_[w].member.id, key)) continue;
        const auto gone = gone_at_.find({w, key});
        EXPECT_TRUE(gone != gone_at_.end()) << "believed though it was never held";
        if (gone != gone_at_.end()) oldest = std::max(oldest, now_s_ - gone->second);
      }
    }
    return oldest;
  }

  Random random_{GetParam()};
  std::vector<BlockKey> keys_ = TestChain(1, 60);
  std::array<SimWorker, kWorkers> workers_;
  std::map<std::pair<size_t, BlockKey>, double> gone_at_;
  std::vector<std::pair<MemberInfo, HeartbeatReport>> late_;
  double now_s_ = 0;
};

TEST_P(StaleRoutes, NoneOlderThanTheBoundInAThousandRestarts) {
  for (size_t w = 0; w < kWorkers; ++w) Start(w);
  int restarts = 0;
  double oldest = 0;
  for (int step = 0; restarts < 1000; ++step) {
    Advance(kBeatS);
    now_s_ += kBeatS;
    coordinator_.Tick();
    if (!late_.empty() && random_.Below(4) == 0) {  // a message that was under way for long
      coordinator_.Heartbeat(late_.back().first.id, late_.back().first.incarnation, late_.back().second);
      late_.pop_back();
    }
    for (size_t w = 0; w < kWorkers; ++w) {
      SimWorker& worker = workers_[w];
      const uint64_t dice = random_.Below(100);
      if (!worker.up) {
        if (dice < 20) Start(w), ++restarts;
      } else if (dice < 4) {  // killed: its connection breaks at once, or (a lost host) not at all
        for (const BlockKey& key : worker.held) Gone(key, w);
        if (dice < 2) coordinator_.Disconnect(worker.member.id, worker.member.incarnation);
        worker.up = false;
      } else if (dice < 6) {  // killed and back before anybody noticed
        Start(w), ++restarts;
      } else if (dice == 6) {
        worker.hang_until_s = now_s_ + random_.Uniform() * 4;
      } else if (worker.hang_until_s <= now_s_) {
        Change(w);
        Beat(worker);
      }
    }
    oldest = std::max(oldest, Oldest());
    ASSERT_LE(oldest, kBoundS + 1e-6) << "step " << step;
  }
  EXPECT_GT(oldest, kBeatS) << "events were lost, or this test tests nothing";
}
INSTANTIATE_TEST_SUITE_P(Seeds, StaleRoutes, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace baton
