// The bytes of each API's answers: streams event by event and whole bodies, written without a server.
#include "gateway/answer_form.h"

#include "gateway/json_text.h"
#include "tests/unit/gateway/fake_support.h"

namespace baton {
namespace {

using Json = nlohmann::json;

/// A listener that writes what it hears with a form, as Answer does.
class Writer final : public ChoiceListener {
 public:
  explicit Writer(AnswerForm& form) : form_(form) {}
  void OnChoiceRoute(const RequestStats&) override {}
  void OnChoiceToken(Choice& choice, std::string_view text, const TokenEvent& event) override { form_.Token(out, choice, text, event); }
  void OnChoiceEnd(Choice& choice, std::string_view rest) override { form_.End(out, choice, rest); }
  void OnChoiceError(const Status& status, double) override { error = status; }
  std::string Take() { return std::exchange(out, ""); }
  std::string out;
  Status error;

 private:
  AnswerForm& form_;
};

class FormTest : public testing::Test {
 protected:
  FormTest() {
    identity_ = {"00ff", 1700000000, "org/m \"x\"", "fp_1"};
    request_.prompts = {{'h', 'i'}};
    request_.stream = true;
  }
  std::unique_ptr<Choice> MakeChoice(ChoiceListener& listener, uint32_t index = 0, bool keep = false) {
    return std::make_unique<Choice>(Choice::Options{.index = index, .keep_text = keep, .keep_events = keep, .stops = request_.stops}, codec_, listener);
  }
  static TokenEvent Event(TokenId token, float logprob = -0.5f) { return {token, logprob, {{token, logprob}, {'z', -2.0f}, {'y', -3.25f}}}; }
  static RequestStats Stats() {
    RequestStats stats;
    stats.prompt_tokens = 2;
    stats.cached_tokens = 1;
    stats.cache_write_tokens = 4;
    return stats;
  }

  FakeCodec codec_;
  AnswerIdentity identity_;
  AnswerRequest request_;
};

const std::string kChatHead = R"(data: {"id":"chatcmpl-00ff","object":"chat.completion.chunk","created":1700000000,"model":"org/m \"x\"","system_fingerprint":"fp_1","choices":[)";
const std::string kTextHead = R"(data: {"id":"cmpl-00ff","object":"text_completion","created":1700000000,"model":"org/m \"x\"","system_fingerprint":"fp_1","choices":[)";

TEST_F(FormTest, ChatStreamToTheByte) {
  const auto form = NewChatForm(identity_, request_, codec_);
  Writer writer(*form);
  const auto choice = MakeChoice(writer);
  form->Begin(writer.out);
  EXPECT_EQ(writer.Take(), kChatHead + R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})" "\n\n");
  choice->OnToken(Event(FakeCodec::kHello));
  EXPECT_EQ(writer.Take(), kChatHead + R"({"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}]})" "\n\n");
  choice->OnToken(Event('"'));
  EXPECT_EQ(writer.Take(), kChatHead + R"({"index":0,"delta":{"content":"\""},"logprobs":null,"finish_reason":null}]})" "\n\n");
  choice->OnToken(Event(0xf0));  // a character that is not whole yet
  EXPECT_EQ(writer.Take(), kChatHead + R"({"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":null}]})" "\n\n");
  choice->OnEnd(FinishReason::kLength, Stats());
  EXPECT_EQ(writer.Take(), kChatHead + "{\"index\":0,\"delta\":{\"content\":\"\xef\xbf\xbd\"},\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n");
  form->Done(writer.out, {2, 3, 1, 4});
  EXPECT_EQ(writer.Take(), "data: [DONE]\n\n");
}

TEST_F(FormTest, ChatStreamWithUsageOfEachKind) {
  request_.include_usage = true;
  for (const bool continuous : {false, true}) {
    request_.continuous_usage = continuous;
    const auto form = NewChatForm(identity_, request_, codec_);
    Writer writer(*form);
    const auto choice = MakeChoice(writer);
    form->Begin(writer.out);
    EXPECT_THAT(writer.Take(), testing::EndsWith("\"finish_reason\":null}],\"usage\":null}\n\n"));
    choice->OnRoute(Stats());
    choice->OnToken(Event(FakeCodec::kHello));
    choice->OnToken(Event(FakeCodec::kWorld));
    const std::string usage = R"({"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":1,"cache_write_tokens":4},)"
                              R"("completion_tokens_details":{"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}})";
    EXPECT_THAT(writer.Take(), testing::EndsWith("\"finish_reason\":null}],\"usage\":" + (continuous ? usage : std::string("null")) + "}\n\n"));
    choice->OnEnd(FinishReason::kStop, Stats());
    EXPECT_EQ(writer.Take(), kChatHead + R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":)" + (continuous ? usage : "null") + "}\n\n");
    form->Done(writer.out, {2, 2, 1, 4});
    EXPECT_EQ(writer.Take(), kChatHead + "],\"usage\":" + usage + "}\n\ndata: [DONE]\n\n");
  }
}

