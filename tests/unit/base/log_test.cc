// Log lines: where they go, what they hold, and that JSON lines are JSON whatever the message.
#include "base/log.h"

namespace baton {
namespace {

class LogTest : public testing::Test {
 protected:
  ~LogTest() override { EXPECT_TRUE(InitLogging({}).ok()); }
  /// What is printed by `write` under this configuration: stderr, and stdout must stay empty.
  static std::string Printed(const LogConfig& config, const std::function<void()>& write) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    EXPECT_TRUE(InitLogging(config).ok());
    write();
    spdlog::default_logger()->flush();
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "") << "results go to stdout, log lines never";
    return testing::internal::GetCapturedStderr();
  }
  static std::vector<std::string> Lines(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
};

TEST_F(LogTest, LevelsCutWhatIsBelow) {
  const std::vector<std::pair<std::string, int>> shown = {{"trace", 4}, {"debug", 4}, {"info", 3}, {"warn", 2}, {"error", 1}, {"off", 0}};
  for (const auto& [level, count] : shown) {
    const auto lines = Lines(Printed({.level = level}, [] {
      LOG_DEBUG("d");
      LOG_INFO("i");
      LOG_WARN("w");
      LOG_ERROR("e");
    }));
    EXPECT_EQ(lines.size(), static_cast<size_t>(count)) << level;
  }
}

TEST_F(LogTest, UnknownLevelsAreRefusedByName) {
  for (const char* level : {"", "INFO", "verbose", "warning1"}) {
    const Status status = InitLogging({.level = level});
    EXPECT_EQ(status.code(), StatusCode::kInvalid) << level;
    EXPECT_THAT(status.message(), testing::AllOf(testing::HasSubstr(std::string("'") + level + "'"), testing::HasSubstr("debug")));
  }
}

TEST_F(LogTest, TextLinesCarryTheRole) {
  const std::string out = Printed({.role = "decode-2"}, [] { LOG_INFO("worker {} joins as {}", 7, "x"); });
  EXPECT_THAT(out, testing::HasSubstr("decode-2 worker 7 joins as x\n"));
  EXPECT_THAT(Printed({.role = "50%o"}, [] { LOG_INFO("m"); }), testing::HasSubstr("50%o m\n"));
}

TEST_F(LogTest, JsonLinesAreJsonWhateverTheMessage) {
  const std::vector<std::string> messages = {"plain", "a \"quoted\" word", "back\\slash", "two\nlines", "tab\tand\rreturn", std::string("nul\0byte", 8), "caf\xc3\xa9 \xf0\x9f\x98\x80", "bad \xff\xfe bytes", "{}%v%l", ""};
  const auto lines = Lines(Printed({.level = "debug", .json = true, .role = "rank \"0\""}, [&] {
    for (const std::string& message : messages) LOG_WARN("{}", message);
  }));
  ASSERT_EQ(lines.size(), messages.size()) << "one line a message";
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto json = nlohmann::json::parse(lines[i], nullptr, false);
    ASSERT_TRUE(json.is_object()) << lines[i];
    EXPECT_EQ(json["level"], "warning");
    EXPECT_EQ(json["role"], "rank \"0\"");
    EXPECT_TRUE(json["time"].is_string());
    if (messages[i].find('\xff') == std::string::npos) {
      EXPECT_EQ(json["message"].get<std::string>(), messages[i]);
    } else {
      EXPECT_THAT(json["message"].get<std::string>(), testing::HasSubstr("bytes"));
    }
  }
}

TEST_F(LogTest, LinesOfManyThreadsDoNotMix) {
  const auto lines = Lines(Printed({.json = true}, [] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        for (int i = 0; i < 200; ++i) LOG_INFO("thread {} line {} {}", t, i, std::string(100, 'x'));
      });
    }
    for (auto& thread : threads) thread.join();
  }));
  ASSERT_EQ(lines.size(), 800u);
  for (const std::string& line : lines) EXPECT_TRUE(nlohmann::json::parse(line, nullptr, false).is_object()) << line;
}

}  // namespace
}  // namespace baton
