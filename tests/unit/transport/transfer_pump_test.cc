// The pump over local transports: each transfer has one end, whoever asks for it, on whatever thread, in whatever order.
#include "transport/transfer_pump.h"

#include <condition_variable>
#include <mutex>

#include "base/mailbox.h"
#include "base/random.h"

namespace baton {
namespace {

constexpr Duration kLimit = std::chrono::seconds(20);

/// How one transfer ended, and how often. Thread: any.
/// Told under its lock, so that it may be destroyed as soon as Wait has returned.
class Ending {
 public:
  TransferPump::Done Done() {
    return [this](const Status& status) {
      std::lock_guard lock(mutex_);
      if (++count == 1) status_ = status;
      told_.notify_all();
    };
  }
  Status Wait() {
    std::unique_lock lock(mutex_);
    if (!told_.wait_for(lock, kLimit, [this] { return count > 0; })) return InternalError("no end came");
    return status_;
  }
  std::atomic<int> count{0};

 private:
  std::mutex mutex_;
  std::condition_variable told_;
  Status status_;
};

struct PumpEnd {
  PumpEnd(std::shared_ptr<LocalHub> hub, uint32_t worker, Duration hold = std::chrono::seconds(10)) : id(worker), memory(1 << 16) {
    TransportConfig config;
    config.kind = "local";
    config.self = id;
    config.incarnation = Incarnation(1);
    config.hub = std::move(hub);
    config.hold = hold;
    auto transport = MakeTransport(config);
    EXPECT_TRUE(transport.ok());
    EXPECT_TRUE((*transport)->Register({memory}).ok());
    pump = std::make_unique<TransferPump>(std::move(*transport), clock);
  }
  TransferPump::PeerEnd end() const { return {id, pump->address()}; }
  std::vector<Landing> Landings(size_t count, size_t bytes) {
    std::vector<Landing> out;
    for (size_t i = 0; i < count; ++i) out.push_back({memory.data() + i * bytes, bytes});
    return out;
  }
  std::vector<Segment> Segments(uint32_t first, uint32_t count, size_t bytes) const {
    std::vector<Segment> out;
    for (uint32_t i = first; i < first + count; ++i) out.push_back({i, memory.data() + i * bytes, bytes});
    return out;
  }

  const WorkerId id;
  SystemClock clock;
  std::vector<std::byte> memory;
  std::unique_ptr<TransferPump> pump;
};

class TransferPumpTest : public ::testing::Test {
 protected:
  TransferPumpTest() {
    Random random(1);
    for (std::byte& b : a_.memory) b = static_cast<std::byte>(random.Below(256));
  }
  Instant Soon(double seconds = 20) { return a_.clock.Now() + FromSeconds(seconds); }
  bool Arrived(size_t bytes) { return std::equal(a_.memory.begin(), a_.memory.begin() + static_cast<ptrdiff_t>(bytes), b_.memory.begin()); }
  /// A transfer that is over leaves nothing: closing it again is closing one that nothing was pushed for.
  void ExpectForgotten(PumpEnd& sender, TransferId id) {
    Ending again;
    sender.pump->CloseSend(id, again.Done());
    EXPECT_TRUE(again.Wait().ok());
  }

  std::shared_ptr<LocalHub> hub_ = MakeLocalHub();
  PumpEnd a_{hub_, 1}, b_{hub_, 2};
};

TEST_F(TransferPumpTest, ManyPushesOneEndAtEachSide) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(8, 1000), Soon(), landed.Done());
  for (uint32_t i = 0; i < 8; ++i) a_.pump->Push(TransferId(1), b_.end(), a_.Segments(7 - i, 1, 1000));
  a_.pump->CloseSend(TransferId(1), sent.Done());
  EXPECT_TRUE(landed.Wait().ok());
  EXPECT_TRUE(sent.Wait().ok());
  EXPECT_TRUE(Arrived(8000));
  EXPECT_EQ(landed.count, 1);
  EXPECT_EQ(sent.count, 1);
  EXPECT_GT(a_.pump->sent_bytes_per_s(), 0);
  EXPECT_EQ(b_.pump->sent_bytes_per_s(), 0);
  ASSERT_EQ(a_.pump->PathSpeeds().size(), 1u);
  EXPECT_EQ(a_.pump->PathSpeeds()[0].first, WorkerId(2));
  EXPECT_DOUBLE_EQ(a_.pump->PathSpeeds()[0].second, a_.pump->sent_bytes_per_s()) << "one path is all paths";
  EXPECT_TRUE(b_.pump->PathSpeeds().empty());
  ExpectForgotten(a_, TransferId(1));
}

