#include "model/weight_memory.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/bytes.h"

namespace baton {
namespace {

class WeightMemoryTest : public testing::Test {
 protected:
  WeightMemoryTest() {
    std::string pattern = testing::TempDir() + "baton_weights_XXXXXX";
    root_ = mkdtemp(pattern.data());
    folder_ = root_ + "/a/b";
  }
  ~WeightMemoryTest() override { std::filesystem::remove_all(root_); }

  WeightMemory::Filler Fill(uint8_t seed) {
    return [this, seed](std::byte* out) {
      ++fills_;
      for (size_t i = 0; i < kBytes; ++i) out[i] = static_cast<std::byte>(i * 7 + seed);
    };
  }
  static bool Holds(const WeightMemory& memory, uint8_t seed) {
    for (size_t i = 0; i < kBytes; ++i) {
      if (memory.data()[i] != static_cast<std::byte>(i * 7 + seed)) return false;
    }
    return true;
  }
  std::string File() const { return folder_ + "/key.packed"; }

  static constexpr size_t kBytes = 100000;
  std::string root_, folder_;
  std::atomic<int> fills_{0};
};

TEST_F(WeightMemoryTest, OwnIsZeroedAndWritable) {
  auto memory = WeightMemory::Own(kBytes);
  ASSERT_TRUE(memory.ok());
  EXPECT_FALSE(memory->shared());
  EXPECT_EQ(memory->data()[kBytes - 1], std::byte{0});
  Fill(3)(memory->data());
  const WeightMemory moved = std::move(*memory);
  EXPECT_TRUE(Holds(moved, 3));
}

TEST_F(WeightMemoryTest, FilledOnceThenMapped) {
  for (int i = 0; i < 3; ++i) {
    const auto memory = WeightMemory::FromCache(folder_, "key", kBytes, Fill(5));
    ASSERT_TRUE(memory.ok()) << memory.status().ToString();
    EXPECT_TRUE(memory->shared() && Holds(*memory, 5));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 64, 0u);
  }
  EXPECT_EQ(fills_, 1);
  ASSERT_TRUE(WeightMemory::FromCache(folder_, "other", kBytes, Fill(6)).ok());
  EXPECT_EQ(fills_, 2);
  EXPECT_FALSE(std::filesystem::exists(File() + ".partial"));
}

TEST_F(WeightMemoryTest, AnyDamageIsFoundAndRepaired) {
  ASSERT_TRUE(WeightMemory::FromCache(folder_, "key", kBytes, Fill(5)).ok());
  for (const size_t at : {size_t{0}, size_t{16}, size_t{24}, size_t{4096}, 4096 + kBytes - 1}) {
    fills_ = 0;
    {
      std::fstream file(File(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(static_cast<std::streamoff>(at));
      const int byte = file.get();
      file.seekp(static_cast<std::streamoff>(at));
      file.put(static_cast<char>(byte ^ 1));
    }
    const auto memory = WeightMemory::FromCache(folder_, "key", kBytes, Fill(5));
    ASSERT_TRUE(memory.ok());
    EXPECT_TRUE(Holds(*memory, 5));
    EXPECT_EQ(fills_, 1) << "byte " << at;
  }
  for (const size_t size : {size_t{0}, size_t{10}, size_t{4096}, 4096 + kBytes - 1, 4096 + kBytes + 1}) {
    fills_ = 0;
    std::filesystem::resize_file(File(), size);
    ASSERT_TRUE(WeightMemory::FromCache(folder_, "key", kBytes, Fill(5)).ok());
    EXPECT_EQ(fills_, 1) << "size " << size;
  }
}

TEST_F(WeightMemoryTest, AFileOfAnotherSizeIsMadeAnew) {
  ASSERT_TRUE(WeightMemory::FromCache(folder_, "key", kBytes / 2, [](std::byte*) {}).ok());
  const auto memory = WeightMemory::FromCache(folder_, "key", kBytes, Fill(5));
  ASSERT_TRUE(memory.ok());
  EXPECT_TRUE(Holds(*memory, 5));
}

TEST_F(WeightMemoryTest, WhatIsLeftOfACrashIsOverwritten) {
  std::filesystem::create_directories(folder_);
  std::ofstream(File() + ".partial") << "half a file";
  std::ofstream(File() + ".lock");
  const auto memory = WeightMemory::FromCache(folder_, "key", kBytes, Fill(5));
  ASSERT_TRUE(memory.ok());
  EXPECT_TRUE(Holds(*memory, 5));
}

TEST_F(WeightMemoryTest, ImpossibleFoldersAreErrorsThatNameThem) {
  std::ofstream(root_ + "/file") << "x";
  const auto in_a_file = WeightMemory::FromCache(root_ + "/file/sub", "key", kBytes, Fill(1));
  EXPECT_EQ(in_a_file.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(in_a_file.status().message(), testing::HasSubstr(root_ + "/file/sub"));
  std::filesystem::create_directories(folder_);
  std::filesystem::create_symlink("/dev/null", File() + ".lock");
  EXPECT_EQ(WeightMemory::FromCache(folder_, "key", kBytes, Fill(1)).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(fills_, 0);
}

TEST_F(WeightMemoryTest, ManyAtOnceShareOneFilling) {
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      const auto memory = WeightMemory::FromCache(folder_, "key", kBytes, Fill(9));
      good += memory.ok() && Holds(*memory, 9);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 6);
  EXPECT_EQ(fills_, 1);
}

/// As several workers of one host start: each child reports how often it filled (0 or 1), or 99 for a wrong byte.
TEST_F(WeightMemoryTest, ProcessesShareOneFilling) {
  std::vector<pid_t> children;
  for (int i = 0; i < 5; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const auto memory = WeightMemory::FromCache(folder_, "key", kBytes, Fill(21));
      _exit(memory.ok() && memory->shared() && Holds(*memory, 21) ? fills_.load() : 99);
    }
    children.push_back(child);
  }
  int filled = 0;
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    filled += WEXITSTATUS(status);
  }
  EXPECT_EQ(filled, 1);
  EXPECT_FALSE(std::filesystem::exists(File() + ".partial"));
}

/// A worker killed while it fills: the lock goes with it, and the next one starts over.
TEST_F(WeightMemoryTest, AProcessThatDiesWhileFillingHoldsNobodyUp) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    (void)WeightMemory::FromCache(folder_, "key", kBytes, [](std::byte* out) {
      out[0] = std::byte{1};
      _exit(7);
    });
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  EXPECT_FALSE(std::filesystem::exists(File())) << "only a whole file has its name";
  const auto memory = WeightMemory::FromCache(folder_, "key", kBytes, Fill(22));
  ASSERT_TRUE(memory.ok()) << memory.status().ToString();
  EXPECT_TRUE(Holds(*memory, 22));
}

TEST_F(WeightMemoryTest, AMappedFileOutlivesItsName) {
  const auto first = WeightMemory::FromCache(folder_, "key", kBytes, Fill(31));
  ASSERT_TRUE(first.ok());
  std::filesystem::remove(File());
  const auto second = WeightMemory::FromCache(folder_, "key", kBytes, Fill(32));
  ASSERT_TRUE(second.ok());
  EXPECT_TRUE(Holds(*first, 31)) << "a running worker keeps what it mapped";
  EXPECT_TRUE(Holds(*second, 32));
}

TEST_F(WeightMemoryTest, NeitherLinksNorOddFilesAreFollowed) {
  std::filesystem::create_directories(folder_);
  std::ofstream(root_ + "/precious") << "keep me";
  std::filesystem::create_symlink(root_ + "/precious", File() + ".partial");
  EXPECT_EQ(WeightMemory::FromCache(folder_, "key", kBytes, Fill(1)).status().code(), StatusCode::kUnavailable);
  std::ifstream in(root_ + "/precious");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "keep me");
  std::filesystem::create_directories(folder_ + "/dir.packed");  // where the file should be
  const auto blocked = WeightMemory::FromCache(folder_, "dir", kBytes, Fill(2));
  EXPECT_EQ(blocked.status().code(), StatusCode::kUnavailable) << blocked.status().ToString();
}

}  // namespace
}  // namespace baton
