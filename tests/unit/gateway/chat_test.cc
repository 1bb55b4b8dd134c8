// /v1/chat/completions over real sockets.
#include "base/random.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class Chat : public testing::Test {
 protected:
  static Json Body() { return {{"model", "org/fake-model"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}}; }
  HttpReply Ask(const Json& body, const std::string& headers = "") { return Post(server_.port(), "/v1/chat/completions", body, headers); }
  /// The events of a stream, which must end with [DONE].
  std::vector<nlohmann::json> Stream(Json body) {
    body["stream"] = true;
    const HttpReply reply = Ask(body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    EXPECT_TRUE(reply.complete);
    auto events = Events(reply.body);
    EXPECT_FALSE(events.empty());
    EXPECT_EQ(events.back(), "[DONE]");
    events.pop_back();
    return events;
  }
  static std::string Text(const std::vector<nlohmann::json>& events, int index = 0) {
    std::string text;
    for (const auto& event : events) {
      for (const auto& choice : event["choices"]) {
        if (choice["index"] == index) text += choice["delta"].value("content", "");
      }
    }
    return text;
  }

  GatewayServer server_;
};

TEST_F(Chat, AnswersWhole) {
  const HttpReply reply = Ask(Body());
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  EXPECT_EQ(reply.headers.at("x-baton-route"), "prefill=1 decode=2 prefix=memory");
  const auto json = reply.json();
  EXPECT_EQ(json["id"].get<std::string>().rfind("chatcmpl-", 0), 0u);
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_GT(json["created"], 1600000000);
  EXPECT_EQ(json["model"], "org/fake-model");
  EXPECT_EQ(json["system_fingerprint"], "fp_0123456789ab");
  ASSERT_EQ(json["choices"].size(), 1u);
  const nlohmann::json choice = json["choices"][0];
  EXPECT_EQ(choice["index"], 0);
  EXPECT_EQ(choice["message"], (nlohmann::json{{"role", "assistant"}, {"content", "Hello world"}, {"refusal", nullptr}}));
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_EQ(choice["finish_reason"], "stop");
  const size_t prompt = std::string("user:hi\nassistant:").size();
  EXPECT_EQ(json["usage"], (nlohmann::json{{"prompt_tokens", prompt}, {"completion_tokens", 2}, {"total_tokens", prompt + 2},
                                           {"prompt_tokens_details", {{"cached_tokens", prompt / 2}, {"cache_write_tokens", prompt - prompt / 2}}},
                                           {"completion_tokens_details", {{"accepted_prediction_tokens", 0}, {"rejected_prediction_tokens", 0}}}}));
}

TEST_F(Chat, DefaultsReachTheBackend) {
  ASSERT_EQ(Ask(Body()).status, 200);
  const GenerateRequest request = server_.backend().requests().at(0);
  EXPECT_NE(request.id.value, 0u);
  EXPECT_EQ(FakeCodec().Decode(request.prompt), "user:hi\nassistant:");
  EXPECT_EQ(request.max_tokens, 2048 - request.prompt.size());
  EXPECT_EQ(request.sampling.temperature, 1);
  EXPECT_EQ(request.sampling.logprobs, -1);
  EXPECT_FALSE(request.ignore_eos);
  EXPECT_EQ(request.tenant, "");
}

TEST_F(Chat, EveryParameterReachesTheBackend) {
  Json body = Body();
  body.update({{"temperature", 0.5}, {"top_p", 0.9}, {"top_k", 40}, {"min_p", 0.05}, {"typical_p", 0.8}, {"repetition_penalty", 1.1},
               {"presence_penalty", 0.25}, {"frequency_penalty", -0.5}, {"seed", -7}, {"max_completion_tokens", 5}, {"max_tokens", 99},
               {"ignore_eos", true}, {"stop_token_ids", {3, 4}}, {"logit_bias", {{"65", -100}, {"66", 2.5}}}, {"priority", 3},
               {"user", "u"}, {"some_future_field", {{"a", 1}}}});
  ASSERT_EQ(Ask(body).status, 200);
  const GenerateRequest r = server_.backend().requests().at(0);
  EXPECT_EQ(r.sampling.temperature, 0.5);
  EXPECT_EQ(r.sampling.top_p, 0.9);
  EXPECT_EQ(r.sampling.top_k, 40u);
  EXPECT_EQ(r.sampling.min_p, 0.05);
  EXPECT_EQ(r.sampling.typical_p, 0.8);
  EXPECT_EQ(r.sampling.repetition_penalty, 1.1);
  EXPECT_EQ(r.sampling.presence_penalty, 0.25);
  EXPECT_EQ(r.sampling.frequency_penalty, -0.5);
  EXPECT_EQ(r.sampling.seed, static_cast<uint64_t>(-7));
  EXPECT_EQ(r.max_tokens, 5u);
  EXPECT_TRUE(r.ignore_eos);
  EXPECT_EQ(r.stop_tokens, (std::vector<TokenId>{3, 4}));
  EXPECT_EQ(r.sampling.logit_bias, (std::map<TokenId, float>{{65, -100.0f}, {66, 2.5f}}));
  EXPECT_EQ(r.priority, 3);
}

