// Who is in the cluster, update by update, against a model of it; and promises whose exceptions become statuses.
#include "protocol/membership_view.h"

#include <set>

#include "base/random.h"
#include "protocol/wire_status.h"
#include "tests/support/loop_support.h"

namespace baton {
namespace {

MemberInfo Member(uint32_t id, uint64_t incarnation, std::vector<std::string> roles = {"decode"}) {
  MemberInfo m;
  m.id = WorkerId(id);
  m.incarnation = Incarnation(incarnation);
  m.name = "w" + std::to_string(id);
  m.roles = std::move(roles);
  return m;
}

class ViewTest : public testing::Test {
 protected:
  ViewTest() {
    view_.Watch([this](const MemberInfo& m) { gone_.push_back(m.name + "@" + std::to_string(m.incarnation.value)); });
  }
  std::vector<std::string> Gone() { return std::exchange(gone_, {}); }
  MembershipView view_;
  std::vector<std::string> gone_;
};

TEST_F(ViewTest, TellsWhoWentAndWhoCameBackAsAnother) {
  view_.Update({Member(1, 10), Member(2, 10)});
  EXPECT_TRUE(Gone().empty()) << "whoever comes is no loss";
  view_.Update({Member(1, 10), Member(2, 10), Member(3, 10)});
  EXPECT_TRUE(Gone().empty());
  view_.Update({Member(1, 11), Member(3, 10)});
  EXPECT_EQ(Gone(), (std::vector<std::string>{"w1@10", "w2@10"})) << "a new incarnation: the old one is gone";
  view_.Update({});
  EXPECT_EQ(Gone(), (std::vector<std::string>{"w1@11", "w3@10"}));
  view_.Update({});
  EXPECT_TRUE(Gone().empty());
}

TEST_F(ViewTest, ChangesThatAreNoLoss) {
  view_.Update({Member(1, 10)});
  MemberInfo changed = Member(1, 10, {"prefill", "decode"});
  changed.draining = true;
  view_.Update({changed});
  EXPECT_TRUE(Gone().empty());
  EXPECT_TRUE(view_.Find(WorkerId(1))->draining) << "the newest is what is shown";
  EXPECT_TRUE(view_.Find(WorkerId(1))->Has("prefill"));
}

TEST_F(ViewTest, FindsByIdAndRole) {
  view_.Update({Member(5, 1, {"prefill"}), Member(2, 1, {"decode", "store"}), Member(9, 1, {"prefill", "decode"}), Member(7, 1, {})});
  const auto ids = [&](std::string_view role) {
    std::vector<uint32_t> out;
    for (const MemberInfo* m : view_.WithRole(role)) out.push_back(m->id.value);
    return out;
  };
  EXPECT_EQ(ids("prefill"), (std::vector<uint32_t>{5, 9})) << "in the order of ids, whatever order they came in";
  EXPECT_EQ(ids("decode"), (std::vector<uint32_t>{2, 9}));
  EXPECT_EQ(ids("store"), std::vector<uint32_t>{2});
  EXPECT_TRUE(ids("gateway").empty());
  EXPECT_EQ(view_.Find(WorkerId(7))->name, "w7");
  EXPECT_EQ(view_.Find(WorkerId(8)), nullptr);
  EXPECT_EQ(view_.all().size(), 4u);
}

TEST_F(ViewTest, EveryWatcherHearsAndSeesTheNewView) {
  int others = 0;
  view_.Watch([&](const MemberInfo& m) {
    ++others;
    EXPECT_EQ(view_.Find(m.id), nullptr) << "the view is new already when a loss is told";
  });
  view_.Update({Member(1, 1), Member(2, 1)});
  view_.Update({});
  EXPECT_EQ(others, 2);
  EXPECT_EQ(Gone().size(), 2u);
}

TEST_F(ViewTest, RandomHistories) {
  Random random(3);
  std::map<uint32_t, uint64_t> before;
  for (int step = 0; step < 500; ++step) {
    std::map<uint32_t, uint64_t> now;
    std::vector<MemberInfo> members;
    for (uint32_t id = 1; id <= 6; ++id) {
      if (random.Below(3) == 0) continue;
      now[id] = before.contains(id) && random.Below(4) > 0 ? before[id] : static_cast<uint64_t>(step + 1);
      members.push_back(Member(id, now[id]));
    }
    random.Shuffle(members);
    view_.Update(members);
    std::multiset<std::string> wanted;
    for (const auto& [id, incarnation] : before) {
      if (!now.contains(id) || now[id] != incarnation) wanted.insert("w" + std::to_string(id) + "@" + std::to_string(incarnation));
    }
    const auto gone = Gone();
    EXPECT_EQ(std::multiset<std::string>(gone.begin(), gone.end()), wanted) << step;
    EXPECT_EQ(view_.all().size(), now.size());
    before = now;
  }
}

class CatchTest : public LoopTest {};

TEST_F(CatchTest, PromisesOfResultsNeverFail) {
  using Type = kj::Exception::Type;
  const std::vector<std::pair<Type, StatusCode>> table = {{Type::DISCONNECTED, StatusCode::kUnavailable}, {Type::OVERLOADED, StatusCode::kUnavailable}, {Type::UNIMPLEMENTED, StatusCode::kUnavailable}, {Type::FAILED, StatusCode::kInternal}};
  for (const auto& [type, code] : table) {
    const auto broken = [type = type] { return kj::Exception(type, __FILE__, __LINE__, kj::str("why it broke")); };
    const Result<int> result = Wait(CatchAsStatus(kj::Promise<Result<int>>(broken())));
    EXPECT_EQ(result.status().code(), code);
    EXPECT_THAT(result.status().message(), testing::HasSubstr("why it broke"));
    EXPECT_EQ(Wait(CatchAsStatus(kj::Promise<Status>(broken()))).code(), code);
  }
  EXPECT_EQ(*Wait(CatchAsStatus(kj::Promise<Result<int>>(Result<int>(5)))), 5);
  EXPECT_EQ(Wait(CatchAsStatus(kj::Promise<Status>(NotFoundError("x")))), NotFoundError("x")) << "an error that is a value stays what it was";
  const Result<int> thrown = Wait(CatchAsStatus(kj::evalLater([]() -> Result<int> { throw std::runtime_error("a library threw"); })));
  EXPECT_EQ(thrown.status().code(), StatusCode::kInternal);
  EXPECT_THAT(thrown.status().message(), testing::HasSubstr("a library threw"));
}

TEST_F(CatchTest, BackgroundTasksFailAloneAndEnd) {
  Background tasks("test");
  EXPECT_TRUE(tasks.empty());
  int done = 0;
  tasks.Add(kj::evalLater([&] { ++done; }));
  tasks.Add(kj::evalLater([&]() -> void { throw std::runtime_error("one of them"); }));
  tasks.Add(timer_.afterDelay(kj::MILLISECONDS).then([&] { ++done; }));
  EXPECT_FALSE(tasks.empty());
  Wait(tasks.OnEmpty());
  EXPECT_EQ(done, 2) << "a failed task ends no other";
  EXPECT_TRUE(tasks.empty());
  bool destroyed = false;
  {
    Background leaving("test");
    leaving.Add(kj::Promise<void>(kj::NEVER_DONE).attach(kj::defer([&] { destroyed = true; })));
  }
  EXPECT_TRUE(destroyed) << "its end cancels what still runs";
}

}  // namespace
}  // namespace baton
