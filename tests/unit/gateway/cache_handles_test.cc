// /v1/caches over real sockets: made, seen, changed, forked, deleted, refused; whose they are.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class CacheHandles : public testing::Test {
 protected:
  HttpReply Make(const Json& body, const std::string& headers = "") { return Post(server_.port(), "/v1/caches", body, headers); }
  std::string Made(const Json& body, const std::string& headers = "") {
    const HttpReply reply = Make(body, headers);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return reply.json().value("id", "");
  }
  HttpReply Change(const std::string& id, const std::string& what, const Json& body) { return Post(server_.port(), "/v1/caches/" + id + "/" + what, body); }
  HttpReply See(const std::string& id) { return Get(server_.port(), "/v1/caches/" + id); }
  static std::string Letters(size_t n, char first = 'a') {
    std::string text;
    for (size_t i = 0; i < n; ++i) text += static_cast<char>(first + i % 20);
    return text;
  }

  GatewayServer server_;
};

TEST_F(CacheHandles, MadeOfAPrompt) {
  const HttpReply reply = Make({{"prompt", Letters(200)}, {"ttl_s", 100}});
  ASSERT_EQ(reply.status, 200) << reply.body;
  const auto json = reply.json();
  EXPECT_TRUE(IsCacheId(json["id"].get<std::string>()));
  EXPECT_EQ(json["object"], "cache");
  EXPECT_EQ(json["tokens"], 200);
  EXPECT_EQ(json["blocks"], 3);
  EXPECT_EQ(json["held_blocks"], 3);
  EXPECT_EQ(json["bytes"], 3000);
  EXPECT_EQ(json["tiers"], (nlohmann::json{{"memory", 3}, {"disk", 0}}));
  EXPECT_EQ(json["pinned"], false);
  EXPECT_NEAR(json["expires_at"].get<double>() - json["created_at"].get<double>(), 100, 1);
  const auto holds = server_.backend().holds();
  ASSERT_EQ(holds.size(), 1u);
  EXPECT_EQ(holds[0].mode, HoldMode::kComplete) << "what is missing is computed";
  EXPECT_EQ(holds[0].record.tenant, "");
  EXPECT_EQ(holds[0].record.tokens.size(), 200u);
}

TEST_F(CacheHandles, MadeOfMessagesEndsBeforeTheNextOne) {
  const auto tokens = [this](const Json& body) {
    Made(body);
    return FakeCodec().Decode(server_.backend().holds().back().record.tokens);
  };
  const Json messages = {{{"role", "system"}, {"content", "be brief"}}};
  EXPECT_EQ(tokens({{"messages", messages}}), "system:be brief\n");
  EXPECT_EQ(tokens({{"messages", messages}, {"add_generation_prompt", true}}), "system:be brief\nassistant:");
}

