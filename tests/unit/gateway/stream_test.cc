// Streams over sockets: several choices in one, usage as they run, echo, tools, ends of every kind.
#include "base/random.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class StreamTest : public testing::Test {
 protected:
  static FakeScript Say(const std::string& text, FinishReason reason = FinishReason::kStop) {
    FakeScript script;
    for (const char c : text) script.tokens.push_back(static_cast<uint8_t>(c));
    script.reason = reason;
    return script;
  }
  /// All events but [DONE], which must be the last.
  std::vector<nlohmann::json> Stream(const std::string& path, Json body) {
    body["stream"] = true;
    if (path == "/v1/completions" && !body.contains("prompt")) body["prompt"] = "p";
    if (path == "/v1/chat/completions" && !body.contains("messages")) body["messages"] = {{{"role", "user"}, {"content", "hi"}}};
    const HttpReply reply = Post(server_.port(), path, body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    EXPECT_TRUE(reply.complete);
    auto events = Events(reply.body);
    EXPECT_EQ(events.empty() ? nlohmann::json() : events.back(), "[DONE]") << reply.body;
    if (!events.empty()) events.pop_back();
    return events;
  }
  static std::map<int, std::string> Texts(const std::vector<nlohmann::json>& events) {
    std::map<int, std::string> texts;
    for (const auto& event : events) {
      for (const auto& choice : event["choices"]) {
        const auto& piece = choice.contains("delta") ? choice["delta"].value("content", "") : choice["text"].get<std::string>();
        texts[choice["index"]] += piece;
      }
    }
    return texts;
  }
  static std::map<int, std::string> Reasons(const std::vector<nlohmann::json>& events) {
    std::map<int, std::string> reasons;
    for (const auto& event : events) {
      for (const auto& choice : event["choices"]) {
        if (choice["finish_reason"].is_null()) continue;
        EXPECT_TRUE(reasons.emplace(choice["index"].get<int>(), choice["finish_reason"].get<std::string>()).second) << "a choice ends once";
      }
    }
    return reasons;
  }
  GatewayServer server_;
};

TEST_F(StreamTest, ChoicesOfDifferentLengthsInterleaveAndEndEachAlone) {
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    server_.backend().Push(Say("a"));
    server_.backend().Push(Say("bbbbbb", FinishReason::kLength));
    server_.backend().Push(Say(""));
    server_.backend().Push(Say("ccSTOPcc"));
    const auto events = Stream(path, {{"n", 4}, {"stop", "STOP"}});
    EXPECT_EQ(Texts(events), (std::map<int, std::string>{{0, "a"}, {1, "bbbbbb"}, {2, ""}, {3, "cc"}})) << path;
    EXPECT_EQ(Reasons(events), (std::map<int, std::string>{{0, "stop"}, {1, "length"}, {2, "stop"}, {3, "stop"}})) << path;
    // Interleaved: the second choice's tokens do not wait for the end of the fourth.
    std::vector<int> order;
    for (const auto& event : events) {
      for (const auto& choice : event["choices"]) order.push_back(choice["index"]);
    }
    const auto last_of_1 = std::find(order.rbegin(), order.rend(), 1), first_of_3 = std::find(order.rbegin(), order.rend(), 3);
    EXPECT_NE(last_of_1, order.rend());
    EXPECT_NE(first_of_3, order.rend());
    EXPECT_FALSE(std::is_sorted(order.begin(), order.end())) << "choices run side by side";
  }
  EXPECT_TRUE(server_.backend().AwaitRunning(0));
}

TEST_F(StreamTest, AfterItsEndAChoiceSaysNothing) {
  for (int i = 0; i < 3; ++i) server_.backend().Push(Say(std::string(static_cast<size_t>(2 + i), 'x')));
  const auto events = Stream("/v1/completions", {{"n", 3}});
  std::set<int> ended;
  for (const auto& event : events) {
    const nlohmann::json choice = event["choices"][0];
    EXPECT_FALSE(ended.contains(choice["index"]));
    if (!choice["finish_reason"].is_null()) ended.insert(choice["index"].get<int>());
  }
  EXPECT_EQ(ended.size(), 3u);
}

