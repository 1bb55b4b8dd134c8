// JSON schemas as grammars: what they accept, what comes out of them, what they refuse.
#include <nlohmann/json.hpp>

#include "tests/unit/model/grammar_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

std::string Gbnf(const std::string& schema) {
  const auto gbnf = JsonSchemaToGbnf(Json::parse(schema));
  EXPECT_TRUE(gbnf.ok()) << schema << ": " << gbnf.status().ToString();
  return gbnf.ok() ? *gbnf : "root ::= \"bad\"";
}

struct SchemaCase {
  const char* name;
  const char* schema;
  std::vector<std::string> in, out;
};

class Schema : public testing::TestWithParam<SchemaCase> {};

TEST_P(Schema, AcceptsItsValuesAndNoOthers) {
  const auto matcher = NewMatcher(Gbnf(GetParam().schema));
  ASSERT_NE(matcher, nullptr);
  for (const std::string& text : GetParam().in) EXPECT_TRUE(Matches(*matcher, text)) << text;
  for (const std::string& text : GetParam().out) EXPECT_FALSE(Matches(*matcher, text)) << text;
}

/// Whatever is drawn from the grammar parses, so nothing that is no JSON is ever allowed.
TEST_P(Schema, WhatItGeneratesIsJson) {
  const auto matcher = NewMatcher(Gbnf(GetParam().schema), ByteVocabulary({"{\"", "\":", ", ", "\", \"", "}]", "true", "null", "\\\"", "é", "  "}));
  ASSERT_NE(matcher, nullptr);
  Random random(11);
  for (int round = 0; round < 5; ++round) {
    const std::string text = RandomText(*matcher, random, 10);
    if (!Matches(*matcher, text)) continue;  // a walk that only opened brackets
    EXPECT_TRUE(Json::accept(text)) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Values, Schema,
    testing::Values(
        SchemaCase{"anything", "{}", {"1", "null", "\"x\"", "[1, {\"a\": []}]", "{\"a\": 1}", "{}", "[]", "-0.5e-10", "true"}, {"", "nul", "{a: 1}", "[1,]", "01", "1 2", "'x'"}},
        SchemaCase{"boolean", R"({"type": "boolean"})", {"true", "false"}, {"True", "0", "\"true\""}},
        SchemaCase{"null", R"({"type": "null"})", {"null"}, {"", "None"}},
        SchemaCase{"integer", R"({"type": "integer"})", {"0", "-1", "123456"}, {"1.5", "01", "-", "1e3", "+1"}},
        SchemaCase{"number", R"({"type": "number"})", {"0", "-1.25", "1e10", "2E-3"}, {".5", "1.", "NaN", "1e", "--1"}},
        SchemaCase{"string", R"({"type": "string"})", {R"("")", R"("a\n\"é😀\u00e9")"}, {R"("a)", "\"a\nb\"", R"("\x")", R"("\u12")", "\"\xff\""}},
        SchemaCase{"string_lengths", R"({"type": "string", "minLength": 2, "maxLength": 3})", {R"("ab")", R"("é\n漢")"}, {R"("a")", R"("abcd")"}},
        SchemaCase{"enum", R"({"enum": ["red", "a\"b", 5, null, {"k": [1]}]})", {"\"red\"", R"("a\"b")", "5", "null", R"({"k":[1]})"}, {"red", "\"blue\"", "55"}},
        SchemaCase{"const", R"({"const": "x"})", {"\"x\""}, {"\"y\""}},
        SchemaCase{"several_types", R"({"type": ["string", "null"]})", {"\"s\"", "null"}, {"1"}},
        SchemaCase{"nullable", R"({"type": "integer", "nullable": true})", {"3", "null"}, {"\"s\""}},
        SchemaCase{"pattern", R"({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"})", {"\"AB-1\"", "\"XY-123\""}, {"\"AB-\"", "\"xAB-1\"", "\"AB-1 \""}},
        SchemaCase{"pattern_anywhere", R"({"pattern": "b+"})", {"\"abc\"", "\"b\"", "\"\\nbb\""}, {"\"ac\"", "\"\""}},
        SchemaCase{"pattern_with_quotes", R"({"pattern": "^\"[\\\\/]\"$"})", {R"("\"\\\"")", R"("\"/\"")"}, {R"(""/"")", R"("\"x\"")"}},
        SchemaCase{"date", R"({"type": "string", "format": "date"})", {"\"2026-11-25\""}, {"\"2026-13-01\"", "\"2026-1-1\""}},
        SchemaCase{"date_time", R"({"format": "date-time"})", {"\"2026-11-25T23:59:59Z\"", "\"2026-11-25T00:00:00.5+01:00\""}, {"\"2026-11-25 10:00:00Z\"", "\"2026-11-25T24:00:00Z\""}},
        SchemaCase{"uuid", R"({"format": "uuid"})", {"\"01234567-89ab-cdef-0123-456789abcdef\""}, {"\"0123\""}},
        SchemaCase{"unknown_format", R"({"type": "string", "format": "email"})", {"\"x\""}, {"x"}},
        SchemaCase{"any_of", R"({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]})", {"12", "\"a\""}, {"1.5", "\"ab\""}},
        SchemaCase{"one_of_with_base", R"({"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"],
                                           "oneOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {"const": 2}}, "required": ["b"]}]})",
                   {R"({"k":1,"a":1})", R"({"k":1,"b":2})"}, {R"({"k":1})", R"({"a":1})", R"({"k":1,"a":1,"b":2})"}},
        SchemaCase{"all_of", R"({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"$ref": "#/$defs/b"}],
                                 "$defs": {"b": {"properties": {"b": {"type": "null"}}, "required": ["b"]}}})",
                   {R"({"a": 1, "b": null})"}, {R"({"a": 1})", R"({"b": null})"}}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Containers, Schema,
    testing::Values(
        SchemaCase{"any_object", R"({"type": "object"})", {"{}", "{ }", R"({"a":1})", "{\n  \"a\": [],\n  \"b\": {}\n}"}, {"[]", "{,}", R"({"a"})", R"({"a":1,})"}},
        SchemaCase{"required_in_order", R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["a", "b"]})",
                   {R"({"a":1,"b":true})", R"({ "a": 1, "b": false })"}, {"{}", R"({"a":1})", R"({"b":true,"a":1})", R"({"a":1,"b":true,"c":2})", R"({"a":1 "b":true})"}},
        SchemaCase{"optional", R"({"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"]})",
                   {R"({"b":2})", R"({"a":1,"b":2})", R"({"b":2,"c":3})", R"({"a":1,"b":2,"c":3})"}, {"{}", R"({"a":1})", R"({"a":1,"c":3})", R"({,"b":2})", R"({"b":2,})"}},
        SchemaCase{"all_optional", R"({"properties": {"a": {"const": 1}, "b": {"const": 2}}})", {"{}", R"({"a":1})", R"({"b":2})", R"({"a":1,"b":2})"}, {R"({"b":2,"a":1})", "{,}"}},
        SchemaCase{"additional", R"({"properties": {"ab": {"const": 1}}, "required": ["ab"], "additionalProperties": {"type": "integer"}})",
                   {R"({"ab":1})", R"({"ab":1,"a":2})", R"({"ab":1,"abc":2,"":3,"x":4})"}, {R"({"ab":1,"ab":2})", R"({"ab":1,"x":"s"})", R"({"x":1})"}},
        SchemaCase{"additional_only", R"({"type": "object", "additionalProperties": {"type": "boolean"}})", {"{}", R"({"x":true,"y":false})"}, {R"({"x":1})"}},
        SchemaCase{"no_members", R"({"type": "object", "additionalProperties": false})", {"{}"}, {R"({"x":1})"}},
        SchemaCase{"odd_names", R"({"properties": {"a\"b": {"const": 1}, "é\n": {"const": 2}}, "required": ["a\"b", "é\n"]})", {R"({"a\"b":1,"é\n":2})"}, {R"({"a"b":1})"}},
        SchemaCase{"array", R"({"type": "array", "items": {"type": "integer"}})", {"[]", "[1]", "[1, 2,3]", "[\n 1\n]"}, {"[1,]", "[\"a\"]", "[1 2]"}},
        SchemaCase{"array_counts", R"({"items": {"const": 0}, "minItems": 2, "maxItems": 3})", {"[0,0]", "[0,0,0]"}, {"[]", "[0]", "[0,0,0,0]"}},
        SchemaCase{"array_at_most", R"({"items": {"const": 0}, "maxItems": 1})", {"[]", "[0]"}, {"[0,0]"}},
        SchemaCase{"array_at_least", R"({"items": {"const": 0}, "minItems": 1})", {"[0]", "[0,0,0,0,0]"}, {"[]"}},
        SchemaCase{"array_of_none", R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
        SchemaCase{"tuple", R"({"prefixItems": [{"type": "integer"}, {"type": "string"}]})", {R"([1,"a"])"}, {"[1]", R"([1,"a",2])", R"(["a",1])"}},
        SchemaCase{"nested", R"({"properties": {"list": {"items": {"properties": {"x": {"type": "number"}}, "required": ["x"]}}}, "required": ["list"]})",
                   {R"({"list": [{"x": 1}, {"x": 2.5}]})", R"({"list":[]})"}, {R"({"list": [{}]})", R"({"list": [{"y": 1}]})"}},
        SchemaCase{"recursive", R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"},
                                   "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"]}}})",
                   {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"}, {R"({"v":1})", R"({"v":1,"next":{}})"}},
        SchemaCase{"recursive_root", R"({"properties": {"children": {"items": {"$ref": "#"}}}, "required": ["children"]})",
                   {R"({"children":[]})", R"({"children":[{"children":[]}]})"}, {"{}", R"({"children":[{}]})"}},
        SchemaCase{"reference_by_pointer", R"({"properties": {"a/b": {"type": "integer"}, "c": {"$ref": "#/properties/a~1b"}}, "required": ["a/b", "c"]})",
                   {R"({"a/b":1,"c":2})"}, {R"({"a/b":1,"c":"x"})"}}),
    [](const auto& info) { return info.param.name; });

