// Answers that begin with a cache handle, and answers that give one.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class CacheAnswers : public testing::Test {
 protected:
  HttpReply Complete(const Json& body) { return Post(server_.port(), "/v1/completions", body); }
  HttpReply Chat(const Json& body) { return Post(server_.port(), "/v1/chat/completions", body); }
  std::string Made(const Json& body) {
    const HttpReply reply = Post(server_.port(), "/v1/caches", body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return reply.json().value("id", "");
  }
  std::string TextOf(const std::string& id) { return FakeCodec().Decode(server_.backend().kept().at(id).tokens); }
  std::string LastPrompt() { return FakeCodec().Decode(server_.backend().requests().back().prompt); }
  static Json User(const char* text) { return {{{"role", "user"}, {"content", text}}}; }

  GatewayServer server_;
};

TEST_F(CacheAnswers, ARequestBeginsWithTheHandlesTokens) {
  const std::string id = Made({{"prompt", "abc"}});
  EXPECT_EQ(Complete({{"prompt", "abcdef"}, {"cache_id", id}}).status, 200);
  EXPECT_EQ(LastPrompt(), "abcdef");
  EXPECT_TRUE(server_.backend().requests().back().keep) << "what the store has lost is to come back to it";
  EXPECT_EQ(Complete({{"prompt", "abc"}, {"cache_id", id}}).status, 200) << "nothing but the handle's tokens";
  EXPECT_EQ(Complete({{"prompt", {"abcx", "abcy"}}, {"cache_id", id}}).status, 200) << "each of the prompts";
  EXPECT_EQ(Complete({{"prompt", "abcdef"}}).status, 200);
  EXPECT_FALSE(server_.backend().requests().back().keep);
}

TEST_F(CacheAnswers, OneThatDoesNotIsToldWhere) {
  const std::string id = Made({{"prompt", "abcd"}});
  const auto refused = [&](const Json& prompt, const std::string& says) {
    const HttpReply reply = Complete({{"prompt", prompt}, {"cache_id", id}});
    EXPECT_EQ(reply.status, 422) << reply.body;
    EXPECT_EQ(reply.error()["code"], "cache_mismatch");
    EXPECT_EQ(reply.error()["param"], "cache_id");
    const std::string message = reply.error()["message"];
    EXPECT_NE(message.find(says), std::string::npos) << message;
  };
  refused("abXd", "at token 2 the request has token 88 (\"X\"), the cache has token 99 (\"c\"); crop the cache to 2");
  refused("abc", "at token 3 the request ends");
  refused("x", "at token 0");
  refused({"abcd", "abcx"}, "at token 3");
  EXPECT_EQ(Complete({{"prompt", {0xff, 0xfe}}, {"cache_id", id}}).status, 422) << "bytes that are no text are told as well";
  EXPECT_TRUE(server_.backend().requests().empty()) << "nothing was computed";
}

TEST_F(CacheAnswers, WithoutAPromptItGoesOnFromTheHandle) {
  const std::string id = Made({{"prompt", "abc"}});
  EXPECT_EQ(Complete({{"cache_id", id}, {"max_tokens", 4}}).status, 200);
  EXPECT_EQ(LastPrompt(), "abc");
  const auto echo = Complete({{"cache_id", id}, {"echo", true}}).json();
  EXPECT_EQ(echo["choices"][0]["text"], "abcHello world");
  EXPECT_EQ(Chat({{"cache_id", id}}).status, 200);
  EXPECT_EQ(LastPrompt(), "abc");
  EXPECT_EQ(Complete({{"max_tokens", 4}}).status, 400);
  EXPECT_EQ(Chat({{"max_tokens", 4}}).status, 400);
  EXPECT_EQ(Complete({{"cache_id", id}, {"max_tokens", 2046}}).error()["code"], "context_length_exceeded");
}

TEST_F(CacheAnswers, AChatBeginsWithTheHandlesMessages) {
  const std::string id = Made({{"messages", User("hi")}});
  Json messages = User("hi");
  messages.push_back({{"role", "assistant"}, {"content", "yes"}});
  EXPECT_EQ(Chat({{"messages", messages}, {"cache_id", id}}).status, 200);
  EXPECT_EQ(Chat({{"messages", User("ho")}, {"cache_id", id}}).status, 422);
  const Json responses = {{"input", "hi"}, {"cache_id", id}};
  EXPECT_EQ(Post(server_.port(), "/v1/responses", responses).status, 200);
}

