// Reading bodies of the three APIs into what is generated: every field's forms, limits and errors, without a server.
#include "gateway/answer_request.h"

#include "tests/unit/gateway/fake_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

class RequestTest : public testing::Test {
 protected:
  RequestTest() {
    card_.id = "m";
    card_.vocab = FakeCodec::kVocab;
    card_.max_positions = 100;
  }
  static Json With(Json base, const std::string& name, const Json& value) {
    base[name] = value;
    return base;
  }
  std::optional<ApiError> Chat(const Json& more = Json::object()) {
    Json body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};
    body.update(more);
    out_ = {};
    return ReadChatRequest(body, codec_, card_, out_);
  }
  std::optional<ApiError> Completion(const Json& more = Json::object()) {
    Json body = {{"prompt", "hi"}};
    body.update(more);
    out_ = {};
    return ReadCompletionRequest(body, codec_, card_, out_);
  }
  std::optional<ApiError> Responses(const Json& body) {
    out_ = {};
    return ReadResponsesRequest(body, codec_, card_, out_);
  }
  FakeCodec codec_;
  ModelCard card_;
  AnswerRequest out_;
};

TEST_F(RequestTest, NumbersAtTheirBounds) {
  struct Bound {
    const char* name;
    std::vector<Json> good, bad;
  };
  const std::vector<Bound> bounds = {{"temperature", {0, 2, 0.5, -0.0}, {-1e-9, 2.0001, "1", true, Json::array()}},
                                     {"top_p", {0, 1, 0.3}, {-0.1, 1.1, "x"}},
                                     {"min_p", {0, 1}, {-1, 1.5}},
                                     {"typical_p", {0, 1}, {-1, 2}},
                                     {"repetition_penalty", {0.001, 1, 1000}, {0, -1, 1001}},
                                     {"presence_penalty", {-2, 2, 0}, {-2.1, 2.1}},
                                     {"frequency_penalty", {-2, 2, 0}, {-2.1, 2.1}},
                                     {"top_k", {-1, 0, 1, 2147483647}, {-2, 2147483648, 0.5, "3"}},
                                     {"n", {1, 128, 2.0}, {0, 129, -1, 1.5, "2"}},
                                     {"seed", {0, INT64_MAX, INT64_MIN, -1, 5.0}, {1.5, "5", 9.3e18}},
                                     {"priority", {INT32_MIN, INT32_MAX}, {2147483648, "x"}},
                                     {"max_tokens", {1, 2, 82}, {-1, "x", 1.5, 4294967296}}};
  for (const Bound& b : bounds) {
    for (const Json& value : b.good) {
      EXPECT_FALSE(Chat({{b.name, value}})) << b.name << " " << value << " " << Chat({{b.name, value}})->message;
    }
    for (const Json& value : b.bad) {
      const auto error = Chat({{b.name, value}});
      ASSERT_TRUE(error) << b.name << " " << value;
      EXPECT_EQ(error->http_status, 400);
      EXPECT_EQ(error->param, b.name);
      EXPECT_THAT(error->message, testing::HasSubstr(b.name));
    }
  }
}

TEST_F(RequestTest, TheFirstErrorIsTold) {
  const auto error = Chat({{"temperature", "x"}, {"top_p", "y"}, {"n", 0}});
  ASSERT_TRUE(error);
  EXPECT_EQ(error->param, "temperature");
}

TEST_F(RequestTest, Lengths) {
  EXPECT_FALSE(Chat());
  EXPECT_FALSE(out_.max_tokens);
  EXPECT_EQ(out_.MaxTokens(18, 100), 82u) << "what the context has left";
  EXPECT_FALSE(Chat({{"max_tokens", 9}}));
  EXPECT_EQ(out_.MaxTokens(18, 100), 9u);
  EXPECT_FALSE(Chat({{"max_tokens", 9}, {"max_completion_tokens", 4}}));
  EXPECT_EQ(out_.max_tokens, 4u);
  EXPECT_EQ(Chat({{"max_tokens", 0}})->param, "max_tokens");
  EXPECT_FALSE(Completion({{"max_tokens", 0}}));
  EXPECT_EQ(out_.max_tokens, 0u);
  EXPECT_FALSE(Completion());
  EXPECT_EQ(out_.max_tokens, 16u);
  // The prompt of the chat has 18 tokens, the context 100.
  EXPECT_FALSE(Chat({{"max_tokens", 82}}));
  const auto error = Chat({{"max_tokens", 83}});
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code, "context_length_exceeded");
  EXPECT_THAT(error->message, testing::AllOf(testing::HasSubstr("100"), testing::HasSubstr("18"), testing::HasSubstr("83")));
  EXPECT_FALSE(Completion({{"prompt", std::string(99, 'x')}, {"max_tokens", 1}}));
  EXPECT_EQ(Completion({{"prompt", std::string(100, 'x')}, {"max_tokens", 1}})->code, "context_length_exceeded");
  EXPECT_EQ(Completion({{"prompt", {"x", std::string(100, 'x')}}, {"max_tokens", 1}})->code, "context_length_exceeded") << "every prompt is checked";
  EXPECT_EQ(Completion({{"prompt", std::string(256 * 100 + 1, 'x')}})->code, "context_length_exceeded") << "not even made into tokens";
}

