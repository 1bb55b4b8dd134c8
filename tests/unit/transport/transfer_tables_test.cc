// The two ends of a transfer as pure state machines. A model checker drives the real tables: from every state that two
// transfers can get into, everything that can happen next is tried, with frames in any order, lost with their path or doubled,
// and either end giving up, expiring or dying at any moment (docs/transfer.md draws the states).
#include <cstdlib>
#include <unordered_set>

#include "base/random.h"
#include "transfer_world_support.h"

namespace baton {
namespace {

/// What a search has seen.
struct Explored {
  size_t states = 0, edges = 0, quiet = 0;  // quiet: nothing can happen any more but the clock
  bool first_landed = true, second_landed = true, always_landed = true;  // in every quiet state
};

/// Walks through every state that `script` (each step once, in any order) and the frames in the air can lead to.
class Explorer {
 public:
  Explorer(Air air, Sizes sizes, std::vector<Action> script) : first_(air, std::move(sizes), std::move(script)) {}
  explicit Explorer(World first) : first_(std::move(first)) {}

  Explored Run() {
    std::vector<World> open = {first_};
    seen_.insert(first_.Fingerprint());
    while (!open.empty() && !::testing::Test::HasFatalFailure()) {
      World world = std::move(open.back());
      open.pop_back();
      const std::vector<Action> next = world.Possible();
      ++explored_.states;
      if (world.Quiet()) CheckEnd(world);
      for (const Action& action : next) {
        World after = world;
        after.Do(action);
        ++explored_.edges;
        if (seen_.insert(after.Fingerprint()).second) open.push_back(std::move(after));
      }
    }
    if (std::getenv("BATON_PRINT_STATES") != nullptr) std::printf("%zu states, %zu steps, %zu quiet\n", explored_.states, explored_.edges, explored_.quiet);
    return explored_;
  }

 private:
  /// From here only time goes on: both ends must get free of everything.
  void CheckEnd(World world) {
    ++explored_.quiet;
    world.Settle();
    explored_.first_landed = explored_.first_landed && world.Landed(1);
    explored_.second_landed = explored_.second_landed && world.Landed(2);
    explored_.always_landed = explored_.first_landed && explored_.second_landed;
  }