TEST_F(CacheHandles, MadeOfTokens) {
  Made({{"tokens", {1, 2, 3}}});
  EXPECT_EQ(server_.backend().holds().back().record.tokens, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(Make({{"tokens", {1, 2, 3}}}).json()["blocks"], 0) << "less than a block: nothing to hold, but a handle";
}

TEST_F(CacheHandles, BadBodiesNameTheField) {
  const std::vector<std::pair<Json, std::string>> bad = {
      {Json::object(), "prompt"},
      {{{"prompt", ""}}, "prompt"},
      {{{"prompt", {"a", "b"}}}, "prompt"},
      {{{"prompt", 5}}, "prompt"},
      {{{"tokens", "abc"}}, "tokens"},
      {{{"tokens", {1, -1}}}, "tokens"},
      {{{"tokens", {1, 999999}}}, "tokens"},
      {{{"tokens", Json::array()}}, "tokens"},
      {{{"messages", Json::array()}}, "messages"},
      {{{"messages", {{{"role", "refused"}, {"content", "x"}}}}}, "messages"},
      {{{"prompt", "a"}, {"messages", {{{"role", "user"}, {"content", "x"}}}}}, "messages"},
      {{{"prompt", "a"}, {"ttl_s", 0}}, "ttl_s"},
      {{{"prompt", "a"}, {"ttl_s", -5}}, "ttl_s"},
      {{{"prompt", "a"}, {"ttl_s", 1e12}}, "ttl_s"},
      {{{"prompt", "a"}, {"ttl_s", "60"}}, "ttl_s"},
      {{{"prompt", "a"}, {"pin", 1}}, "pin"},
      {{{"prompt", "a"}, {"ttl_s", 60}, {"pin", true}}, "ttl_s"},
  };
  for (const auto& [body, param] : bad) {
    const HttpReply reply = Make(body);
    EXPECT_EQ(reply.status, 400) << body << reply.body;
    EXPECT_EQ(reply.error()["param"], param) << body << reply.body;
  }
  EXPECT_EQ(Make({{"prompt", "a"}, {"model", "other"}}).status, 404);
  EXPECT_EQ(Make({{"prompt", Letters(2048)}}).error()["code"], "context_length_exceeded") << "no answer could follow it";
  EXPECT_EQ(Make({{"prompt", Letters(2047)}}).status, 200);
  EXPECT_TRUE(server_.backend().holds().size() == 1) << "none of the bad ones was held";
  HttpSocket socket(server_.port());
  socket.Post("/v1/caches", "{\"prompt\":");
  EXPECT_EQ(socket.Read().status, 400);
}

TEST_F(CacheHandles, PinnedNeverExpires) {
  const auto json = Make({{"prompt", "abc"}, {"pin", true}}).json();
  EXPECT_TRUE(json["expires_at"].is_null());
  EXPECT_EQ(json["pinned"], true);
  EXPECT_EQ(server_.backend().holds().back().record.expires_unix_s, 0);
}

TEST_F(CacheHandles, SeenAndListedAndDeleted) {
  const std::string a = Made({{"prompt", "abc"}}), b = Made({{"prompt", "abcd"}});
  EXPECT_NE(a, b);
  EXPECT_EQ(See(a).json()["tokens"], 3);
  EXPECT_EQ(See(b).json()["tokens"], 4);
  const auto list = Get(server_.port(), "/v1/caches").json();
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][0]["id"], a);
  const HttpReply deleted = Delete(server_.port(), "/v1/caches/" + a);
  EXPECT_EQ(deleted.status, 200);
  EXPECT_EQ(deleted.json(), (nlohmann::json{{"id", a}, {"object", "cache"}, {"deleted", true}}));
  EXPECT_EQ(server_.backend().releases(), std::vector<std::string>{a});
  EXPECT_EQ(See(a).status, 404);
  EXPECT_EQ(See(a).error()["code"], "cache_not_found");
  EXPECT_EQ(Delete(server_.port(), "/v1/caches/" + a).status, 404);
  EXPECT_EQ(Get(server_.port(), "/v1/caches").json()["data"].size(), 1u);
}

TEST_F(CacheHandles, UnknownIdsAndPaths) {
  for (const std::string& id : {std::string("nonsense"), "cache_" + std::string(32, '0'), std::string("%2e%2e%2fsecret"), std::string(5000, 'x')}) {
    EXPECT_EQ(See(id).status, 404) << id.substr(0, 50);
    EXPECT_EQ(Delete(server_.port(), "/v1/caches/" + id).status, 404);
    EXPECT_EQ(Change(id, "crop", {{"length", 1}}).status, 404);
    EXPECT_EQ(Change(id, "fork", Json::object()).status, 404);
    EXPECT_EQ(Change(id, "extend", Json::object()).status, 404);
  }
  const std::string id = Made({{"prompt", "abc"}});
  EXPECT_EQ(Change(id, "shrink", Json::object()).error()["code"], "unknown_url");
  EXPECT_EQ(Post(server_.port(), "/v1/caches/" + id, Json::object()).status, 404);
  const HttpReply wrong = Delete(server_.port(), "/v1/caches");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "GET, HEAD, POST");
}

TEST_F(CacheHandles, WhatCannotBeHeldIsAnError) {
  struct Case {
    Status status;
    int http;
    const char* code;
  };
  for (const Case& c : {Case{InvalidError("too big"), 422, "cache_impossible"}, {ExhaustedError("quota"), 429, "cache_no_room"},
                        {UnavailableError("no store"), 503, "unavailable"}, {DeadlineError("slow"), 503, "deadline"}}) {
    server_.backend().FailHolds(c.status);
    const HttpReply reply = Make({{"prompt", "abc"}});
    EXPECT_EQ(reply.status, c.http);
    EXPECT_EQ(reply.error()["code"], c.code);
    EXPECT_EQ(reply.error()["message"], c.status.message());
    EXPECT_EQ(reply.headers.count("retry-after"), c.http == 422 ? 0u : 1u);
  }
  server_.backend().FailHolds(OkStatus());
  EXPECT_TRUE(Get(server_.port(), "/v1/caches").json()["data"].empty());
  EXPECT_EQ(server_.backend().releases().size(), 4u) << "the store's word may have been lost: it is told to let go";
}

