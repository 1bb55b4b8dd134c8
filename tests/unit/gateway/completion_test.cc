// /v1/completions and /v1/responses over real sockets.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class Completion : public testing::Test {
 protected:
  HttpReply Ask(const Json& body) { return Post(server_.port(), "/v1/completions", body); }
  static FakeScript Say(const std::string& text) {
    FakeScript script;
    for (const char c : text) script.tokens.push_back(static_cast<uint8_t>(c));
    return script;
  }
  GatewayServer server_;
};

TEST_F(Completion, AnswersWhole) {
  const auto json = Ask({{"prompt", "once"}}).json();
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["id"].get<std::string>().rfind("cmpl-", 0), 0u);
  EXPECT_EQ(json["choices"][0]["text"], "Hello world");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(json["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(json["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(server_.backend().requests().at(0).max_tokens, 16u);  // OpenAI's default
}

TEST_F(Completion, EveryFormOfPrompt) {
  EXPECT_EQ(Ask({{"prompt", {"ab", "cde"}}}).json()["choices"].size(), 2u);
  EXPECT_EQ(Ask({{"prompt", {1, 2, 3}}}).json()["choices"].size(), 1u);
  EXPECT_EQ(Ask({{"prompt", {{1, 2}, {3}}}}).json()["choices"].size(), 2u);
  EXPECT_EQ(Ask({{"prompt", "<|end|>x"}}).status, 200);
  const auto requests = server_.backend().requests();
  EXPECT_EQ(requests[1].prompt, (std::vector<TokenId>{'c', 'd', 'e'}));
  EXPECT_EQ(requests[2].prompt, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(requests[4].prompt, (std::vector<TokenId>{3}));
  EXPECT_EQ(requests[5].prompt, (std::vector<TokenId>{FakeCodec::kEnd, 'x'}));
}

TEST_F(Completion, ChoicesAreInTheOrderOfThePrompts) {
  for (const char* text : {"a", "b", "c", "d"}) server_.backend().Push(Say(text));
  const auto json = Ask({{"prompt", {"p", "qq"}}, {"n", 2}, {"seed", 5}}).json();
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["text"], std::string(1, static_cast<char>('a' + i)));
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 3);
  const auto requests = server_.backend().requests();
  EXPECT_EQ(requests[0].sampling.seed, requests[2].sampling.seed);  // a prompt's answer does not depend on its neighbours
  EXPECT_EQ(requests[1].sampling.seed, requests[3].sampling.seed);
}

TEST_F(Completion, EchoAndNoTokens) {
  EXPECT_EQ(Ask({{"prompt", "once "}, {"echo", true}}).json()["choices"][0]["text"], "once Hello world");
  const auto json = Ask({{"prompt", {'a', 'b'}}, {"echo", true}, {"max_tokens", 0}}).json();
  EXPECT_EQ(json["choices"][0]["text"], "ab");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 0);
  EXPECT_EQ(server_.backend().requests().size(), 1u);  // nothing was generated for the second
}

