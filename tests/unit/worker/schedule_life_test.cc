// The scheduler over whole lives of requests: its plans are carried out step after step as the engine does, with a pool of few blocks,
// until all have ended. Nobody starves, nothing is computed for nothing for ever, and no block is made of nothing.
#include <deque>

#include "base/bytes.h"
#include "base/random.h"
#include "worker/scheduler.h"

namespace baton {
namespace {

constexpr uint32_t kBlock = 4;

struct Life {
  uint64_t arrival = 0;
  int32_t priority = 0;
  uint32_t prompt = 0, answer = 0;  // tokens
  uint32_t known = 0, computed = 0, blocks = 0;
  bool running = false;
  uint64_t started_at = 0, ended_at = 0;
  uint32_t preemptions = 0;
  bool ended() const { return ended_at > 0; }
};

class Pool {
 public:
  Pool(uint32_t blocks, uint32_t slots, uint32_t budget, uint32_t chunk) : blocks_(blocks), slots_(slots), budget_(budget), chunk_(chunk) {}

  void Add(Life life) {
    life.known = life.prompt;
    life.arrival = lives_.size();
    lives_.push_back(life);
  }
  std::deque<Life>& lives() { return lives_; }
  uint64_t step() const { return step_; }

  /// One step; false when nobody is left.
  bool Step() {
    ++step_;
    std::vector<Life*> rank;
    for (Life& life : lives_) {
      if (!life.ended()) rank.push_back(&life);
    }
    if (rank.empty()) return false;
    std::sort(rank.begin(), rank.end(), [](const Life* a, const Life* b) { return a->priority != b->priority ? a->priority > b->priority : a->arrival < b->arrival; });
    ScheduleView view;
    view.block_tokens = kBlock;
    view.max_running = slots_;
    view.token_budget = budget_;
    view.chunk_tokens = chunk_;
    uint32_t held = 0;
    for (const Life* life : rank) {
      view.rows.push_back({.tokens = life->known, .computed = life->computed, .blocks = life->blocks, .priority = life->priority, .running = life->running});
      held += life->blocks;
    }
    EXPECT_LE(held, blocks_);
    view.available_blocks = blocks_ - held;
    Schedule(view, plan_);
    Carry(rank);
    return true;
  }
  size_t run_rows() const { return plan_.run.size(); }
  const SchedulePlan& plan() const { return plan_; }

 private:
  void Carry(const std::vector<Life*>& rank) {
    for (const uint32_t i : plan_.preempted) {
      rank[i]->blocks = rank[i]->computed = 0;
      rank[i]->running = false;
      ++rank[i]->preemptions;
    }
    for (const ScheduledRow& run : plan_.run) {
      Life& life = *rank[run.row];
      if (!life.running) life.started_at = step_;
      life.running = true;
      life.blocks += run.new_blocks;
      life.computed += run.tokens;
      if (life.computed < life.known) continue;
      ++life.known;  // its last row gave a token
      if (life.known - life.prompt < life.answer) continue;
      life.ended_at = step_;
      life.blocks = 0;
    }
  }