TEST_F(TransferPumpTest, PushesMayComeBeforeTheirExpect) {
  Ending landed, sent;
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 4, 100));
  a_.pump->CloseSend(TransferId(1), sent.Done());
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(4, 100), Soon(), landed.Done());
  EXPECT_TRUE(landed.Wait().ok());
  EXPECT_TRUE(sent.Wait().ok());
  EXPECT_TRUE(Arrived(400));
}

TEST_F(TransferPumpTest, PushesFromManyThreads) {
  constexpr uint32_t kThreads = 4, kEach = 16;
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(kThreads * kEach, 100), Soon(), landed.Done());
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (uint32_t i = 0; i < kEach; ++i) a_.pump->Push(TransferId(1), b_.end(), a_.Segments(t * kEach + i, 1, 100));
    });
  }
  for (auto& thread : threads) thread.join();
  a_.pump->CloseSend(TransferId(1), sent.Done());
  EXPECT_TRUE(landed.Wait().ok());
  EXPECT_TRUE(sent.Wait().ok());
  EXPECT_TRUE(Arrived(kThreads * kEach * 100));
}

TEST_F(TransferPumpTest, ClosedWithoutAPush) {
  Ending sent;
  a_.pump->CloseSend(TransferId(9), sent.Done());
  EXPECT_TRUE(sent.Wait().ok());
}

TEST_F(TransferPumpTest, TheDeadlineEndsBothSides) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(2, 100), Soon(0.02), landed.Done());
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 1, 100));  // the other half never comes
  EXPECT_EQ(landed.Wait().code(), StatusCode::kDeadline);
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(1, 1, 100));
  a_.pump->CloseSend(TransferId(1), sent.Done());
  EXPECT_FALSE(sent.Wait().ok());
  EXPECT_EQ(landed.count, 1);
  ExpectForgotten(a_, TransferId(1));
}

TEST_F(TransferPumpTest, TheReceiverCancels) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(2, 100), Soon(), landed.Done());
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 1, 100));
  b_.pump->Cancel(TransferId(1));
  EXPECT_EQ(landed.Wait().code(), StatusCode::kCancelled);
  b_.pump->Cancel(TransferId(1));
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(1, 1, 100));
  a_.pump->CloseSend(TransferId(1), sent.Done());
  EXPECT_FALSE(sent.Wait().ok());
  EXPECT_EQ(landed.count, 1);
}

TEST_F(TransferPumpTest, TheSenderCancels) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(2, 100), Soon(), landed.Done());
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 1, 100));
  a_.pump->Cancel(TransferId(1));
  a_.pump->CloseSend(TransferId(1), sent.Done());
  EXPECT_EQ(sent.Wait().code(), StatusCode::kCancelled);
  EXPECT_FALSE(landed.Wait().ok());
  EXPECT_EQ(sent.count, 1);
  ExpectForgotten(a_, TransferId(1));
}

TEST_F(TransferPumpTest, CancelAfterTheEndChangesNothing) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(1, 100), Soon(), landed.Done());
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 1, 100));
  a_.pump->CloseSend(TransferId(1), sent.Done());
  EXPECT_TRUE(landed.Wait().ok());
  EXPECT_TRUE(sent.Wait().ok());
  a_.pump->Cancel(TransferId(1));
  b_.pump->Cancel(TransferId(1));
  ExpectForgotten(a_, TransferId(1));  // also: both commands have been carried out
  EXPECT_EQ(landed.count + sent.count, 2);
}

