// The gateway's small parts: fields, errors, paths, logprobs, and JSON text of any bytes.
#include "base/random.h"
#include "gateway/api_error.h"
#include "gateway/endpoints.h"
#include "gateway/field_reader.h"
#include "gateway/json_text.h"
#include "gateway/logprobs_text.h"
#include "tests/unit/gateway/fake_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

TEST(FieldReaderTest, AbsentAndNullLeaveTheDefault) {
  const Json body = {{"null", nullptr}};
  FieldReader fields(body);
  double number = 7;
  int64_t integer = 8;
  bool flag = true;
  std::string text = "as before";
  std::vector<TokenId> tokens = {9};
  for (const char* name : {"null", "absent"}) {
    EXPECT_FALSE(fields.Number(name, 0, 1, number));
    EXPECT_FALSE(fields.Integer(name, 0, 1, integer));
    EXPECT_FALSE(fields.Boolean(name, flag));
    EXPECT_FALSE(fields.String(name, text));
    EXPECT_FALSE(fields.Tokens(name, 10, tokens));
    EXPECT_EQ(fields.Find(name), nullptr);
  }
  EXPECT_FALSE(fields.error());
  EXPECT_EQ(std::tie(number, integer, flag, text), std::make_tuple(7.0, int64_t{8}, true, std::string("as before")));
  EXPECT_EQ(tokens, std::vector<TokenId>{9});
}

TEST(FieldReaderTest, WrongTypesNameTheFieldAndTheType) {
  const Json body = {{"text", "x"}, {"number", 1.5}, {"list", {1, 2}}, {"object", Json::object()}, {"flag", true}};
  const auto error = [&](auto&& read) {
    FieldReader fields(body);
    EXPECT_FALSE(read(fields));
    return fields.error() ? fields.error()->param + ": " + fields.error()->message : "none";
  };
  double number = 0;
  int64_t integer = 0;
  bool flag = false;
  std::string text;
  std::vector<TokenId> tokens;
  EXPECT_EQ(error([&](FieldReader& f) { return f.Number("text", 0, 1, number); }), "text: 'text' must be a number, not string");
  EXPECT_EQ(error([&](FieldReader& f) { return f.Number("flag", 0, 1, number); }), "flag: 'flag' must be a number, not boolean");
  EXPECT_EQ(error([&](FieldReader& f) { return f.Integer("number", 0, 9, integer); }), "number: 'number' is 1.5; it must be an integer of 64 bits");
  EXPECT_EQ(error([&](FieldReader& f) { return f.Boolean("text", flag); }), "text: 'text' must be true or false, not string");
  EXPECT_EQ(error([&](FieldReader& f) { return f.String("list", text); }), "list: 'list' must be a string, not array");
  EXPECT_EQ(error([&](FieldReader& f) { return f.Tokens("object", 10, tokens); }), "object: 'object' must be a list of token ids, not object");
  EXPECT_EQ(error([&](FieldReader& f) { return f.Tokens("list", 2, tokens); }), "list: 'list' must hold token ids from 0 to 1");
}

TEST(FieldReaderTest, Ranges) {
  const Json body = {{"big", 11}, {"small", -3}, {"edge", 10}, {"half", 0.5}};
  FieldReader fields(body);
  int64_t integer = 0;
  double number = 0;
  EXPECT_TRUE(fields.Integer("edge", 10, 10, integer));
  EXPECT_EQ(integer, 10);
  EXPECT_TRUE(fields.Number("half", 0.5, 0.5, number));
  EXPECT_FALSE(fields.Integer("big", 0, 10, integer));
  EXPECT_EQ(fields.error()->message, "'big' is 11; it must be from 0 to 10");
  EXPECT_FALSE(fields.Integer("small", 0, INT64_MAX, integer));
  EXPECT_EQ(fields.error()->param, "big") << "the first error is kept";
  FieldReader least(body);
  EXPECT_FALSE(least.Integer("small", 0, INT64_MAX, integer));
  EXPECT_EQ(least.error()->message, "'small' is -3; it must be at least 0");
  EXPECT_EQ(integer, 10) << "what is wrong is not written";
}

TEST(FieldReaderTest, IntegersInEveryWriting) {
  const std::vector<std::pair<const char*, std::optional<int64_t>>> table = {
      {"0", 0}, {"-0", 0}, {"5.0", 5}, {"-5.0", -5}, {"1e3", 1000}, {"9223372036854775807", INT64_MAX}, {"-9223372036854775808", INT64_MIN}, {"9223372036854775808", std::nullopt},
      {"18446744073709551615", std::nullopt}, {"1.5", std::nullopt}, {"1e300", std::nullopt}, {"9007199254740992.0", 9007199254740992}, {"9.3e18", std::nullopt}, {"\"1\"", std::nullopt}, {"true", std::nullopt},
      {"null", std::nullopt}, {"[1]", std::nullopt}};
  for (const auto& [text, value] : table) EXPECT_EQ(JsonInteger(Json::parse(text)), value) << text;
}

