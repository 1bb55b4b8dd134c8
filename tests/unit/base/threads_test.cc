// The mailbox and the task threads under many threads: nothing lost, nothing twice, order kept, bounds held.
#include <future>
#include <numeric>

#include "base/mailbox.h"
#include "base/random.h"
#include "base/task_threads.h"

namespace baton {
namespace {

TEST(MailboxThreads, NothingIsLostOrTwiceAndEachSendersOrderIsKept) {
  constexpr int kSenders = 4, kEach = 5000;
  Mailbox<std::pair<int, int>> box(64);
  std::vector<std::thread> senders;
  for (int s = 0; s < kSenders; ++s) {
    senders.emplace_back([&box, s] {
      for (int i = 0; i < kEach; ++i) {
        std::pair<int, int> item(s, i);
        while (!box.Push(std::move(item))) std::this_thread::yield();  // full: the value is still ours
      }
    });
  }
  std::vector<int> next(kSenders, 0);
  size_t taken = 0;
  while (taken < size_t{kSenders} * kEach) {
    box.WaitFor(std::chrono::seconds(10));
    const auto items = box.Drain();
    ASSERT_LE(items.size(), 64u) << "the bound holds";
    for (const auto& [sender, i] : items) {
      ASSERT_EQ(i, next[sender]++) << "sender " << sender;
    }
    taken += items.size();
  }
  for (auto& thread : senders) thread.join();
  EXPECT_EQ(box.size(), 0u);
}

TEST(MailboxThreads, AWakeForEveryTurnFromEmpty) {
  std::atomic<int> wakes = 0;
  Mailbox<int> box(1000, [&wakes] { ++wakes; });
  int drains_with_something = 0;
  for (int round = 0; round < 100; ++round) {
    const int burst = round % 7;
    for (int i = 0; i < burst; ++i) ASSERT_TRUE(box.Push(int{i}));
    if (!box.Drain().empty()) ++drains_with_something;
    EXPECT_EQ(wakes, drains_with_something) << "one wake a batch, never one a value";
  }
}

TEST(MailboxThreads, ASleeperIsWokenByPushAndByClose) {
  for (const bool close : {false, true}) {
    Mailbox<int> box(1);
    std::promise<void> sleeping;
    std::thread reader([&] {
      sleeping.set_value();
      box.WaitFor(std::chrono::minutes(5));  // a lost wake would show as a test that hangs
      EXPECT_EQ(box.size(), close ? 0u : 1u);
      EXPECT_EQ(box.closed(), close);
    });
    sleeping.get_future().wait();
    if (close) box.Close();
    else EXPECT_TRUE(box.Push(1));
    reader.join();
  }
}

TEST(MailboxThreads, ARefusedValueStaysTheCallers) {
  Mailbox<std::unique_ptr<int>> box(1);
  EXPECT_TRUE(box.Push(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(box.Push(std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(*second, 2);
  EXPECT_EQ(box.Drain().size(), 1u);
  EXPECT_TRUE(box.Push(std::move(second)));
  box.Close();
  auto third = std::make_unique<int>(3);
  EXPECT_FALSE(box.Push(std::move(third)));
  ASSERT_NE(third, nullptr);
  EXPECT_EQ(box.Drain().size(), 1u) << "what was taken before the end is still there";
  EXPECT_TRUE(box.closed());
}

TEST(MailboxThreads, NoRoomAtAll) {
  Mailbox<int> box(0);
  EXPECT_FALSE(box.Push(1));
  EXPECT_TRUE(box.Drain().empty());
  box.WaitFor(Duration::zero());  // returns
}

TEST(TaskThreadsTest, OneThreadRunsInOrder) {
  std::vector<int> order;
  {
    TaskThreads tasks(1);
    for (int i = 0; i < 1000; ++i) tasks.Post([&order, i] { order.push_back(i); });
  }  // the end waits for all of them
  std::vector<int> wanted(1000);
  std::iota(wanted.begin(), wanted.end(), 0);
  EXPECT_EQ(order, wanted);
}

TEST(TaskThreadsTest, SeveralThreadsRunEachTaskOnce) {
  std::vector<std::atomic<int>> runs(2000);
  {
    TaskThreads tasks(4);
    std::vector<std::thread> posters;
    for (int p = 0; p < 4; ++p) {
      posters.emplace_back([&, p] {
        for (int i = 0; i < 500; ++i) tasks.Post([&runs, n = p * 500 + i] { ++runs[n]; });
      });
    }
    for (auto& thread : posters) thread.join();
  }
  for (const auto& count : runs) EXPECT_EQ(count, 1);
}

TEST(TaskThreadsTest, ATaskMayPostAnother) {
  std::atomic<int> runs = 0;
  std::function<void(int)> again;  // outlives the threads
  {
    TaskThreads tasks(2);
    again = [&](int left) {
      ++runs;
      if (left > 0) tasks.Post([&again, left] { again(left - 1); });
    };
    std::promise<void> begun;
    tasks.Post([&] {
      again(50);
      begun.set_value();
    });
    begun.get_future().wait();
  }
  EXPECT_EQ(runs, 51) << "also what is posted while the end waits";
}

TEST(TaskThreadsTest, AsManyAtOnceAsThereAreThreads) {
  TaskThreads tasks(3);
  std::promise<void> all_in;
  std::atomic<int> inside = 0;
  std::shared_future<void> gate = all_in.get_future().share();
  std::vector<std::future<bool>> done;
  for (int i = 0; i < 3; ++i) {
    auto finished = std::make_shared<std::promise<bool>>();
    done.push_back(finished->get_future());
    tasks.Post([&, finished] {
      if (++inside == 3) all_in.set_value();  // only if all three run at once
      finished->set_value(gate.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
    });
  }
  for (auto& future : done) EXPECT_TRUE(future.get());
}

}  // namespace
}  // namespace baton
