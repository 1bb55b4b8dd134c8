// Whatever a client gets wrong, and whatever goes wrong behind the gateway.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class Errors : public testing::Test {
 protected:
  static Json Chat(const Json& more = Json::object()) {
    Json body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};
    body.update(more);
    return body;
  }
  HttpReply AskChat(const Json& body) { return Post(server_.port(), "/v1/chat/completions", body); }
  HttpReply AskCompletion(const Json& body) { return Post(server_.port(), "/v1/completions", body); }
  void ExpectError(const HttpReply& reply, int status, const std::string& param) {
    EXPECT_EQ(reply.status, status) << reply.body;
    const auto error = reply.error();
    ASSERT_TRUE(error.is_object()) << reply.body;
    EXPECT_TRUE(error["message"].is_string() && !error["message"].get<std::string>().empty());
    EXPECT_TRUE(error["type"].is_string());
    EXPECT_EQ(error["param"], param.empty() ? nlohmann::json() : nlohmann::json(param)) << reply.body;
    EXPECT_TRUE(error.contains("code"));
    EXPECT_TRUE(reply.headers.count("x-request-id"));
  }
  GatewayServer server_;
};

TEST_F(Errors, WrongTypesAndValuesNameTheField) {
  const std::vector<std::pair<std::string, Json>> cases = {
      {"temperature", "hot"}, {"temperature", -0.1}, {"temperature", 2.1}, {"top_p", 1.5}, {"top_p", true}, {"min_p", -1}, {"typical_p", 2},
      {"repetition_penalty", 0}, {"presence_penalty", 3}, {"frequency_penalty", -3}, {"top_k", -2}, {"top_k", 1.5}, {"seed", 1.5}, {"seed", "x"},
      {"n", 0}, {"n", 129}, {"n", "2"}, {"max_tokens", 0}, {"max_tokens", -1}, {"max_tokens", "many"}, {"max_completion_tokens", 1.5},
      {"stream", 1}, {"stream", "true"}, {"stream_options", {{"include_usage", true}}}, {"logprobs", 1}, {"top_logprobs", 3}, {"ignore_eos", "yes"},
      {"stop", 5}, {"stop", {1}}, {"stop", ""}, {"stop", Json::array({""})}, {"stop", std::string(2000, 'x')}, {"stop_token_ids", 5},
      {"stop_token_ids", {260}}, {"stop_token_ids", {-1}}, {"stop_token_ids", {"a"}}, {"logit_bias", 5}, {"logit_bias", {{"x", 1}}},
      {"logit_bias", {{"260", 1}}}, {"logit_bias", {{"1", 101}}}, {"logit_bias", {{"1", "a"}}}, {"logit_bias", {{"1x", 1}}},
      {"response_format", {{"type", "xml"}}}, {"response_format", "json"}, {"tools", 5}, {"tool_choice", "required"},
      {"tool_choice", {{"type", "function"}}}, {"guided_json", 5}, {"min_tokens", -1}, {"priority", "high"}, {"model", 5},
      {"messages", 5}, {"messages", Json::array()}, {"messages", nullptr}, {"cache_salt", 5}};
  for (const auto& [name, value] : cases) {
    SCOPED_TRACE(name + " = " + value.dump().substr(0, 80));
    ExpectError(AskChat(Chat({{name, value}})), 400, name);
  }
  EXPECT_TRUE(server_.backend().requests().empty());
}

TEST_F(Errors, Messages) {
  const std::vector<std::pair<std::string, Json>> cases = {
      {"messages.0", {5}}, {"messages.0.role", {{{"content", "x"}}}}, {"messages.0.role", {{{"role", 5}, {"content", "x"}}}},
      {"messages.0.content", {{{"role", "user"}}}}, {"messages.0.content", {{{"role", "user"}, {"content", 5}}}},
      {"messages.0.content", {{{"role", "assistant"}, {"content", nullptr}}}},
      {"messages.0.content.0", {{{"role", "user"}, {"content", {5}}}}},
      {"messages.0.content.0", {{{"role", "user"}, {"content", {{{"type", "image_url"}, {"image_url", {{"url", "data:x"}}}}}}}}},
      {"messages.0.content.0.text", {{{"role", "user"}, {"content", {{{"type", "text"}}}}}}},
      {"messages", {{{"role", "refused"}, {"content", "x"}}}}};
  for (const auto& [param, messages] : cases) {
    SCOPED_TRACE(messages.dump());
    ExpectError(AskChat({{"messages", messages}}), 400, param);
  }
}