TEST_F(RequestTest, Stops) {
  EXPECT_FALSE(Chat({{"stop", "a"}}));
  EXPECT_EQ(out_.stops, std::vector<std::string>{"a"});
  EXPECT_FALSE(Chat({{"stop", {"a", "\n", "a"}}}));
  EXPECT_EQ(out_.stops, (std::vector<std::string>{"a", "\n", "a"}));
  EXPECT_FALSE(Chat({{"stop", Json::array()}}));
  EXPECT_TRUE(out_.stops.empty());
  EXPECT_FALSE(Chat({{"stop", std::string(1024, 'x')}}));
  EXPECT_FALSE(Chat({{"stop", std::vector<std::string>(64, "x")}}));
  for (const Json& bad : {Json(""), Json(5), Json::array({""}), Json::array({"a", 5}), Json(std::string(1025, 'x')), Json(std::vector<std::string>(65, "x")), Json({{"a", 1}}), Json(true)}) {
    EXPECT_EQ(Chat({{"stop", bad}})->param, "stop") << bad.dump().substr(0, 50);
  }
}

TEST_F(RequestTest, LogitBias) {
  EXPECT_FALSE(Chat({{"logit_bias", {{"0", -100}, {"259", 100}, {"7", 0.5}}}}));
  EXPECT_EQ(out_.sampling.logit_bias, (std::map<TokenId, float>{{0, -100.f}, {7, 0.5f}, {259, 100.f}}));
  for (const Json& bad : {Json({{"260", 1}}), Json({{"-1", 1}}), Json({{"1 ", 1}}), Json({{"", 1}}), Json({{"0x1", 1}}), Json({{"1.0", 1}}), Json({{"99999999999999", 1}}), Json({{"1", "1"}}), Json({{"1", 100.1}}),
                          Json({{"1", -101}}), Json({{"1", nullptr}}), Json::array({1}), Json(1)}) {
    EXPECT_EQ(Chat({{"logit_bias", bad}})->param, "logit_bias") << bad;
  }
}

TEST_F(RequestTest, StreamsAndTheirOptions) {
  EXPECT_FALSE(Chat({{"stream", true}, {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}}}));
  EXPECT_TRUE(out_.stream && out_.include_usage && out_.continuous_usage);
  EXPECT_FALSE(Chat({{"stream", true}, {"stream_options", Json::object()}}));
  EXPECT_FALSE(out_.include_usage);
  EXPECT_FALSE(Chat({{"stream", true}, {"stream_options", {{"include_usage", nullptr}, {"unknown", 5}}}}));
  EXPECT_EQ(Chat({{"stream_options", Json::object()}})->param, "stream_options");
  EXPECT_EQ(Chat({{"stream", false}, {"stream_options", {{"include_usage", true}}}})->param, "stream_options");
  EXPECT_EQ(Chat({{"stream", true}, {"stream_options", 5}})->param, "stream_options");
  EXPECT_EQ(Chat({{"stream", true}, {"stream_options", {{"include_usage", 1}}}})->param, "stream_options.include_usage");
}

TEST_F(RequestTest, LogprobsOfBothForms) {
  EXPECT_FALSE(Chat({{"logprobs", true}}));
  EXPECT_EQ(out_.sampling.logprobs, 0);
  EXPECT_FALSE(Chat({{"logprobs", true}, {"top_logprobs", 20}}));
  EXPECT_EQ(out_.sampling.logprobs, 20);
  EXPECT_FALSE(Chat({{"logprobs", false}}));
  EXPECT_EQ(out_.sampling.logprobs, -1);
  EXPECT_EQ(Chat({{"top_logprobs", 1}})->param, "top_logprobs");
  EXPECT_EQ(Chat({{"logprobs", true}, {"top_logprobs", 21}})->param, "top_logprobs");
  EXPECT_EQ(Chat({{"logprobs", 5}})->param, "logprobs");
  EXPECT_FALSE(Completion({{"logprobs", 0}}));
  EXPECT_TRUE(out_.logprobs);
  EXPECT_EQ(out_.sampling.logprobs, 0);
  EXPECT_FALSE(Completion({{"logprobs", 20}}));
  EXPECT_EQ(Completion({{"logprobs", 21}})->param, "logprobs");
  EXPECT_EQ(Completion({{"logprobs", true}})->param, "logprobs");
}