TEST_F(FormTest, ChatStreamOfSeveralChoicesKeepsTheirIndex) {
  request_.n = request_.best_of = 3;
  request_.return_token_ids = true;
  const auto form = NewChatForm(identity_, request_, codec_);
  Writer writer(*form);
  std::vector<std::unique_ptr<Choice>> choices;
  for (uint32_t i = 0; i < 3; ++i) choices.push_back(MakeChoice(writer, i));
  form->Begin(writer.out);
  const std::string begin = writer.Take();
  EXPECT_EQ(std::count(begin.begin(), begin.end(), '\n'), 6);
  EXPECT_THAT(begin, testing::HasSubstr(R"("finish_reason":null}],"prompt_token_ids":[104,105]})"));
  EXPECT_EQ(begin.find("prompt_token_ids"), begin.rfind("prompt_token_ids")) << "the prompt is one, whatever n is";
  for (const uint32_t i : {2u, 0u, 1u, 0u, 2u}) {
    choices[i]->OnToken(Event(static_cast<TokenId>('a' + i)));
    const std::string id = std::to_string('a' + i);
    EXPECT_EQ(writer.Take(), kChatHead + "{\"index\":" + std::to_string(i) + ",\"delta\":{\"content\":\"" + std::string(1, static_cast<char>('a' + i)) + "\"},\"logprobs\":null,\"token_ids\":[" + id +
                                 "],\"finish_reason\":null}]}\n\n");
  }
}

TEST_F(FormTest, ChatStreamLogprobs) {
  request_.logprobs = true;
  for (const int alternatives : {0, 1, 2, 20}) {
    request_.sampling.logprobs = alternatives;
    const auto form = NewChatForm(identity_, request_, codec_);
    Writer writer(*form);
    const auto choice = MakeChoice(writer);
    choice->OnToken(Event('a'));
    const Json event = Json::parse(writer.Take().substr(6));
    const Json content = event["choices"][0]["logprobs"]["content"];
    ASSERT_EQ(content.size(), 1u);
    EXPECT_EQ(content[0]["token"], "a");
    EXPECT_EQ(content[0]["bytes"], Json{97});
    EXPECT_EQ(content[0]["logprob"], -0.5);
    EXPECT_EQ(content[0]["top_logprobs"].size(), static_cast<size_t>(std::min(alternatives, 3)));
    EXPECT_TRUE(event["choices"][0]["logprobs"]["refusal"].is_null());
    choice->OnEnd(FinishReason::kStop, Stats());
    EXPECT_TRUE(Json::parse(writer.Take().substr(6))["choices"][0]["logprobs"].is_null());
  }
}

TEST_F(FormTest, CompletionStreamToTheByte) {
  const auto form = NewCompletionForm(identity_, request_, codec_);
  Writer writer(*form);
  const auto choice = MakeChoice(writer);
  form->Begin(writer.out);
  EXPECT_EQ(writer.Take(), "") << "without echo nothing comes before the first token";
  choice->OnToken(Event(FakeCodec::kHello));
  EXPECT_EQ(writer.Take(), kTextHead + R"({"index":0,"text":"Hello","logprobs":null,"finish_reason":null}]})" "\n\n");
  choice->OnEnd(FinishReason::kStop, Stats());
  EXPECT_EQ(writer.Take(), kTextHead + R"({"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]})" "\n\n");
}

TEST_F(FormTest, CompletionStreamEchoesEachPrompt) {
  request_.prompts = {{'a'}, {'b'}};
  request_.prompt_texts = {"a", "b\n"};
  request_.echo = true;
  request_.n = request_.best_of = 2;
  const auto form = NewCompletionForm(identity_, request_, codec_);
  std::string out;
  form->Begin(out);
  std::string wanted;
  for (int i = 0; i < 4; ++i) wanted += kTextHead + "{\"index\":" + std::to_string(i) + ",\"text\":\"" + (i < 2 ? "a" : "b\\n") + "\",\"logprobs\":null,\"finish_reason\":null}]}\n\n";
  EXPECT_EQ(out, wanted);
}

TEST_F(FormTest, CompletionOffsetsAreEachChoicesOwn) {
  request_.logprobs = true;
  request_.sampling.logprobs = 0;
  const auto form = NewCompletionForm(identity_, request_, codec_);
  Writer writer(*form);
  const auto first = MakeChoice(writer, 0), second = MakeChoice(writer, 1);
  const auto offset = [&](Choice& choice, TokenId token) {
    choice.OnToken(Event(token));
    return Json::parse(writer.Take().substr(6))["choices"][0]["logprobs"]["text_offset"][0].get<int>();
  };
  EXPECT_EQ(offset(*first, FakeCodec::kHello), 0);
  EXPECT_EQ(offset(*second, 'x'), 0);
  EXPECT_EQ(offset(*first, FakeCodec::kWorld), 5);
  EXPECT_EQ(offset(*second, 'y'), 1);
  EXPECT_EQ(offset(*first, '!'), 11);
}

