// `baton bench router` and `baton bench members` as a user starts them: one object each, with sane figures.
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>

#include "tests/support/test_pch.h"

namespace baton {
namespace {

class BenchCoordinatorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(BATON_BINARY)) GTEST_SKIP() << "the program is not built";
  }
  /// What it prints, its standard error left out where it may log beside an object; its exit code is in code_.
  std::string Run(const std::string& arguments) {
    const bool json = arguments.find("--json") != std::string::npos;
    FILE* pipe = popen(("'" BATON_BINARY "' bench " + arguments + (json ? " 2>/dev/null" : " 2>&1") + " </dev/null").c_str(), "r");
    std::string out;
    char part[4096];
    for (size_t n; (n = fread(part, 1, sizeof part, pipe)) > 0;) out.append(part, n);
    const int status = pclose(pipe);
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return out;
  }
  int code_ = -1;
};

TEST_F(BenchCoordinatorTest, Router) {
  const std::string out = Run("router --workers 4 --blocks 2000 --prompt-tokens 1000 --requests 50 --json");
  ASSERT_EQ(code_, 0) << out;
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 1);
  const auto result = nlohmann::json::parse(out);
  for (const char* name : {"decisions_per_s", "decisions_per_cpu_s", "mean_us", "mean_cpu_us", "p50_us", "p99_us", "lookup_p50_ns", "lookup_p99_ns", "bytes_per_block"}) {
    EXPECT_GT(result.at(name).get<double>(), 0) << name;
  }
  EXPECT_LE(result["p50_us"], result["p99_us"]);
  EXPECT_EQ(result["holder_blocks"], 2000);
}

TEST_F(BenchCoordinatorTest, RouterReplaysATrace) {
  const std::string out = Run("router --workers 4 --blocks 1000 --trace '" BATON_SHARED_DIR "/traces/synthetic_trace.jsonl' --json");
  ASSERT_EQ(code_, 0) << out;
  EXPECT_LE(nlohmann::json::parse(out).at("holder_blocks"), 1100) << "the oldest make room, but for those of the last beat";
}

TEST_F(BenchCoordinatorTest, MissingTracesAndSillyNumbersAreNamed) {
  EXPECT_THAT(Run("router --trace /nowhere.jsonl"), ::testing::HasSubstr("/nowhere.jsonl"));
  EXPECT_NE(code_, 0);
  EXPECT_THAT(Run("router --workers 1"), ::testing::HasSubstr("workers"));
  EXPECT_EQ(code_, 2);
  EXPECT_THAT(Run("members --workers 0"), ::testing::HasSubstr("workers"));
  EXPECT_EQ(code_, 2);
}

TEST_F(BenchCoordinatorTest, Members) {
  const std::string out = Run("members --workers 3 --seconds 0.1 --heartbeat-s 0.02 --json");
  ASSERT_EQ(code_, 0) << out;
  const auto result = nlohmann::json::parse(out);
  EXPECT_EQ(result["workers"], 3);
  EXPECT_DOUBLE_EQ(result["heartbeats_per_s"], 150);
  EXPECT_GT(result["core_percent"], 0);
}

}  // namespace
}  // namespace baton