TEST_F(TransferPumpTest, WhatTheReceiverDidNotAnnounceIsRefused) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(2, 100), Soon(), landed.Done());
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 2, 99));
  a_.pump->CloseSend(TransferId(1), sent.Done());
  const StatusCode heard = landed.Wait().code();  // the sender may know the announcement before it pushes: then it cancels
  EXPECT_TRUE(heard == StatusCode::kInvalid || heard == StatusCode::kCancelled) << landed.Wait().ToString();
  EXPECT_EQ(sent.Wait().code(), StatusCode::kInvalid);
}

TEST_F(TransferPumpTest, APushRefusedAfterTheAnnouncementEndsTheReceiverAtOnce) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(2, 100), Soon(120), landed.Done());
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 1, 100));  // taken, so the announcement is known once it is sent
  while (a_.pump->sent_bytes_per_s() == 0) std::this_thread::yield();
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(1, 1, 99));
  a_.pump->CloseSend(TransferId(1), sent.Done());
  EXPECT_EQ(sent.Wait().code(), StatusCode::kInvalid);
  EXPECT_EQ(landed.Wait().code(), StatusCode::kCancelled);
  ExpectForgotten(a_, TransferId(1));
}

TEST_F(TransferPumpTest, ABadPushEndsTheWholeTransferOnceTheGoodOnesAreLetGo) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(3, 100), Soon(), landed.Done());
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 2, 100));
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(1, 1, 100));  // twice
  a_.pump->CloseSend(TransferId(1), sent.Done());
  EXPECT_EQ(sent.Wait().code(), StatusCode::kInvalid);
  EXPECT_FALSE(landed.Wait().ok());
  EXPECT_EQ(sent.count, 1);
  ExpectForgotten(a_, TransferId(1));
}

TEST_F(TransferPumpTest, AskingForTheImpossibleEndsAtOnce) {
  Ending outside, nobody, bad_address;
  std::vector<std::byte> elsewhere(100);
  b_.pump->Expect(TransferId(1), a_.end(), {{elsewhere.data(), 100}}, Soon(), outside.Done());
  EXPECT_EQ(outside.Wait().code(), StatusCode::kInvalid);
  b_.pump->Expect(TransferId(2), {WorkerId(), a_.pump->address()}, b_.Landings(1, 100), Soon(), nobody.Done());
  EXPECT_EQ(nobody.Wait().code(), StatusCode::kInvalid);
  a_.pump->Push(TransferId(3), {WorkerId(2), "tcp:127.0.0.1:1"}, a_.Segments(0, 1, 100));
  a_.pump->CloseSend(TransferId(3), bad_address.Done());
  EXPECT_EQ(bad_address.Wait().code(), StatusCode::kInvalid);
}

TEST_F(TransferPumpTest, ADeadPeersTransfersFailNow) {
  Ending landed, sent;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(2, 100), Soon(), landed.Done());
  a_.pump->Push(TransferId(2), b_.end(), a_.Segments(0, 1, 100));  // nobody expects it
  a_.pump->CloseSend(TransferId(2), sent.Done());
  b_.pump->Disconnect(a_.id);
  a_.pump->Disconnect(b_.id);
  EXPECT_EQ(landed.Wait().code(), StatusCode::kUnavailable);
  EXPECT_EQ(sent.Wait().code(), StatusCode::kUnavailable);
  // The next transfer brings the connection back.
  Ending again;
  b_.pump->Expect(TransferId(3), a_.end(), b_.Landings(1, 100), Soon(), again.Done());
  a_.pump->Push(TransferId(3), b_.end(), a_.Segments(0, 1, 100));
  EXPECT_TRUE(again.Wait().ok());
}