/// Every number of a grid is accepted exactly when it is within the bounds.
TEST(SchemaBounds, IntegersAgreeWithComparing) {
  const std::vector<std::pair<std::string, std::function<bool(int64_t)>>> cases{
      {R"({"type":"integer","minimum":0})", [](int64_t x) { return x >= 0; }},
      {R"({"type":"integer","minimum":1,"maximum":120})", [](int64_t x) { return x >= 1 && x <= 120; }},
      {R"({"type":"integer","minimum":-37,"maximum":205})", [](int64_t x) { return x >= -37 && x <= 205; }},
      {R"({"type":"integer","maximum":-5})", [](int64_t x) { return x <= -5; }},
      {R"({"type":"integer","minimum":-9})", [](int64_t x) { return x >= -9; }},
      {R"({"type":"integer","exclusiveMinimum":9,"exclusiveMaximum":1000})", [](int64_t x) { return x > 9 && x < 1000; }},
      {R"({"type":"integer","exclusiveMaximum":0})", [](int64_t x) { return x < 0; }},
      {R"({"type":"integer","minimum":99,"maximum":101})", [](int64_t x) { return x >= 99 && x <= 101; }},
      {R"({"type":"integer","minimum":7,"maximum":7})", [](int64_t x) { return x == 7; }},
      {R"({"type":"integer","minimum":0.5,"maximum":3.5})", [](int64_t x) { return x >= 1 && x <= 3; }},
      {R"({"type":"integer","minimum":1,"exclusiveMinimum":1})", [](int64_t x) { return x > 1; }},
      {R"({"type":"integer","minimum":-1000,"maximum":-100})", [](int64_t x) { return x >= -1000 && x <= -100; }}};
  for (const auto& [schema, allowed] : cases) {
    const auto matcher = NewMatcher(Gbnf(schema));
    for (int64_t x = -1200; x <= 1200; ++x) EXPECT_EQ(Matches(*matcher, std::to_string(x)), allowed(x)) << schema << " " << x;
    for (const int64_t x : {99'999, 123'456, -99'999, 1'000'000}) EXPECT_EQ(Matches(*matcher, std::to_string(x)), allowed(x)) << schema << " " << x;
    for (const char* text : {"", "-", "00", "01", "-01", "1.0", "007"}) EXPECT_FALSE(Matches(*matcher, text)) << schema << " " << text;
  }
}

TEST(SchemaBounds, NumbersAgreeWithComparing) {
  const std::vector<std::pair<std::string, std::function<bool(double)>>> cases{
      {R"({"type":"number","minimum":0})", [](double x) { return x >= 0; }},
      {R"({"type":"number","exclusiveMinimum":0})", [](double x) { return x > 0; }},
      {R"({"type":"number","minimum":0,"maximum":1})", [](double x) { return x >= 0 && x <= 1; }},
      {R"({"type":"number","minimum":0,"exclusiveMaximum":1})", [](double x) { return x >= 0 && x < 1; }},
      {R"({"type":"number","minimum":-1.5,"maximum":2.25})", [](double x) { return x >= -1.5 && x <= 2.25; }},
      {R"({"type":"number","exclusiveMinimum":-1.5,"exclusiveMaximum":2.25})", [](double x) { return x > -1.5 && x < 2.25; }},
      {R"({"type":"number","maximum":-0.75})", [](double x) { return x <= -0.75; }},
      {R"({"type":"number","minimum":9.5,"maximum":101})", [](double x) { return x >= 9.5 && x <= 101; }}};
  for (const auto& [schema, allowed] : cases) {
    const auto matcher = NewMatcher(Gbnf(schema));
    for (int n = -12'000; n <= 12'000; n += 25) {
      const std::string text = fmt::format("{}", n / 100.0);
      if (text == "-0") continue;
      EXPECT_EQ(Matches(*matcher, text), allowed(n / 100.0)) << schema << " " << text;
      const std::string long_text = fmt::format("{:.4f}", n / 100.0);
      EXPECT_EQ(Matches(*matcher, long_text), allowed(n / 100.0)) << schema << " " << long_text;
    }
    for (const char* text : {"", "-", ".5", "1.", "00.5", "1.5.2"}) EXPECT_FALSE(Matches(*matcher, text)) << schema << " " << text;
  }
}

TEST(SchemaErrors, SayWhereAndWhat) {
  const std::vector<std::pair<const char*, const char*>> cases{
      {R"({"not": {"type": "string"}})", "at #: the keyword \"not\" is not supported"},
      {R"({"properties": {"a": {"multipleOf": 3}}})", "at #/properties/a: the keyword \"multipleOf\""},
      {R"({"properties": {"a": {"type": "strnig"}}})", "there is no type \"strnig\""},
      {R"({"type": 5})", "\"type\" must be"},
      {R"({"items": 5})", "at #/items: a schema must be"},
      {R"({"properties": [1]})", "\"properties\" must be an object"},
      {R"({"properties": {}, "required": ["a"]})", "\"a\" is required but not among the properties"},
      {R"({"required": [1]})", "\"required\" must be a list of names"},
      {R"({"enum": []})", "\"enum\" must be a list"},
      {R"({"anyOf": []})", "\"anyOf\" must be a list"},
      {R"({"$ref": "#/$defs/none"})", "names nothing"},
      {R"({"$ref": "http://example.com/x"})", "leads out of the schema"},
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})", "leads back to itself"},
      {R"({"$ref": "#/$defs/a", "type": "string", "$defs": {"a": {}}})", "beside \"$ref\""},
      {R"({"allOf": [{"type": "string"}, {"type": "integer"}]})", "given twice"},
      {R"({"minLength": -1, "type": "string"})", "not negative"},
      {R"({"minLength": 3, "maxLength": 2, "type": "string"})", "is more than"},
      {R"g({"pattern": "(?=x)"})g", "look-around"},
      {R"({"pattern": "a", "minLength": 2})", "put the length into the pattern"},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})", "allow no number"},
      {R"({"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 5})", "allow no integer"},
      {R"({"type": "integer", "minimum": "x"})", "must be a number"},
      {R"({"type": "number", "maximum": 1e300})", "beyond what can be kept"},
      {R"(false)", "allows no value"},
      {R"(3)", "a schema must be"}};
  for (const auto& [schema, says] : cases) {
    const auto gbnf = JsonSchemaToGbnf(Json::parse(schema));
    ASSERT_FALSE(gbnf.ok()) << schema;
    EXPECT_EQ(gbnf.status().code(), StatusCode::kInvalid) << schema;
    EXPECT_THAT(gbnf.status().message(), testing::HasSubstr(says)) << schema;
  }
}

