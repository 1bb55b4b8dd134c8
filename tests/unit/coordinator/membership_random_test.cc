// Membership under random calls in any order, by workers that restart, are stopped and wake, and speak as what they were: what a
// worker may rely on holds after every call.
#include <set>

#include "base/random.h"
#include "coordinator/membership.h"
#include "tests/unit/coordinator/coordinator_support.h"

namespace baton {
namespace {

Instant At(double seconds) { return Instant(FromSeconds(1000 + seconds)); }

/// A worker's process as it sees itself: what it was told last.
struct Process {
  std::string name;
  MemberInfo said;  // the answer to its registration
  bool registered = false;
  uint64_t sequence = 0;
};

class MembershipRandom : public ::testing::TestWithParam<uint64_t> {
 protected:
  static constexpr double kDeadAfterS = 2;
  Random random_{GetParam()};
  Membership members_{MembershipConfig{.dead_after_s = kDeadAfterS, .stuck_after_s = 5, .settle_s = 1, .role_dwell_s = 1, .max_workers = 8}, 5000, At(0)};
  double now_s_ = 0;

  /// What must hold whatever was called.
  void ExpectInvariants() {
    std::set<std::string> names;
    size_t ready = 0, computing = 0;
    for (const auto& [id, member] : members_.members()) {
      ASSERT_EQ(id, member.info.id);
      ASSERT_TRUE(names.insert(member.info.name).second) << "one entry a name";
      ASSERT_TRUE(member.alive || (!member.ready && !member.synced)) << "the dead are neither routed to nor believed";
      ASSERT_FALSE(member.ready && member.stuck);
      ASSERT_EQ(member.prefill, member.info.Has("prefill"));
      ASSERT_EQ(member.decode, member.info.Has("decode"));
      ready += member.ready;
      computing += member.alive && (member.prefill || member.decode);
    }
    ASSERT_EQ(members_.ready_count(), ready);
    ASSERT_EQ(members_.Ready().size(), ready);
    ASSERT_EQ(members_.identity().empty(), computing == 0) << "another model may come when the last that computes has gone";
    ASSERT_LE(members_.members().size(), 8u);
  }
};

TEST_P(MembershipRandom, EveryCallKeepsTheRules) {
  std::vector<Process> processes;
  std::map<uint32_t, uint64_t> highest;  // incarnation given, by number
  std::set<std::pair<uint32_t, uint64_t>> given;
  uint64_t version = members_.version();
  int deaths = 0, refused = 0, switches = 0;
  for (int step = 0; step < 6000; ++step) {
    now_s_ += random_.Uniform() * 0.1;
    const uint64_t before = members_.version();
    switch (random_.Below(10)) {
      case 0:
      case 1: {  // a process starts, perhaps under a name that is known; it may still believe in former numbers
        const std::string name = "w" + std::to_string(random_.Below(16));
        MemberInfo info = TestInfo(name, {std::array{"prefill", "decode", "store", "gateway"}[random_.Below(4)]});
        if (random_.Below(3) == 0 && !processes.empty()) {
          const Process& other = processes[random_.Below(processes.size())];
          info.id = other.said.id;
          info.incarnation = other.said.incarnation;
        }
        const auto registered = members_.Register(info, At(now_s_));
        if (!registered.ok()) {
          ASSERT_TRUE(registered.status().code() == StatusCode::kExhausted || registered.status().code() == StatusCode::kUnavailable) << registered.status().ToString();
          ++refused;
          break;
        }
        ASSERT_NE(registered->id.value, 0u);
        auto& high = highest[registered->id.value];
        const bool kept = registered->id == info.id && registered->incarnation == info.incarnation;  // its name was forgotten here meanwhile
        ASSERT_TRUE(given.emplace(registered->id.value, registered->incarnation.value).second || kept) << "numbers are given once";
        ASSERT_TRUE(registered->incarnation.value > high || kept) << "a later life is a higher one";
        high = std::max(high, registered->incarnation.value);
        processes.push_back({name, *registered, true});
        if (processes.size() > 30) processes.erase(processes.begin());
        break;
      }
      case 2:
        if (!processes.empty()) {
          const Process& p = processes[random_.Below(processes.size())];
          const Member* member = members_.Find(p.said.id);
          const bool current = member != nullptr && member->alive && member->info.incarnation == p.said.incarnation;
          const Status status = members_.Announce(p.said.id, p.said.incarnation, "tcp", p.name, At(now_s_));
          ASSERT_EQ(status.ok(), current);
          if (!current) {
            ASSERT_EQ(status.code(), StatusCode::kAborted);
          }
        }
        break;
      case 3:
        if (!processes.empty() && random_.Below(3) == 0) {
          const Process& p = processes[random_.Below(processes.size())];
          const Member* member = members_.Find(p.said.id);
          const bool current = member != nullptr && member->alive && member->info.incarnation == p.said.incarnation;
          ASSERT_EQ(members_.Disconnect(p.said.id, p.said.incarnation), current);
          ASSERT_FALSE(members_.Disconnect(p.said.id, p.said.incarnation)) << "only once";
          deaths += current;
        }
        break;
      case 4: {
        for (const WorkerId id : members_.Expire(At(now_s_))) {
          const Member* member = members_.Find(id);
          ASSERT_FALSE(member->alive);
          ASSERT_TRUE(member->stuck || ToSeconds(At(now_s_) - member->last_heard) > kDeadAfterS);
          ++deaths;
        }
        for (const auto& [id, member] : members_.members()) ASSERT_TRUE(!member.alive || ToSeconds(At(now_s_) - member.last_heard) <= kDeadAfterS);
        break;
      }
      case 5:
        if (!members_.members().empty() && random_.Below(3) == 0) {
          const auto id = WorkerId(static_cast<uint32_t>(1 + random_.Below(14)));
          const Member* member = members_.Find(id);
          ASSERT_EQ(members_.Drain(id).ok(), member != nullptr && member->alive);
        }
        break;
      case 6: {
        WorkerId id(999);  // nobody
        for (const auto& [known, member] : members_.members()) {
          if (random_.Below(3) == 0) id = known;
        }
        const bool was_decoding = members_.Find(id) != nullptr && members_.Find(id)->ready && members_.Find(id)->decode && !members_.Find(id)->info.draining;
        const auto decoding = [&] {
          return std::count_if(members_.members().begin(), members_.members().end(), [](const auto& m) { return m.second.ready && m.second.decode && !m.second.info.draining; });
        };
        const auto decoded = decoding();
        const Status status = members_.SetRole(id, std::array{"prefill", "decode", "prefill+decode", "store", ""}[random_.Below(5)], At(now_s_));
        if (status.ok()) ++switches;
        if (was_decoding) {
          ASSERT_GE(decoding(), 1) << "the last one that decodes keeps doing so";
        }
        if (!status.ok()) {
          ASSERT_EQ(decoding(), decoded) << "a refused switch changes nothing";
        }
        break;
      }
      default:
        if (!processes.empty()) {  // a heartbeat, by whoever: of now, doubled, out of order, of a former life
          Process& p = processes[processes.size() - 1 - random_.Below(std::min<size_t>(processes.size(), 8))];
          const Member* member = members_.Find(p.said.id);
          const bool current = member != nullptr && member->alive && member->info.incarnation == p.said.incarnation;
          const uint64_t last = member == nullptr ? 0 : member->last_sequence;
          const bool synced = current && member->synced;
          const uint64_t sequence = random_.Below(6) == 0 ? 1 + random_.Below(p.sequence + 3) : ++p.sequence;
          const bool snapshot = random_.Below(4) == 0;
          WorkerLoad load;
          load.running = static_cast<uint32_t>(random_.Below(3));
          load.steps = random_.Below(3) == 0 ? 0 : static_cast<uint64_t>(step);
          const HeartbeatVerdict verdict = members_.Heartbeat(p.said.id, p.said.incarnation, sequence, snapshot, false, load, At(now_s_));
          ASSERT_EQ(verdict.status.ok(), current);
          if (!current) break;
          const bool news = sequence > last;
          ASSERT_EQ(verdict.action == HeartbeatAction::kIgnore, !news) << "events count once";
          if (news && (snapshot || sequence != last + 1)) {
            ASSERT_EQ(verdict.action, HeartbeatAction::kReplace);
          }
          const bool now_synced = news ? snapshot || (synced && sequence == last + 1) : synced;
          ASSERT_EQ(verdict.resync, !now_synced);
          ASSERT_EQ(members_.Find(p.said.id)->synced, now_synced);
        }
    }
    ASSERT_GE(members_.version(), before);
    ASSERT_NO_FATAL_FAILURE(ExpectInvariants()) << "step " << step;
  }
  EXPECT_GT(deaths, 50);
  EXPECT_GT(refused, 0) << "there were more names than places";
  EXPECT_GT(switches, 5);
  EXPECT_GT(members_.version(), version);
}

INSTANTIATE_TEST_SUITE_P(Seeds, MembershipRandom, ::testing::Values(1, 2, 3, 4));

struct RestartCase {
  const char* name;
  uint32_t former_id;
  uint64_t former_incarnation;
  double at_s;
  StatusCode code;
  uint32_t id;            // expected
  bool keeps_incarnation;
};

/// Who comes to a coordinator that was started anew, and with what.
TEST(MembershipRestart, FormerNumbersAreKeptAsFarAsTheyAreTrue) {
  const RestartCase cases[] = {
      {"both numbers, at once", 4, 77, 0.1, StatusCode::kOk, 4, true},
      {"both numbers, late", 4, 77, 30, StatusCode::kOk, 4, true},
      {"the number alone: it was stopped, its incarnation is over", 4, 0, 0.1, StatusCode::kOk, 4, false},
      {"the number alone, late", 4, 0, 30, StatusCode::kOk, 4, false},
      {"an incarnation of the future", 4, 900, 0.1, StatusCode::kOk, 4, false},
      {"nothing, in the first second", 0, 0, 0.1, StatusCode::kUnavailable, 0, false},
      {"nothing, later: it is new", 0, 0, 30, StatusCode::kOk, 1, false},
      {"an incarnation without a number is nothing", 0, 77, 30, StatusCode::kOk, 1, false},
      {"a number that no index holds", 1u << 31, 77, 30, StatusCode::kOk, 1, false},
  };
  for (const RestartCase& c : cases) {
    SCOPED_TRACE(c.name);
    Membership members(MembershipConfig{.settle_s = 1}, 500, At(0));
    MemberInfo info = TestInfo("w", {"decode"});
    info.id = WorkerId(c.former_id);
    info.incarnation = Incarnation(c.former_incarnation);
    const auto registered = members.Register(info, At(c.at_s));
    ASSERT_EQ(registered.status().code(), c.code);
    if (!registered.ok()) continue;
    EXPECT_EQ(registered->id, WorkerId(c.id));
    if (c.keeps_incarnation) {
      EXPECT_EQ(registered->incarnation.value, c.former_incarnation);
    } else {
      EXPECT_GE(registered->incarnation.value, 500u) << "above all that a former life gave";
    }
    MemberInfo again = *registered;
    const auto second = members.Register(again, At(c.at_s + 1));
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(second->id, registered->id);
    EXPECT_GT(second->incarnation, registered->incarnation);
    EXPECT_FALSE(members.Disconnect(registered->id, registered->incarnation)) << "the end of its first life is not that of its second";
    EXPECT_TRUE(members.Find(second->id)->alive);
  }
}

}  // namespace
}  // namespace baton
