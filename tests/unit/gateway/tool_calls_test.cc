// Function calls: cut out of answers however they are cut into pieces, forced by a grammar, and told over the API.
#include "gateway/tool_calls.h"

#include "base/random.h"
#include "model/grammar/grammar.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"
#include "tests/unit/model/grammar_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<std::string> kNames{"add", "now"};

struct ReaderCase {
  const char *name, *answer, *text;
  std::vector<std::pair<std::string, std::string>> calls;
};

class Reader : public testing::TestWithParam<ReaderCase> {
 protected:
  static void Add(ToolCallReader::Piece piece, std::string& text, std::vector<std::pair<std::string, std::string>>& calls) {
    text += piece.text;
    for (const ToolCall& call : piece.calls) calls.emplace_back(call.name, call.arguments);
  }
};

TEST_P(Reader, TheOutcomeDoesNotDependOnThePieces) {
  const std::string answer = GetParam().answer;
  Random random(9);
  for (int round = 0; round < 200; ++round) {
    ToolCallReader reader(kNames);
    std::string text;
    std::vector<std::pair<std::string, std::string>> calls;
    for (size_t at = 0; at < answer.size();) {
      const size_t n = round == 0 ? answer.size() : round == 1 ? 1 : 1 + random.Below(9);
      Add(reader.Push(answer.substr(at, n)), text, calls);
      at += n;
    }
    Add(reader.Finish(), text, calls);
    ASSERT_EQ(text, GetParam().text);
    ASSERT_EQ(calls, GetParam().calls);
    ASSERT_EQ(reader.calls(), calls.size());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Answers, Reader,
    testing::Values(
        ReaderCase{"text", "Hello, world", "Hello, world", {}}, ReaderCase{"empty", "", "", {}}, ReaderCase{"blank", " \n", " \n", {}},
        ReaderCase{"text_that_nearly_calls", "a <tool_cal and <tool", "a <tool_cal and <tool", {}},
        ReaderCase{"one_call", "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2]}}\n</tool_call>", "", {{"add", R"({"a":1,"b":[2]})"}}},
        ReaderCase{"leading_space", "\n <tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>", "", {{"now", "{}"}}},
        ReaderCase{"two_calls", "<tool_call>{\"name\":\"now\"}</tool_call>\n<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":2}}</tool_call>\n", "", {{"now", "{}"}, {"add", R"({"a":2})"}}},
        ReaderCase{"text_then_call", "Let me see.\n<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>", "Let me see.\n", {{"now", "{}"}}},
        ReaderCase{"call_then_text", "<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call> done", "done", {{"now", "{}"}}},
        ReaderCase{"arguments_as_text", R"(<tool_call>{"name":"add","arguments":"{\"a\":1}"}</tool_call>)", "", {{"add", R"({"a":1})"}}},
        ReaderCase{"bare_object", R"({"name": "add", "parameters": {"a": 1}})", "", {{"add", R"({"a":1})"}}},
        ReaderCase{"bare_object_of_something_else", R"({"answer": 42})", R"({"answer": 42})", {}},
        ReaderCase{"bare_text_with_brace", "{not json", "{not json", {}},
        ReaderCase{"unknown_function", R"(<tool_call>{"name":"rm","arguments":{}}</tool_call>)", R"(<tool_call>{"name":"rm","arguments":{}}</tool_call>)", {}},
        ReaderCase{"broken_json", "<tool_call>{\"name\": </tool_call>x", "<tool_call>{\"name\": </tool_call>x", {}},
        ReaderCase{"no_object", "<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", {}},
        ReaderCase{"wrong_arguments", R"(<tool_call>{"name":"add","arguments":5}</tool_call>)", R"(<tool_call>{"name":"add","arguments":5}</tool_call>)", {}},
        ReaderCase{"cut_short", R"(<tool_call>{"name":"add","argu)", R"(<tool_call>{"name":"add","argu)", {}},
        ReaderCase{"close_missing_but_whole", R"(<tool_call>{"name":"now","arguments":{}})", "", {{"now", "{}"}}},
        ReaderCase{"unicode", "é<tool_call>{\"name\":\"add\",\"arguments\":{\"s\":\"漢\"}}</tool_call>", "é", {{"add", "{\"s\":\"漢\"}"}}}),
    [](const auto& info) { return info.param.name; });

TEST(ToolCallReader, WithoutToolsEverythingIsText) {
  const std::vector<std::string> none;
  ToolCallReader reader(none);
  const std::string text = "<tool_call>{\"name\":\"add\"}</tool_call>";
  EXPECT_EQ(reader.Push(text).text, text);
  EXPECT_EQ(reader.Finish().text, "");
}

const Json kTools = Json::parse(R"([
  {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}},
                                    "required": ["a", "b"], "$defs": {"n": {"type": "integer"}}}}},
  {"type": "function", "function": {"name": "now"}}])");

