// The two processes of a measurement: what they send arrives whole, whoever ends first, and none is left behind.
#include "app/process_pair.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

using testing::HasSubstr;

std::vector<std::byte> Noise(uint64_t seed, size_t bytes) {
  Random random(seed);
  std::vector<std::byte> out(bytes);
  for (std::byte& b : out) b = static_cast<std::byte>(random.Below(256));
  return out;
}

/// Whether a child of this process is still to be waited for.
bool HasChild() { return waitpid(-1, nullptr, WNOHANG) != -1; }

TEST(ProcessPairTest, MegabytesGoBothWaysOverBothConnections) {
  constexpr size_t kBytes = 3'000'001;  // far more than a socket holds: every send and receive comes in pieces
  const auto echo = [](const PairEnd& end) {
    std::vector<std::byte> bytes(kBytes);
    if (!ReceiveAll(end.plain, bytes) || !SendAll(end.plain, bytes)) return 1;
    if (!ReceiveAll(end.control, bytes) || !SendAll(end.control, bytes)) return 1;
    return 0;
  };
  const auto ask = [](const PairEnd& end) {
    for (const auto& [fd, seed] : {std::pair{end.plain, 1}, {end.control, 2}}) {
      const std::vector<std::byte> sent = Noise(static_cast<uint64_t>(seed), kBytes);
      std::vector<std::byte> got(kBytes);
      if (!SendAll(fd, sent) || !ReceiveAll(fd, got) || got != sent) return 1;
    }
    return 0;
  };
  const auto code = RunForked(ask, echo);
  ASSERT_TRUE(code.ok()) << code.status().ToString();
  EXPECT_EQ(*code, 0);
  EXPECT_FALSE(HasChild());
}

TEST(ProcessPairTest, NothingToSendIsSent) {
  const auto code = RunForked([](const PairEnd& end) { return SendAll(end.plain, {}) && ReceiveAll(end.plain, {}) ? 5 : 1; }, [](const PairEnd&) { return 0; });
  ASSERT_TRUE(code.ok());
  EXPECT_EQ(*code, 5);
}

TEST(ProcessPairTest, TheFirstEndsAndTheSecondHearsOfIt) {
  const auto second = [](const PairEnd& end) {
    std::byte word[1];
    return ReceiveAll(end.control, word) || ReceiveAll(end.plain, word) ? 1 : 0;
  };
  for (const int wanted : {0, 1, 77}) {
    const auto code = RunForked([wanted](const PairEnd&) { return wanted; }, second);
    ASSERT_TRUE(code.ok());
    EXPECT_EQ(*code, wanted) << "the first one's code, at once";
    EXPECT_FALSE(HasChild()) << "no zombie";
  }
}

TEST(ProcessPairTest, ASecondThatIsKilledIsAnEndNotASignal) {
  const auto first = [](const PairEnd& end) {
    pid_t second = 0;
    if (!ReceiveAll(end.control, std::as_writable_bytes(std::span(&second, 1)))) return 1;
    kill(second, SIGKILL);
    std::byte word[1];
    if (ReceiveAll(end.control, word)) return 2;
    const std::vector<std::byte> much(8 << 20);
    return SendAll(end.control, much) ? 3 : 9;  // EPIPE, no SIGPIPE
  };
  const auto second = [](const PairEnd& end) {
    const pid_t self = getpid();
    SendAll(end.control, std::as_bytes(std::span(&self, 1)));
    std::byte word[1];
    ReceiveAll(end.plain, word);
    return 0;
  };
  const auto code = RunForked(first, second);
  ASSERT_TRUE(code.ok());
  EXPECT_EQ(*code, 9);
  EXPECT_FALSE(HasChild());
}

TEST(ProcessPairTest, ItRunsTimeAndAgainWithoutLosingDescriptors) {
  const auto lowest_free = [] {
    const int fd = dup(0);
    close(fd);
    return fd;
  };
  const auto greet = [](const PairEnd& end) { return SendAll(end.control, AsBytes("x")) ? 0 : 1; };
  const auto hear = [](const PairEnd& end) {
    std::byte word[1];
    return ReceiveAll(end.control, word) ? 0 : 1;
  };
  ASSERT_TRUE(RunForked(hear, greet).ok());
  const int before = lowest_free();
  for (int i = 0; i < 20; ++i) {
    const auto code = RunForked(hear, greet);
    ASSERT_TRUE(code.ok()) << code.status().ToString();
    EXPECT_EQ(*code, 0);
  }
  EXPECT_EQ(lowest_free(), before);
}

TEST(ProcessPairTest, WithoutMpirunItSaysWhatToInstall) {
  std::string message(400, '\0');
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  if (child == 0) {  // it would become mpirun
    setenv("PATH", "/nowhere", 1);
    const Status status = RestartUnderMpirun({{"bench", "transfer"}, {}, {}});
    const std::string text = std::string(StatusCodeName(status.code())) + ": " + status.message();
    (void)!write(pipe_ends[1], text.data(), text.size());
    _exit(0);
  }
  close(pipe_ends[1]);
  const ssize_t n = read(pipe_ends[0], message.data(), message.size());
  close(pipe_ends[0]);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  ASSERT_GT(n, 0);
  message.resize(static_cast<size_t>(n));
  EXPECT_THAT(message, testing::AllOf(HasSubstr(StatusCodeName(StatusCode::kUnavailable)), HasSubstr("openmpi-bin"), HasSubstr("No such file")));
}

}  // namespace
}  // namespace baton
