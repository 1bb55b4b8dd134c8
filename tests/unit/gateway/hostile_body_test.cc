// Bodies that no client means: broken JSON at every byte, numbers and characters that do not exist, nesting, and bodies of the right
// shape with anything in any place. Nothing throws, nothing is half read, and each refusal says what is wrong.
#include "base/random.h"
#include "gateway/answer_request.h"
#include "gateway/cache_request.h"
#include "gateway/json_text.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/request_dump.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kWhole =
    R"({"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"h\u00e9\ud83d\ude00 \"q\""}]}],"stop":["a","b"],"temperature":-0.5e-3,"n":2,"seed":-1,"x":[null,true,{}]})";

TEST(HostileJson, EveryPrefixOfABodyIsRefused) {
  const std::string whole = kWhole;
  ASSERT_TRUE(ParseJsonObject(whole).ok());
  for (size_t n = 0; n < whole.size(); ++n) {
    const auto parsed = ParseJsonObject(whole.substr(0, n));
    ASSERT_FALSE(parsed.ok()) << n;
    EXPECT_EQ(parsed.status().code(), StatusCode::kInvalid);
    EXPECT_EQ(parsed.status().message(), ValidUtf8(parsed.status().message())) << "a message can be sent";
  }
  for (const std::string& tail : {std::string("}"), std::string("{}"), std::string(","), std::string("x"), std::string("\""), std::string("\xff"), std::string("//"), std::string(1, '\0'), std::string("\0x", 2)}) {
    EXPECT_FALSE(ParseJsonObject(whole + tail).ok()) << Json(ValidUtf8(tail)).dump();
  }
  for (const char* space : {" ", "\n", "\r\n\t "}) EXPECT_TRUE(ParseJsonObject(space + whole + space).ok());
}

struct TextCase {
  const char* text;  // of the value of "a"
  bool good;
};

TEST(HostileJson, NumbersCharactersAndWords) {
  const std::vector<TextCase> cases = {
      {"0", true}, {"-0", true}, {"1e5", true}, {"1E+5", true}, {"0.5", true}, {"18446744073709551615", true}, {"1e308", true}, {"5e-324", true},
      {"00", false}, {"01", false}, {"-01", false}, {"+1", false}, {".5", false}, {"5.", false}, {"1e", false}, {"0x10", false}, {"1_000", false}, {"NaN", false}, {"Infinity", false},
      {"-Infinity", false}, {"1e400", false}, {"-1e400", false}, {"--1", false},
      {"True", false}, {"None", false}, {"undefined", false}, {"nul", false}, {"'a'", false}, {"[1,]", false}, {"[,1]", false}, {"{\"b\":1,}", false}, {"{b:1}", false}, {"/* c */ 1", false},
      {"\"\\u00e9\"", true}, {"\"\\ud83d\\ude00\"", true}, {"\"\\ud83d\"", false}, {"\"\\ude00\"", false}, {"\"\\ud83d\\ud83d\"", false}, {"\"\\ud83dx\"", false}, {"\"\\u12\"", false},
      {"\"\\x41\"", false}, {"\"\\\"", false}, {"\"a\nb\"", false}, {"\"a\tb\"", false}, {"\"\\u0000\"", true}, {"\"\x7f\"", true},
      {"\"\xc3\xa9\"", true}, {"\"\xf0\x9f\x98\x80\"", true}, {"\"\xc3\"", false}, {"\"\xa9\"", false}, {"\"\xc0\x80\"", false}, {"\"\xe0\x80\x80\"", false}, {"\"\xed\xa0\xbd\"", false},
      {"\"\xf4\x90\x80\x80\"", false}, {"\"\xf8\x88\x80\x80\x80\"", false}, {"\"\xff\xfe\"", false}};
  for (const TextCase& c : cases) {
    const auto parsed = ParseJsonObject(fmt::format("{{\"a\":{}}}", c.text));
    EXPECT_EQ(parsed.ok(), c.good) << Json(ValidUtf8(c.text)).dump();
    if (!parsed.ok()) {
      EXPECT_EQ(parsed.status().message().rfind("the body is not valid JSON in UTF-8: ", 0), 0u) << parsed.status().message();
    }
  }
  EXPECT_FALSE(ParseJsonObject("{\"a\xff\":1}").ok()) << "keys are texts too";
}