TEST_F(TransferPumpTest, APeerThatEndsFailsItsTransfers) {
  Ending landed;
  b_.pump->Expect(TransferId(1), a_.end(), b_.Landings(2, 100), Soon(), landed.Done());
  a_.pump->Push(TransferId(1), b_.end(), a_.Segments(0, 1, 100));
  a_.pump = nullptr;
  EXPECT_EQ(landed.Wait().code(), StatusCode::kUnavailable);
}

TEST_F(TransferPumpTest, DestructionEndsWhatIsOpenAndWhatWasJustAskedFor) {
  for (int round = 0; round < 200; ++round) {  // the last command races with the end
    PumpEnd c(hub_, 3);
    Ending landed, sent, unasked;
    c.pump->Expect(TransferId(1), a_.end(), c.Landings(1, 100), Soon(), landed.Done());
    c.pump->Push(TransferId(2), a_.end(), c.Segments(0, 1, 100));
    c.pump->CloseSend(TransferId(2), sent.Done());
    c.pump->Push(TransferId(3), a_.end(), c.Segments(0, 1, 100));  // never closed
    c.pump->CloseSend(TransferId(4), unasked.Done());
    c.pump = nullptr;
    EXPECT_EQ(landed.count, 1);
    EXPECT_EQ(sent.count, 1);
    EXPECT_EQ(unasked.count, 1);
    // Cancelled by the end, or unavailable where the peer has just noticed that its former worker 3 is gone.
    EXPECT_FALSE(landed.Wait().ok());
    EXPECT_FALSE(sent.Wait().ok());
    EXPECT_TRUE(unasked.Wait().ok());
  }
}

TEST_F(TransferPumpTest, ManyTransfersAtOnceInBothDirections) {
  constexpr uint32_t kTransfers = 100;
  std::vector<std::unique_ptr<Ending>> endings;
  for (uint32_t i = 0; i < kTransfers; ++i) {
    PumpEnd &from = i % 2 == 0 ? a_ : b_, &to = i % 2 == 0 ? b_ : a_;
    auto* landed = endings.emplace_back(std::make_unique<Ending>()).get();
    auto* sent = endings.emplace_back(std::make_unique<Ending>()).get();
    const TransferId id(1000 + i);
    to.pump->Expect(id, from.end(), {{to.memory.data() + 20000 + i * 100, 100}}, Soon(), landed->Done());
    from.pump->Push(id, to.end(), {{0, from.memory.data() + i * 100, 100}});
    if (i % 5 == 0) from.pump->Cancel(id);
    from.pump->CloseSend(id, sent->Done());
  }
  for (uint32_t i = 0; i < endings.size(); ++i) {
    const Status status = endings[i]->Wait();
    if (i / 2 % 5 != 0) {
      EXPECT_TRUE(status.ok()) << i << status.ToString();
    } else {
      EXPECT_NE(status.code(), StatusCode::kInternal) << i;
    }
    EXPECT_EQ(endings[i]->count, 1);
  }
}

/// After Stop the object still answers: whoever holds transfers may outlive the transport (a server's call that a broken connection did not end).
TEST_F(TransferPumpTest, AStoppedPumpAnswersAtOnce) {
  Ending open_receive, open_send;
  a_.pump->Expect(TransferId(1), b_.end(), a_.Landings(2, 100), Soon(), open_receive.Done());
  a_.pump->Push(TransferId(2), b_.end(), a_.Segments(0, 1, 100));
  a_.pump->CloseSend(TransferId(2), open_send.Done());
  const TransferPump::PeerEnd end = b_.end();
  a_.pump->Stop();
  EXPECT_EQ(open_receive.count, 1);
  EXPECT_EQ(open_receive.Wait().code(), StatusCode::kCancelled);
  EXPECT_EQ(open_send.count, 1);
  EXPECT_FALSE(open_send.Wait().ok());
  Ending late_receive, late_send;
  a_.pump->Expect(TransferId(3), end, a_.Landings(1, 100), Soon(), late_receive.Done());
  a_.pump->Push(TransferId(4), end, a_.Segments(0, 1, 100));
  a_.pump->CloseSend(TransferId(4), late_send.Done());
  a_.pump->Cancel(TransferId(1));
  a_.pump->Disconnect(b_.id);
  EXPECT_EQ(late_receive.count, 1) << "on the caller's thread";
  EXPECT_EQ(late_receive.Wait().code(), StatusCode::kCancelled);
  EXPECT_EQ(late_send.Wait().code(), StatusCode::kCancelled);
  EXPECT_FALSE(a_.pump->address().empty());
  a_.pump->Stop();
  a_.pump = nullptr;
  EXPECT_EQ(open_receive.count + open_send.count + late_receive.count + late_send.count, 4) << "each once";
}

