// What a client makes of a streamed answer, in the dialects of many servers and when it breaks.
#include "app/answer_stream.h"

#include "tests/support/test_pch.h"
#include "tests/unit/app/canned_server.h"

namespace baton {
namespace {

using testing::HasSubstr;

struct Heard {
  StreamedAnswer answer;
  std::vector<std::string> texts;
};

Heard Ask(const CannedServer& server, double timeout_s = 20, const std::string& api_key = "") {
  Heard heard;
  auto io = kj::setupAsyncIo();
  HttpUrl url;
  url.host = "127.0.0.1";
  url.port = server.port();
  HttpApiClient client(io, url, api_key, timeout_s);
  const SystemClock clock;
  heard.answer = StreamAnswer(client, clock, "/v1/chat/completions", R"({"stream":true})", [&heard](std::string_view text) { heard.texts.emplace_back(text); }).wait(io.waitScope);
  return heard;
}
Heard Ask(const std::string& events) { return Ask(CannedServer([&events](const std::string&) { return Stream(events); })); }

std::string Events(const std::vector<std::string>& data) {
  std::string out;
  for (const std::string& d : data) out += "data: " + d + "\n\n";
  return out;
}

struct Dialect {
  const char* name;
  std::vector<std::string> events;
  size_t pieces;  // tokens whose times are known
};
class DialectsTest : public testing::TestWithParam<Dialect> {};

TEST_P(DialectsTest, GiveTheTextTheReasonAndTheTimes) {
  const Heard heard = Ask(Events(GetParam().events));
  EXPECT_EQ(heard.answer.error, "");
  EXPECT_EQ(heard.answer.status, 200);
  EXPECT_EQ(heard.answer.text, "Hello world");
  EXPECT_EQ(heard.answer.finish_reason, "stop");
  std::string joined;
  for (const std::string& text : heard.texts) {
    EXPECT_NE(text, "");
    joined += text;
  }
  EXPECT_EQ(joined, heard.answer.text) << "what was shown is what was said";
  EXPECT_EQ(heard.answer.gaps_s.size(), GetParam().pieces - 1);
  EXPECT_GT(heard.answer.first_token_s, 0);
  EXPECT_GE(heard.answer.total_s, heard.answer.first_token_s);
}

INSTANTIATE_TEST_SUITE_P(
    All, DialectsTest,
    testing::Values(Dialect{"openai",
                            {R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]})", R"({"choices":[{"delta":{"content":"Hello"},"finish_reason":null}]})",
                             R"({"choices":[{"delta":{"content":" world"}}]})", R"({"choices":[{"delta":{},"finish_reason":"stop"}]})", R"({"choices":[],"usage":{"prompt_tokens":3}})", "[DONE]"},
                            2},
                    Dialect{"role_in_every_chunk",
                            {R"({"choices":[{"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}]})", R"({"choices":[{"delta":{"role":"assistant","content":" world"},"finish_reason":null}]})",
                             R"({"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":"stop"}]})", "[DONE]"},
                            2},
                    Dialect{"role_beside_a_null",
                            {R"({"choices":[{"delta":{"role":"assistant","content":null}}]})", R"({"choices":[{"delta":{"content":"Hello world"}}]})",
                             R"({"choices":[{"finish_reason":"stop","delta":{}}],"usage":{"completion_tokens":2}})", "[DONE]"},
                            1},
                    Dialect{"completions", {R"({"choices":[{"text":"Hello","index":0}]})", R"({"choices":[{"text":" world"}]})", R"({"choices":[{"text":"","finish_reason":"stop"}]})", "[DONE]"}, 2},
                    Dialect{"null_errors_and_fields_of_its_own",
                            {R"({"id":"x","error":null,"x_stats":{},"choices":[{"delta":{"content":"Hello"},"logprobs":null}],"usage":null})",
                             R"({"error":null,"choices":[{"delta":{"content":" world"}}]})", R"({"error":null,"choices":[{"delta":{},"finish_reason":"stop"}]})", "[DONE]"},
                            2},
                    Dialect{"last_text_with_the_reason",
                            {R"({"choices":[{"delta":{"content":"Hello"}}]})", R"({"choices":[{"delta":{"content":" world"},"finish_reason":"stop"}]})", "[DONE]"},
                            1},
                    Dialect{"tokens_without_text",  // a character of several tokens
                            {R"({"choices":[{"delta":{"content":"Hello"}}]})", R"({"choices":[{"delta":{"content":""}}]})", R"({"choices":[{"delta":{"content":" world"}}]})",
                             R"({"choices":[{"delta":{},"finish_reason":"stop"}]})", "[DONE]"},
                            3}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(AnswerStreamTest, BodiesCutAnywhereAreTheSameAnswer) {
  const std::string whole = Stream("data: {\"choices\":[{\"delta\":{\"content\":\"H\xc3\xa9\"}}]}\r\n\r\n: ping\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"!\"}}]}\r\n\r\ndata: [DONE]\r\n\r\n");
  for (size_t cut = 1; cut < whole.size(); cut += 3) {
    const Heard heard = Ask(CannedServer(CannedServer::Pieces([&](const std::string&) { return std::vector{whole.substr(0, cut), whole.substr(cut)}; })));
    EXPECT_EQ(heard.answer.error, "") << cut;
    EXPECT_EQ(heard.answer.text, "H\xc3\xa9!") << cut;
  }
}