TEST(SchemaErrors, DepthAndSizeAreBounded) {
  std::string deep = "{}";
  for (int i = 0; i < 200; ++i) deep = R"({"items": )" + deep + "}";
  EXPECT_THAT(JsonSchemaToGbnf(Json::parse(deep)).status().message(), testing::HasSubstr("nested deeper"));
  Json wide;
  for (int i = 0; i < 15'000; ++i) wide["properties"][std::to_string(i)] = {{"type", "integer"}};
  EXPECT_THAT(JsonSchemaToGbnf(wide).status().message(), testing::HasSubstr("too large"));
  Json branching = Json::object();  // 2^30 paths, one rule a definition
  for (int i = 0; i < 30; ++i) {
    const Json next = {{"$ref", "#/$defs/d" + std::to_string(i + 1)}};
    branching["$defs"]["d" + std::to_string(i)] = {{"prefixItems", {next, next}}};
  }
  branching["$defs"]["d30"] = {{"type", "null"}};
  branching["$ref"] = "#/$defs/d0";
  EXPECT_TRUE(JsonSchemaToGbnf(branching).ok());
}

TEST(Schema, PydanticsFormsAreTaken) {
  const std::string gbnf = Gbnf(R"({"$defs": {"Color": {"enum": ["red", "green"], "title": "Color", "type": "string"}},
      "properties": {"name": {"title": "Name", "type": "string", "description": "who"}, "age": {"anyOf": [{"minimum": 0, "type": "integer"}, {"type": "null"}], "default": null, "title": "Age"},
      "color": {"$ref": "#/$defs/Color"}, "tags": {"items": {"type": "string"}, "title": "Tags", "type": "array"}},
      "required": ["name", "age", "color", "tags"], "title": "Person", "type": "object", "additionalProperties": false})");
  EXPECT_TRUE(Matches(gbnf, R"({"name": "Ada", "age": 36, "color": "red", "tags": ["x", "y"]})"));
  EXPECT_TRUE(Matches(gbnf, R"({"name":"","age":null,"color":"green","tags":[]})"));
  EXPECT_FALSE(Matches(gbnf, R"({"name": "Ada", "age": -1, "color": "red", "tags": []})"));
  EXPECT_FALSE(Matches(gbnf, R"({"name": "Ada", "age": 1, "color": "blue", "tags": []})"));
}