TEST_F(Chat, NullAndMinusOneMeanTheDefault) {
  Json body = Body();
  for (const char* name : {"temperature", "top_p", "n", "stop", "seed", "max_tokens", "logit_bias", "stream", "stream_options", "logprobs",
                           "tools", "tool_choice", "response_format", "stop_token_ids"}) {
    body[name] = nullptr;
  }
  body["top_k"] = -1;
  ASSERT_EQ(Ask(body).status, 200);
  EXPECT_EQ(server_.backend().requests().at(0).sampling.top_k, 0u);
}

TEST_F(Chat, StreamsOneEventAToken) {
  Json body = Body();
  body["stream_options"] = {{"include_usage", true}};
  const auto events = Stream(body);
  ASSERT_EQ(events.size(), 5u);  // role, two tokens, end, usage
  for (const auto& event : events) {
    EXPECT_EQ(event["id"], events[0]["id"]);
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    EXPECT_EQ(event["model"], "org/fake-model");
    EXPECT_EQ(event["system_fingerprint"], "fp_0123456789ab");
  }
  EXPECT_EQ(events[0]["choices"][0]["delta"], (nlohmann::json{{"role", "assistant"}, {"content", ""}}));
  EXPECT_EQ(events[1]["choices"][0]["delta"], (nlohmann::json{{"content", "Hello"}}));
  EXPECT_EQ(events[2]["choices"][0]["delta"], (nlohmann::json{{"content", " world"}}));
  EXPECT_EQ(events[3]["choices"][0]["delta"], nlohmann::json::object());
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(events[i].contains("usage") && events[i]["usage"].is_null());
    EXPECT_EQ(events[i]["choices"][0]["finish_reason"], i == 3 ? nlohmann::json("stop") : nlohmann::json());
  }
  EXPECT_EQ(events[4]["choices"], nlohmann::json::array());
  EXPECT_EQ(events[4]["usage"]["completion_tokens"], 2);
  EXPECT_EQ(events[4]["usage"]["prompt_tokens_details"]["cached_tokens"], 9);
}

