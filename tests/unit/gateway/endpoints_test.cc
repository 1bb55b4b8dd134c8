// Everything but the generation APIs.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class Endpoint : public testing::Test {
 protected:
  static GatewayConfig Config() {
    GatewayConfig config;
    config.version = "1.2.3";
    return config;
  }
  HttpReply GetPath(const std::string& path, const std::string& headers = "") { return Get(server_.port(), path, headers); }
  HttpReply PostPath(const std::string& path, const Json& body, const std::string& headers = "") { return Post(server_.port(), path, body, headers); }
  GatewayServer server_{Config()};
};

TEST_F(Endpoint, HealthLiveVersion) {
  for (const char* path : {"/health", "/v1/health", "/ping", "/live", "/health?x=1"}) EXPECT_EQ(GetPath(path).status, 200) << path;
  EXPECT_EQ(GetPath("/version").json()["version"], "1.2.3");
}

TEST_F(Endpoint, Head) {
  HttpSocket socket(server_.port());
  socket.Send("HEAD /health HTTP/1.1\r\nHost: x\r\n\r\nGET /live HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string all = socket.ReadUntil("{\"status\":\"ok\"}");
  EXPECT_EQ(all.find("{\"status\""), all.rfind("{\"status\""));  // only the GET has a body
}

TEST_F(Endpoint, Models) {
  const auto list = GetPath("/v1/models").json();
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "org/fake-model");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(list["data"][0]["max_model_len"], 2048);
  EXPECT_EQ(GetPath("/v1/models/org/fake-model").json(), list["data"][0]);
  EXPECT_EQ(GetPath("/v1/models/org%2Ffake-model").json(), list["data"][0]);
}

TEST_F(Endpoint, Tokenize) {
  const auto json = PostPath("/tokenize", {{"prompt", "a<|end|>"}, {"return_token_strs", true}}).json();
  EXPECT_EQ(json["tokens"], (nlohmann::json{'a', 256}));
  EXPECT_EQ(json["count"], 2);
  EXPECT_EQ(json["max_model_len"], 2048);
  EXPECT_EQ(json["token_strs"], (nlohmann::json{"a", "<|end|>"}));
  EXPECT_EQ(PostPath("/tokenize", {{"content", "<|end|>"}, {"parse_special", false}}).json()["count"], 7);
  EXPECT_EQ(PostPath("/tokenize", {{"messages", {{{"role", "user"}, {"content", "hi"}}}}}).json()["count"], 18);
  EXPECT_EQ(PostPath("/tokenize", {{"prompt", 5}}).status, 400);
  EXPECT_EQ(PostPath("/tokenize", Json::object()).status, 400);
}

TEST_F(Endpoint, Detokenize) {
  EXPECT_EQ(PostPath("/detokenize", {{"tokens", {257, 258}}}).json()["prompt"], "Hello world");
  EXPECT_EQ(PostPath("/detokenize", {{"tokens", {0xff}}}).json()["prompt"], "\xef\xbf\xbd");
  EXPECT_EQ(PostPath("/detokenize", {{"tokens", Json::array()}}).json()["prompt"], "");
  EXPECT_EQ(PostPath("/detokenize", {{"tokens", {260}}}).error()["param"], "tokens");
  EXPECT_EQ(PostPath("/detokenize", Json::object()).error()["param"], "tokens");
}

TEST_F(Endpoint, ApplyTemplate) {
  EXPECT_EQ(PostPath("/apply-template", {{"messages", {{{"role", "user"}, {"content", "hi"}}}}}).json()["prompt"], "user:hi\nassistant:");
  EXPECT_EQ(PostPath("/apply-template", {{"messages", {{{"role", "refused"}, {"content", "hi"}}}}}).error()["message"], "the template refuses this role");
}

TEST_F(Endpoint, Admin) {
  EXPECT_EQ(GetPath("/admin/cluster").json(), (nlohmann::json{{"workers", nlohmann::json::array()}}));
  EXPECT_EQ(PostPath("/admin/drain/7", Json::object()).status, 200);
  EXPECT_EQ(PostPath("/admin/drain/8", Json::object()).status, 404);
  EXPECT_EQ(PostPath("/admin/drain/7x", Json::object()).status, 400);
  EXPECT_EQ(PostPath("/admin/drain/-1", Json::object()).status, 400);
  EXPECT_EQ(PostPath("/debug/route", {{"prompt", "abc"}}).json()["tokens"], 3);
  EXPECT_EQ(PostPath("/debug/route", {{"messages", {{{"role", "user"}, {"content", "hi"}}}}}).json()["tokens"], 18);
  EXPECT_EQ(PostPath("/debug/route", {{"prompt", "abc"}, {"max_tokens", 77}}).json()["max_tokens"], 77);
  EXPECT_EQ(PostPath("/debug/route", Json::object()).status, 400);
  server_.backend().SetHealth(UnavailableError("the coordinator cannot be reached"));
  const HttpReply unreachable = GetPath("/admin/cluster");
  EXPECT_EQ(unreachable.status, 503);
  EXPECT_EQ(unreachable.error()["message"], "the coordinator cannot be reached");
}