struct RegexCase {
  const char* name;
  const char* regex;
  std::vector<std::string> in, out;
};

class Regex : public testing::TestWithParam<RegexCase> {};

TEST_P(Regex, MatchesTheWholeText) {
  const auto gbnf = RegexToGbnf(GetParam().regex);
  ASSERT_TRUE(gbnf.ok()) << gbnf.status().ToString();
  const auto matcher = NewMatcher(*gbnf);
  ASSERT_NE(matcher, nullptr) << *gbnf;
  for (const std::string& text : GetParam().in) EXPECT_TRUE(Matches(*matcher, text)) << text;
  for (const std::string& text : GetParam().out) EXPECT_FALSE(Matches(*matcher, text)) << text;
}

INSTANTIATE_TEST_SUITE_P(
    Forms, Regex,
    testing::Values(
        RegexCase{"literal", "abc", {"abc"}, {"ab", "xabc"}}, RegexCase{"alternatives", "a|bc|", {"a", "bc", ""}, {"b"}},
        RegexCase{"groups", "(ab|c)+(?:d)?(?<n>e)*", {"abcd", "c", "ababee"}, {"", "d"}},
        RegexCase{"counts", "a{2}b{1,3}c{0,}d?", {"aab", "aabbbccd"}, {"ab", "aabbbb"}}, RegexCase{"lazy", "a+?b*?", {"a", "aabb"}, {""}},
        RegexCase{"classes", "[a-c][^a-c][]x][x\\]-]", {"ad]]", "czx-"}, {"aaxx", "dd]]"}},
        RegexCase{"shorthands", "\\d\\D\\w\\W\\s\\S", {"1a_! x"}, {"aaa! x", "1a_!xx"}},
        RegexCase{"shorthand_in_class", "[\\d.]+", {"3.14"}, {"a"}}, RegexCase{"escapes", "\\.\\*\\(\\)\\[\\]\\\\\\/\\x41\\u00e9\\n", {".*()[]\\/Aé\n"}, {"x"}},
        RegexCase{"dot", ".", {"x", "é", "😀"}, {"\n", "", "xx"}}, RegexCase{"anchored", "^ab$", {"ab"}, {"^ab$", "aab"}},
        RegexCase{"unicode", "[α-ω]+é", {"αβγé"}, {"aé"}}, RegexCase{"quotes", "\"[^\"]*\"", {"\"x y\""}, {"\"x", "\"a\"b\""}},
        RegexCase{"address", "(\\d{1,3}\\.){3}\\d{1,3}", {"127.0.0.1", "10.20.30.255"}, {"1.2.3", "1.2.3.4.5", "1234.1.1.1"}}),
    [](const auto& info) { return info.param.name; });