TEST_F(CacheAnswers, UnknownExpiredAndMalformedIds) {
  const CacheRecord expired{"cache_" + std::string(32, '1'), "", {97}, 5, 10};
  server_.backend().Keep(expired);
  for (const Json& id : {Json("cache_" + std::string(32, '0')), Json(expired.id), Json("x"), Json(std::string(10000, 'y'))}) {
    const HttpReply reply = Complete({{"prompt", "abc"}, {"cache_id", id}});
    EXPECT_EQ(reply.status, 404) << id.dump().substr(0, 60);
    EXPECT_EQ(reply.error()["code"], "cache_not_found");
    EXPECT_LT(reply.body.size(), 1000u);
  }
  EXPECT_EQ(Complete({{"prompt", "abc"}, {"cache_id", 5}}).status, 400);
  EXPECT_EQ(Complete({{"prompt", "abc"}, {"cache_id", nullptr}}).status, 200);
  EXPECT_EQ(Complete({{"prompt", "abc"}, {"cache_id", ""}}).status, 200);
}

TEST_F(CacheAnswers, UsingAHandleHealsIt) {
  const std::string id = Made({{"prompt", "abc"}, {"ttl_s", 50}});
  const double expires = server_.backend().kept().at(id).expires_unix_s;
  Complete({{"prompt", "abcdef"}, {"cache_id", id}});
  ASSERT_TRUE(server_.backend().AwaitHolds(2));
  const auto holds = server_.backend().holds();
  EXPECT_EQ(holds[1].record.id, id);
  EXPECT_EQ(holds[1].mode, HoldMode::kFresh);
  EXPECT_EQ(holds[1].record.expires_unix_s, expires) << "use does not prolong it";
}

TEST_F(CacheAnswers, AHandleDeletedWhileItHealsStaysDeleted) {
  const std::string id = Made({{"prompt", "abc"}});
  server_.backend().StopHolds();
  Complete({{"prompt", "abcdef"}, {"cache_id", id}});
  ASSERT_TRUE(server_.backend().AwaitHolds(2));
  Delete(server_.port(), "/v1/caches/" + id);
  server_.backend().LetHolds();
  for (int i = 0; i < 1000 && server_.backend().releases().size() < 2; ++i) Get(server_.port(), "/live");
  EXPECT_EQ(server_.backend().releases().size(), 2u);
  EXPECT_FALSE(server_.backend().kept().contains(id));
}

TEST_F(CacheAnswers, AHandleCroppedWhileItHealsStaysCropped) {
  const std::string id = Made({{"prompt", "abc"}});
  server_.backend().StopHolds();
  Complete({{"prompt", "abcdef"}, {"cache_id", id}});
  ASSERT_TRUE(server_.backend().AwaitHolds(2));
  HttpSocket crop(server_.port());
  crop.Post("/v1/caches/" + id + "/crop", "{\"length\":2}");
  ASSERT_TRUE(server_.backend().AwaitHolds(3));
  server_.backend().LetHolds();
  EXPECT_EQ(crop.Read().json()["tokens"], 2);
  for (int i = 0; i < 1000 && TextOf(id) != "ab"; ++i) Get(server_.port(), "/live");
  EXPECT_EQ(TextOf(id), "ab");
}

TEST_F(CacheAnswers, ReturnsAHandleOfPromptAndAnswer) {
  const auto json = Complete({{"prompt", "abc"}, {"return_cache", true}, {"cache_ttl_s", 77}}).json();
  const std::string id = json["cache_id"];
  EXPECT_EQ(TextOf(id), "abcHello world");
  const auto holds = server_.backend().holds();
  ASSERT_EQ(holds.size(), 1u);
  EXPECT_EQ(holds[0].mode, HoldMode::kFresh);
  EXPECT_NEAR(holds[0].record.expires_unix_s - holds[0].record.created_unix_s, 77, 1);
  EXPECT_TRUE(server_.backend().requests().back().keep);
  EXPECT_EQ(Complete({{"cache_id", id}}).status, 200) << "and a request goes on from it";
  EXPECT_EQ(LastPrompt(), "abcHello world");
  EXPECT_FALSE(Complete({{"prompt", "abc"}}).json().contains("cache_id"));
  EXPECT_FALSE(Complete({{"prompt", "abc"}, {"return_cache", false}}).json().contains("cache_id"));
}