TEST_F(RequestTest, BestOf) {
  EXPECT_FALSE(Completion({{"n", 2}, {"best_of", 5}}));
  EXPECT_EQ(out_.n, 2u);
  EXPECT_EQ(out_.best_of, 5u);
  EXPECT_FALSE(out_.logprobs) << "the client did not ask for them";
  EXPECT_EQ(out_.sampling.logprobs, 0) << "the ranking does";
  EXPECT_FALSE(Completion({{"n", 3}}));
  EXPECT_EQ(out_.best_of, 3u);
  EXPECT_EQ(Completion({{"n", 3}, {"best_of", 2}})->param, "best_of");
  EXPECT_EQ(Completion({{"best_of", 2}, {"stream", true}})->param, "best_of");
  EXPECT_FALSE(Completion({{"n", 2}, {"best_of", 2}, {"stream", true}}));
  EXPECT_EQ(Completion({{"prompt", std::vector<std::string>(129, "a")}, {"n", 2}, {"max_tokens", 1}})->param, "n");
  EXPECT_FALSE(Completion({{"prompt", std::vector<std::string>(128, "a")}, {"n", 2}, {"max_tokens", 1}}));
}

TEST_F(RequestTest, PromptsOfEveryForm) {
  struct Form {
    Json prompt;
    std::vector<std::vector<TokenId>> tokens;
  };
  const std::vector<Form> forms = {{"ab", {{'a', 'b'}}},
                                   {{"ab", "c"}, {{'a', 'b'}, {'c'}}},
                                   {{1, 2}, {{1, 2}}},
                                   {{{1, 2}, {3}}, {{1, 2}, {3}}},
                                   {{"ab", {3, 4}}, {{'a', 'b'}, {3, 4}}},
                                   {{1.0, 2.0}, {{1, 2}}},
                                   {"<|end|>", {{FakeCodec::kEnd}}}};
  for (const Form& form : forms) {
    EXPECT_FALSE(Completion({{"prompt", form.prompt}})) << form.prompt;
    EXPECT_EQ(out_.prompts, form.tokens) << form.prompt;
  }
  EXPECT_FALSE(Completion({{"prompt", {"ab", {'c', FakeCodec::kHello}}}, {"echo", true}}));
  EXPECT_EQ(out_.prompt_texts, (std::vector<std::string>{"ab", "cHello"}));
  EXPECT_FALSE(Completion({{"prompt", "ab"}}));
  EXPECT_TRUE(out_.prompt_texts.empty()) << "only echo needs them";
}

TEST_F(RequestTest, WhatThisServerDoesNotDoIsSaid) {
  for (const char* name : {"suffix"}) EXPECT_EQ(Completion({{name, "x"}})->param, name);
  EXPECT_FALSE(Completion({{"suffix", ""}}));
  EXPECT_EQ(Completion({{"echo", true}, {"logprobs", 1}})->param, "echo");
  EXPECT_EQ(Chat({{"min_tokens", -3}})->param, "min_tokens");
  EXPECT_FALSE(Chat({{"min_tokens", 3}}));
  EXPECT_EQ(out_.sampling.min_tokens, 3u);
  EXPECT_FALSE(Chat({{"min_tokens", 0}}));
  EXPECT_EQ(Chat({{"response_format", {{"type", "no_such"}}}})->param, "response_format");
  EXPECT_EQ(Chat({{"response_format", Json::object()}})->param, "response_format");
  EXPECT_FALSE(Chat({{"response_format", {{"type", "text"}}}}));
  EXPECT_FALSE(Chat({{"tools", Json::array()}, {"tool_choice", "none"}}));
  EXPECT_EQ(Chat({{"tools", "x"}})->param, "tools");
}

TEST_F(RequestTest, Models) {
  for (const Json& same : {Json("m"), Json(""), Json()}) EXPECT_FALSE(Chat({{"model", same}})) << same;
  const auto error = Chat({{"model", "other"}});
  ASSERT_TRUE(error);
  EXPECT_EQ(error->http_status, 404);
  EXPECT_EQ(error->code, "model_not_found");
  EXPECT_THAT(error->message, testing::AllOf(testing::HasSubstr("other"), testing::HasSubstr("\"m\"")));
  EXPECT_EQ(Chat({{"model", 5}})->param, "model");
}