TEST(HostileJson, TheLastLevelKeyAndValueThatAreAllowed) {
  const auto nested = [](int levels) {
    std::string text = "{\"a\":1}";
    for (int i = 1; i < levels; ++i) text = (i % 2 ? "{\"a\":[" : "{\"a\":[0,") + text + "]}", ++i;
    return text;
  };
  const auto depth = [](const std::string& text) {
    int now = 0, most = 0;
    for (const char c : text) most = std::max(most, now += (c == '{' || c == '[') - (c == '}' || c == ']'));
    return most;
  };
  EXPECT_TRUE(ParseJsonObject(nested(kMaxJsonDepth - 1)).ok());
  ASSERT_EQ(depth(nested(kMaxJsonDepth + 1)), kMaxJsonDepth + 1);
  EXPECT_NE(ParseJsonObject(nested(kMaxJsonDepth + 1)).status().message().find("deeper than 64 levels at byte"), std::string::npos);
  EXPECT_FALSE(ParseJsonObject(std::string(1 << 20, '[')).ok());
  EXPECT_FALSE(ParseJsonObject("{\"a\":" + std::string(1 << 20, '{')).ok());
  EXPECT_TRUE(ParseJsonObject("{\"a\":\"" + std::string(100000, '[') + "\"}").ok()) << "brackets in a text are no nesting";
  EXPECT_TRUE(ParseJsonObject("{\"a\":\"\\\"" + std::string(100, '{') + "\\\\\"}").ok()) << "nor behind an escaped quote";
  const auto keys = [](int count) {
    std::string text = "{";
    for (int i = 0; i < count; ++i) text += fmt::format("{}\"k{}\":{}", i ? "," : "", i, i);
    return text + "}";
  };
  EXPECT_EQ(ParseJsonObject(keys(kMaxJsonKeys))->size(), static_cast<size_t>(kMaxJsonKeys));
  EXPECT_NE(ParseJsonObject(keys(kMaxJsonKeys + 1)).status().message().find("more than 4096 keys"), std::string::npos);
}

/// Reads a body as each of the calls that take one; gives what was found, the same for the same body.
class Calls {
 public:
  Calls() {
    card_.id = "m";
    card_.vocab = FakeCodec::kVocab;
    card_.max_positions = 200;
  }
  std::string Read(const Json& body) {
    std::string all;
    for (const auto read : {0, 1, 2}) {
      AnswerRequest out;
      const auto error = read == 0 ? ReadChatRequest(body, codec_, card_, out) : read == 1 ? ReadCompletionRequest(body, codec_, card_, out) : ReadResponsesRequest(body, codec_, card_, out);
      all += error ? Told(*error) : Dump(out);
      if (!error) CheckBounds(out);
    }
    for (const bool append : {false, true}) {
      CacheRequest out;
      const auto error = ReadCacheRequest(body, codec_, card_, append, out);
      all += error ? Told(*error) : fmt::format("{} {}", out.tokens.size(), out.cache_salt);
    }
    Json copy = body;
    const auto error = NormalizeMessages(copy);
    all += error ? Told(*error) : copy.dump();
    return all;
  }
  int accepted = 0;

 private:
  static std::string Told(const ApiError& error) {
    EXPECT_TRUE(error.http_status == 400 || error.http_status == 404) << error.http_status;
    EXPECT_FALSE(error.message.empty());
    const Json json = Json::parse(error.Json(), nullptr, false);
    EXPECT_TRUE(json.is_object()) << error.message;
    return json.dump();
  }
  /// What the engine relies on whatever a body held.
  void CheckBounds(const AnswerRequest& out) {
    ++accepted;
    ASSERT_FALSE(out.prompts.empty());
    for (const auto& prompt : out.prompts) {
      ASSERT_FALSE(prompt.empty());
      ASSERT_LE(prompt.size() + out.max_tokens.value_or(1), card_.max_positions);
      for (const TokenId id : prompt) ASSERT_TRUE(id >= 0 && static_cast<uint32_t>(id) < card_.vocab);
    }
    ASSERT_TRUE(out.n >= 1 && out.n <= out.best_of && out.prompts.size() * out.best_of <= 256);
    ASSERT_LE(out.sampling.logprobs, 20);
    ASSERT_LE(out.stops.size(), 64u);
    ASSERT_TRUE(out.sampling.temperature >= 0 && out.sampling.temperature <= 2);
    for (const auto& [id, bias] : out.sampling.logit_bias) ASSERT_TRUE(id >= 0 && static_cast<uint32_t>(id) < card_.vocab && std::abs(bias) <= 100);
    ASSERT_LE(out.prediction.size(), card_.max_positions);
  }
  FakeCodec codec_;
  ModelCard card_;
};