  World first_;
  struct Low {
    size_t operator()(const Digest128& d) const { return d.low; }
  };
  std::unordered_set<Digest128, Low> seen_;
  Explored explored_;
};

TEST(RegisteredMemoryTest, TheSecondOfTwoAdjacentArenasIsFound) {
  std::array<std::byte, 32> bytes{};
  for (const bool low_first : {true, false}) {
    RegisteredMemory memory;
    const MutableBytes low(bytes.data(), 16), high(bytes.data() + 16, 16);
    ASSERT_TRUE(memory.Add(low_first ? low : high).ok());
    ASSERT_TRUE(memory.Add(low_first ? high : low).ok());
    EXPECT_TRUE(memory.Contains(bytes.data() + 16, 16)) << "the end of one is the beginning of the other";
    EXPECT_TRUE(memory.Contains(bytes.data() + 20, 12));
    EXPECT_TRUE(memory.Contains(bytes.data(), 16));
    EXPECT_FALSE(memory.Contains(bytes.data() + 16, 17));
    EXPECT_FALSE(memory.Contains(bytes.data() + 8, 16)) << "a place lies in one arena";
  }
}

const Sizes kTwoPiecesAndNone = {{{24}, {0}}}, kOnePieceEach = {{{10}, {3}}}, kOneAndNone = {{{10}, {0}}}, kTwoSegments = {{{10, 3}, {0}}};

/// Both transfers are expected and pushed, segment after segment.
std::vector<Action> Both(const Sizes& sizes, std::vector<Action> disturbances = {}) {
  std::vector<Action> script = std::move(disturbances);
  for (uint64_t id = 1; id <= kTransfers; ++id) {
    script.push_back({Action::kExpect, id});
    for (size_t i = 0; i < sizes[id - 1].size(); ++i) script.push_back({Action::kPush, id, i});
  }
  return script;
}
/// Minutes are available (BATON_EXHAUSTIVE): more disturbances at once, everything step by step.
bool Exhaustive() { return std::getenv("BATON_EXHAUSTIVE") != nullptr; }
/// Each list of disturbances beside `first`, the latter ones only where there is time.
std::vector<std::vector<Action>> Beside(const Action& first, std::vector<std::vector<Action>> quick, const std::vector<std::vector<Action>>& slow) {
  if (Exhaustive()) quick.insert(quick.end(), slow.begin(), slow.end());
  for (std::vector<Action>& list : quick) list.push_back(first);
  return quick;
}

/// Two paths; the second transfer has its grant and its segment, the first is yet to begin.
World OneIsPushing(std::vector<Action> script) {
  World world(Air::kOnPaths, kOneAndNone, std::move(script));
  world.Do({Action::kBegin, 2});
  for (const size_t to_receiver : {0, 1}) world.Do({Action::kFlush, 0, to_receiver, 0});
  world.DeliverAll();
  return world;
}
Explored Explore(Air air, const Sizes& sizes, std::vector<Action> disturbances = {}) { return Explorer(air, sizes, Both(sizes, std::move(disturbances))).Run(); }

TEST(TransferTables, TwoUndisturbedTransfersLandInEveryOrder) {
  for (const Sizes& sizes : {kTwoPiecesAndNone, kOnePieceEach, kTwoSegments}) {
    const Explored e = Explore(Air::kAnyOrder, sizes);
    EXPECT_GT(e.states, 1000u);
    EXPECT_EQ(e.quiet, 1u) << "every way leads to the same end";
    EXPECT_TRUE(e.always_landed);
  }
}

/// One transfer after its grant, the other from its beginning; both from their beginnings take minutes.
TEST(TransferTables, ABrokenPathAtAnyMomentLosesNothing) {
  const Explored e = Exhaustive() ? Explore(Air::kOnPaths, kOnePieceEach, {{Action::kPathLost}})
                                  : Explorer(OneIsPushing({{Action::kExpect, 1}, {Action::kPush, 1, 0}, {Action::kPathLost}})).Run();
  EXPECT_GT(e.states, 1000u);
  EXPECT_TRUE(e.always_landed);
}

TEST(TransferTables, AnyLostFrameIsMadeUpFor) {
  // One transfer, whose frames overtake each other at will; the other has nothing to say.
  for (const Action::Kind lost : {Action::kLose, Action::kPathLost}) {
    const Explored e = Explorer(Air::kAnyOrder, kTwoPiecesAndNone, {{Action::kExpect, 1}, {Action::kPush, 1, 0}, {lost}}).Run();
    EXPECT_GT(e.states, 10000u);
    EXPECT_TRUE(e.first_landed);
  }
}

TEST(TransferTables, ADoubledFrameAtAnyMomentChangesNothing) {
  const Explored e = Explore(Air::kAnyOrder, kTwoPiecesAndNone, {{Action::kRepeat}});
  EXPECT_GT(e.states, 10000u);
  EXPECT_TRUE(e.always_landed);
}

/// Whatever ends the first transfer, both ends get free of it, and the other lands: each has an owner of its own.
TEST(TransferTables, OneThatIsGivenUpAtAnyMomentLeavesTheOtherAlone) {
  for (const Action::Kind end : {Action::kCancelReceiver, Action::kCancelSender}) {
    for (const std::vector<Action>& disturbances : Beside({end, 1}, {{}, {{Action::kCancelSender, 1}}}, {{{Action::kRepeat}}})) {
      const Explored e = Explore(Air::kAnyOrder, kTwoPiecesAndNone, disturbances);
      EXPECT_GT(e.states, 1000u);
      EXPECT_FALSE(e.first_landed) << "it is given up before anything could land, too";
      EXPECT_TRUE(e.second_landed);
    }
  }
}

TEST(TransferTables, OneThatIsGivenUpWhileAPathBreaks) {
  for (const Action::Kind end : {Action::kCancelReceiver, Action::kCancelSender}) {
    const std::vector<Action> script = {{Action::kExpect, 1}, {Action::kPush, 1, 0}, {end, 1}, {Action::kPathLost}};
    EXPECT_GT(Explorer(Air::kOnPaths, kOneAndNone, script).Run().states, 1000u);
    if (!Exhaustive()) continue;
    EXPECT_TRUE(Explorer(OneIsPushing(script)).Run().second_landed);
  }
}

TEST(TransferTables, TheDeadlineMayComeAtAnyMoment) {
  for (const std::vector<Action>& disturbances : Beside({Action::kExpire}, {{}}, {{{Action::kRepeat}}, {{Action::kCancelSender, 2}}})) {
    EXPECT_GT(Explore(Air::kAnyOrder, kTwoPiecesAndNone, disturbances).states, 1000u);
  }
}

TEST(TransferTables, EitherEndMayDieAtAnyMoment) {
  for (const Action::Kind death : {Action::kReceiverDies, Action::kSenderDies}) {
    for (const std::vector<Action>& disturbances : Beside({death}, {{}, {{Action::kRepeat}}, {{Action::kCancelReceiver, 1}}, {{Action::kCancelSender, 2}}}, {})) {
      EXPECT_GT(Explore(Air::kAnyOrder, kTwoPiecesAndNone, disturbances).states, 1000u) << death;
    }
  }
}

TEST(TransferTables, TransfersToOnePeerTakeTurns) {
  struct Nobody final : Outbox, SourceReader {
    void Send(WorkerId, std::string) override {}
    bool Detach(TransferId) override { return false; }
  } nobody;
  TransferLimits limits;
  limits.piece_bytes = 1000;
  CompletionQueue completions;
  SendingTable table(limits, nobody, nobody, completions);
  const std::vector<std::byte> source(100000);
  for (const uint64_t id : {1, 2}) {
    const std::string grant = GrantFrame({TransferId(id), 1000, std::chrono::seconds(1), {id == 1 ? 100000u : 500u}});
    table.OnGrant(kReceiver, *ParseHeader(AsBytes(grant)), AsBytes(grant).subspan(sizeof(FrameHeader)), Instant());
    const Segment segment{0, source.data(), id == 1 ? 100000u : 500u};
    ASSERT_TRUE(table.Push(TransferId(id), kReceiver, {&segment, 1}, Instant()).ok());
  }
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) order.push_back(table.Next(kReceiver, 0)->header.transfer);
  EXPECT_LE(std::find(order.begin(), order.end(), 2u) - order.begin(), 1) << "the small one waits for one piece of the big one, not for all";
}

TEST(TransferTables, LimitsHold) {
  struct Nobody final : Outbox, SourceReader {
    void Send(WorkerId, std::string) override {}
    bool Detach(TransferId) override { return false; }
  } nobody;
  TransferLimits limits;
  limits.max_transfers = 3;
  CompletionQueue completions;
  SendingTable sending(limits, nobody, nobody, completions);
  for (uint64_t id = 1; id <= 100; ++id) {
    const std::string grant = GrantFrame({TransferId(id), 1000, std::chrono::seconds(1), {10}});
    sending.OnGrant(kReceiver, *ParseHeader(AsBytes(grant)), AsBytes(grant).subspan(sizeof(FrameHeader)), Instant());
  }
  EXPECT_EQ(sending.active(), 3u) << "a peer that announces without end is not remembered without end";
  const Segment segment{0, nullptr, 0};
  EXPECT_EQ(sending.Push(TransferId(500), kReceiver, {&segment, 1}, Instant()).code(), StatusCode::kExhausted);
}

TEST(Frames, NonsenseIsRefused) {
  FrameHeader h{.body_bytes = 8, .type = FrameType::kGrant, .index = 1, .piece = 16};
  EXPECT_FALSE(ParseGrant(h, AsBytes("12345678"), 10).ok()) << "a grant of no landing";
  h.index = 11;
  EXPECT_EQ(ParseGrant(h, AsBytes("12345678"), 10).status().code(), StatusCode::kExhausted);
  std::string runs(8, '\0');
  AppendNumber(&runs, uint32_t{4000000000});
  AppendNumber(&runs, uint64_t{1});
  h.index = 2;
  EXPECT_FALSE(ParseGrant(h, AsBytes(runs), 10).ok()) << "a run longer than the whole";
  h.piece = 0;
  EXPECT_FALSE(ParseGrant(h, AsBytes(runs), 10).ok());
  EXPECT_FALSE(ParseAck({.type = FrameType::kAck}, AsBytes("1234567")).ok());
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    std::array<uint64_t, 12> noise;
    for (uint64_t& word : noise) word = random.Next64() >> random.Below(64);
    const Bytes bytes = std::as_bytes(std::span(noise));
    const auto header = ParseHeader(bytes);
    if (!header.ok()) continue;
    EXPECT_LE(header->body_bytes, kMaxBodyBytes);
    (void)ParseGrant(*header, bytes.subspan(32), 100);
    (void)ParseEnd(*header, bytes.subspan(32));
  }
  const Status end = ParseEnd({.index = 77}, AsBytes("why"));
  EXPECT_EQ(end.code(), StatusCode::kInternal);
  EXPECT_EQ(end.message(), "why");
}

}  // namespace
}  // namespace baton