TEST(ApiErrorTest, TheObjectAndItsType) {
  const std::vector<std::pair<int, const char*>> types = {{400, "invalid_request_error"}, {401, "invalid_request_error"}, {403, "permission_error"}, {404, "invalid_request_error"}, {405, "invalid_request_error"},
                                                          {408, "invalid_request_error"}, {413, "invalid_request_error"}, {422, "invalid_request_error"}, {429, "rate_limit_error"}, {500, "server_error"},
                                                          {501, "server_error"}, {503, "service_unavailable_error"}};
  for (const auto& [status, type] : types) {
    const auto json = nlohmann::json::parse(ApiError{status, "what", "", "", 0}.Json());
    EXPECT_EQ(json, (nlohmann::json{{"error", {{"message", "what"}, {"type", type}, {"param", nullptr}, {"code", nullptr}}}})) << status;
    EXPECT_NE(std::string(HttpReason(status)), "") << status;
  }
  EXPECT_STREQ(HttpReason(200), "OK");
  EXPECT_STREQ(HttpReason(599), "Internal Server Error");
  const auto odd = nlohmann::json::parse(ApiError{400, "a \"b\"\n\xff", "p\x01", "c", 0}.Json(), nullptr, false);
  ASSERT_TRUE(odd.is_object()) << "JSON whatever the message holds";
  EXPECT_EQ(odd["error"]["param"], "p\x01");
}

TEST(ApiErrorTest, EveryStatusCodeHasItsHttpStatus) {
  const std::vector<std::tuple<Status, int, std::string, double>> table = {{InvalidError("m"), 400, "invalid", 0},       {NotFoundError("m"), 404, "not_found", 0}, {ExhaustedError("m"), 429, "rate_limit_exceeded", 1},
                                                                           {DeadlineError("m"), 503, "deadline", 1},     {UnavailableError("m"), 503, "unavailable", 1}, {DataLossError("m"), 500, "data_loss", 0},
                                                                           {CancelledError("m"), 503, "cancelled", 1},   {AbortedError("m"), 503, "aborted", 1},    {InternalError("m"), 500, "internal", 0}};
  for (const auto& [status, http, code, retry] : table) {
    const ApiError error = FromStatus(status);
    EXPECT_EQ(error.http_status, http) << status.ToString();
    EXPECT_EQ(error.code, code);
    EXPECT_EQ(error.message, "m");
    EXPECT_EQ(error.retry_after_s, retry) << "what may be tried again says when";
    EXPECT_EQ(FromStatus(status, 7.5).retry_after_s, 7.5);
  }
}

TEST(EndpointTest, PathsAndMethods) {
  using Method = kj::HttpMethod;
  struct Case {
    Method method;
    const char* path;
    const char* found;    // the table's path; null: none
    const char* argument;
    const char* allowed;  // "" where there is no such path
  };
  const std::vector<Case> cases = {{Method::POST, "/v1/chat/completions", "/v1/chat/completions", "", "POST"}, {Method::GET, "/v1/chat/completions", nullptr, "", "POST"}, {Method::HEAD, "/health", "/health", "", "GET, HEAD"},
                                   {Method::POST, "/health", nullptr, "", "GET, HEAD"}, {Method::GET, "/v1/models/org/name", "/v1/models/", "org/name", "GET, HEAD"}, {Method::GET, "/v1/models/", nullptr, "", ""},
                                   {Method::GET, "/v1/models", "/v1/models", "", "GET, HEAD"}, {Method::GET, "/", "/", "", "GET, HEAD"}, {Method::GET, "", nullptr, "", ""}, {Method::GET, "/x", nullptr, "", ""},
                                   {Method::GET, "/v1/chat/completions/", nullptr, "", ""}, {Method::POST, "/admin/drain/3", "/admin/drain/", "3", "POST"}, {Method::GET, "/debug/requests/a/b", "/debug/requests/", "a/b", "GET, HEAD"}};
  for (const Case& c : cases) {
    const EndpointMatch match = FindEndpoint(c.method, c.path);
    ASSERT_EQ(match.endpoint != nullptr, c.found != nullptr) << c.path;
    if (c.found != nullptr) {
      EXPECT_STREQ(match.endpoint->path, c.found);
    }
    EXPECT_EQ(match.argument, c.argument) << c.path;
    EXPECT_EQ(match.allowed, c.allowed) << c.path;
  }
  std::set<std::string> paths;
  for (const Endpoint& endpoint : Endpoints()) {
    EXPECT_TRUE(paths.insert(fmt::format("{} {}", static_cast<int>(endpoint.method), endpoint.path)).second) << endpoint.path << " is there twice";
    const std::string path = endpoint.path;
    const bool administers = path.rfind("/admin/", 0) == 0 || path.rfind("/debug/", 0) == 0;
    EXPECT_EQ(endpoint.access == Access::kAdmin, administers) << path;
    if (path.rfind("/v1/", 0) == 0 && path != "/v1/health") {
      EXPECT_EQ(endpoint.access, Access::kClient) << path;
    }
  }
}