TEST_F(Chat, StreamHeaders) {
  Json body = Body();
  body["stream"] = true;
  const HttpReply reply = Ask(body, "X-Request-Id: abc-1\r\n");
  EXPECT_EQ(reply.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(reply.headers.at("cache-control"), "no-cache");
  EXPECT_EQ(reply.headers.at("x-request-id"), "abc-1");
  EXPECT_EQ(reply.headers.at("x-baton-route"), "prefill=1 decode=2 prefix=memory");
  EXPECT_EQ(reply.body.find("usage"), std::string::npos);
}

TEST_F(Chat, ContinuousUsage) {
  Json body = Body();
  body["stream_options"] = {{"include_usage", true}, {"continuous_usage_stats", true}};
  const auto events = Stream(body);
  EXPECT_EQ(events[1]["usage"]["completion_tokens"], 1);
  EXPECT_EQ(events[2]["usage"]["completion_tokens"], 2);
  EXPECT_EQ(events[2]["usage"]["prompt_tokens"], 18);
}

TEST_F(Chat, CharactersAreNeverSplit) {
  FakeScript script;
  for (const char c : std::string("a😀é")) script.tokens.push_back(static_cast<uint8_t>(c));
  server_.backend().Push(script);
  const auto events = Stream(Body());
  EXPECT_EQ(events.size(), 1u + 7 + 1);  // tokens whose text is held back have an event all the same
  EXPECT_EQ(Text(events), "a😀é");
}

TEST_F(Chat, ACharacterLeftIncompleteEndsAsAReplacement) {
  FakeScript script;
  script.tokens = {'a', 0xf0, 0x9f};
  server_.backend().Push(script);
  const auto events = Stream(Body());
  EXPECT_EQ(Text(events), "a\xef\xbf\xbd");
  EXPECT_EQ(events.back()["choices"][0]["delta"]["content"], "\xef\xbf\xbd");
}

TEST_F(Chat, StopStringsCutExactly) {
  FakeScript script;
  script.tokens = {FakeCodec::kHello, 'a', 'S', 'T', 'O', 'P', 'b', 'c'};
  script.forever = true;
  for (const bool stream : {false, true}) {
    server_.backend().Push(script);
    Json body = Body();
    body["stop"] = "STOP";
    if (stream) {
      body["stream_options"] = {{"include_usage", true}};
      const auto events = Stream(body);
      EXPECT_EQ(Text(events), "Helloa");
      EXPECT_EQ(events[events.size() - 2]["choices"][0]["finish_reason"], "stop");
      EXPECT_EQ(events.back()["usage"]["completion_tokens"], 6);
      EXPECT_EQ(events.back()["usage"]["prompt_tokens_details"]["cached_tokens"], 9);  // known although the workers were cut short
    } else {
      const auto json = Ask(body).json();
      EXPECT_EQ(json["choices"][0]["message"]["content"], "Helloa");
      EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
    }
    EXPECT_TRUE(server_.backend().AwaitRunning(0));
  }
}

TEST_F(Chat, AStopStringInsideAToken) {
  FakeScript script;
  script.tokens = {FakeCodec::kHello, FakeCodec::kTail, FakeCodec::kWorld};
  server_.backend().Push(script);
  Json body = Body();
  body["stop"] = {"nothing", "STOP"};
  body["include_stop_str_in_output"] = true;
  EXPECT_EQ(Ask(body).json()["choices"][0]["message"]["content"], "HelloabSTOP");
}

TEST_F(Chat, AnUnfinishedStopStringIsText) {
  FakeScript script;
  script.tokens = {'a', 'S', 'T'};
  script.reason = FinishReason::kLength;
  server_.backend().Push(script);
  Json body = Body();
  body["stop"] = "STOP";
  const auto events = Stream(body);
  EXPECT_EQ(Text(events), "aST");
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
}

TEST_F(Chat, MaxTokensEndsWithLength) {
  Json body = Body();
  body["max_tokens"] = 1;
  const auto json = Ask(body).json();
  EXPECT_EQ(json["choices"][0]["message"]["content"], "Hello");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
}

TEST_F(Chat, SeveralChoices) {
  for (const char c : {'a', 'b', 'c'}) {
    FakeScript script;
    script.tokens = {c, c};
    server_.backend().Push(script);
  }
  Json body = Body();
  body["n"] = 3;
  body["seed"] = 42;
  const auto json = Ask(body).json();
  ASSERT_EQ(json["choices"].size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["message"]["content"], std::string(2, static_cast<char>('a' + i)));
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 18);  // once
  EXPECT_EQ(json["usage"]["completion_tokens"], 6);
  const auto requests = server_.backend().requests();
  EXPECT_EQ(requests[0].sampling.seed, 42u);
  EXPECT_NE(requests[1].sampling.seed, requests[2].sampling.seed);
  EXPECT_NE(requests[0].id, requests[1].id);
  ASSERT_EQ(Ask(body).status, 200);  // the rule is fixed
  EXPECT_EQ(server_.backend().requests()[4].sampling.seed, requests[1].sampling.seed);
}

TEST_F(Chat, SeveralChoicesStreamed) {
  for (const char c : {'a', 'b'}) {
    FakeScript script;
    script.tokens = {c, c, c};
    server_.backend().Push(script);
  }
  Json body = Body();
  body["n"] = 2;
  const auto events = Stream(body);
  EXPECT_EQ(Text(events, 0), "aaa");
  EXPECT_EQ(Text(events, 1), "bbb");
  std::map<int, int> roles, ends;
  for (const auto& event : events) {
    const nlohmann::json choice = event["choices"][0];
    roles[choice["index"]] += choice["delta"].contains("role");
    ends[choice["index"]] += !choice["finish_reason"].is_null();
  }
  EXPECT_EQ(roles, (std::map<int, int>{{0, 1}, {1, 1}}));
  EXPECT_EQ(ends, (std::map<int, int>{{0, 1}, {1, 1}}));
}