TEST_F(CacheAnswers, OfAChatAndAResponse) {
  const auto chat = Chat({{"messages", User("hi")}, {"return_cache", true}}).json();
  EXPECT_EQ(TextOf(chat["cache_id"]), "user:hi\nassistant:Hello world");
  const auto response = Post(server_.port(), "/v1/responses", {{"input", "hi"}, {"return_cache", true}}).json();
  EXPECT_EQ(TextOf(response["cache_id"]), "user:hi\nassistant:Hello world");
  EXPECT_EQ(response["usage"]["output_tokens"], 2);
}

TEST_F(CacheAnswers, InTheLastChunkOfAStream) {
  for (const bool usage : {false, true}) {
    Json body = {{"prompt", "abc"}, {"return_cache", true}, {"stream", true}};
    if (usage) body["stream_options"] = {{"include_usage", true}};
    const auto events = Events(Complete(body).body);
    ASSERT_GE(events.size(), 4u);
    EXPECT_EQ(events.back(), "[DONE]");
    const auto& last = events[events.size() - 2];
    EXPECT_EQ(TextOf(last["cache_id"]), "abcHello world");
    const auto& finish = usage ? events[events.size() - 3] : last;
    EXPECT_EQ(finish["choices"][0]["finish_reason"], "stop");
    EXPECT_EQ(finish["cache_id"], last["cache_id"]);
    for (size_t i = 0; i + (usage ? 3 : 2) < events.size(); ++i) EXPECT_FALSE(events[i].contains("cache_id")) << events[i];
  }
  const auto chat = Events(Chat({{"messages", User("hi")}, {"return_cache", true}, {"stream", true}}).body);
  EXPECT_EQ(TextOf(chat[chat.size() - 2]["cache_id"]), "user:hi\nassistant:Hello world");
  const auto response = Events(Post(server_.port(), "/v1/responses", {{"input", "hi"}, {"return_cache", true}, {"stream", true}}).body);
  EXPECT_EQ(TextOf(response.back()["response"]["cache_id"]), "user:hi\nassistant:Hello world");
}

TEST_F(CacheAnswers, TokensOfACutStopStringAreNotInTheHandle) {
  const auto text = [this](const Json& stop, bool include) {
    server_.backend().Push({.tokens = {FakeCodec::kHello, FakeCodec::kTail, FakeCodec::kWorld}});
    return TextOf(Complete({{"prompt", "p"}, {"stop", stop}, {"return_cache", true}, {"include_stop_str_in_output", include}}).json()["cache_id"]);
  };
  EXPECT_EQ(text("STOP", false), "pHello") << "the token in which the stop string stands is not wholly in the answer";
  EXPECT_EQ(text("Hello", false), "p");
  EXPECT_EQ(text("cd", true), "pHelloabSTOPcd");
  EXPECT_EQ(text("never", false), "pHelloabSTOPcd world");
  server_.backend().Push({.tokens = {FakeCodec::kHello, 'a', 'b', 'c', FakeCodec::kWorld}});
  EXPECT_EQ(TextOf(Complete({{"prompt", "p"}, {"stop", "bc"}, {"return_cache", true}}).json()["cache_id"]), "pHelloa");
}

TEST_F(CacheAnswers, TheTokenThatEndedTheAnswerIsInTheHandle) {
  server_.backend().Push({.tokens = {FakeCodec::kHello, FakeCodec::kEnd}});
  const auto json = Chat({{"messages", User("hi")}, {"return_cache", true}}).json();
  EXPECT_EQ(server_.backend().kept().at(json["cache_id"]).tokens.back(), FakeCodec::kEnd) << "the next turn has it behind the answer";
}

TEST_F(CacheAnswers, AnAnswerThatFillsTheContextLeavesRoomForOneToken) {
  server_.backend().Push({.tokens = {FakeCodec::kHello}, .forever = true});
  const auto json = Complete({{"prompt", "abc"}, {"max_tokens", 2045}, {"return_cache", true}}).json();
  EXPECT_EQ(json["usage"]["total_tokens"], 2048);
  EXPECT_EQ(server_.backend().kept().at(json["cache_id"]).tokens.size(), 2047u);
}