TEST(LogprobsTextTest, CompletionObjectsKeepTheChosenToken) {
  const FakeCodec codec;
  const auto write = [&](const TokenEvent& event, size_t alternatives) {
    std::string out;
    size_t offset = 0;
    AppendCompletionLogprobs(out, {&event, 1}, alternatives, codec, offset);
    return nlohmann::json::parse(out)["top_logprobs"][0];
  };
  const TokenEvent chosen_is_fourth{'d', -4.0f, {{'a', -1.0f}, {'b', -2.0f}, {'c', -3.0f}}};
  EXPECT_EQ(write(chosen_is_fourth, 2), (nlohmann::json{{"a", -1.0}, {"b", -2.0}, {"d", -4.0}}));
  EXPECT_EQ(write(chosen_is_fourth, 0), (nlohmann::json{{"d", -4.0}}));
  EXPECT_EQ(write(chosen_is_fourth, 99), (nlohmann::json{{"a", -1.0}, {"b", -2.0}, {"c", -3.0}, {"d", -4.0}}));
  const TokenEvent same_text{0xfe, -4.0f, {{0xff, -1.0f}, {0xfe, -4.0f}}};
  EXPECT_EQ(write(same_text, 2), (nlohmann::json{{"\xef\xbf\xbd", -1.0}})) << "tokens of one text are one key: the likelier";
}

TEST(LogprobsTextTest, OffsetsCountCharacters) {
  const FakeCodec codec;
  std::vector<TokenEvent> events;
  for (const TokenId token : {FakeCodec::kHello, TokenId{'!'}, FakeCodec::kWorld}) events.push_back({token, -1.0f, {}});
  std::string out;
  size_t offset = 100;
  AppendCompletionLogprobs(out, events, 0, codec, offset);
  EXPECT_EQ(nlohmann::json::parse(out)["text_offset"], (nlohmann::json{100, 105, 106}));
  EXPECT_EQ(offset, 112u);
  const std::vector<std::pair<const char*, size_t>> counts = {{"", 0}, {"abc", 3}, {"caf\xc3\xa9", 4}, {"\xf0\x9f\x98\x80\xe2\x82\xac", 2}, {"e\xcc\x81", 2}};
  for (const auto& [text, count] : counts) EXPECT_EQ(CountCharacters(text), count) << text;
}

TEST(JsonTextProperties, AnyBytesBecomeOneJsonStringWithAReplacementForEachMaximalSubpart) {
  const std::vector<std::pair<std::string, std::string>> table = {{"\xe0\xb8", "\xef\xbf\xbd"},         {"\xe0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, {"\xf0\x9f\x98", "\xef\xbf\xbd"},
                                                                  {"\xf0\x9f\x98x", "\xef\xbf\xbdx"},   {"\xc3\xc3\xa9", "\xef\xbf\xbd\xc3\xa9"},                 {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                                                                  {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, {"a\x80" "b", "a\xef\xbf\xbd" "b"}};
  for (const auto& [bytes, wanted] : table) {  // as Python's decode(errors="replace") has it
    EXPECT_EQ(ValidUtf8(bytes), wanted);
    std::string out;
    AppendJsonString(out, bytes);
    EXPECT_EQ(nlohmann::json::parse(out).get<std::string>(), wanted);
  }
  Random random(2);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (uint64_t i = 0; i < random.Below(12); ++i) bytes += static_cast<char>(random.Below(4) == 0 ? random.Below(256) : 0x70 + random.Below(0x90));
    std::string out;
    AppendJsonString(out, bytes);
    const auto parsed = nlohmann::json::parse(out, nullptr, false);
    ASSERT_TRUE(parsed.is_string()) << out;
    EXPECT_EQ(parsed.get<std::string>(), ValidUtf8(bytes));
    EXPECT_EQ(ValidUtf8(ValidUtf8(bytes)), ValidUtf8(bytes));
  }
}

TEST(JsonTextProperties, NumbersReadBackTheSame) {
  Random random(3);
  for (int round = 0; round < 2000; ++round) {
    const auto integer = static_cast<int64_t>(random.Next64() >> random.Below(64));
    std::string out;
    AppendInteger(out, integer);
    EXPECT_EQ(out, std::to_string(integer));
    const float logprob = -static_cast<float>(random.Uniform()) * static_cast<float>(std::pow(10.0, static_cast<double>(random.Below(9)) - 4));
    out.clear();
    AppendLogprob(out, logprob);
    const auto parsed = nlohmann::json::parse(out);
    ASSERT_TRUE(parsed.is_number_float()) << out;
    EXPECT_EQ(static_cast<float>(parsed.get<double>()), std::max(logprob, -9999.0f)) << out;
  }
}

}  // namespace
}  // namespace baton