TEST(RegexErrors, SayWhereAndWhat) {
  const std::vector<std::pair<const char*, const char*>> cases{
      {"(a", "without its \")\""}, {"a)", "without its \"(\""}, {"[a", "without its \"]\""}, {"*a", "nothing before"}, {"a**", "two counts"}, {"a{2,1}", "more at least"},
      {"a{99999}", "at most 10000"}, {"(?=a)", "look-around"}, {"(?<=a)", "look-around"}, {"a\\", "at the end"}, {"\\p{L}", "not supported"}, {"\\1", "not supported"},
      {"[z-a]", "backwards"}, {"a^b", "beginning"}, {"a$b", "only at the beginning and the end"}, {"(a$)", "only at the end"}, {"\\uD800", "no character"}, {"\\xZ0", "hexadecimal"}, {"\xff", "UTF-8"}};
  for (const auto& [regex, says] : cases) {
    const auto gbnf = RegexToGbnf(regex);
    ASSERT_FALSE(gbnf.ok()) << regex;
    EXPECT_THAT(gbnf.status().message(), testing::AnyOf(testing::HasSubstr(says), testing::HasSubstr("without anything before"))) << regex;
  }
}

TEST(Choices, AreTheOnlyTexts) {
  const auto gbnf = ChoicesToGbnf({"yes", "no", "maybe \"so\"\n", "日本"});
  ASSERT_TRUE(gbnf.ok());
  const auto matcher = NewMatcher(*gbnf);
  for (const char* text : {"yes", "no", "maybe \"so\"\n", "日本"}) EXPECT_TRUE(Matches(*matcher, text)) << text;
  for (const char* text : {"", "ye", "yesno", "Yes"}) EXPECT_FALSE(Matches(*matcher, text)) << text;
  EXPECT_FALSE(ChoicesToGbnf({}).ok());
  EXPECT_FALSE(ChoicesToGbnf({"a", ""}).ok());
}

TEST(JsonObject, IsAnyObject) {
  const auto matcher = NewMatcher(JsonObjectGbnf());
  for (const char* text : {"{}", R"({"a": {"b": [1, "x", null]}})"}) EXPECT_TRUE(Matches(*matcher, text)) << text;
  for (const char* text : {"[]", "1", "{", R"({"a": 1} )", R"({"a": tru})"}) EXPECT_FALSE(Matches(*matcher, text)) << text;
}

}  // namespace
}  // namespace baton
