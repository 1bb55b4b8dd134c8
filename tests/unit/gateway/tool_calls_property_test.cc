// Function calls against a reader of the whole text: random answers made of calls, near-calls, spaces and text, cut anywhere, say the
// same; what is no call is text to the last byte; and over the API the streamed deltas add up to the whole message.
#include "base/random.h"
#include "gateway/json_text.h"
#include "gateway/tool_calls.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<std::string> kNames{"add", "now"};

struct Outcome {
  std::string text;
  std::vector<std::pair<std::string, std::string>> calls;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};
void Take(ToolCallReader::Piece piece, Outcome& out) {
  out.text += piece.text;
  for (const ToolCall& call : piece.calls) out.calls.emplace_back(call.name, call.arguments);
}
Outcome ReadWhole(const std::string& answer) {
  ToolCallReader reader(kNames);
  Outcome out;
  Take(reader.PushLast(answer), out);
  return out;
}

std::string RandomAnswer(Random& random) {
  static const std::vector<std::string> parts = {
      "<tool_call>", "</tool_call>", "<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1}}</tool_call>", "<tool_call>\n{\"name\":\"now\"}\n</tool_call>", "<tool_call>{\"name\":\"rm\"}</tool_call>",
      "<tool_call>[]</tool_call>", "<tool", "_call>", "<", ">", "{", "}", "{\"name\":\"add\",\"parameters\":{}}", "\n", " ", "\t", "text", "é", "\"", "</tool_call", "<tool_call><tool_call>"};
  std::string answer;
  for (uint64_t i = random.Below(7); i > 0; --i) answer += parts[random.Below(parts.size())];
  return answer;
}

TEST(ToolCallProperties, AnyCutSaysTheSame) {
  Random random(17);
  size_t with_calls = 0;
  for (int round = 0; round < 4000; ++round) {
    const std::string answer = RandomAnswer(random);
    const Outcome whole = ReadWhole(answer);
    with_calls += !whole.calls.empty();
    ToolCallReader reader(kNames);
    Outcome cut;
    for (size_t at = 0; at < answer.size();) {
      const size_t n = 1 + random.Below(8);
      Take(reader.Push(std::string_view(answer).substr(at, n)), cut);
      at += n;
    }
    Take(reader.Finish(), cut);
    ASSERT_EQ(cut, whole) << Json(ValidUtf8(answer)).dump();
    if (whole.calls.empty()) {
      ASSERT_EQ(whole.text, answer) << "without a call every byte is text";
    }
    for (const auto& [name, arguments] : whole.calls) {
      ASSERT_TRUE(name == "add" || name == "now");
      ASSERT_TRUE(Json::parse(arguments, nullptr, false).is_object());
    }
  }
  EXPECT_GT(with_calls, 500u);
}

TEST(ToolCallProperties, SpaceBeforeWhatIsNoCallAfterAllIsKept) {
  for (const char* answer : {"\n <tool_call>oops</tool_call>", "  <tool_call>{\"name\":\"rm\"}</tool_call>", "\t<tool_call>{\"name\":\"add\"", " \n<tool_call></tool_call>\n", "\n\n<tool_call>"}) {
    const Outcome out = ReadWhole(answer);
    EXPECT_EQ(out.text, answer);
    EXPECT_TRUE(out.calls.empty());
  }
}

/// A model can be led to write anything: nesting that would overflow a stack, and objects of very many keys, are text like any other
/// that is no call.
TEST(ToolCallProperties, ArgumentsNestedBeyondALimitAreText) {
  const auto nested = [](size_t levels) { return R"(<tool_call>{"name":"add","arguments":{"a":)" + std::string(levels, '[') + std::string(levels, ']') + "}}</tool_call>"; };
  EXPECT_EQ(ReadWhole(nested(10)).calls.size(), 1u);
  for (const size_t levels : {size_t{100}, size_t{200'000}}) {
    const Outcome out = ReadWhole(nested(levels));
    EXPECT_TRUE(out.calls.empty());
    EXPECT_EQ(out.text, nested(levels));
  }
  std::string keys;
  for (int i = 0; i <= kMaxJsonKeys; ++i) keys += fmt::format("{}\"k{}\":1", i ? "," : "", i);
  EXPECT_TRUE(ReadWhole("<tool_call>{\"name\":\"add\",\"arguments\":{" + keys + "}}</tool_call>").calls.empty());
}

TEST(ToolCallProperties, StreamedDeltasAddUpToTheWholeMessage) {
  GatewayServer server;
  Random random(23);
  const Json tools = Json::parse(R"([{"type":"function","function":{"name":"add"}},{"type":"function","function":{"name":"now"}}])");
  for (int round = 0; round < 60; ++round) {
    const uint32_t n = 1 + static_cast<uint32_t>(random.Below(3));
    std::vector<FakeScript> scripts(n);
    for (FakeScript& script : scripts) {
      for (const char c : RandomAnswer(random)) script.tokens.push_back(static_cast<uint8_t>(c));
      script.reason = random.Below(3) == 0 ? FinishReason::kLength : FinishReason::kStop;
    }
    const Json body = {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"tools", tools}, {"n", n}, {"max_tokens", 600}};
    for (const FakeScript& script : scripts) server.backend().Push(script);
    const auto whole = Post(server.port(), "/v1/chat/completions", body).json();
    for (const FakeScript& script : scripts) server.backend().Push(script);
    Json streamed = body;
    streamed["stream"] = true;
    std::vector<std::string> text(n), reason(n);
    std::vector<std::map<uint32_t, std::pair<std::string, std::string>>> calls(n);
    std::set<std::string> ids;
    for (const auto& event : Events(Post(server.port(), "/v1/chat/completions", streamed).body)) {
      if (!event.is_object()) continue;
      const auto& choice = event["choices"][0];
      const size_t index = choice["index"];
      const auto& delta = choice["delta"];
      if (delta.contains("content")) text[index] += delta["content"].get<std::string>();
      if (delta.contains("tool_calls")) {
        for (const auto& call : delta["tool_calls"]) {
          calls[index][call["index"]] = {call["function"]["name"], call["function"]["arguments"]};
          EXPECT_TRUE(ids.insert(call["id"]).second) << "an id is of one call";
          EXPECT_EQ(call["type"], "function");
        }
      }
      if (!choice["finish_reason"].is_null()) reason[index] = choice["finish_reason"];
    }
    for (size_t i = 0; i < n; ++i) {
      const auto& choice = whole["choices"][i];
      const auto& message = choice["message"];
      EXPECT_EQ(text[i], message["content"].is_null() ? "" : message["content"].get<std::string>());
      EXPECT_EQ(reason[i], choice["finish_reason"]);
      const auto& whole_calls = message.contains("tool_calls") ? message["tool_calls"] : nlohmann::json::array();
      ASSERT_EQ(calls[i].size(), whole_calls.size());
      for (uint32_t c = 0; c < whole_calls.size(); ++c) {
        EXPECT_EQ(calls[i][c].first, whole_calls[c]["function"]["name"]);
        EXPECT_EQ(calls[i][c].second, whole_calls[c]["function"]["arguments"]);
      }
      const bool calls_end = !calls[i].empty() && scripts[i].reason == FinishReason::kStop;
      EXPECT_EQ(reason[i], calls_end ? "tool_calls" : scripts[i].reason == FinishReason::kLength ? "length" : "stop");
    }
  }
}

}  // namespace
}  // namespace baton