TEST_F(Completion, BestOfReturnsTheLikeliest) {
  server_.backend().Push(Say("abcd"));  // the fake's logprobs fall within four tokens, so the shorter is likelier
  server_.backend().Push(Say("a"));
  server_.backend().Push(Say("ab"));
  const auto json = Ask({{"prompt", "p"}, {"n", 2}, {"best_of", 3}}).json();
  ASSERT_EQ(json["choices"].size(), 2u);
  EXPECT_EQ(json["choices"][0]["text"], "a");
  EXPECT_EQ(json["choices"][0]["index"], 0);
  EXPECT_EQ(json["choices"][1]["text"], "ab");
  EXPECT_TRUE(json["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(json["usage"]["completion_tokens"], 7);
}

TEST_F(Completion, Logprobs) {
  server_.backend().Push(Say("é!"));
  const auto logprobs = Ask({{"prompt", "p"}, {"logprobs", 1}}).json()["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], (nlohmann::json{"\xef\xbf\xbd", "\xef\xbf\xbd", "!"}));
  EXPECT_EQ(logprobs["token_logprobs"], (nlohmann::json{-0.5, -0.75, -1.0}));
  EXPECT_EQ(logprobs["text_offset"], (nlohmann::json{0, 1, 2}));
  EXPECT_EQ(logprobs["top_logprobs"][2], (nlohmann::json{{"!", -1.0}}));
}

TEST_F(Completion, Streams) {
  const HttpReply reply = Ask({{"prompt", "once "}, {"stream", true}, {"logprobs", 2}, {"stream_options", {{"include_usage", true}}}});
  const auto events = Events(reply.body);
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0]["object"], "text_completion");
  EXPECT_EQ(events[0]["choices"][0]["text"], "Hello");
  EXPECT_EQ(events[1]["choices"][0]["logprobs"]["text_offset"], nlohmann::json{5});
  EXPECT_EQ(events[1]["choices"][0]["logprobs"]["top_logprobs"][0], (nlohmann::json{{" world", -0.75}, {"z", -2.0}}));
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[3]["usage"]["completion_tokens"], 2);
  EXPECT_EQ(events[4], "[DONE]");
}

TEST_F(Completion, StreamsWithEcho) {
  const auto events = Events(Ask({{"prompt", "once "}, {"stream", true}, {"echo", true}}).body);
  std::string text;
  for (size_t i = 0; i + 1 < events.size(); ++i) text += events[i]["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(text, "once Hello world");
}

TEST_F(Completion, Responses) {
  const auto ask = [this](const Json& body) { return Post(server_.port(), "/v1/responses", body); };
  const auto json = ask({{"input", "hi"}, {"instructions", "be brief"}, {"max_output_tokens", 9}}).json();
  EXPECT_EQ(json["object"], "response");
  EXPECT_EQ(json["status"], "completed");
  EXPECT_EQ(json["output"][0]["content"][0]["text"], "Hello world");
  EXPECT_EQ(json["usage"]["output_tokens"], 2);
  EXPECT_GT(json["usage"]["input_tokens_details"]["cached_tokens"], 0);
  const auto request = server_.backend().requests().at(0);
  EXPECT_EQ(FakeCodec().Decode(request.prompt), "system:be brief\nuser:hi\nassistant:");
  EXPECT_EQ(request.max_tokens, 9u);
  const auto cut = ask({{"input", {{{"role", "user"}, {"content", {{{"type", "input_text"}, {"text", "hi"}}}}}}}, {"max_output_tokens", 1}}).json();
  EXPECT_EQ(cut["status"], "incomplete");
  EXPECT_EQ(cut["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(ask({{"input", "x"}, {"previous_response_id", "r"}}).error()["param"], "previous_response_id");
  EXPECT_EQ(ask({{"input", "x"}, {"text", {{"format", {{"type", "xml"}}}}}}).status, 400);
  EXPECT_EQ(ask({{"input", 3}}).error()["param"], "input");
  EXPECT_EQ(ask({{"input", {{{"content", "x"}}}}}).error()["param"], "input.0.role");
}

TEST_F(Completion, ResponsesStream) {
  const auto events = Events(Post(server_.port(), "/v1/responses", {{"input", "hi"}, {"stream", true}}).body);
  std::string text;
  std::vector<std::string> types;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i]["sequence_number"], i);
    types.push_back(events[i]["type"]);
    if (types.back() == "response.output_text.delta") text += events[i]["delta"].get<std::string>();
  }
  EXPECT_EQ(text, "Hello world");
  EXPECT_EQ(types, (std::vector<std::string>{"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
                                             "response.output_text.delta", "response.output_text.delta", "response.output_text.done",
                                             "response.content_part.done", "response.output_item.done", "response.completed"}));
  EXPECT_EQ(events.back()["response"]["output"][0]["content"][0]["text"], "Hello world");
  EXPECT_EQ(events.back()["response"]["usage"]["output_tokens"], 2);
}

}  // namespace
}  // namespace baton