TEST_F(StreamTest, ContinuousUsageCountsEachChoiceAndTheLastAllOfThem) {
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    server_.backend().Push(Say("aaa"));
    server_.backend().Push(Say("bb"));
    const auto events = Stream(path, {{"n", 2}, {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}}});
    std::map<int, int> counts;
    for (size_t i = 0; i + 1 < events.size(); ++i) {
      const nlohmann::json choice = events[i]["choices"][0];
      if (!events[i]["usage"].is_object() || !choice["finish_reason"].is_null()) continue;
      const int index = choice["index"];
      EXPECT_EQ(events[i]["usage"]["completion_tokens"], ++counts[index]) << path;
      EXPECT_EQ(events[i]["usage"]["total_tokens"], events[i]["usage"]["prompt_tokens"].get<int>() + counts[index]);
    }
    EXPECT_EQ(counts, (std::map<int, int>{{0, 3}, {1, 2}})) << path;
    EXPECT_EQ(events.back()["choices"], nlohmann::json::array());
    EXPECT_EQ(events.back()["usage"]["completion_tokens"], 5);
  }
}

TEST_F(StreamTest, UsageIsAskedForInStreamOptionsOnly) {
  for (const Json& options : {Json(), Json::object(), Json({{"include_usage", false}}), Json({{"continuous_usage_stats", true}}), Json({{"include_usage", false}, {"continuous_usage_stats", true}})}) {
    for (const auto& event : Stream("/v1/completions", {{"stream_options", options}})) EXPECT_FALSE(event.contains("usage") && !event["usage"].is_null()) << options << event;
  }
  const auto events = Stream("/v1/completions", {{"stream_options", {{"include_usage", true}}}});
  for (size_t i = 0; i + 1 < events.size(); ++i) EXPECT_TRUE(events[i].at("usage").is_null());
  EXPECT_TRUE(events.back().at("usage").is_object());
}

TEST_F(StreamTest, EchoOfEveryPromptComesFirst) {
  for (int i = 0; i < 4; ++i) server_.backend().Push(Say(std::string(1, static_cast<char>('a' + i))));
  const auto events = Stream("/v1/completions", {{"prompt", {"one ", "two "}}, {"n", 2}, {"echo", true}});
  EXPECT_EQ(Texts(events), (std::map<int, std::string>{{0, "one a"}, {1, "one b"}, {2, "two c"}, {3, "two d"}}));
}

TEST_F(StreamTest, AnEmptyAnswerIsStillAStream) {
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    server_.backend().Push(Say("", FinishReason::kLength));
    const auto events = Stream(path, {});
    EXPECT_EQ(Reasons(events), (std::map<int, std::string>{{0, "length"}})) << path;
    EXPECT_EQ(Texts(events)[0], "");
  }
  const auto none = Stream("/v1/completions", {{"max_tokens", 0}, {"stream_options", {{"include_usage", true}}}});
  EXPECT_EQ(Reasons(none), (std::map<int, std::string>{{0, "length"}}));
  EXPECT_EQ(none.back()["usage"]["completion_tokens"], 0);
}

TEST_F(StreamTest, AFailureOfOneChoiceIsTheLastEvent) {
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    FakeScript failing = Say("ab");
    failing.error = UnavailableError("the worker died");
    FakeScript endless = Say("c");
    endless.forever = true;
    server_.backend().Push(failing);
    server_.backend().Push(endless);
    Json body = {{"n", 2}, {"stream", true}, {"prompt", "p"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"max_tokens", 2000}};
    const HttpReply reply = Post(server_.port(), path, body);
    const auto events = Events(reply.body);
    EXPECT_EQ(events.back()["error"]["message"], "the worker died") << path;
    EXPECT_EQ(reply.body.find("[DONE]"), std::string::npos) << "an error is no end";
    EXPECT_TRUE(server_.backend().AwaitRunning(0)) << "the other choice is cancelled";
  }
}

