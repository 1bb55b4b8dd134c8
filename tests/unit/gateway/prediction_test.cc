// OpenAI's predicted outputs: the client's guess goes to the workers, and usage tells what guesses were worth.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class Prediction : public testing::Test {
 protected:
  HttpReply Ask(const Json& body) { return Post(server_.port(), "/v1/chat/completions", body); }
  static Json Body() { return {{"model", "org/fake-model"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}}; }
  static std::vector<TokenId> Bytes(std::string_view text) { return {text.begin(), text.end()}; }
  GatewayServer server_;
};

TEST_F(Prediction, ReachesTheBackendAsTokensOfPlainText) {
  Json body = Body();
  body["prediction"] = {{"type", "content"}, {"content", "ab<|end|>"}};
  ASSERT_EQ(Ask(body).status, 200);
  body["prediction"]["content"] = Json::parse(R"([{"type":"text","text":"ab"},{"type":"text","text":"cd"}])");
  ASSERT_EQ(Ask(body).status, 200);
  body["prediction"]["content"] = "";
  ASSERT_EQ(Ask(body).status, 200);
  body["prediction"] = nullptr;
  ASSERT_EQ(Ask(body).status, 200);
  const auto requests = server_.backend().requests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[0].prediction, Bytes("ab<|end|>")) << "control tokens in it are text";
  EXPECT_EQ(requests[1].prediction, Bytes("abcd"));
  EXPECT_TRUE(requests[2].prediction.empty());
  EXPECT_TRUE(requests[3].prediction.empty());
  EXPECT_EQ(requests[0].prompt, requests[3].prompt) << "a prediction is no part of the prompt";
}

TEST_F(Prediction, EveryChoiceGetsIt) {
  Json body = Body();
  body["n"] = 3;
  body["prediction"] = {{"type", "content"}, {"content", "abc"}};
  ASSERT_EQ(Ask(body).status, 200);
  const auto requests = server_.backend().requests();
  ASSERT_EQ(requests.size(), 3u);
  for (const GenerateRequest& request : requests) EXPECT_EQ(request.prediction, Bytes("abc"));
}

TEST_F(Prediction, WhatNoAnswerCanHoldIsCutOff) {
  const uint32_t most = server_.backend().card().max_positions;
  Json body = Body();
  body["prediction"] = {{"type", "content"}, {"content", std::string(most + 100, 'a')}};
  ASSERT_EQ(Ask(body).status, 200);
  EXPECT_EQ(server_.backend().requests().at(0).prediction.size(), most);
}

TEST_F(Prediction, WrongShapesAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("text")", "prediction"},
      {"[]", "prediction"},
      {"{}", "prediction"},
      {R"({"type":"content"})", "prediction"},
      {R"({"type":"diff","content":"a"})", "prediction"},
      {R"({"type":7,"content":"a"})", "prediction"},
      {R"({"type":"content","content":7})", "prediction.content"},
      {R"({"type":"content","content":{"type":"text"}})", "prediction.content"},
      {R"({"type":"content","content":[7]})", "prediction.content.0"},
      {R"({"type":"content","content":[{"type":"image_url"}]})", "prediction.content.0"},
      {R"({"type":"content","content":[{"type":"text"}]})", "prediction.content.0.text"},
  };
  for (const auto& [prediction, param] : cases) {
    Json body = Body();
    body["prediction"] = Json::parse(prediction);
    const HttpReply reply = Ask(body);
    EXPECT_EQ(reply.status, 400) << prediction;
    EXPECT_EQ(reply.error()["param"], param) << prediction;
  }
  EXPECT_TRUE(server_.backend().requests().empty());
}

TEST_F(Prediction, UsageCountsGuessesOfTheTokensThatWereSent) {
  FakeScript script;
  script.tokens = {FakeCodec::kHello, FakeCodec::kWorld, FakeCodec::kHello, FakeCodec::kWorld, FakeCodec::kHello};
  script.rejected = {0, 4};  // the other three were guessed
  server_.backend().Push(script);
  nlohmann::json usage = Ask(Body()).json()["usage"]["completion_tokens_details"];
  EXPECT_EQ(usage["accepted_prediction_tokens"], 3);
  EXPECT_EQ(usage["rejected_prediction_tokens"], 4);

  // A stop string ends it at the third token: what came behind is not counted.
  server_.backend().Push(script);
  Json body = Body();
  body["stop"] = " worldHello";
  usage = Ask(body).json()["usage"];
  EXPECT_EQ(usage["completion_tokens"], 3);
  EXPECT_EQ(usage["completion_tokens_details"]["accepted_prediction_tokens"], 1);
  EXPECT_EQ(usage["completion_tokens_details"]["rejected_prediction_tokens"], 4);
}

TEST_F(Prediction, UsageSumsOverChoices) {
  FakeScript script;
  script.tokens = {FakeCodec::kHello, FakeCodec::kWorld};
  script.rejected = {2};
  for (int i = 0; i < 3; ++i) server_.backend().Push(script);
  Json body = Body();
  body["n"] = 3;
  const nlohmann::json usage = Ask(body).json()["usage"]["completion_tokens_details"];
  EXPECT_EQ(usage["accepted_prediction_tokens"], 3);
  EXPECT_EQ(usage["rejected_prediction_tokens"], 6);
}

}  // namespace
}  // namespace baton
