// The end of a pump while others use it: whoever asked for a transfer hears of its end once, whenever the request came in, and
// nothing touches the transport after that. Run under ThreadSanitizer, too.
#include <latch>
#include <map>

#include "base/random.h"
#include "transport/transfer_pump.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

/// A transport that counts what it is asked and completes nothing by itself. Thread: as Transport; the counters any.
class QuietTransport final : public Transport {
 public:
  struct Counts {
    std::atomic<int> wakes{0}, expects{0}, pushes{0}, cancels{0}, disconnects{0};
    std::atomic<bool> alive{true}, touched_when_dead{false};
  };
  explicit QuietTransport(std::shared_ptr<Counts> counts) : counts_(std::move(counts)) {}
  ~QuietTransport() override { counts_->alive = false; }

  std::string_view name() const override { return "quiet"; }
  std::string address() const override { return "quiet:1"; }
  Result<WorkerId> Connect(WorkerId peer, const std::string& address) override {
    if (address == "nowhere") return InvalidError("\"{}\" is not an address", address);
    return peer;
  }
  void Disconnect(WorkerId) override { ++counts_->disconnects; }
  Status Register(const ArenaMemory&) override { return OkStatus(); }
  Status Expect(TransferId, WorkerId, std::span<const Landing>, Instant, uint32_t digest_run) override {
    ++counts_->expects;
    last_digest_run = digest_run;
    return OkStatus();
  }
  Status Push(TransferId id, WorkerId, std::span<const Segment> segments) override {
    ++counts_->pushes;
    if (std::any_of(segments.begin(), segments.end(), [](const Segment& s) { return s.index == kRefused; })) return InvalidError("segment {}", kRefused);
    for (const Segment& segment : segments) ready.push_back({.kind = CompletionKind::kSent, .transfer = id, .index = segment.index});
    return OkStatus();
  }
  void Cancel(TransferId) override { ++counts_->cancels; }
  size_t Poll(std::span<Completion> out) override {
    if (during_poll) std::exchange(during_poll, {})();
    size_t n = 0;
    for (; n < out.size() && !ready.empty() && polls_until_ready-- <= 0; ++n, ready.pop_front()) out[n] = ready.front();
    return n;
  }
  void Wait(Duration) override { std::this_thread::yield(); }
  void Wake() override {
    if (!counts_->alive) counts_->touched_when_dead = true;
    ++counts_->wakes;
  }
  TransportStats stats() const override { return {}; }

  static constexpr uint32_t kRefused = 77;
  std::deque<Completion> ready;
  std::function<void()> during_poll;  // runs once
  int polls_until_ready = 0;
  uint32_t last_digest_run = 0;

 private:
  const std::shared_ptr<Counts> counts_;
};

/// How often each transfer was told its end, and the last of them. Thread: any.
class Endings {
 public:
  TransferPump::Done Of(uint64_t id) {
    return [this, id](const Status& status) {
      std::lock_guard lock(mutex_);
      ++told_[id];
      last_[id] = status;
    };
  }
  int Told(uint64_t id) const {
    std::lock_guard lock(mutex_);
    const auto it = told_.find(id);
    return it == told_.end() ? 0 : it->second;
  }
  Status Last(uint64_t id) const {
    std::lock_guard lock(mutex_);
    const auto it = last_.find(id);
    return it == last_.end() ? InternalError("nothing was told") : it->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<uint64_t, int> told_;
  std::map<uint64_t, Status> last_;
};

const TransferPump::PeerEnd kPeer{WorkerId(2), "quiet:2"};
std::byte memory[64];

class PumpStop : public ::testing::Test {
 protected:
  std::unique_ptr<TransferPump> Make() {
    counts_ = std::make_shared<QuietTransport::Counts>();
    auto transport = std::make_unique<QuietTransport>(counts_);
    transport_ = transport.get();
    return std::make_unique<TransferPump>(std::move(transport), clock_);
  }
  std::unique_ptr<TransferPump> MakeThreadless() {
    counts_ = std::make_shared<QuietTransport::Counts>();
    auto transport = std::make_unique<QuietTransport>(counts_);
    transport_ = transport.get();
    return std::make_unique<TransferPump>(std::move(transport), clock_, TransferPump::NoThread());
  }
  static std::vector<Landing> Landings(size_t n) { return std::vector<Landing>(n, Landing{memory, 1}); }