TEST(ToolCallGrammar, AllowsOneCallOfAnyToolOrOfTheNamedOne) {
  const auto any = ToolCallGbnf(kTools, "");
  ASSERT_TRUE(any.ok()) << any.status().ToString();
  const auto matcher = NewMatcher(*any);
  ASSERT_NE(matcher, nullptr) << *any;
  EXPECT_TRUE(Matches(*matcher, "<tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":-2}}\n</tool_call>"));
  EXPECT_TRUE(Matches(*matcher, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(Matches(*matcher, "<tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":1}}\n</tool_call>"));
  EXPECT_FALSE(Matches(*matcher, "<tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":\"x\"}}\n</tool_call>"));
  EXPECT_FALSE(Matches(*matcher, "<tool_call>\n{\"name\":\"rm\",\"arguments\":{}}\n</tool_call>"));
  EXPECT_FALSE(Matches(*matcher, "hello"));
  const auto one = ToolCallGbnf(kTools, "now");
  ASSERT_TRUE(one.ok());
  EXPECT_TRUE(Matches(*one, "<tool_call>\n{\"name\":\"now\",\"arguments\":{\"x\":1}}\n</tool_call>"));
  EXPECT_FALSE(Matches(*one, "<tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":2}}\n</tool_call>"));
  EXPECT_THAT(ToolCallGbnf(kTools, "none").status().message(), testing::HasSubstr("no tool \"none\""));
}

class ToolCalls : public testing::Test {
 protected:
  static Json Body(const Json& more = Json::object()) {
    Json body = {{"model", "org/fake-model"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"tools", kTools}};
    body.update(more);
    return body;
  }
  static std::vector<TokenId> Bytes(std::string_view text) {
    std::vector<TokenId> out;
    for (const char c : text) out.push_back(static_cast<uint8_t>(c));
    return out;
  }
  HttpReply Ask(const Json& body, std::string_view answer) {
    FakeScript script;
    script.tokens = Bytes(answer);
    server_.backend().Push(script);
    return Post(server_.port(), "/v1/chat/completions", body);
  }
  GatewayServer server_;
};

constexpr std::string_view kAnswer = "Sure.<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":2}}</tool_call><tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>";

TEST_F(ToolCalls, WholeAnswer) {
  const auto choice = Ask(Body(), kAnswer).json()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["content"], "Sure.");
  const auto& calls = choice["message"]["tool_calls"];
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0]["type"], "function");
  EXPECT_EQ(calls[0]["function"]["name"], "add");
  EXPECT_EQ(nlohmann::json::parse(calls[0]["function"]["arguments"].get<std::string>()), (nlohmann::json{{"a", 1}, {"b", 2}}));
  EXPECT_EQ(calls[1]["function"]["name"], "now");
  EXPECT_NE(calls[0]["id"], calls[1]["id"]);
}