TEST_F(StreamTest, ResponsesStreamsFailInTheSameWay) {
  FakeScript failing = Say("ab");
  failing.error = UnavailableError("the worker died");
  server_.backend().Push(failing);
  const HttpReply reply = Post(server_.port(), "/v1/responses", {{"input", "x"}, {"stream", true}});
  EXPECT_NE(reply.body.find("the worker died"), std::string::npos);
  EXPECT_EQ(reply.body.find("response.completed"), std::string::npos);
}

TEST_F(StreamTest, RoutesAndRequestIdsComeWithTheHeaders) {
  HttpSocket socket(server_.port());
  socket.Post("/v1/completions", R"({"prompt":"p","stream":true})", "X-Request-Id: s-1\r\n");
  const HttpReply reply = socket.Read();
  EXPECT_EQ(reply.headers.at("x-request-id"), "s-1");
  EXPECT_EQ(reply.headers.at("x-baton-route"), "prefill=1 decode=2 prefix=memory");
  EXPECT_EQ(reply.headers.at("transfer-encoding"), "chunked");
  EXPECT_FALSE(reply.headers.contains("content-length"));
}

TEST_F(StreamTest, ToolMessagesReachTheTemplate) {
  const Json call = {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {{{"id", "1"}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", "{}"}}}}}}};
  const Json body = {{"messages", {{{"role", "user"}, {"content", "weather?"}}, call, {{"role", "tool"}, {"tool_call_id", "1"}, {"content", "rain"}}}},
                     {"tools", {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", Json::object()}}}}}}};
  ASSERT_FALSE(Stream("/v1/chat/completions", body).empty());
  EXPECT_EQ(FakeCodec().Decode(server_.backend().requests().at(0).prompt), "user:weather?\nassistant:\ntool:rain\nassistant:");
}

/// Whatever the answers and stops: the stream's pieces are the whole answer, choice by choice.
TEST_F(StreamTest, RandomStreamsAreTheWholeAnswers) {
  Random random(8);
  const std::vector<std::string> alphabet = {"a", "b", "S", "T", "\xc3\xa9", "\xf0\x9f\x98\x80", "\"", "\n", "\xff"};
  for (int round = 0; round < 60; ++round) {
    std::vector<FakeScript> scripts;
    const auto n = static_cast<int>(1 + random.Below(3));
    for (int i = 0; i < n; ++i) {
      std::string text;
      for (uint64_t j = 0; j < random.Below(10); ++j) text += alphabet[random.Below(alphabet.size())];
      scripts.push_back(Say(text, random.Below(2) == 0 ? FinishReason::kStop : FinishReason::kLength));
      scripts.back().immediate = random.Below(3) == 0;
    }
    Json body = {{"prompt", "p"}, {"n", n}, {"seed", round}, {"include_stop_str_in_output", random.Below(2) == 0}};
    if (random.Below(2) == 0) body["stop"] = {"ST", "\xc3\xa9" "a"};
    for (const FakeScript& script : scripts) server_.backend().Push(script);
    const auto whole = Post(server_.port(), "/v1/completions", body).json();
    for (const FakeScript& script : scripts) server_.backend().Push(script);
    const auto events = Stream("/v1/completions", body);
    auto texts = Texts(events);
    const auto reasons = Reasons(events);
    ASSERT_EQ(whole["choices"].size(), static_cast<size_t>(n));
    for (const auto& choice : whole["choices"]) {
      EXPECT_EQ(texts[choice["index"]], choice["text"]) << "round " << round;
      EXPECT_EQ(reasons.at(choice["index"]), choice["finish_reason"]) << "round " << round;
    }
  }
}

}  // namespace
}  // namespace baton
