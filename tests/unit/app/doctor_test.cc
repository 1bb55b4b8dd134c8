// `baton doctor` as a user starts it.
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace baton {
namespace {

class DoctorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(BATON_BINARY)) GTEST_SKIP() << "the program is not built";
    std::string name = (std::filesystem::temp_directory_path() / "baton-doctor-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  /// The checks by name.
  std::map<std::string, nlohmann::json> Checks(const std::string& arguments) {
    const std::string command = "'" BATON_BINARY "' doctor --json " + arguments + " >" + folder_ + "/out 2>" + folder_ + "/err </dev/null";
    const int status = std::system(command.c_str());
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::map<std::string, nlohmann::json> checks;
    std::ifstream out(folder_ + "/out");
    for (std::string line; std::getline(out, line);) {
      const auto check = nlohmann::json::parse(line);
      EXPECT_TRUE(checks.emplace(check.at("check"), check).second) << line;
    }
    return checks;
  }

  std::string folder_;
  int code_ = -1;
};

TEST_F(DoctorTest, SaysHowFastEachTransportIsHereAndWhichIsTaken) {
  auto checks = Checks("--gateway.port=0");
  EXPECT_EQ(code_, 0);
  const std::string speed = checks["transfer speed"].at("found");
  EXPECT_THAT(speed, ::testing::ContainsRegex("shm [0-9]+\\.[0-9][0-9] GB/s, tcp [0-9]+\\.[0-9][0-9] GB/s"));
  EXPECT_THAT(speed, ::testing::HasSubstr("auto takes shm on one host"));
  EXPECT_EQ(checks["transfer speed"].at("verdict"), "ok");
  for (const char* name : {"cores", "isa", "memory", "open files", "mpi", "transports", "shared memory", "gpu", "port", "store", "model"}) EXPECT_TRUE(checks.contains(name)) << name;
}

TEST_F(DoctorTest, NamesTheTransportThatWasAskedFor) {
  const std::string speed = Checks("--gateway.port=0 --transport.kind=tcp")["transfer speed"].at("found");
  EXPECT_THAT(speed, ::testing::HasSubstr("tcp is taken, as transport.kind says"));
}

}  // namespace
}  // namespace baton