TEST_F(TransferPumpTest, StopWhileOthersAsk) {
  for (int round = 0; round < 20; ++round) {
    PumpEnd c(hub_, 3);
    std::atomic<bool> go{true};
    std::thread asker([&] {
      for (uint64_t id = 1; go; ++id) {
        c.pump->Push(TransferId(id), b_.end(), c.Segments(0, 1, 10));
        c.pump->Cancel(TransferId(id));
      }
    });
    c.pump->Stop();
    go = false;
    asker.join();
    Ending end;
    c.pump->CloseSend(TransferId(1), end.Done());
    EXPECT_EQ(end.Wait().code(), StatusCode::kCancelled);
  }
}

/// Turn by turn on one thread, as a simulation does it.
TEST(ThreadlessPump, MovesWhenItIsTurned) {
  const auto hub = MakeLocalHub();
  FakeClock clock;
  std::vector<std::byte> memory(4096);
  for (size_t i = 0; i < 2048; ++i) memory[i] = static_cast<std::byte>(i * 13);
  const auto make = [&](uint32_t id) {
    TransportConfig config;
    config.kind = "local";
    config.self = WorkerId(id);
    config.incarnation = Incarnation(1);
    config.hub = hub;
    config.clock = &clock;
    auto transport = std::move(*MakeTransport(config));
    EXPECT_TRUE(transport->Register({memory}).ok());
    return std::make_unique<TransferPump>(std::move(transport), clock, TransferPump::NoThread());
  };
  const auto a = make(1), b = make(2);
  Status landed = UnavailableError("not yet"), sent = landed;
  std::thread::id told_on;
  b->Expect(TransferId(1), {WorkerId(1), a->address()}, {{memory.data() + 2048, 2048}}, clock.Now() + std::chrono::seconds(5), [&](const Status& s) {
    landed = s;
    told_on = std::this_thread::get_id();
  });
  a->Push(TransferId(1), {WorkerId(2), b->address()}, {{0, memory.data(), 2048}});
  a->CloseSend(TransferId(1), [&](const Status& s) { sent = s; });
  EXPECT_FALSE(landed.ok()) << "nobody has turned it";
  for (int i = 0; i < 50 && !(landed.ok() && sent.ok()); ++i) {
    a->Turn();
    b->Turn();
  }
  EXPECT_TRUE(landed.ok() && sent.ok());
  EXPECT_EQ(told_on, std::this_thread::get_id());
  EXPECT_TRUE(std::equal(memory.begin(), memory.begin() + 2048, memory.begin() + 2048));
  // A deadline passes on the clock that it was given.
  b->Expect(TransferId(2), {WorkerId(1), a->address()}, {{memory.data(), 10}}, clock.Now() + std::chrono::seconds(5), [&](const Status& s) { landed = s; });
  b->Turn();
  EXPECT_TRUE(landed.ok());
  clock.Advance(std::chrono::seconds(6));
  b->Turn();
  b->Turn();
  EXPECT_EQ(landed.code(), StatusCode::kDeadline);
}

}  // namespace
}  // namespace baton
