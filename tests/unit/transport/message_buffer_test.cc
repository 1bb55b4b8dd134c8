#include "transport/message_buffer.h"

#include <string>

namespace baton {
namespace {

TEST(MessageBufferTest, GrowsAndKeepsWhatItHolds) {
  MessageBuffer buffer(4);
  std::string all;
  for (int i = 0; i < 1000; ++i) {
    const std::string part(static_cast<size_t>(i % 7), static_cast<char>('a' + i % 26));
    buffer.Append(AsBytes(part));
    all += part;
  }
  EXPECT_EQ(AsText(buffer.bytes()), all);
  MessageBuffer other = std::move(buffer);
  EXPECT_EQ(AsText(other.bytes()), all);
  EXPECT_EQ(buffer.size(), 0u);      // NOLINT(bugprone-use-after-move): it is empty, and may be used again
  EXPECT_EQ(buffer.capacity(), 0u);
  buffer.Append(AsBytes("again"));
  EXPECT_EQ(AsText(buffer.bytes()), "again");
}

TEST(MessageBufferTest, ResizeStaysWithinItsCapacity) {
  MessageBuffer buffer(10);
  buffer.Append(AsBytes("12345"));
  buffer.Resize(3);
  EXPECT_EQ(AsText(buffer.bytes()), "123");
  buffer.Resize(5);
  EXPECT_EQ(AsText(buffer.bytes()), "12345") << "what was written is not cleared";
}

TEST(BufferPoolTest, GivesRoomForWhatIsAsked) {
  BufferPool pool;
  for (const size_t bytes : {size_t{0}, size_t{1}, BufferPool::kSmallBytes, BufferPool::kSmallBytes + 1, BufferPool::kBigBytes, BufferPool::kBigBytes + 1, size_t{5000000}}) {
    MessageBuffer buffer = pool.Take(bytes);
    EXPECT_GE(buffer.capacity(), bytes);
    EXPECT_EQ(buffer.size(), 0u);
    pool.Give(std::move(buffer));
  }
}

TEST(BufferPoolTest, TheOneGivenBackLastIsTakenFirst) {
  BufferPool pool;
  MessageBuffer a = pool.Take(100000), b = pool.Take(100000);
  const std::byte* const hot = b.data();
  b.Append(AsBytes("old bytes"));
  pool.Give(std::move(a));
  pool.Give(std::move(b));
  EXPECT_EQ(pool.free_buffers(), 2u);
  MessageBuffer again = pool.Take(100000);
  EXPECT_EQ(again.data(), hot);
  EXPECT_EQ(again.size(), 0u) << "as good as new";
}

TEST(BufferPoolTest, KeepsABoundedNumber) {
  BufferPool pool;
  for (size_t i = 0; i < 3 * BufferPool::kMostFree; ++i) {
    pool.Give(MessageBuffer(BufferPool::kBigBytes));
    pool.Give(MessageBuffer(BufferPool::kSmallBytes));
    pool.Give(MessageBuffer(BufferPool::kBigBytes * 2));
    pool.Give(MessageBuffer());
  }
  EXPECT_EQ(pool.free_buffers(), BufferPool::kMostFree);
  for (size_t i = 0; i < BufferPool::kMostFree; ++i) EXPECT_EQ(pool.Take(BufferPool::kBigBytes).capacity(), BufferPool::kBigBytes);
  EXPECT_EQ(pool.free_buffers(), 0u);
}

}  // namespace
}  // namespace baton