TEST_F(CacheHandles, ExtendedByTextTokensOrTheConversation) {
  const std::string id = Made({{"prompt", "abc"}});
  EXPECT_EQ(Change(id, "extend", {{"prompt", "de"}}).json()["tokens"], 5);
  EXPECT_EQ(Change(id, "extend", {{"tokens", {70, 71}}}).json()["tokens"], 7);
  EXPECT_EQ(FakeCodec().Decode(server_.backend().kept().at(id).tokens), "abcdeFG");
  EXPECT_EQ(See(id).json()["tokens"], 7);

  const Json first = {{"role", "user"}, {"content", "hi"}}, second = {{"role", "assistant"}, {"content", "yes"}};
  const std::string chat = Made({{"messages", {first}}});
  EXPECT_EQ(Change(chat, "extend", {{"messages", {first, second}}}).json()["tokens"], std::string("user:hi\nassistant:yes\n").size());
  const HttpReply parted = Change(chat, "extend", {{"messages", {second}}});
  EXPECT_EQ(parted.status, 422);
  EXPECT_NE(parted.error()["message"].get<std::string>().find("token 0"), std::string::npos) << parted.body;
  EXPECT_EQ(Change(chat, "extend", {{"prompt", Letters(2047)}}).status, 422) << "beyond the context";
  EXPECT_EQ(Change(chat, "extend", {{"length", 5}}).error()["param"], "length");
}

TEST_F(CacheHandles, ExtendedInTime) {
  const std::string id = Made({{"prompt", "abc"}, {"ttl_s", 10}});
  const double before = See(id).json()["expires_at"];
  EXPECT_NEAR(Change(id, "extend", {{"ttl_s", 5000}}).json()["expires_at"].get<double>() - before, 4990, 5);
  EXPECT_EQ(Change(id, "extend", Json::object()).json()["tokens"], 3) << "nothing asked, nothing changed";
  EXPECT_TRUE(Change(id, "extend", {{"pin", true}}).json()["expires_at"].is_null());
  EXPECT_TRUE(Change(id, "extend", {{"prompt", "d"}}).json()["expires_at"].is_null()) << "stays pinned";
  EXPECT_FALSE(Change(id, "extend", {{"pin", false}}).json()["expires_at"].is_null());
}

TEST_F(CacheHandles, CroppedToALengthOrToWhereAnEditedTurnParts) {
  const std::string id = Made({{"prompt", Letters(200)}});
  EXPECT_EQ(Change(id, "crop", {{"length", 150}}).json()["tokens"], 150);
  EXPECT_EQ(Change(id, "crop", {{"length", -10}}).json()["tokens"], 140);
  EXPECT_EQ(Change(id, "crop", {{"length", 140}}).json()["tokens"], 140);
  const HttpReply parted = Change(id, "crop", {{"prompt", Letters(100) + "#"}});
  EXPECT_EQ(parted.json()["tokens"], 100);
  EXPECT_EQ(parted.json()["blocks"], 1);
  EXPECT_EQ(server_.backend().kept().at(id).tokens.size(), 100u);
  for (const Json& bad : {Json{{"length", 101}}, Json{{"length", 0}}, Json{{"length", -100}}, Json{{"prompt", "#"}}}) {
    EXPECT_EQ(Change(id, "crop", bad).status, 422) << bad;
  }
  EXPECT_EQ(Change(id, "crop", Json::object()).status, 400);
  EXPECT_EQ(Change(id, "crop", {{"length", "5"}}).status, 400);
  EXPECT_EQ(See(id).json()["tokens"], 100) << "what failed changed nothing";
}

TEST_F(CacheHandles, AForkGoesItsOwnWay) {
  const std::string id = Made({{"prompt", Letters(150)}, {"ttl_s", 50}});
  const auto fork = Change(id, "fork", {{"length", 100}, {"pin", true}}).json();
  const std::string forked = fork["id"];
  EXPECT_NE(forked, id);
  EXPECT_EQ(fork["tokens"], 100);
  EXPECT_TRUE(fork["expires_at"].is_null());
  EXPECT_EQ(Change(id, "fork", Json::object()).json()["tokens"], 150) << "without a length, all of it";
  EXPECT_EQ(Change(forked, "extend", {{"prompt", "xyz"}}).json()["tokens"], 103);
  EXPECT_EQ(See(id).json()["tokens"], 150);
  Delete(server_.port(), "/v1/caches/" + id);
  EXPECT_EQ(See(forked).json()["tokens"], 103);
}