TEST_F(Errors, Prompts) {
  for (const Json& prompt : {Json(), Json(5), Json(""), Json::array(), Json::array({""}), Json::array({"a", 5}), Json::array({-1}), Json::array({260}),
                             Json::array({1, "a"}), Json::array({Json::array()}), Json::array({Json::array({1, 260})}), Json({{"a", 1}})}) {
    SCOPED_TRACE(prompt.dump());
    ExpectError(AskCompletion({{"prompt", prompt}}), 400, "prompt");
  }
  ExpectError(AskCompletion({{"prompt", "a"}, {"suffix", "b"}}), 400, "suffix");
  ExpectError(AskCompletion({{"prompt", "a"}, {"echo", true}, {"logprobs", 1}}), 400, "echo");
  ExpectError(AskCompletion({{"prompt", "a"}, {"logprobs", 21}}), 400, "logprobs");
  ExpectError(AskCompletion({{"prompt", "a"}, {"n", 2}, {"best_of", 1}}), 400, "best_of");
  ExpectError(AskCompletion({{"prompt", "a"}, {"best_of", 2}, {"stream", true}}), 400, "best_of");
  ExpectError(AskCompletion({{"prompt", Json(std::vector<std::string>(200, "a"))}, {"n", 2}}), 400, "n");
}

TEST_F(Errors, TooLongForTheModel) {
  const HttpReply reply = AskChat({{"messages", {{{"role", "user"}, {"content", std::string(3000, 'x')}}}}});
  ExpectError(reply, 400, "");
  EXPECT_EQ(reply.error()["code"], "context_length_exceeded");
  EXPECT_EQ(AskCompletion({{"prompt", std::string(2000, 'x')}, {"max_tokens", 49}}).error()["code"], "context_length_exceeded");
  EXPECT_EQ(AskCompletion({{"prompt", std::string(2000, 'x')}, {"max_tokens", 48}}).status, 200);
  const std::string huge(600000, 'x');  // not even made into tokens
  EXPECT_NE(AskCompletion({{"prompt", huge}}).error()["message"].get<std::string>().find("600000 bytes"), std::string::npos);
  EXPECT_EQ(AskChat({{"messages", {{{"role", "user"}, {"content", huge}}}}}).error()["code"], "context_length_exceeded");
}

TEST_F(Errors, UnknownModelPathAndMethod) {
  const HttpReply model = AskChat(Chat({{"model", "other"}}));
  ExpectError(model, 404, "model");
  EXPECT_EQ(model.error()["code"], "model_not_found");
  ExpectError(Get(server_.port(), "/v1/nothing"), 404, "");
  ExpectError(Get(server_.port(), "/v1/models/other"), 404, "model");
  const HttpReply method = Get(server_.port(), "/v1/chat/completions");
  ExpectError(method, 405, "");
  EXPECT_EQ(method.headers.at("allow"), "POST");
  EXPECT_EQ(Post(server_.port(), "/health", Json::object()).headers.at("allow"), "GET, HEAD");
}