TEST(AnswerStreamTest, UsageIsReadWhereItMakesSense) {
  struct Case {
    std::string usage;
    uint64_t prompt, cached, tokens;
  };
  const std::vector<Case> cases = {{R"({"prompt_tokens":10,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}})", 10, 8, 3},
                                   {R"({"prompt_tokens":10,"completion_tokens":3,"prompt_tokens_details":null})", 10, 0, 3},
                                   {R"({"prompt_tokens":10,"completion_tokens":3,"prompt_tokens_details":[1]})", 10, 0, 3},
                                   {R"({"prompt_tokens":-1,"completion_tokens":1.5,"prompt_tokens_details":{"cached_tokens":"8"}})", 0, 0, 0},
                                   {R"({"prompt_tokens":18446744073709551615})", UINT32_MAX, 0, 0},
                                   {"null", 0, 0, 0},
                                   {"[]", 0, 0, 0},
                                   {"{}", 0, 0, 0}};
  for (const Case& c : cases) {
    const Heard heard = Ask(Events({R"({"choices":[{"delta":{"content":"a"}}]})", R"({"choices":[],"usage":)" + c.usage + "}", "[DONE]"}));
    EXPECT_EQ(heard.answer.error, "") << c.usage;
    EXPECT_EQ(heard.answer.prompt_tokens, c.prompt) << c.usage;
    EXPECT_EQ(heard.answer.cached_tokens, c.cached) << c.usage;
    EXPECT_EQ(heard.answer.tokens, c.tokens) << c.usage;
  }
}

TEST(AnswerStreamTest, ErrorsInTheMiddleKeepWhatWasSaid) {
  const std::string said = R"({"choices":[{"delta":{"content":"Hello"}}]})";
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{said}, "before its [DONE]"},
      {{said, R"({"error":{"message":"the worker died","code":503}})"}, "the worker died"},
      {{said, R"({"error":{"message":"the worker died"}})", "[DONE]"}, "the worker died"},
      {{said, R"({"error":{"message":""}})", "[DONE]"}, "error {\"message\":\"\"}"},
      {{said, "{", "[DONE]"}, "not JSON"},
      {{said, "[1]", "[DONE]"}, "not JSON"},
      {{said, std::string(100000, '['), "[DONE]"}, "not JSON"},
      {{said, "{\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}", "[DONE]"}, "not JSON"}};
  for (const auto& [events, words] : cases) {
    const Heard heard = Ask(Events(events));
    EXPECT_THAT(heard.answer.error, HasSubstr(words));
    EXPECT_EQ(heard.answer.text, "Hello") << words;
    EXPECT_LT(heard.answer.error.size(), 3000u);
  }
  const std::string deep = R"({"error":)" + std::string(100000, '[') + std::string(100000, ']') + "}";
  EXPECT_NE(Ask(Events({deep, "[DONE]"})).answer.error, "") << "neither a crash nor an answer";
}

TEST(AnswerStreamTest, ShapesThatAreNoChoicesSayNothing) {
  for (const char* event : {"{}", R"({"choices":null})", R"({"choices":[]})", R"({"choices":{}})", R"({"choices":[null]})", R"({"choices":["x"]})", R"({"choices":[[]]})",
                            R"({"choices":[{"delta":null}]})", R"({"choices":[{"delta":[]}]})", R"({"choices":[{"delta":{"content":{"x":1}}}]})", R"({"choices":[{"text":7}]})",
                            R"({"choices":[{"delta":{"content":"a"},"finish_reason":9}]})"}) {
    const Heard heard = Ask(Events({event, "[DONE]"}));
    EXPECT_EQ(heard.answer.error, "") << event;
    EXPECT_EQ(heard.answer.finish_reason, "") << event;
    EXPECT_TRUE(heard.answer.text.empty() || heard.answer.text == "a") << event;
  }
}