  const uint32_t blocks_, slots_, budget_, chunk_;
  std::deque<Life> lives_;
  SchedulePlan plan_;
  uint64_t step_ = 0;
};

class ScheduleLives : public ::testing::TestWithParam<uint64_t> {};

TEST_P(ScheduleLives, EverybodyEndsWhateverThePoolHolds) {
  Random random(GetParam());
  for (int round = 0; round < 60; ++round) {
    const auto blocks = static_cast<uint32_t>(12 + random.Below(30));
    Pool pool(blocks, static_cast<uint32_t>(1 + random.Below(6)), static_cast<uint32_t>(1 + random.Below(40)), static_cast<uint32_t>(1 + random.Below(16)));
    uint64_t work = 0;
    const auto count = 1 + random.Below(14);
    for (uint64_t i = 0; i < count; ++i) {
      Life life;
      life.priority = static_cast<int32_t>(random.Below(3));
      life.prompt = static_cast<uint32_t>(1 + random.Below(20));
      life.answer = static_cast<uint32_t>(1 + random.Below(blocks * kBlock - life.prompt > 24 ? 24 : 4));
      work += life.prompt + life.answer;
      pool.Add(life);
    }
    while (pool.Step()) {
      ASSERT_GT(pool.run_rows(), 0u) << "a step that does nothing, with " << blocks << " blocks in round " << round;
      ASSERT_LT(pool.step(), 40 * work + 100) << "livelock in round " << round;
    }
  }
}

/// Of equal priority: who came first is never held up by who came later. Its life in the crowd is as long as with only those before it.
TEST_P(ScheduleLives, WhoComesLaterDelaysNobodyOfItsPriority) {
  Random random(GetParam() + 50);
  for (int round = 0; round < 40; ++round) {
    const auto blocks = static_cast<uint32_t>(16 + random.Below(20));
    std::vector<Life> requests;
    for (uint64_t i = 2 + random.Below(6); i > 0; --i) {
      Life life;
      life.prompt = static_cast<uint32_t>(1 + random.Below(16));
      life.answer = static_cast<uint32_t>(1 + random.Below(20));
      requests.push_back(life);
    }
    const auto ends = [&](size_t count) {
      Pool pool(blocks, 4, 64, 32);  // budget enough for all: only blocks and slots are short
      for (size_t i = 0; i < count; ++i) pool.Add(requests[i]);
      while (pool.Step()) {
      }
      return pool.lives()[0].ended_at;
    };
    ASSERT_EQ(ends(1), ends(requests.size())) << "round " << round;
  }
}

TEST_P(ScheduleLives, AHigherPriorityGetsInAtOnceAndTheOthersGoOnAfterIt) {
  Random random(GetParam() + 90);
  for (int round = 0; round < 40; ++round) {
    const auto slots = static_cast<uint32_t>(1 + random.Below(4));
    Pool pool(40, slots, 64, 16);
    for (uint64_t i = 0; i < slots + 3; ++i) {
      Life life;
      life.prompt = static_cast<uint32_t>(4 + random.Below(12));
      life.answer = static_cast<uint32_t>(10 + random.Below(20));
      pool.Add(life);
    }
    for (uint64_t i = random.Below(12); i > 0; --i) pool.Step();
    Life urgent;
    urgent.priority = 5;
    urgent.prompt = 10;
    urgent.answer = 5;
    pool.Add(urgent);
    const uint64_t came = pool.step();
    while (pool.Step()) {
      ASSERT_LT(pool.step(), 4000u);
    }
    const Life& life = pool.lives().back();
    EXPECT_EQ(life.started_at, came + 1) << "in the very next step";
    EXPECT_EQ(life.ended_at, came + 5) << "and each step gives it its token";
    EXPECT_EQ(life.preemptions, 0u);
  }
}

/// Priorities and arrivals in one: no request starts while one of a higher rank that would fit waits.
TEST_P(ScheduleLives, NobodyStartsBeforeAHigherRankThatCould) {
  Random random(GetParam() + 130);
  for (int round = 0; round < 30; ++round) {
    Pool pool(200, static_cast<uint32_t>(1 + random.Below(3)), 64, 16);  // blocks for all: only slots are short
    for (int i = 0; i < 10; ++i) {
      Life life;
      life.priority = static_cast<int32_t>(random.Below(3));
      life.prompt = static_cast<uint32_t>(1 + random.Below(16));
      life.answer = static_cast<uint32_t>(1 + random.Below(10));
      pool.Add(life);
    }
    while (pool.Step()) {
      for (const Life& one : pool.lives()) {
        if (one.started_at != pool.step()) continue;
        for (const Life& other : pool.lives()) {
          const bool higher = other.priority > one.priority || (other.priority == one.priority && other.arrival < one.arrival);
          ASSERT_TRUE(!higher || other.running || other.ended()) << one.arrival << " started, " << other.arrival << " waits";
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ScheduleLives, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace baton