TEST_F(CacheHandles, AFailedChangeLeavesTheHandleAsItWas) {
  const std::string id = Made({{"prompt", "abc"}});
  server_.backend().FailHolds(ExhaustedError("quota"));
  EXPECT_EQ(Change(id, "extend", {{"prompt", "def"}}).status, 429);
  server_.backend().FailHolds(OkStatus());
  EXPECT_EQ(See(id).json()["tokens"], 3);
}

TEST_F(CacheHandles, SeenWhileTheStoreIsAway) {
  const std::string id = Made({{"prompt", Letters(100)}});
  server_.backend().FailHolds(UnavailableError("no store"));
  const HttpReply reply = See(id);
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.json()["held_blocks"], 0) << "it says what is held: nothing";
  EXPECT_EQ(reply.json()["blocks"], 1);
}

TEST_F(CacheHandles, OneChangeAtATime) {
  const std::string id = Made({{"prompt", "abc"}});
  server_.backend().StopHolds();
  HttpSocket first(server_.port());
  first.Post("/v1/caches/" + id + "/extend", "{\"prompt\":\"d\"}");
  ASSERT_TRUE(server_.backend().AwaitHolds(2));
  const HttpReply second = Change(id, "crop", {{"length", 1}});
  EXPECT_EQ(second.status, 409);
  EXPECT_EQ(second.error()["code"], "cache_busy");
  server_.backend().LetHolds();
  EXPECT_EQ(first.Read().json()["tokens"], 4);
  EXPECT_EQ(Change(id, "crop", {{"length", 1}}).json()["tokens"], 1);
}

TEST_F(CacheHandles, DeletedWhileItIsChanged) {
  const std::string id = Made({{"prompt", "abc"}});
  server_.backend().StopHolds();
  HttpSocket change(server_.port());
  change.Post("/v1/caches/" + id + "/extend", "{\"prompt\":\"d\"}");
  ASSERT_TRUE(server_.backend().AwaitHolds(2));
  EXPECT_EQ(Delete(server_.port(), "/v1/caches/" + id).status, 200);
  server_.backend().LetHolds();
  EXPECT_EQ(change.Read().status, 404);
  EXPECT_FALSE(server_.backend().kept().contains(id)) << "the store must not keep what was deleted";
}

TEST_F(CacheHandles, AChangeWhoseClientLeavesDoesNotLockTheHandle) {
  const std::string id = Made({{"prompt", "abc"}});
  server_.backend().StopHolds();
  {
    HttpSocket leaver(server_.port());
    leaver.Post("/v1/caches/" + id + "/extend", "{\"prompt\":\"d\"}");
    ASSERT_TRUE(server_.backend().AwaitHolds(2));
    leaver.Reset();
  }
  server_.backend().LetHolds();
  HttpReply reply;
  for (int i = 0; i < 1000; ++i) {  // until the gateway has noticed
    reply = Change(id, "crop", {{"length", 2}});
    if (reply.status != 409) break;
  }
  EXPECT_EQ(reply.status, 200) << reply.body;
}

TEST_F(CacheHandles, FoundAtTheStoreAfterTheGatewayWasStartedAnew) {
  const CacheRecord kept{"cache_" + std::string(32, '7'), "", {97, 98, 99}, 5, 0};
  server_.backend().Keep(kept);
  server_.backend().Keep({"cache_" + std::string(32, '8'), "somebody", {97}, 5, 0});
  EXPECT_EQ(See(kept.id).json()["tokens"], 3);
  EXPECT_EQ(See("cache_" + std::string(32, '8')).status, 404);
  EXPECT_EQ(Get(server_.port(), "/v1/caches").json()["data"].size(), 1u);
  Delete(server_.port(), "/v1/caches/" + kept.id);
  server_.backend().Keep(kept);  // a store that was away comes back with it
  EXPECT_EQ(See(kept.id).status, 404);
  EXPECT_TRUE(Get(server_.port(), "/v1/caches").json()["data"].empty());
  EXPECT_FALSE(server_.backend().kept().contains(kept.id)) << "and is told";
}