TEST_F(CacheAnswers, OneHandleIsOfOneAnswer) {
  for (const Json& extra : {Json{{"n", 2}}, Json{{"best_of", 2}}, Json{{"prompt", {"a", "b"}}}}) {
    Json body = {{"prompt", "abc"}, {"return_cache", true}};
    body.update(extra);
    const HttpReply reply = Complete(body);
    EXPECT_EQ(reply.status, 400) << extra;
    EXPECT_EQ(reply.error()["param"], "return_cache");
  }
  EXPECT_EQ(Complete({{"prompt", "abc"}, {"return_cache", "yes"}}).error()["param"], "return_cache");
  EXPECT_EQ(Complete({{"prompt", "abc"}, {"cache_ttl_s", -1}}).error()["param"], "cache_ttl_s");
}

TEST_F(CacheAnswers, WhatCannotBeHeldIsAnErrorAndNeverASilentNull) {
  server_.backend().FailHolds(ExhaustedError("the quota is used up"));
  const HttpReply whole = Complete({{"prompt", "abc"}, {"return_cache", true}});
  EXPECT_EQ(whole.status, 429);
  EXPECT_EQ(whole.error()["code"], "cache_no_room");
  EXPECT_EQ(whole.error()["message"], "the quota is used up");
  const HttpReply stream = Complete({{"prompt", "abc"}, {"return_cache", true}, {"stream", true}});
  EXPECT_EQ(stream.status, 200) << "its tokens had been sent";
  const auto events = Events(stream.body);
  EXPECT_EQ(events.back()["error"]["code"], "cache_no_room");
  for (const auto& event : events) EXPECT_NE(event, "[DONE]");
}

TEST_F(CacheAnswers, AFailedAnswerMakesNoHandle) {
  server_.backend().Push({.tokens = {FakeCodec::kHello}, .error = UnavailableError("workers died")});
  EXPECT_EQ(Complete({{"prompt", "abc"}, {"return_cache", true}}).status, 503);
  EXPECT_TRUE(server_.backend().holds().empty());
}

TEST_F(CacheAnswers, OfNoTokens) {
  const auto json = Complete({{"prompt", "abc"}, {"max_tokens", 0}, {"return_cache", true}}).json();
  EXPECT_EQ(TextOf(json["cache_id"]), "abc");
}

TEST_F(CacheAnswers, FromAndToAHandleInOneRequest) {
  const std::string id = Made({{"prompt", "abc"}});
  const auto json = Complete({{"cache_id", id}, {"return_cache", true}}).json();
  EXPECT_NE(json["cache_id"], id);
  EXPECT_EQ(TextOf(json["cache_id"]), "abcHello world");
  EXPECT_EQ(TextOf(id), "abc");
}

TEST_F(CacheAnswers, AClientThatLeavesWhileItsHandleIsMade) {
  server_.backend().StopHolds();
  {
    HttpSocket leaver(server_.port());
    leaver.Post("/v1/completions", "{\"prompt\":\"abc\",\"return_cache\":true}");
    ASSERT_TRUE(server_.backend().AwaitHolds(1));
    leaver.Reset();
  }
  ASSERT_TRUE(server_.backend().AwaitRunning(0));
  server_.backend().LetHolds();
  EXPECT_EQ(Complete({{"prompt", "abc"}}).status, 200);
}

TEST_F(CacheAnswers, ExplainTakesAPromptAndATenant) {
  const auto json = Post(server_.port(), "/debug/explain", {{"prompt", "abcd"}, {"tenant", "alice"}}).json();
  EXPECT_EQ(json, (nlohmann::json{{"tokens", 4}, {"tenant", "alice"}}));
  EXPECT_EQ(Post(server_.port(), "/debug/explain", {{"messages", User("hi")}}).json()["tokens"], std::string("user:hi\n").size());
  EXPECT_EQ(Post(server_.port(), "/debug/explain", {{"prompt", "a"}, {"cache_salt", "s"}}).json()["tenant"], SaltedTenant("", "s"));
  EXPECT_EQ(Post(server_.port(), "/debug/explain", Json::object()).status, 400);
  EXPECT_EQ(Post(server_.port(), "/debug/explain", {{"prompt", "a"}, {"tenant", 1}}).error()["param"], "tenant");
}

}  // namespace
}  // namespace baton