TEST_F(ToolCalls, AnAnswerThatIsOnlyACallHasNoContent) {
  const auto message = Ask(Body(), R"(<tool_call>{"name":"now","arguments":{}}</tool_call>)").json()["choices"][0]["message"];
  EXPECT_TRUE(message["content"].is_null());
  EXPECT_EQ(message["tool_calls"].size(), 1u);
}

TEST_F(ToolCalls, StreamedOneEventAToken) {
  const HttpReply reply = Ask(Body({{"stream", true}}), kAnswer);
  auto events = Events(reply.body);
  ASSERT_EQ(events.back(), "[DONE]");
  events.pop_back();
  EXPECT_EQ(events.size(), kAnswer.size() + 2) << "the beginning, the tokens, the end";
  std::string content;
  std::vector<nlohmann::json> calls;
  for (const auto& event : events) {
    const auto& delta = event["choices"][0]["delta"];
    content += delta.value("content", "");
    for (const auto& call : delta.value("tool_calls", nlohmann::json::array())) calls.push_back(call);
  }
  EXPECT_EQ(content, "Sure.");
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0]["index"], 0);
  EXPECT_EQ(calls[1]["index"], 1);
  EXPECT_EQ(calls[1]["function"], (nlohmann::json{{"name", "now"}, {"arguments", "{}"}}));
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "tool_calls");
}

TEST_F(ToolCalls, NoneAndNoToolsMeanText) {
  for (Json body : {Body({{"tool_choice", "none"}}), Body({{"tools", nullptr}}), Body({{"tools", Json::array()}})}) {
    const auto choice = Ask(body, kAnswer).json()["choices"][0];
    EXPECT_EQ(choice["message"]["content"], kAnswer) << body.dump();
    EXPECT_FALSE(choice["message"].contains("tool_calls"));
    EXPECT_EQ(choice["finish_reason"], "stop");
  }
}

TEST_F(ToolCalls, AForcedCallReachesTheBackendAsAGrammar) {
  Ask(Body({{"tool_choice", "required"}}), kAnswer);
  Ask(Body({{"tool_choice", {{"type", "function"}, {"function", {{"name", "now"}}}}}}), kAnswer);
  Ask(Body(), kAnswer);
  const auto requests = server_.backend().requests();
  EXPECT_EQ(requests.at(0).sampling.grammar, *ToolCallGbnf(kTools, ""));
  EXPECT_EQ(requests.at(1).sampling.grammar, *ToolCallGbnf(kTools, "now"));
  EXPECT_EQ(requests.at(2).sampling.grammar, "");
}

TEST_F(ToolCalls, WhatIsWrongIsNamed) {
  const std::vector<std::pair<Json, std::string>> cases{
      {{{"tools", 5}}, "tools"}, {{{"tools", {5}}}, "tools.0"}, {{{"tools", {{{"type", "function"}}}}}, "tools.0"}, {{{"tools", {{{"type", "web"}, {"function", {{"name", "x"}}}}}}}, "tools.0"},
      {{{"tool_choice", "maybe"}}, "tool_choice"}, {{{"tool_choice", {{"type", "function"}, {"function", {{"name", "none"}}}}}}, "tool_choice"},
      {{{"tool_choice", {{"type", "function"}}}}, "tool_choice"}, {{{"tools", nullptr}, {"tool_choice", "required"}}, "tool_choice"},
      {{{"tool_choice", "required"}, {"response_format", {{"type", "json_object"}}}}, "tool_choice"},
      {{{"tools", {{{"type", "function"}, {"function", {{"name", "x"}, {"parameters", {{"type", "strnig"}}}}}}}}, {"tool_choice", "required"}}, "tools"}};
  for (const auto& [more, param] : cases) {
    const HttpReply reply = Post(server_.port(), "/v1/chat/completions", Body(more));
    EXPECT_EQ(reply.status, 400) << more.dump();
    EXPECT_EQ(reply.json()["error"]["param"], param) << more.dump();
  }
  EXPECT_TRUE(server_.backend().requests().empty());
}

}  // namespace
}  // namespace baton