TEST(CacheHandlesOfMany, BoundedForEachTenant) {
  GatewayConfig config;
  config.max_caches = 2;
  config.tenants = {{"alice", "ka"}, {"bob", "kb"}};
  GatewayServer server(config);
  const std::string alice = "Authorization: Bearer ka\r\n", bob = "Authorization: Bearer kb\r\n";
  const Json body = {{"prompt", "abc"}};
  EXPECT_EQ(Post(server.port(), "/v1/caches", body, alice).status, 200);
  const std::string second = Post(server.port(), "/v1/caches", body, alice).json()["id"];
  EXPECT_EQ(Post(server.port(), "/v1/caches", body, alice).status, 429);
  EXPECT_EQ(Post(server.port(), "/v1/caches", body, bob).status, 200);
  Delete(server.port(), "/v1/caches/" + second, alice);
  EXPECT_EQ(Post(server.port(), "/v1/caches", body, alice).status, 200);
}

TEST(CacheHandlesOfMany, TenantsSeeOnlyTheirOwn) {
  GatewayConfig config;
  config.api_keys = {"plain"};
  config.tenants = {{"alice", "ka"}, {"alice", "ka2"}, {"bob", "kb"}};
  GatewayServer server(config);
  const auto key = [](const std::string& k) { return "Authorization: Bearer " + k + "\r\n"; };
  const Json body = {{"prompt", "abc"}};
  EXPECT_EQ(Post(server.port(), "/v1/caches", body).status, 401);
  EXPECT_EQ(Get(server.port(), "/v1/caches").status, 401);
  EXPECT_EQ(Delete(server.port(), "/v1/caches/x").status, 401);
  const std::string id = Post(server.port(), "/v1/caches", body, key("ka")).json()["id"];
  EXPECT_EQ(server.backend().holds().back().record.tenant, "alice");
  EXPECT_EQ(Get(server.port(), "/v1/caches/" + id, key("ka2")).status, 200) << "another key of the same tenant";
  for (const std::string& other : {key("kb"), key("plain")}) {
    EXPECT_EQ(Get(server.port(), "/v1/caches/" + id, other).status, 404);
    EXPECT_EQ(Get(server.port(), "/v1/caches", other).json()["data"].size(), 0u);
    EXPECT_EQ(Delete(server.port(), "/v1/caches/" + id, other).status, 404);
    for (const char* what : {"crop", "fork", "extend"}) {
      EXPECT_EQ(Post(server.port(), "/v1/caches/" + id + "/" + what, {{"length", 1}}, other).status, what[0] == 'e' ? 400 : 404);
    }
    const HttpReply used = Post(server.port(), "/v1/completions", {{"prompt", "abcd"}, {"cache_id", id}}, other);
    EXPECT_EQ(used.status, 404);
    EXPECT_EQ(used.error()["code"], "cache_not_found");
  }
  EXPECT_TRUE(server.backend().requests().empty());
  EXPECT_EQ(Get(server.port(), "/v1/caches/" + id, key("ka")).json()["tokens"], 3) << "nobody changed it";
}

TEST(CacheHandlesOfMany, ASaltMakesAChainOfItsOwn) {
  GatewayServer server;
  const std::string id = Post(server.port(), "/v1/caches", {{"prompt", "abc"}, {"cache_salt", "s"}}).json()["id"];
  EXPECT_EQ(server.backend().holds().back().record.tenant, SaltedTenant("", "s"));
  EXPECT_TRUE(Get(server.port(), "/v1/caches").json()["data"].empty()) << "only who has the id knows of it";
  EXPECT_EQ(Get(server.port(), "/v1/caches/" + id).status, 200);
  const Json use = {{"prompt", "abcd"}, {"cache_id", id}};
  EXPECT_EQ(Post(server.port(), "/v1/completions", use).status, 404) << "without the salt its blocks are none of the request's";
  Json salted = use;
  salted["cache_salt"] = "s";
  EXPECT_EQ(Post(server.port(), "/v1/completions", salted).status, 200);
  EXPECT_EQ(server.backend().requests().back().tenant, SaltedTenant("", "s"));
}

TEST(TenantKeys, AreReadOrRefusedWithoutTheKeyInTheMessage) {
  EXPECT_EQ(ParseTenantKey("alice:k")->tenant, "alice");
  EXPECT_EQ(ParseTenantKey("a-b_c.9:k:with:colons")->key, "k:with:colons");
  for (const char* bad : {"", ":", ":secret", "alice", "alice:", "a b:secret", "a/b:secret", "\xc3\xa4:secret", "alice\n:secret"}) {
    const auto tenant = ParseTenantKey(bad);
    EXPECT_EQ(tenant.status().code(), StatusCode::kInvalid) << bad;
    EXPECT_EQ(tenant.status().message().find("secret"), std::string::npos) << tenant.status().message();
  }
  EXPECT_FALSE(ParseTenantKey(std::string(65, 'a') + ":k").ok());
}

}  // namespace
}  // namespace baton
