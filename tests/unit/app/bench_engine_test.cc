// `baton bench engine` as a user starts it, and the yardsticks below it.
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "app/machine_limits.h"

namespace baton {
namespace {

const std::string kModel = std::string(BATON_SHARED_DIR) + "/golden/gguf/tiny-qwen2-q8_0.gguf";

class BenchEngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(BATON_BINARY)) GTEST_SKIP() << "the program is not built";
    if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "no reference data";
    std::string name = (std::filesystem::temp_directory_path() / "baton-bench-engine-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  int Run(const std::string& arguments) {
    const std::string command = "'" BATON_BINARY "' bench engine --model '" + kModel + "' --prompt-tokens 70 --generate-tokens 3 --repeats 1 " + arguments + " >" + folder_ +
                                "/out 2>" + folder_ + "/err </dev/null";
    const int status = std::system(command.c_str());
    std::ostringstream out, err;
    out << std::ifstream(folder_ + "/out").rdbuf();
    err << std::ifstream(folder_ + "/err").rdbuf();
    out_ = out.str(), err_ = err.str();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::string folder_, out_, err_;
};

TEST_F(BenchEngineTest, OneObjectOfPositiveNumbers) {
  for (const std::string more : {"", " --contiguous", " --batch 3 --context 20", " --threads 2 --numerics fast --kv-dtype int8"}) {
    ASSERT_EQ(Run("--json" + more), 0) << err_;
    const auto result = nlohmann::json::parse(out_);
    EXPECT_EQ(result.size(), 7u);
    for (const auto& [name, value] : result.items()) EXPECT_GT(value.get<double>(), 0) << name;
  }
}

TEST_F(BenchEngineTest, LimitsAreRatesAndShares) {
  ASSERT_EQ(Run("--json --limits --threads 1"), 0) << err_;
  const auto result = nlohmann::json::parse(out_);
  for (const char* name : {"read_gb_per_s", "dot_gops_per_s", "decode_share_of_read", "prefill_share_of_dots"}) EXPECT_GT(result.at(name).get<double>(), 0) << name;
  ASSERT_EQ(Run("--json --limits --threads 1 --numerics f32"), 0) << err_;
  EXPECT_EQ(nlohmann::json::parse(out_).at("prefill_share_of_dots"), 0) << "f32 multiplies no integers";
}

TEST_F(BenchEngineTest, SaysWhatIsWrong) {
  EXPECT_NE(Run("--kv-dtype f64"), 0);
  EXPECT_THAT(err_, ::testing::HasSubstr("f64"));
  EXPECT_NE(Run("--context -1"), 0);
  EXPECT_NE(Run("--generate-tokens 100000000"), 0);
}

TEST(MachineLimitsTest, EveryThreadCountGivesARate) {
  for (const unsigned threads : {1u, 2u, 3u}) {
    const auto read = MeasureReadRate(threads);
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_GT(*read, 1e6);
    EXPECT_GT(MeasureDotRate(kScalarKernels, threads), 1e5);
  }
}

}  // namespace
}  // namespace baton
