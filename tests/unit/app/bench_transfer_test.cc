// `baton bench transfer` as a user starts it, and the pair of processes below it.
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "app/process_pair.h"
#include "transport/transport.h"

namespace baton {
namespace {

constexpr const char* kQuick = " --bytes 5000 --depth 3 --rounds 1 --seconds 0.01 --digests --json";

class BenchTransferTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(BATON_BINARY)) GTEST_SKIP() << "the program is not built";
    std::string name = (std::filesystem::temp_directory_path() / "baton-bench-transfer-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  /// Its exit code; its stdout and stderr are in out_ and err_.
  int Run(const std::string& prefix, const std::string& arguments) {
    const std::string command = prefix + " '" BATON_BINARY "' bench transfer " + arguments + " >" + folder_ + "/out 2>" + folder_ + "/err </dev/null";
    const int status = std::system(command.c_str());
    out_ = Text("/out"), err_ = Text("/err");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string Text(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(folder_ + name).rdbuf();
    return text.str();
  }

  std::string folder_, out_, err_;
};

TEST_F(BenchTransferTest, EveryKindIsOneCommandThatPrintsOneObject) {
  for (const std::string_view kind : TransportKinds()) {
    if (kind == "local") continue;
    if (kind == "mpi" && std::system("mpirun --version >/dev/null 2>&1") != 0) continue;
    // Open MPI and UCX leave memory behind at their end, which LeakSanitizer would count as ours.
    ASSERT_EQ(Run("ASAN_OPTIONS=detect_leaks=0", fmt::format("--transport {}{}", kind, kQuick)), 0) << kind << ": " << err_;
    ASSERT_EQ(std::count(out_.begin(), out_.end(), '\n'), 1) << out_;
    const auto result = nlohmann::json::parse(out_);
    EXPECT_EQ(result.at("transport"), kind);
    EXPECT_GT(result.at("gb_per_s"), 0);
    EXPECT_GT(result.at("memcpy_gb_per_s"), 0);
    EXPECT_GT(result.at("ratio"), 0);
  }
}

TEST_F(BenchTransferTest, SaysWhatIsInTheWay) {
  EXPECT_EQ(Run("", "--transport local"), 2);
  EXPECT_THAT(err_, ::testing::HasSubstr("shm"));
  EXPECT_EQ(Run("", "--bytes 268435456 --depth 4096"), 2);
  EXPECT_EQ(out_, "");
  const auto kinds = TransportKinds();
  if (std::find(kinds.begin(), kinds.end(), "mpi") == kinds.end()) GTEST_SKIP() << "this build has no MPI";
  EXPECT_EQ(Run("PATH=" + folder_, "--transport mpi"), 1);
  EXPECT_THAT(err_, ::testing::HasSubstr("mpirun"));
}

TEST(ProcessPair, TwoProcessesTalkAndTheFirstOnesCodeCounts) {
  const pid_t self = getpid();
  const auto second = [self](const PairEnd& end) {
    std::byte asked[3];
    if (getpid() == self || !ReceiveAll(end.plain, asked) || !SendAll(end.control, asked)) return 1;
    while (ReceiveAll(end.control, asked)) {  // until the first closes
    }
    return 0;
  };
  const auto first = [](const PairEnd& end) {
    std::byte answer[3] = {};
    if (!SendAll(end.plain, AsBytes("abc")) || !ReceiveAll(end.control, answer)) return 1;
    return AsText(answer) == "abc" ? 42 : 2;
  };
  const auto code = RunForked(first, second);
  ASSERT_TRUE(code.ok()) << code.status().message();
  EXPECT_EQ(*code, 42);
}

TEST(ProcessPair, TheDeathOfTheSecondIsSeen) {
  const auto first = [](const PairEnd& end) {
    std::byte word[1];
    return ReceiveAll(end.control, word) ? 1 : 7;
  };
  const auto code = RunForked(first, [](const PairEnd&) { return 3; });
  ASSERT_TRUE(code.ok());
  EXPECT_EQ(*code, 7);
}

}  // namespace
}  // namespace baton