  FakeClock clock_;
  std::shared_ptr<QuietTransport::Counts> counts_;
  QuietTransport* transport_ = nullptr;
};

/// The request may find the pump running, ended, or in between; who asked must hear in any case.
TEST_F(PumpStop, EveryTransferAskedForDuringTheEndIsToldOnce) {
  constexpr int kAskers = 3, kRounds = 40, kEach = 300;
  for (int round = 0; round < kRounds; ++round) {
    Endings received, sent;
    {
      auto pump = Make();
      std::latch begun(kAskers + 1);
      std::vector<std::thread> askers;
      for (int a = 0; a < kAskers; ++a) {
        askers.emplace_back([&, a] {
          begun.arrive_and_wait();
          for (uint64_t n = 0; n < kEach; ++n) {
            const uint64_t id = static_cast<uint64_t>(a) * 1'000'000 + n;
            pump->Expect(TransferId(id), kPeer, Landings(1), Instant::max(), received.Of(id));
            pump->CloseSend(TransferId(id + 500'000), sent.Of(id));
          }
        });
      }
      begun.arrive_and_wait();
      for (int i = 0; i < round; ++i) std::this_thread::yield();  // an end at another moment each time
      pump->Stop();
      for (std::thread& asker : askers) asker.join();
    }
    for (uint64_t a = 0; a < kAskers; ++a) {
      for (uint64_t n = 0; n < kEach; ++n) {
        const uint64_t id = a * 1'000'000 + n;
        ASSERT_EQ(received.Told(id), 1) << "round " << round << ", transfer " << id;
        ASSERT_EQ(received.Last(id).code(), StatusCode::kCancelled) << "nothing was ever sent to it";
        ASSERT_EQ(sent.Told(id), 1) << "round " << round << ", transfer " << id;
      }
    }
    ASSERT_FALSE(counts_->alive);
    ASSERT_FALSE(counts_->touched_when_dead) << "round " << round << ": a caller woke a transport that was gone";
  }
}

/// Each call alone, so that each turns the mailbox from empty to full and wakes the transport.
TEST_F(PumpStop, AWakeNeverMeetsATransportThatIsGone) {
  for (int round = 0; round < 200; ++round) {
    auto pump = Make();
    std::latch begun(2);
    std::thread asker([&] {
      begun.arrive_and_wait();
      for (uint64_t id = 1; id < 40; ++id) pump->Cancel(TransferId(id));
    });
    begun.arrive_and_wait();
    pump->Stop();
    asker.join();
    ASSERT_FALSE(counts_->touched_when_dead) << "round " << round;
  }
}

TEST_F(PumpStop, WhatWaitsInTheMailboxIsToldOnStopsThread) {
  auto pump = MakeThreadless();
  Endings received, sent;
  std::thread::id told_on;
  pump->Expect(TransferId(1), kPeer, Landings(1), Instant::max(), received.Of(1));
  pump->CloseSend(TransferId(2), [&](const Status& s) {
    told_on = std::this_thread::get_id();
    sent.Of(2)(s);
  });
  EXPECT_EQ(received.Told(1) + sent.Told(2), 0) << "nobody has turned it";
  pump->Stop();
  EXPECT_EQ(received.Told(1), 1);
  EXPECT_EQ(received.Last(1).code(), StatusCode::kCancelled);
  EXPECT_EQ(received.Last(1).message(), "the transport was stopped");
  EXPECT_EQ(sent.Told(2), 1);
  EXPECT_TRUE(sent.Last(2).ok()) << "asked for before the end, and there was nothing to send";
  EXPECT_EQ(told_on, std::this_thread::get_id());
  EXPECT_EQ(counts_->expects, 1);
}

/// The last turn has taken what was in the mailbox and the mailbox is still open: what comes now is nobody's to do any more.
TEST_F(PumpStop, WhatIsAskedForInTheLastTurnIsTold) {
  auto pump = MakeThreadless();
  Endings ended;
  transport_->during_poll = [&] {
    pump->Expect(TransferId(1), kPeer, Landings(1), Instant::max(), ended.Of(1));
    pump->CloseSend(TransferId(2), ended.Of(2));
  };
  pump->Stop();
  for (const uint64_t id : {1, 2}) {
    EXPECT_EQ(ended.Told(id), 1) << id;
    EXPECT_EQ(ended.Last(id).code(), StatusCode::kCancelled) << id;
  }
  EXPECT_EQ(counts_->expects, 0);
}

TEST_F(PumpStop, AnEndThatAsksForMoreIsAnswered) {
  auto pump = MakeThreadless();
  Endings again;
  pump->Expect(TransferId(1), kPeer, Landings(1), Instant::max(), [&](const Status& first) {
    EXPECT_EQ(first.code(), StatusCode::kCancelled);
    pump->Expect(TransferId(2), kPeer, Landings(1), Instant::max(), again.Of(2));  // somebody tries elsewhere at once
    pump->Push(TransferId(3), kPeer, {{0, memory, 1}});
    pump->CloseSend(TransferId(3), again.Of(3));
  });
  pump->Stop();
  EXPECT_EQ(again.Told(2), 1);
  EXPECT_EQ(again.Told(3), 1);
  EXPECT_EQ(again.Last(3).code(), StatusCode::kCancelled);
  EXPECT_EQ(counts_->pushes, 0) << "the transport was gone by then";
}

TEST_F(PumpStop, ACancelBeforeAnyPushIsRememberedForItsClose) {
  auto pump = MakeThreadless();
  Endings sent;
  pump->Push(TransferId(1), kPeer, {{0, memory, 1}});
  pump->Turn();  // the push and its kSent
  pump->Cancel(TransferId(1));
  pump->CloseSend(TransferId(1), sent.Of(1));
  pump->Turn();
  EXPECT_EQ(sent.Told(1), 1);
  EXPECT_EQ(sent.Last(1).code(), StatusCode::kCancelled);
  pump->Cancel(TransferId(9));
  pump->Turn();
  EXPECT_EQ(counts_->cancels, 2) << "one that the pump does not know is the transport's to remember";
}

/// Bytes belong to the pump until its word: a push that is refused must not end the transfer while earlier ones are read.
TEST_F(PumpStop, ARefusedPushWaitsForTheBytesOfTheFormerOnes) {
  auto pump = MakeThreadless();
  transport_->polls_until_ready = 3;
  Endings sent;
  pump->Push(TransferId(1), kPeer, {{0, memory, 1}});
  pump->Push(TransferId(1), kPeer, {{QuietTransport::kRefused, memory, 1}});
  pump->Push(TransferId(1), kPeer, {{2, memory, 1}});
  pump->CloseSend(TransferId(1), sent.Of(1));
  pump->Turn();
  EXPECT_EQ(counts_->pushes, 2) << "after a refusal nothing is handed on";
  EXPECT_EQ(counts_->cancels, 1) << "the receiver need not wait";
  EXPECT_EQ(sent.Told(1), 0) << "segment 0 is still being read";
  for (int i = 0; i < 5; ++i) pump->Turn();
  EXPECT_EQ(sent.Told(1), 1);
  EXPECT_EQ(sent.Last(1).code(), StatusCode::kInvalid) << "why it failed, not that it was cancelled for it";
}

TEST_F(PumpStop, APeerThatCannotBeReachedFailsBothKinds) {
  auto pump = MakeThreadless();
  Endings ended;
  const TransferPump::PeerEnd nowhere{WorkerId(3), "nowhere"};
  pump->Expect(TransferId(1), nowhere, Landings(1), Instant::max(), ended.Of(1));
  pump->Push(TransferId(2), nowhere, {{0, memory, 1}});
  pump->CloseSend(TransferId(2), ended.Of(2));
  pump->Turn();
  for (const uint64_t id : {1, 2}) {
    EXPECT_EQ(ended.Told(id), 1);
    EXPECT_EQ(ended.Last(id).message(), "\"nowhere\" is not an address");
  }
  EXPECT_EQ(counts_->expects + counts_->pushes, 0);
}

/// How landings are cut into runs: so many that the last digest's place is within what the caller gave.
TEST_F(PumpStop, DigestsAreSpreadOverTheLandings) {
  auto pump = MakeThreadless();
  uint64_t id = 0;
  for (const auto& [landings, digests, run] : std::vector<std::tuple<size_t, size_t, uint32_t>>{{1, 1, 1}, {8, 2, 4}, {9, 3, 3}, {24, 1, 24}, {4, 4, 1}, {5, 0, 0}}) {
    std::vector<Digest128> places(digests);
    Endings ended;
    ++id;
    pump->Expect(TransferId(id), kPeer, Landings(landings), Instant::max(), ended.Of(id), places);
    pump->Turn();
    EXPECT_EQ(transport_->last_digest_run, run) << landings << " landings, " << digests << " digests";
    for (uint32_t index = 0; run > 0 && index < landings; ++index) {
      const bool last = (index + 1) % run == 0 || index + 1 == landings;
      transport_->ready.push_back({.kind = CompletionKind::kSegmentLanded, .transfer = TransferId(id), .index = index, .receiving = true,
                                   .digested = last, .digest = {index, id}});
    }
    transport_->ready.push_back({.kind = CompletionKind::kTransferLanded, .transfer = TransferId(id), .receiving = true});
    pump->Turn();
    EXPECT_EQ(ended.Told(id), 1);
    EXPECT_TRUE(ended.Last(id).ok());
    for (size_t i = 0; i < digests; ++i) EXPECT_EQ(places[i], (Digest128{std::min<uint64_t>((i + 1) * run, landings) - 1, id})) << "run " << i;
  }
}

/// A completion for what the pump does not know (a transfer that it never had, an end told twice) is dropped.
TEST_F(PumpStop, StrayCompletionsHarmNobody) {
  auto pump = MakeThreadless();
  Endings ended;
  pump->Expect(TransferId(5), kPeer, Landings(2), Instant::max(), ended.Of(5));
  pump->Turn();
  Random random(11);
  for (int i = 0; i < 500; ++i) {
    const uint64_t id = 1 + random.Below(4);  // not 5
    transport_->ready.push_back({.kind = static_cast<CompletionKind>(random.Below(4)), .transfer = TransferId(id), .index = static_cast<uint32_t>(random.Below(9)),
                                 .receiving = random.Below(2) == 0, .digested = random.Below(2) == 0, .status = CancelledError("stray")});
  }
  while (!transport_->ready.empty()) pump->Turn();
  EXPECT_EQ(ended.Told(5), 0);
  transport_->ready.push_back({.kind = CompletionKind::kFailed, .transfer = TransferId(5), .receiving = true, .status = DeadlineError("late")});
  transport_->ready.push_back({.kind = CompletionKind::kFailed, .transfer = TransferId(5), .receiving = true, .status = DeadlineError("twice")});
  pump->Turn();
  EXPECT_EQ(ended.Told(5), 1);
  EXPECT_EQ(ended.Last(5).message(), "late");
}

TEST_F(PumpStop, SpeedsAreOfThePathsThatAreLeft) {
  auto pump = MakeThreadless();
  EXPECT_EQ(pump->sent_bytes_per_s(), 0);
  for (uint32_t peer = 1; peer <= 3; ++peer) {
    transport_->polls_until_ready = 1;
    pump->Push(TransferId(peer), {WorkerId(peer), "quiet:x"}, {{0, memory, 64}});
    pump->Turn();
    clock_.Advance(peer * 1ms);
    pump->Turn();
  }
  const auto three = pump->PathSpeeds();
  ASSERT_EQ(three.size(), 3u);
  for (const auto& [peer, speed] : three) EXPECT_DOUBLE_EQ(speed, 64 / (peer.value * 1e-3)) << peer.value;
  EXPECT_DOUBLE_EQ(pump->sent_bytes_per_s(), 0.8 * (0.8 * 64e3 + 0.2 * 32e3) + 0.2 * (64 / 3e-3)) << "the newest weighs a fifth";
  pump->Disconnect(WorkerId(2));
  pump->Turn();
  const auto two = pump->PathSpeeds();
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].first, WorkerId(1));
  EXPECT_EQ(two[1].first, WorkerId(3));
  EXPECT_EQ(counts_->disconnects, 1);
}

}  // namespace
}  // namespace baton