TEST_F(Errors, BodiesThatAreNotJson) {
  for (const std::string body : {"", "{", "[1]", "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "null", "{\"a\":1}}"}) {
    HttpSocket socket(server_.port());
    socket.Post("/v1/chat/completions", body);
    ExpectError(socket.Read(), 400, "");
    socket.Get("/live");  // and the connection goes on
    EXPECT_EQ(socket.Read().status, 200);
  }
}

TEST_F(Errors, TheBackendsErrorsBecomeStatuses) {
  const std::vector<std::tuple<Status, double, int, std::string>> cases = {
      {ExhaustedError("queue full"), 2.3, 429, "3"}, {UnavailableError("no worker"), 0, 503, "1"}, {InvalidError("bad"), 0, 400, ""},
      {DeadlineError("slow"), 0, 503, "1"}, {InternalError("bug"), 0, 500, ""}, {DataLossError("x"), 0, 500, ""}};
  for (const auto& [status, retry, code, header] : cases) {
    for (const bool stream : {false, true}) {
      FakeScript script;
      script.error = status;
      script.retry_after_s = retry;
      server_.backend().Push(script);
      const HttpReply reply = AskChat(Chat({{"stream", stream}}));
      ExpectError(reply, code, "");
      EXPECT_EQ(reply.headers.count("retry-after") ? reply.headers.at("retry-after") : "", header);
    }
  }
  EXPECT_TRUE(server_.backend().AwaitRunning(0));
}

TEST_F(Errors, AnErrorInAStreamIsItsLastEvent) {
  FakeScript script;
  script.tokens = {FakeCodec::kHello};
  script.error = UnavailableError("the worker died");
  server_.backend().Push(script);
  HttpSocket socket(server_.port());
  socket.Post("/v1/chat/completions", Chat({{"stream", true}}).dump());
  const HttpReply reply = socket.Read();
  EXPECT_EQ(reply.status, 200);
  const auto events = Events(reply.body);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1]["choices"][0]["delta"]["content"], "Hello");
  EXPECT_EQ(events[2]["error"]["message"], "the worker died");
  EXPECT_TRUE(socket.AwaitClosed());
}

TEST_F(Errors, OneFailedChoiceFailsTheAnswerAndCancelsTheRest) {
  FakeScript endless;
  endless.tokens = {'a'};
  endless.hang = true;
  FakeScript failing;
  failing.error = ExhaustedError("full");
  server_.backend().Push(endless);
  server_.backend().Push(failing);
  EXPECT_EQ(AskChat(Chat({{"n", 2}})).status, 429);
  EXPECT_TRUE(server_.backend().AwaitRunning(0));
}

TEST_F(Errors, ACancelledGenerationIsNoAnswer) {
  FakeScript script;
  script.reason = FinishReason::kCancelled;
  server_.backend().Push(script);
  EXPECT_EQ(AskChat(Chat()).status, 503);
}

TEST_F(Errors, NotReady) {
  server_.backend().SetHealth(UnavailableError("loading the model"));
  const HttpReply reply = AskChat(Chat());
  ExpectError(reply, 503, "");
  EXPECT_TRUE(reply.headers.count("retry-after"));
  EXPECT_EQ(Get(server_.port(), "/health").status, 503);
  EXPECT_EQ(Get(server_.port(), "/health").error()["message"], "loading the model");
  EXPECT_EQ(Get(server_.port(), "/live").status, 200);
}

TEST(Keys, ApiKeysAndTheAdminKey) {
  GatewayConfig config;
  config.api_keys = {"one", "two"};
  config.admin_key = "root";
  GatewayServer server(config);
  const Json body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};
  const auto ask = [&](const std::string& headers) { return Post(server.port(), "/v1/chat/completions", body, headers); };
  EXPECT_EQ(ask("").status, 401);
  EXPECT_EQ(ask("").headers.at("www-authenticate"), "Bearer");
  EXPECT_EQ(ask("Authorization: Bearer three\r\n").error()["code"], "invalid_api_key");
  EXPECT_EQ(ask("Authorization: Basic one\r\n").status, 401);
  EXPECT_EQ(ask("Authorization: Bearer one\r\n").status, 200);
  EXPECT_EQ(ask("X-Api-Key: two\r\n").status, 200);
  const auto requests = server.backend().requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_NE(requests[0].tenant, requests[1].tenant);  // each key is a tenant
  EXPECT_NE(requests[0].tenant, "");
  EXPECT_EQ(Get(server.port(), "/v1/models").status, 401);
  for (const char* open : {"/", "/health", "/live", "/version", "/metrics", "/openapi.json"}) EXPECT_EQ(Get(server.port(), open).status, 200) << open;
  EXPECT_EQ(Get(server.port(), "/admin/cluster").status, 401);
  EXPECT_EQ(Get(server.port(), "/admin/cluster", "Authorization: Bearer one\r\n").status, 401);
  EXPECT_EQ(Get(server.port(), "/admin/cluster", "Authorization: Bearer root\r\n").status, 200);
}

}  // namespace
}  // namespace baton