TEST_F(FormTest, WholeAnswers) {
  request_.stream = false;
  request_.logprobs = request_.return_token_ids = true;
  request_.sampling.logprobs = 1;
  const auto chat = NewChatForm(identity_, request_, codec_), text = NewCompletionForm(identity_, request_, codec_);
  Writer writer(*chat);
  const auto choice = MakeChoice(writer, 0, true);
  choice->OnRoute(Stats());
  choice->OnToken(Event(FakeCodec::kHello));
  choice->OnToken(Event('!', -1.25f));
  choice->OnEnd(FinishReason::kStop, Stats());
  const Json usage = {{"prompt_tokens", 2}, {"completion_tokens", 2}, {"total_tokens", 4}, {"prompt_tokens_details", {{"cached_tokens", 1}, {"cache_write_tokens", 4}}},
                      {"completion_tokens_details", {{"accepted_prediction_tokens", 0}, {"rejected_prediction_tokens", 0}}}};
  const Json a = Json::parse(chat->Whole({choice.get()}, {2, 2, 1, 4}));
  EXPECT_EQ(a["object"], "chat.completion");
  EXPECT_EQ(a["usage"], usage);
  EXPECT_EQ(a["choices"][0]["message"]["content"], "Hello!");
  EXPECT_EQ(a["choices"][0]["token_ids"], (Json{FakeCodec::kHello, '!'}));
  EXPECT_EQ(a["prompt_token_ids"], (Json{'h', 'i'}));
  EXPECT_EQ(a["choices"][0]["logprobs"]["content"][1]["logprob"], -1.25);
  const Json b = Json::parse(text->Whole({choice.get()}, {2, 2, 1, 4}));
  EXPECT_EQ(b["usage"], usage);
  EXPECT_EQ(b["choices"][0]["text"], "Hello!");
  EXPECT_EQ(b["choices"][0]["logprobs"]["tokens"], (Json{"Hello", "!"}));
  EXPECT_EQ(b["choices"][0]["logprobs"]["text_offset"], (Json{0, 5}));
  EXPECT_EQ(b["choices"][0]["prompt_token_ids"], (Json{'h', 'i'}));
}

TEST_F(FormTest, ResponsesStreamToTheByte) {
  const auto form = NewResponsesForm(identity_, request_);
  Writer writer(*form);
  const auto choice = MakeChoice(writer);
  form->Begin(writer.out);
  EXPECT_THAT(writer.Take(), testing::StartsWith(R"(event: response.created)" "\n" R"(data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_00ff","object":"response","created_at":1700000000,"status":"in_progress")"));
  choice->OnToken(Event(FakeCodec::kHello));
  EXPECT_EQ(writer.Take(), "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"item_id\":\"msg_00ff\",\"output_index\":0,\"content_index\":0,"
                           "\"delta\":\"Hello\",\"logprobs\":[]}\n\n");
  choice->OnEnd(FinishReason::kLength, Stats());
  EXPECT_THAT(writer.Take(), testing::StartsWith("event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"sequence_number\":5,\"item_id\":\"msg_00ff\","
                                                 "\"output_index\":0,\"content_index\":0,\"text\":\"Hello\",\"logprobs\":[]}\n\n"));
  form->Done(writer.out, {2, 1, 1, 4});
  const std::string done = writer.Take();
  EXPECT_THAT(done, testing::StartsWith("event: response.incomplete\ndata: "));
  const Json last = Json::parse(done.substr(done.find("data: ") + 6));
  EXPECT_EQ(last["response"]["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(last["response"]["usage"]["input_tokens"], 2);
  EXPECT_EQ(last["response"]["usage"]["total_tokens"], 3);
}

TEST_F(FormTest, EveryEventIsOneJsonObjectWhateverTheBytes) {
  for (const bool chat : {true, false}) {
    request_.logprobs = true;
    request_.sampling.logprobs = 3;
    const auto form = chat ? NewChatForm(identity_, request_, codec_) : NewCompletionForm(identity_, request_, codec_);
    Writer writer(*form);
    const auto choice = MakeChoice(writer);
    for (int byte = 0; byte < 256; ++byte) {
      choice->OnToken(Event(byte));
      const std::string event = writer.Take();
      ASSERT_EQ(event.substr(0, 6), "data: ");
      ASSERT_EQ(event.substr(event.size() - 2), "\n\n");
      EXPECT_EQ(event.find('\n'), event.size() - 2) << "a newline inside would cut the event: byte " << byte;
      EXPECT_TRUE(Json::parse(event.substr(6), nullptr, false).is_object()) << byte;
    }
  }
}

TEST(UsageTest, Text) {
  std::string out = "x";
  AppendUsage(out, {});
  EXPECT_EQ(out, R"(x{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,"prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"completion_tokens_details":{"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}})");
  EXPECT_STREQ(FinishReasonName(FinishReason::kStop), "stop");
  EXPECT_STREQ(FinishReasonName(FinishReason::kLength), "length");
}

}  // namespace
}  // namespace baton