TEST(AnswerStreamTest, ARefusalIsItsStatusAndMessage) {
  const auto ask = [](const std::string& reply) { return Ask(CannedServer([&reply](const std::string&) { return reply; })).answer; };
  for (const auto& [status, line] : std::vector<std::pair<int, std::string>>{{400, "400 Bad Request"}, {401, "401 Unauthorized"}, {429, "429 Too Many Requests"}, {503, "503 Service Unavailable"}}) {
    const StreamedAnswer answer = ask(Whole(R"({"error":{"message":"not today"}})", line));
    EXPECT_EQ(answer.status, status);
    EXPECT_EQ(answer.error, "not today");
    EXPECT_NE(ask(Whole(R"({"error":{"message":""}})", line)).error, "") << "an empty message is no success";
  }
  EXPECT_THAT(ask(Whole(R"({"choices":[{"message":{"content":"Hello"}}]})")).error, HasSubstr("[DONE]")) << "a whole answer is no stream";
  EXPECT_EQ(ask(Whole("", "500 Oops")).error, "HTTP status 500 without a word");
}

TEST(AnswerStreamTest, ASilentServerIsGivenUpAndNoServerIsNamed) {
  uint16_t port = 0;
  {
    CannedServer server(CannedServer::Reply([](const std::string&) { return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000\r\n\r\ndata: {\"choices\":[]}\n\n"; }));
    port = server.port();
    EXPECT_NE(Ask(server).answer.error, "") << "it promised more";
  }
  auto io = kj::setupAsyncIo();
  HttpUrl url;
  url.host = "127.0.0.1";
  url.port = port;
  HttpApiClient client(io, url, "", 5);
  const auto answer = client.Get("/health").wait(io.waitScope);
  EXPECT_EQ(answer.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(answer.status().message(), HasSubstr("127.0.0.1:" + std::to_string(port)));
  url.host = "no-such-host.invalid";
  HttpApiClient nowhere(io, url, "", 20);
  EXPECT_THAT(nowhere.Get("/").wait(io.waitScope).status().message(), HasSubstr("no-such-host.invalid"));
}

TEST(AnswerStreamTest, TheKeyTheTypeAndTheBodyAreSent) {
  std::string sent;
  {
    CannedServer server(CannedServer::Reply([](const std::string&) { return Stream("data: [DONE]\n\n"); }));
    EXPECT_EQ(Ask(server, 20, "sesame").answer.error, "");
    ASSERT_EQ(server.requests().size(), 1u);
    sent = server.requests().front();
  }
  EXPECT_EQ(sent.rfind("POST /v1/chat/completions HTTP/1.1\r\n", 0), 0u) << sent;
  EXPECT_THAT(sent, HasSubstr("Authorization: Bearer sesame\r\n"));
  EXPECT_THAT(sent, HasSubstr("Content-Type: application/json\r\n"));
  EXPECT_THAT(sent, HasSubstr("Host: 127.0.0.1:"));
  EXPECT_EQ(sent.substr(sent.find("\r\n\r\n") + 4), R"({"stream":true})");
}

TEST(AnswerStreamTest, ABodyWithoutAnEndIsGivenUp) {
  const std::string piece(8 << 20, 'x');
  std::vector<std::string> pieces(12, piece);
  pieces.insert(pieces.begin(), "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n");
  const StreamedAnswer answer = Ask(CannedServer(CannedServer::Pieces([&pieces](const std::string&) { return pieces; }))).answer;
  EXPECT_THAT(answer.error, HasSubstr("more than 67108864 bytes"));
}

TEST(StreamedAnswerTest, SpeedIsThatOfTheTokensBehindTheFirst) {
  StreamedAnswer answer;
  EXPECT_EQ(answer.TokensPerSecond(), 0);
  answer.gaps_s = {0.1, 0.3, 0.1};
  EXPECT_DOUBLE_EQ(answer.TokensPerSecond(), 6);
  answer.gaps_s = {0, 0};
  EXPECT_EQ(answer.TokensPerSecond(), 0) << "not infinite";
}

}  // namespace
}  // namespace baton
