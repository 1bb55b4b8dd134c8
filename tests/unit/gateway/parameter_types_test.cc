// Every parameter of the three generation APIs with every JSON type, with null, beyond its bounds, twice, in any order and beside
// unknown ones: the rules hold for the table, so a new field that breaks one is seen here.
#include "base/random.h"
#include "gateway/answer_request.h"
#include "gateway/json_text.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/request_dump.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

enum class Kind : uint8_t { kNumber, kInteger, kBoolean, kString, kIds, kStrings, kObject };

struct Field {
  const char* name;
  Kind kind;
  Json good;                 // accepted, and not the default
  const char* apis = "ctr";  // chat, completion (text), responses
};

/// What clients may send; of objects and lists those are left out whose members have rules of their own.
const std::vector<Field>& Fields() {
  static const std::vector<Field> fields = {
      {"temperature", Kind::kNumber, 0.25},
      {"top_p", Kind::kNumber, 0.5},
      {"min_p", Kind::kNumber, 0.125},
      {"typical_p", Kind::kNumber, 0.75},
      {"repetition_penalty", Kind::kNumber, 1.5},
      {"presence_penalty", Kind::kNumber, -1.5},
      {"frequency_penalty", Kind::kNumber, 1.25},
      {"cache_ttl_s", Kind::kNumber, 60},
      {"top_k", Kind::kInteger, 7},
      {"seed", Kind::kInteger, -3},
      {"priority", Kind::kInteger, -9},
      {"min_tokens", Kind::kInteger, 4},
      {"n", Kind::kInteger, 3, "ct"},
      {"max_tokens", Kind::kInteger, 5, "ct"},
      {"max_completion_tokens", Kind::kInteger, 6, "c"},
      {"max_output_tokens", Kind::kInteger, 6, "r"},
      {"best_of", Kind::kInteger, 4, "t"},
      {"logprobs", Kind::kInteger, 2, "t"},
      {"logprobs", Kind::kBoolean, true, "c"},
      {"ignore_eos", Kind::kBoolean, true},
      {"include_stop_str_in_output", Kind::kBoolean, true},
      {"return_token_ids", Kind::kBoolean, true},
      {"return_cache", Kind::kBoolean, true},
      {"stream", Kind::kBoolean, true},
      {"echo", Kind::kBoolean, true, "t"},
      {"cache_salt", Kind::kString, "pepper"},
      {"cache_id", Kind::kString, "cache-1"},
      {"stop_token_ids", Kind::kIds, Json::array({1, 2})},
      {"stop", Kind::kStrings, "END"},
      {"logit_bias", Kind::kObject, {{"5", -3}}},
  };
  return fields;
}

const std::vector<Json>& Values() {
  static const std::vector<Json> values = {true, 7, -7, 2.5, "text", "", "7", Json::array(), Json::array({"a"}), Json::array({1}), Json::array({Json()}), Json::object(), {{"a", 1}}};
  return values;
}

/// Whether the value is of the kind; its range is another question.
bool OfKind(Kind kind, const Json& value) {
  switch (kind) {
    case Kind::kNumber: return value.is_number();
    case Kind::kInteger: return value.is_number_integer();
    case Kind::kBoolean: return value.is_boolean();
    case Kind::kString: return value.is_string();
    case Kind::kIds: return value.is_array() && std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_number_integer(); });
    case Kind::kStrings: return value.is_string() || (value.is_array() && std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_string(); }));
    case Kind::kObject: return value.is_object();
  }
  return false;
}

class ParameterTypes : public testing::TestWithParam<char> {
 protected:
  ParameterTypes() {
    card_.id = "m";
    card_.vocab = FakeCodec::kVocab;
    card_.max_positions = 100;
  }
  Json Base() const {
    switch (GetParam()) {
      case 'c': return {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};
      case 't': return {{"prompt", "hi"}};
      default: return {{"input", "hi"}};
    }
  }
  std::optional<ApiError> Read(const Json& body) {
    out_ = {};
    switch (GetParam()) {
      case 'c': return ReadChatRequest(body, codec_, card_, out_);
      case 't': return ReadCompletionRequest(body, codec_, card_, out_);
      default: return ReadResponsesRequest(body, codec_, card_, out_);
    }
  }
  std::string Meaning(const Json& body) {
    const auto error = Read(body);
    return error ? fmt::format("{} {} {} {}", error->http_status, error->param, error->code, error->message) : Dump(out_);
  }
  std::vector<Field> Mine() const {
    std::vector<Field> mine;
    for (const Field& field : Fields()) {
      if (std::string_view(field.apis).find(GetParam()) != std::string_view::npos) mine.push_back(field);
    }
    return mine;
  }
  Json With(const std::string& name, const Json& value) const {
    Json body = Base();
    body[name] = value;
    return body;
  }
  FakeCodec codec_;
  ModelCard card_;
  AnswerRequest out_;
};

TEST_P(ParameterTypes, AWrongTypeIsA400ThatNamesTheField) {
  for (const Field& field : Mine()) {
    for (const Json& value : Values()) {
      if (OfKind(field.kind, value)) continue;
      SCOPED_TRACE(fmt::format("{} = {}", field.name, value.dump()));
      const auto error = Read(With(field.name, value));
      ASSERT_TRUE(error.has_value());
      EXPECT_EQ(error->http_status, 400);
      EXPECT_EQ(error->param, field.name);
      EXPECT_EQ(error->code, "");
      EXPECT_NE(error->message.find(fmt::format("'{}'", field.name)), std::string::npos) << error->message;
    }
  }
}