const Json& Rich() {
  static const Json body = Json::parse(R"json({
    "model": "m", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}}]},
      {"role": "tool", "content": "1", "tool_call_id": "c"}],
    "prompt": ["hi", [1, 2, 3]], "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], "instructions": "go", "tokens": [1, 2],
    "max_tokens": 5, "max_completion_tokens": 5, "max_output_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "n": 2, "best_of": 3, "seed": 1,
    "stop": ["x", "yz"], "logit_bias": {"1": 2, "2": -3}, "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": false}, "logprobs": 1, "top_logprobs": 2,
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}], "tool_choice": {"type": "function", "function": {"name": "add"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"b": {"enum": [1, "x"]}}, "required": ["b"]}}},
    "guided_regex": "[a-z]+", "guided_choice": ["a", "b"], "structured_outputs": {"json": {"type": "string"}}, "text": {"format": {"type": "json_object"}},
    "prediction": {"type": "content", "content": [{"type": "text", "text": "p"}]}, "stop_token_ids": [1], "cache_id": "c1", "return_cache": false, "ttl_s": 5, "pin": false, "length": 3})json");
  return body;
}

Json Odd(Random& random) {
  static const std::vector<Json> odd = {Json(), true, false, 0, -1, 1, 3, 128, 0.5, 1e308, -1e308, UINT64_MAX, INT64_MIN, "", "x", "auto", "required", "none", "user", "m", "text", std::string(2000, 'y'),
                                        Json::array(), Json::array({Json()}), Json::array({1, "a", Json::array()}), Json::object(), {{"", Json()}}, {{"type", 5}}, {{"type", "function"}, {"function", 5}},
                                        {{"function", {{"name", Json()}}}}, {{"name", "add"}}, {{"$ref", "#"}}, {{"content", Json::array({5})}}, {{"role", "user"}}};
  return odd[random.Below(odd.size())];
}

/// Replaces, removes or doubles something somewhere.
void Damage(Json& node, Random& random) {
  if (!node.is_structured() || node.empty() || random.Below(4) == 0) {
    node = Odd(random);
    return;
  }
  const auto at = std::next(node.begin(), static_cast<ptrdiff_t>(random.Below(node.size())));
  switch (random.Below(8)) {
    case 0: node.erase(at); break;
    case 1:
      if (node.is_array()) node.push_back(*at);
      else node[random.Below(2) ? "extra" : "type"] = Odd(random);
      break;
    case 2: *at = Odd(random); break;
    default: Damage(*at, random);
  }
}

TEST(HostileBodies, AnythingInAnyPlaceIsReadOrRefusedTheSameWayTwice) {
  Calls calls;
  Random random(41);
  for (int round = 0; round < 6000; ++round) {
    Json body = Json::object();
    for (const auto& [name, value] : Rich().items()) {
      if (random.Below(3) == 0) body[name] = value;
    }
    if (random.Below(2) == 0) body["messages"] = Rich()["messages"];
    for (uint64_t damage = random.Below(4); damage > 0 && !body.empty(); --damage) Damage(body, random);
    if (!body.is_object()) continue;  // the parser's business
    SCOPED_TRACE(body.dump(-1, ' ', false, Json::error_handler_t::replace));
    const std::string first = calls.Read(body);
    ASSERT_EQ(calls.Read(body), first);
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(calls.accepted, 500) << "enough of them were good";
}

}  // namespace
}  // namespace baton