TEST_F(Chat, Logprobs) {
  Json body = Body();
  body["logprobs"] = true;
  body["top_logprobs"] = 3;
  const auto whole = Ask(body).json()["choices"][0]["logprobs"];
  ASSERT_EQ(whole["content"].size(), 2u);
  const nlohmann::json first = whole["content"][0];
  EXPECT_EQ(first["token"], "Hello");
  EXPECT_EQ(first["logprob"], -0.5);
  EXPECT_EQ(first["bytes"], (nlohmann::json{72, 101, 108, 108, 111}));
  ASSERT_EQ(first["top_logprobs"].size(), 3u);
  EXPECT_EQ(first["top_logprobs"][1]["token"], "z");
  EXPECT_EQ(first["top_logprobs"][2]["logprob"], -9999.0);
  EXPECT_TRUE(whole["refusal"].is_null());
  EXPECT_EQ(server_.backend().requests().at(0).sampling.logprobs, 3);

  nlohmann::json streamed = nlohmann::json::array();
  for (const auto& event : Stream(body)) {
    const nlohmann::json logprobs = event["choices"][0]["logprobs"];
    if (!logprobs.is_null()) streamed.insert(streamed.end(), logprobs["content"].begin(), logprobs["content"].end());
  }
  EXPECT_EQ(streamed, whole["content"]);
}

TEST_F(Chat, LogprobsWithoutAlternativesAndOfBytes) {
  FakeScript script;
  script.tokens = {0xc3, 0xa9};
  server_.backend().Push(script);
  Json body = Body();
  body["logprobs"] = true;
  const auto choice = Ask(body).json()["choices"][0];
  EXPECT_EQ(choice["message"]["content"], "é");
  EXPECT_EQ(choice["logprobs"]["content"][0]["bytes"], nlohmann::json{0xc3});
  EXPECT_EQ(choice["logprobs"]["content"][0]["token"], "\xef\xbf\xbd");
  EXPECT_EQ(choice["logprobs"]["content"][0]["top_logprobs"], nlohmann::json::array());
  EXPECT_EQ(server_.backend().requests().at(0).sampling.logprobs, 0);
}

TEST_F(Chat, TokenIds) {
  Json body = Body();
  body["return_token_ids"] = true;
  const auto json = Ask(body).json();
  EXPECT_EQ(json["choices"][0]["token_ids"], (nlohmann::json{257, 258}));
  EXPECT_EQ(json["prompt_token_ids"].size(), 18u);
  const auto events = Stream(body);
  EXPECT_EQ(events[0]["prompt_token_ids"].size(), 18u);
  EXPECT_EQ(events[1]["choices"][0]["token_ids"], nlohmann::json{257});
}

TEST_F(Chat, ContentParts) {
  Json body = Body();
  body["messages"] = {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}}}},
                      {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", Json::array()}}};
  ASSERT_EQ(Ask(body).status, 200);
  EXPECT_EQ(FakeCodec().Decode(server_.backend().requests().at(0).prompt), "user:a\nb\nassistant:\nassistant:");
}

TEST_F(Chat, EverythingInsideGenerate) {  // a backend may answer at once
  server_.backend().default_script.immediate = true;
  EXPECT_EQ(Ask(Body()).json()["choices"][0]["message"]["content"], "Hello world");
  EXPECT_EQ(Text(Stream(Body())), "Hello world");
  FakeScript failing;
  failing.immediate = true;
  failing.error = ExhaustedError("full");
  server_.backend().Push(failing);
  EXPECT_EQ(Ask(Body()).status, 429);
  EXPECT_TRUE(server_.backend().AwaitRunning(0));
}

TEST_F(Chat, AnAnswerOfNoTokens) {
  FakeScript script;
  server_.backend().Push(script);
  EXPECT_EQ(Ask(Body()).json()["choices"][0]["message"]["content"], "");
  server_.backend().Push(script);
  const auto events = Stream(Body());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1]["choices"][0]["finish_reason"], "stop");
}

TEST_F(Chat, TextWithQuotesAndControls) {
  FakeScript script;
  for (const char c : std::string("\"\\\n\t\x01</script>")) script.tokens.push_back(static_cast<uint8_t>(c));
  server_.backend().Push(script);
  server_.backend().Push(script);
  EXPECT_EQ(Ask(Body()).json()["choices"][0]["message"]["content"], "\"\\\n\t\x01</script>");
  EXPECT_EQ(Text(Stream(Body())), "\"\\\n\t\x01</script>");
}

TEST_F(Chat, CacheSaltsAreTenantsOfTheirOwn) {
  Json body = Body();
  body["cache_salt"] = "x";
  ASSERT_EQ(Ask(body).status, 200);
  body["cache_salt"] = "y";
  ASSERT_EQ(Ask(body).status, 200);
  const auto requests = server_.backend().requests();
  EXPECT_NE(requests[0].tenant, requests[1].tenant);
  EXPECT_NE(requests[0].tenant, "");
}

}  // namespace
}  // namespace baton