TEST_F(RequestTest, MessagesAreMadeUniform) {
  Json body = {{"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "a"}}, {{"type", "input_text"}, {"text", "b"}}, {{"type", "output_text"}, {"text", "c"}}, {{"text", "d"}}}}},
                             {{"role", "user"}, {"content", "as it is"}},
                             {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", Json::array()}},
                             {{"role", "assistant"}, {"function_call", Json::object()}},
                             {{"role", "tool"}, {"content", "r"}, {"tool_call_id", "1"}},
                             {{"role", "user"}, {"content", Json::array()}}}}};
  EXPECT_FALSE(NormalizeMessages(body));
  EXPECT_EQ(body["messages"][0]["content"], "a\nb\nc\nd");
  EXPECT_EQ(body["messages"][1]["content"], "as it is");
  EXPECT_EQ(body["messages"][5]["content"], "");
  EXPECT_EQ(body["messages"][4]["tool_call_id"], "1") << "what templates need stays";
}

TEST_F(RequestTest, MessagesThatAreWrongNameTheirPlace) {
  const std::vector<std::pair<Json, std::string>> cases = {{Json::object(), "messages"},
                                                           {{{"messages", nullptr}}, "messages"},
                                                           {{{"messages", {{{"role", "user"}, {"content", "a"}}, 5}}}, "messages.1"},
                                                           {{{"messages", {{{"role", "user"}, {"content", "a"}}, {{"role", ""}, {"content", "x"}}}}}, "messages.1.role"},
                                                           {{{"messages", {{{"role", nullptr}, {"content", "x"}}}}}, "messages.0.role"},
                                                           {{{"messages", {{{"role", "user"}, {"content", true}}}}}, "messages.0.content"},
                                                           {{{"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "a"}}, {{"type", "audio"}}}}}}}}, "messages.0.content.1"},
                                                           {{{"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", nullptr}}}}}}}}, "messages.0.content.0.text"}};
  for (const auto& [body, param] : cases) {
    Json copy = body;
    const auto error = NormalizeMessages(copy);
    ASSERT_TRUE(error) << body;
    EXPECT_EQ(error->param, param) << body;
    EXPECT_EQ(error->http_status, 400);
  }
}

TEST_F(RequestTest, ResponsesBecomeChats) {
  EXPECT_FALSE(Responses({{"input", "hi"}, {"instructions", "be brief"}, {"max_output_tokens", 7}, {"temperature", 0.5}}));
  EXPECT_EQ(codec_.Decode(out_.prompts[0]), "system:be brief\nuser:hi\nassistant:");
  EXPECT_EQ(out_.max_tokens, 7u);
  EXPECT_EQ(out_.sampling.temperature, 0.5);
  EXPECT_FALSE(Responses({{"input", {{{"role", "user"}, {"content", "a"}}, {{"role", "assistant"}, {"content", {{{"type", "output_text"}, {"text", "b"}}}}}, {{"role", "user"}, {"content", "c"}}}}}));
  EXPECT_EQ(codec_.Decode(out_.prompts[0]), "user:a\nassistant:b\nuser:c\nassistant:");
  const std::vector<std::pair<Json, std::string>> bad = {{Json::object(), "input"},
                                                         {{{"input", 5}}, "input"},
                                                         {{{"input", Json::array()}}, "input"},
                                                         {{{"input", {{{"role", "user"}, {"content", 5}}}}}, "input.0.content"},
                                                         {{{"input", "x"}, {"instructions", 5}}, "instructions"},
                                                         {{{"input", "x"}, {"max_output_tokens", 0}}, "max_output_tokens"},
                                                         {{{"input", "x"}, {"previous_response_id", "resp_1"}}, "previous_response_id"},
                                                         {{{"input", "x"}, {"conversation", "c"}}, "conversation"},
                                                         {{{"input", "x"}, {"background", true}}, "background"},
                                                         {{{"input", "x"}, {"n", 2}}, "n"}};
  for (const auto& [body, param] : bad) {
    const auto error = Responses(body);
    ASSERT_TRUE(error) << body;
    EXPECT_EQ(error->param, param) << body;
  }
  EXPECT_FALSE(Responses({{"input", "x"}, {"background", false}, {"previous_response_id", nullptr}, {"text", {{"format", {{"type", "text"}}}}}}));
}

TEST_F(RequestTest, TheTemplatesOwnWordsReachTheClient) {
  Json body = {{"messages", {{{"role", "refused"}, {"content", "x"}}}}};
  AnswerRequest out;
  const auto error = ReadChatRequest(body, codec_, card_, out);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->message, "the template refuses this role");
  EXPECT_EQ(error->param, "messages");
}

}  // namespace
}  // namespace baton
