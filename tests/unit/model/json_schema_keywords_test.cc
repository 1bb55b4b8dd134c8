// JSON schema keyword by keyword: combinations, references, and every keyword that is refused by name.
#include <functional>
#include <nlohmann/json.hpp>

#include "tests/unit/model/grammar_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

struct KeywordCase {
  const char* schema;
  std::vector<std::string> in, out;
};

TEST(SchemaKeywords, TakeTheirValuesAndNoOthers) {
  const std::vector<KeywordCase> cases{
      // type
      {R"({"type": ["integer", "boolean", "null"]})", {"1", "true", "null"}, {"1.5", "\"\"", "[]"}},
      {R"({"type": "array"})", {"[]", "[1,\"a\",[null]]"}, {"{}", "[1"}},
      {R"({"type": ["array", "object"]})", {"[]", "{}"}, {"1", "null"}},
      {R"({"type": "string", "minimum": 5})", {"\"x\""}, {"6"}},
      // enum and const: JSON as it is written without spaces, whatever the type beside
      {R"({"type": "string", "enum": ["a", "é", "\u00e9\n", ""]})", {"\"a\"", "\"é\"", "\"é\\n\"", "\"\""}, {"\"b\"", "a", "\"e\""}},
      {R"({"enum": [1, 1.5, -2, 1e3, true, null, [], {}]})", {"1", "1.5", "-2", "1000.0", "true", "null", "[]", "{}"}, {"2", "1e3", "false", "[ ]"}},
      {R"({"const": {"a": [1, {"b": null}]}})", {R"({"a":[1,{"b":null}]})"}, {R"({"a":[1,{}]})", "{}"}},
      {R"({"const": "a|b*[c]"})", {"\"a|b*[c]\""}, {"\"a\"", "\"b\""}},
      {R"({"const": null})", {"null"}, {"0", "\"null\""}},
      // strings
      {R"({"type": "string", "maxLength": 0})", {"\"\""}, {"\"a\""}},
      {R"({"type": "string", "minLength": 1})", {"\"a\"", "\"\\n\"", "\"\\u00e9\"", "\"漢字\""}, {"\"\""}},
      {R"({"type": "string", "minLength": 2, "maxLength": 2})", {"\"ab\"", "\"é漢\"", "\"\\\\\\\"\""}, {"\"a\"", "\"abc\""}},
      {R"({"format": "time"})", {"\"23:59:59Z\"", "\"00:00:00.123456-08:30\""}, {"\"24:00:00Z\"", "\"23:60:00Z\"", "\"1:00:00Z\"", "\"12:00:00\""}},
      {R"({"format": "date"})", {"\"2024-02-29\"", "\"0000-12-31\""}, {"\"2024-00-10\"", "\"2024-1-01\"", "\"2024-01-32\"", "\"24-01-01\""}},
      {R"({"format": "date-time"})", {"\"2024-02-29T01:02:03Z\""}, {"\"2024-02-29\"", "\"2024-02-29t01:02:03z\""}},
      {R"({"format": "uuid"})", {"\"deadbeef-0000-1111-2222-333344445555\""}, {"\"DEADBEEF-0000-1111-2222-333344445555\"", "\"deadbeef\""}},
      // numbers
      {R"({"type": "number", "exclusiveMaximum": 0})", {"-1", "-0.5"}, {"0", "-0", "-0.0", "1"}},
      {R"({"type": "number", "minimum": 0.25, "maximum": 0.75})", {"0.25", "0.5", "0.75"}, {"0", "0.2", "1", "0.76"}},
      {R"({"type": "integer", "minimum": 3, "exclusiveMinimum": 1, "maximum": 9, "exclusiveMaximum": 6})", {"3", "4", "5"}, {"2", "6", "9"}},
      {R"({"minimum": 10, "maximum": 12})", {"10", "11.5", "12"}, {"9.9", "12.1", "\"11\""}},
      {R"({"type": ["integer", "null"], "minimum": 5, "maximum": 6})", {"5", "6", "null"}, {"4", "7"}},
      // arrays
      {R"({"items": {"type": "integer"}, "minItems": 1, "maxItems": 1})", {"[1]"}, {"[]", "[1,2]"}},
      {R"({"items": true, "maxItems": 2})", {"[]", "[1]", "[{},[]]"}, {"[1,2,3]"}},
      {R"({"items": false})", {"[]"}, {"[1]"}},
      {R"({"items": [{"const": 1}, {"const": 2}]})", {"[1,2]", "[1, 2]"}, {"[1]", "[2,1]", "[1,2,3]"}},
      {R"({"items": {"items": {"const": 0}, "minItems": 2, "maxItems": 2}, "minItems": 2, "maxItems": 2})", {"[[0,0],[0,0]]"}, {"[[0,0]]", "[[0],[0,0]]", "[0,0]"}},
      // objects
      {R"({"properties": {"a": true, "b": {}}, "required": ["a", "b"]})", {R"({"a":1,"b":[null]})"}, {R"({"a":1})"}},
      {R"({"properties": {"a": {"const": 1}}, "additionalProperties": true})",
       {"{}", R"({"a":1})", R"({"a":1,"z":[]})", R"({"z":0})"}, {R"({"a":2})", R"({"z":0,"a":1})"}},
      {R"({"properties": {"": {"const": 1}}, "required": [""]})", {R"({"":1})"}, {"{}"}},
      {R"({"additionalProperties": {"additionalProperties": {"type": "null"}}})", {"{}", R"({"a":{"b":null}})"}, {R"({"a":null})", R"({"a":{"b":1}})"}},
      // anyOf, oneOf, allOf
      {R"({"anyOf": [{"const": 1}, true]})", {"1", "\"x\"", "{}"}, {"x"}},
      {R"({"type": "string", "anyOf": [{"maxLength": 1}, {"const": "long"}]})", {"\"\"", "\"a\"", "\"long\""}, {"\"ab\""}},
      {R"({"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]}, {"type": "object", "properties": {"k": {"const": "b"}, "n": {"type": "integer"}},
             "required": ["k", "n"]}],
           "discriminator": {"propertyName": "k"}})",
       {R"({"k":"a"})", R"({"k":"b","n":1})"}, {R"({"k":"b"})", R"({"k":"a","n":1})", R"({"k":"c"})"}},
      {R"({"allOf": [{"minimum": 1}, {"maximum": 3}, {"type": "integer"}]})", {"1", "3"}, {"0", "4", "1.5"}},
      {R"({"allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {"const": 2}}, "required": ["b"]}, true]})",
       {R"({"a":1,"b":2})"}, {R"({"a":1})"}},
      {R"({"allOf": [{"allOf": [{"type": "string"}, {"maxLength": 1}]}]})", {"\"a\"", "\"\""}, {"\"ab\"", "1"}},
      {R"({"properties": {"x": {"type": "integer", "nullable": true}}, "required": ["x"]})", {R"({"x":1})", R"({"x":null})"}, {R"({"x":"s"})"}},
      {R"({"enum": ["a"], "nullable": true})", {"\"a\"", "null"}, {"\"b\""}},
      // $ref
      {R"({"$ref": "#/definitions/d", "definitions": {"d": {"const": 7}}})", {"7"}, {"8"}},
      {R"({"$ref": "#/$defs/a~1b~0c", "$defs": {"a/b~c": {"const": 7}}})", {"7"}, {"8"}},
      {R"({"$ref": "#/$defs/list/1", "$defs": {"list": [{"const": 6}, {"const": 7}]}})", {"7"}, {"6"}},
      {R"({"$ref": "#/$defs/a", "description": "what it is", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"const": 7}}})", {"7"}, {"8"}},
      {R"({"$defs": {"tree": {"properties": {"kids": {"items": {"$ref": "#/$defs/tree"}}}, "required": ["kids"]}}, "items": {"$ref": "#/$defs/tree"}})",
       {"[]", R"([{"kids":[]}])", R"([{"kids":[{"kids":[{"kids":[]}]}]}])"}, {R"([{}])", R"([{"kids":[1]}])"}},
      // what only describes
      {R"({"$schema": "s", "$id": "i", "$comment": "c", "title": "t", "description": "d", "default": 1, "examples": [2], "deprecated": true, "readOnly": true, "writeOnly": false, "const": 3})",
       {"3"}, {"1", "2"}}};
  for (const KeywordCase& c : cases) {
    const auto gbnf = JsonSchemaToGbnf(Json::parse(c.schema));
    ASSERT_TRUE(gbnf.ok()) << c.schema << ": " << gbnf.status().ToString();
    const auto matcher = NewMatcher(*gbnf);
    ASSERT_NE(matcher, nullptr) << c.schema;
    for (const std::string& text : c.in) EXPECT_TRUE(Matches(*matcher, text)) << c.schema << " should take " << text;
    for (const std::string& text : c.out) EXPECT_FALSE(Matches(*matcher, text)) << c.schema << " should not take " << text;
  }
}

TEST(SchemaKeywords, OthersAreRefusedByNameAndPlace) {
  for (const char* keyword : {"not", "if", "then", "else", "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties",
                              "unevaluatedItems", "additionalItems", "contains", "minContains", "maxContains", "uniqueItems", "minProperties", "maxProperties", "multipleOf",
                              "contentEncoding", "contentMediaType", "$dynamicRef", "$recursiveRef", "Type", "propertis"}) {
    const auto top = JsonSchemaToGbnf({{keyword, Json::object()}});
    ASSERT_FALSE(top.ok()) << keyword;
    EXPECT_EQ(top.status().code(), StatusCode::kInvalid);
    EXPECT_THAT(top.status().message(), HasSubstr(fmt::format("at #: the keyword \"{}\" is not supported", keyword)));
    const auto deep = JsonSchemaToGbnf({{"properties", {{"p", {{"items", {{keyword, 1}}}}}}}});
    EXPECT_THAT(deep.status().message(), HasSubstr(fmt::format("at #/properties/p/items: the keyword \"{}\"", keyword)));
  }
}

TEST(SchemaKeywords, WrongValuesSayWhatWouldBeRight) {
  const std::vector<std::pair<const char*, const char*>> cases{
      {R"({"type": ["string", 5]})", "\"type\" must be the name of a type or a list"},
      {R"({"type": []})", "\"type\" must be"},
      {R"({"type": null})", "\"type\" must be"},
      {R"({"type": "any"})", "there is no type \"any\"; types are object"},
      {R"({"enum": "a"})", "\"enum\" must be a list"},
      {R"({"enum": {}})", "\"enum\" must be a list"},
      {R"({"pattern": 5})", "\"pattern\" must be a string"},
      {R"({"minLength": "1"})", "\"minLength\" must be a whole number"},
      {R"({"maxLength": -1})", "\"maxLength\" must be a whole number"},
      {R"({"minItems": 1.5})", "\"minItems\" must be a whole number"},
      {R"({"minItems": 3, "maxItems": 2})", "\"minItems\" is more than \"maxItems\""},
      {R"({"maxItems": 1000000})", "\"maxItems\" of 1000000 is more than can be kept"},
      {R"({"minimum": true})", "\"minimum\" must be a number"},
      {R"({"exclusiveMinimum": true, "minimum": 1})", "\"exclusiveMinimum\" must be a number"},
      {R"({"prefixItems": {}})", "\"prefixItems\" must be a list"},
      {R"({"prefixItems": [true], "minItems": 1})", "together with \"minItems\""},
      {R"({"properties": 3})", "\"properties\" must be an object"},
      {R"({"properties": {"a": 3}})", "at #/properties/a: a schema must be an object"},
      {R"({"required": "a"})", "\"a\" is required but not among the properties"},
      {R"({"required": true})", "\"required\" must be a list of names"},
      {R"({"additionalProperties": 3})", "at #/additionalProperties: a schema must be"},
      {R"({"anyOf": {}})", "\"anyOf\" must be a list of schemas"},
      {R"({"oneOf": [3]})", "at #/oneOf/0: a schema must be"},
      {R"({"allOf": "x"})", "\"allOf\" must be a list of schemas"},
      {R"({"allOf": [false]})", "a schema must be"},
      {R"({"$ref": 3})", "\"$ref\" must be a string"},
      {R"({"$ref": "other.json#/a"})", "leads out of the schema"},
      {R"({"$ref": "#/$defs/x/y", "$defs": {"x": 1}})", "names nothing"},
      {R"({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})", "leads in a circle"},
      {R"({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"a": {"const": 2}}}]})", "property \"a\" is described twice, differently"}};
  for (const auto& [schema, says] : cases) {
    const auto gbnf = JsonSchemaToGbnf(Json::parse(schema));
    ASSERT_FALSE(gbnf.ok()) << schema;
    EXPECT_THAT(gbnf.status().message(), HasSubstr(says)) << schema;
  }
}

/// A schema that only leads to itself allows no value: it is refused with a reason, never followed for ever.
TEST(SchemaKeywords, CirclesAreRefused) {
  for (const char* schema : {R"({"$ref": "#"})", R"({"items": {"$ref": "#"}, "minItems": 1})", R"({"properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
                             R"({"oneOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}})"}) {
    const auto gbnf = JsonSchemaToGbnf(Json::parse(schema));
    const Status status = gbnf.ok() ? Grammar::Parse(*gbnf).status() : gbnf.status();
    EXPECT_EQ(status.code(), StatusCode::kInvalid) << schema;
    EXPECT_FALSE(status.message().empty());
  }
  const auto with_a_way_out = JsonSchemaToGbnf(Json::parse(R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})"));
  ASSERT_TRUE(with_a_way_out.ok());
  EXPECT_TRUE(Matches(*with_a_way_out, "null"));
}

/// Random schemas of the supported kind: what the grammar lets through parses and has the type that was asked for.
TEST(SchemaKeywords, RandomSchemasGiveTheirOwnTypes) {
  Random random(29);
  const std::function<Json(int)> schema = [&](int depth) -> Json {
    switch (random.Below(depth > 0 ? 8 : 5)) {
      case 0: return {{"type", "integer"}, {"minimum", -static_cast<int>(random.Below(50))}, {"maximum", random.Below(50)}};
      case 1: return {{"type", "boolean"}};
      case 2: return {{"type", "string"}, {"maxLength", random.Below(5)}};
      case 3: return {{"enum", {"x", 3, nullptr}}};
      case 4: return {{"type", "null"}};
      case 5: return {{"type", "array"}, {"items", schema(depth - 1)}, {"maxItems", 1 + random.Below(3)}};
      case 6: return {{"anyOf", {schema(depth - 1), schema(depth - 1)}}};
      default: return {{"type", "object"}, {"properties", {{"p", schema(depth - 1)}, {"q", schema(depth - 1)}}}, {"required", {"p"}}};
    }
  };
  const std::function<bool(const Json&, const Json&)> fits = [&](const Json& s, const Json& value) -> bool {
    if (s.contains("enum")) return std::find(s["enum"].begin(), s["enum"].end(), value) != s["enum"].end();
    if (s.contains("anyOf")) return fits(s["anyOf"][0], value) || fits(s["anyOf"][1], value);
    const std::string type = s["type"];
    if (type == "integer") return value.is_number_integer() && value >= s["minimum"] && value <= s["maximum"];
    if (type == "array") {
      return value.is_array() && value.size() <= s["maxItems"].get<size_t>() && std::all_of(value.begin(), value.end(), [&](const Json& item) { return fits(s["items"], item); });
    }
    if (type == "object") {
      if (!value.is_object() || !value.contains("p")) return false;
      const auto& known = s["properties"];
      return std::all_of(value.items().begin(), value.items().end(), [&](const auto& item) { return known.contains(item.key()) && fits(known[item.key()], item.value()); });
    }
    return type == "boolean" ? value.is_boolean() : type == "null" ? value.is_null() : value.is_string();
  };
  int checked = 0;
  for (int round = 0; round < 60; ++round) {
    const Json s = schema(3);
    const auto gbnf = JsonSchemaToGbnf(s);
    ASSERT_TRUE(gbnf.ok()) << s << gbnf.status().ToString();
    const auto matcher = NewMatcher(*gbnf);
    for (int i = 0; i < 6; ++i) {
      const std::string text = RandomText(*matcher, random, 3, 300);
      if (!Matches(*matcher, text)) continue;
      const Json value = Json::parse(text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << s << " gave " << text;
      EXPECT_TRUE(fits(s, value)) << s << " gave " << text;
      ++checked;
    }
  }
  EXPECT_GT(checked, 200);
}

}  // namespace
}  // namespace baton