TEST_F(Endpoint, RolesAreSwitched) {
  const HttpReply done = PostPath("/admin/role/7", {{"role", "decode"}});
  EXPECT_EQ(done.status, 200);
  EXPECT_EQ(done.json(), (nlohmann::json{{"worker", 7}, {"role", "decode"}}));
  EXPECT_EQ(PostPath("/admin/role/8", {{"role", "decode"}}).status, 404);
  EXPECT_EQ(PostPath("/admin/role/x", {{"role", "decode"}}).status, 400);
  EXPECT_EQ(PostPath("/admin/role/7", Json::object()).error()["param"], "role");
  EXPECT_EQ(PostPath("/admin/role/7", {{"role", 1}}).error()["param"], "role");
  EXPECT_EQ(PostPath("/admin/role/7", {{"role", "\xc3\xa4"}}).status, 400);
  const HttpReply soon = PostPath("/admin/role/7", {{"role", "prefill"}});
  EXPECT_EQ(soon.status, 429);
  EXPECT_TRUE(soon.headers.count("retry-after"));
  EXPECT_EQ(GetPath("/admin/role/7").status, 405);
}

TEST_F(Endpoint, PagesOfOtherSitesAreRefused) {
  EXPECT_EQ(GetPath("/admin/cluster", "Origin: http://evil.example\r\n").status, 403);
  EXPECT_EQ(GetPath("/admin/cluster", "Origin: http://test\r\n").status, 200);  // the socket's Host
}

TEST_F(Endpoint, EndedAnswersAreRemembered) {
  const HttpReply reply = PostPath("/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "hi"}}}}}, "X-Request-Id: my-1\r\n");
  for (const std::string& id : {reply.json()["id"].get<std::string>(), std::string("my-1")}) {
    const auto record = GetPath("/debug/requests/" + id).json();
    EXPECT_EQ(record["outcome"], "done") << id;
    EXPECT_EQ(record["prompt_tokens"], 18);
    EXPECT_EQ(record["completion_tokens"], 2);
    EXPECT_EQ(record["route"], "prefill=1 decode=2 prefix=memory");
    EXPECT_EQ("chatcmpl-" + record["routing"]["request"].get<std::string>(), reply.json()["id"]) << "what the coordinator knows of it";
  }
  EXPECT_EQ(GetPath("/debug/requests/chatcmpl-0123456789abcdef").status, 404);
  EXPECT_EQ(GetPath("/debug/requests/unknown").status, 404);
}

TEST_F(Endpoint, RequestIds) {
  EXPECT_EQ(GetPath("/live", "X-Request-Id: abc\r\n").headers.at("x-request-id"), "abc");
  const std::string made = GetPath("/live").headers.at("x-request-id");
  EXPECT_EQ(made.rfind("req-", 0), 0u);
  EXPECT_NE(made, GetPath("/live").headers.at("x-request-id"));
  EXPECT_EQ(GetPath("/live", "X-Request-Id: " + std::string(500, 'x') + "\r\n").headers.at("x-request-id").size(), 128u);
}

TEST_F(Endpoint, Metrics) {
  PostPath("/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "hi"}}}}});
  PostPath("/v1/chat/completions", {{"messages", 5}});
  GetPath("/nothing/at/all");
  const HttpReply reply = GetPath("/metrics");
  EXPECT_EQ(reply.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  for (const char* line : {"baton_gateway_requests_total{endpoint=\"/v1/chat/completions\",status=\"200\"} 1\n",
                           "baton_gateway_requests_total{endpoint=\"/v1/chat/completions\",status=\"400\"} 1\n",
                           "baton_gateway_requests_total{endpoint=\"unknown\",status=\"404\"} 1\n", "baton_gateway_generated_tokens_total 2\n",
                           "baton_gateway_prompt_tokens_total 18\n", "baton_gateway_cached_tokens_total 9\n",
                           "baton_gateway_time_to_first_token_seconds_count 1\n", "baton_gateway_inter_token_seconds_count 1\n",
                           "baton_gateway_running_answers 0\n", "fake_metric 1\n"}) {
    EXPECT_NE(reply.body.find(line), std::string::npos) << line << reply.body;
  }
}

TEST_F(Endpoint, ThePageIsWholeAndLoadsNothingFromElsewhere) {
  const HttpReply reply = GetPath("/");
  EXPECT_EQ(reply.headers.at("content-type"), "text/html; charset=utf-8");
  EXPECT_NE(reply.body.find("</html>"), std::string::npos);
  for (const char* outside : {"http://", "https://", "src=\"//", "@import", "url("}) EXPECT_EQ(reply.body.find(outside), std::string::npos) << outside;
  EXPECT_TRUE(reply.headers.count("content-security-policy"));
}

TEST_F(Endpoint, OpenApiNamesEveryPath) {
  const auto json = GetPath("/openapi.json").json();
  EXPECT_EQ(json["openapi"].get<std::string>().substr(0, 2), "3.");
  for (const char* path : {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/v1/models/{id}", "/tokenize", "/detokenize",
                           "/apply-template", "/health", "/live", "/version", "/metrics", "/admin/cluster", "/admin/drain/{worker}", "/debug/route",
                           "/debug/requests/{id}"}) {
    EXPECT_TRUE(json["paths"].contains(path)) << path;
  }
}

}  // namespace
}  // namespace baton