TEST_P(ParameterTypes, NullMeansAbsent) {
  const std::string plain = Meaning(Base());
  Json all = Base();
  for (const Field& field : Mine()) {
    EXPECT_EQ(Meaning(With(field.name, nullptr)), plain) << field.name;
    all[field.name] = nullptr;
  }
  for (const char* name : {"model", "user", "tools", "tool_choice", "response_format", "stream_options", "prediction", "guided_json", "guided_regex", "grammar", "structured_outputs"}) {
    EXPECT_EQ(Meaning(With(name, nullptr)), plain) << name;
    all[name] = nullptr;
  }
  EXPECT_EQ(Meaning(all), plain) << "as clients do that serialise every field";
}

TEST_P(ParameterTypes, AGoodValueChangesTheRequestAndNothingElseDoes) {
  const std::string plain = Meaning(Base());
  for (const Field& field : Mine()) {
    const std::string changed = Meaning(With(field.name, field.good));
    EXPECT_NE(changed, plain) << field.name << " is read";
    EXPECT_EQ(changed.rfind("400", 0), std::string::npos) << changed;
  }
  for (const char* name : {"user", "metadata", "store", "service_tier", "reasoning_effort", "parallel_tool_calls", "Temperature", "TEMPERATURE", "temperature ", "", "x-extra"}) {
    for (const Json& value : Values()) EXPECT_EQ(Meaning(With(name, value)), plain) << "an unknown field is ignored: " << name;
  }
}

TEST_P(ParameterTypes, HugeNumbersAreOutOfRangeAndNeverWrap) {
  const std::vector<Json> huge = {1e308, -1e308, 1e19, -1e19, UINT64_MAX, INT64_MIN, 4294967296.0 * 4294967296.0, int64_t{1} << 53};
  for (const Field& field : Mine()) {
    if (field.kind != Kind::kNumber && field.kind != Kind::kInteger) continue;
    for (const Json& value : huge) {
      SCOPED_TRACE(fmt::format("{} = {}", field.name, value.dump()));
      const auto error = Read(With(field.name, value));
      const bool any_int64 = std::string_view(field.name) == "seed" && value.is_number_integer() && value != Json(UINT64_MAX);
      const bool exact_float = std::string_view(field.name) == "seed" && value == Json(int64_t{1} << 53);
      ASSERT_EQ(error.has_value(), !any_int64 && !exact_float);
      if (!error) continue;
      EXPECT_EQ(error->param, field.name);
      EXPECT_NE(error->message.find(" is "), std::string::npos) << "says the value: " << error->message;
    }
  }
}

TEST_P(ParameterTypes, AFloatThatIsAnIntegerIsOne) {
  for (const Field& field : Mine()) {
    if (field.kind != Kind::kInteger) continue;
    const auto integer = field.good.get<int64_t>();
    EXPECT_EQ(Meaning(With(field.name, static_cast<double>(integer))), Meaning(With(field.name, integer))) << field.name;
    EXPECT_TRUE(Read(With(field.name, static_cast<double>(integer) + 0.5))) << field.name;
  }
}

TEST_P(ParameterTypes, TheOrderOfFieldsDecidesNothing) {
  Random random(static_cast<uint64_t>(GetParam()));
  for (int round = 0; round < 60; ++round) {
    std::vector<std::pair<std::string, Json>> members;
    const Json base = Base();
    for (const auto& [name, value] : base.items()) members.emplace_back(name, value);
    for (const Field& field : Mine()) {
      const uint64_t pick = random.Below(6);
      if (pick < 2) members.emplace_back(field.name, field.good);
      if (pick == 2) members.emplace_back(field.name, Values()[random.Below(Values().size())]);  // good or bad
    }
    const auto body = [&] {
      Json out = Json::object();
      for (const auto& [name, value] : members) out[name] = value;
      return out;
    };
    const std::string first = Meaning(body());
    random.Shuffle(members);
    ASSERT_EQ(Meaning(body()), first) << body().dump();
  }
}

TEST_P(ParameterTypes, OfAFieldThatComesTwiceTheLastCounts) {
  for (const Field& field : Mine()) {
    const auto text = [&](const Json& first, const Json& second) {
      std::string base = Base().dump();
      base.pop_back();
      return fmt::format("{},\"{}\":{},\"{}\":{}}}", base, field.name, first.dump(), field.name, second.dump());
    };
    const Json bad = field.kind == Kind::kBoolean ? Json("x") : Json(true);
    const auto good_last = ParseJsonObject(text(bad, field.good)), bad_last = ParseJsonObject(text(field.good, bad));
    ASSERT_TRUE(good_last.ok() && bad_last.ok());
    EXPECT_EQ(Meaning(*good_last), Meaning(With(field.name, field.good))) << field.name;
    EXPECT_EQ(Meaning(*bad_last), Meaning(With(field.name, bad))) << field.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Apis, ParameterTypes, testing::Values('c', 't', 'r'),
                         [](const auto& info) { return std::string(info.param == 'c' ? "Chat" : info.param == 't' ? "Completion" : "Responses"); });

}  // namespace
}  // namespace baton
