// response_format and its relatives: which grammar they ask for, and what is refused.
#include "gateway/output_form.h"

#include "model/grammar/grammar.h"
#include "model/grammar/grammar_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

struct Outcome {
  std::string gbnf, param, message;
};

Outcome Read(const std::string& body, std::string (*read)(FieldReader&) = ReadOutputGrammar) {
  const Json json = Json::parse(body);
  FieldReader fields(json);
  Outcome out{read(fields), "", ""};
  if (fields.error()) out.param = fields.error()->param, out.message = fields.error()->message;
  return out;
}

const char* const kSchema = R"({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})";

TEST(OutputGrammar, NothingAskedIsAnyText) {
  for (const char* body : {"{}", R"({"response_format": null})", R"({"response_format": {"type": "text"}})", R"({"grammar": ""})", R"({"guided_json": null, "grammar": null})",
                           R"({"structured_outputs": {}})", R"({"structured_outputs": {"json": null}})", R"({"structured_outputs": {"json_object": false}})"}) {
    const Outcome out = Read(body);
    EXPECT_EQ(out.gbnf, "") << body;
    EXPECT_EQ(out.message, "") << body;
  }
}

TEST(OutputGrammar, EverySpellingOfASchemaIsTheSameGrammar) {
  const auto expected = JsonSchemaToGbnf(Json::parse(kSchema));
  ASSERT_TRUE(expected.ok());
  const std::string quoted = Json(kSchema).dump();
  for (const std::string& body :
       {fmt::format(R"({{"response_format": {{"type": "json_schema", "json_schema": {{"name": "x", "strict": true, "schema": {}}}}}}})", kSchema),
        fmt::format(R"({{"response_format": {{"type": "json_schema", "schema": {}}}}})", kSchema), fmt::format(R"({{"response_format": {{"type": "json_object", "schema": {}}}}})", kSchema),
        fmt::format(R"({{"guided_json": {}}})", kSchema), fmt::format(R"({{"guided_json": {}}})", quoted), fmt::format(R"({{"json_schema": {}}})", kSchema),
        fmt::format(R"({{"structured_outputs": {{"json": {}}}}})", kSchema)}) {
    const Outcome out = Read(body);
    EXPECT_EQ(out.message, "") << body;
    EXPECT_EQ(out.gbnf, *expected) << body;
  }
  const Outcome text = Read(fmt::format(R"({{"text": {{"format": {{"type": "json_schema", "name": "x", "schema": {}}}}}}})", kSchema), ReadTextFormat);
  EXPECT_EQ(text.gbnf, *expected);
}

TEST(OutputGrammar, OtherForms) {
  EXPECT_EQ(Read(R"({"response_format": {"type": "json_object"}})").gbnf, JsonObjectGbnf());
  EXPECT_EQ(Read(R"({"structured_outputs": {"json_object": true}})").gbnf, JsonObjectGbnf());
  EXPECT_EQ(Read(R"({"guided_regex": "[0-9]+"})").gbnf, *RegexToGbnf("[0-9]+"));
  EXPECT_EQ(Read(R"({"structured_outputs": {"regex": "[0-9]+"}})").gbnf, *RegexToGbnf("[0-9]+"));
  EXPECT_EQ(Read(R"({"guided_choice": ["yes", "no"]})").gbnf, *ChoicesToGbnf({"yes", "no"}));
  EXPECT_EQ(Read(R"({"guided_grammar": "root ::= \"a\""})").gbnf, "root ::= \"a\"");
  EXPECT_EQ(Read(R"({"grammar": "root ::= \"a\""})").gbnf, "root ::= \"a\"");
  EXPECT_EQ(Read(R"({"text": {"format": {"type": "text"}}})", ReadTextFormat).gbnf, "");
  EXPECT_EQ(Read(R"({"text": {"format": {"type": "json_object"}}})", ReadTextFormat).gbnf, JsonObjectGbnf());
}

TEST(OutputGrammar, WhatIsWrongIsNamed) {
  struct Case {
    const char *body, *param, *says;
  };
  for (const auto& [body, param, says] : std::initializer_list<Case>{
           {R"({"response_format": "json"})", "response_format", "an object with a 'type'"},
           {R"({"response_format": {}})", "response_format", "an object with a 'type'"},
           {R"({"response_format": {"type": "xml"}})", "response_format", "not \"xml\""},
           {R"({"response_format": {"type": "json_schema"}})", "response_format", "needs a schema"},
           {R"({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}})", "response_format", "needs a schema"},
           {R"({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strnig"}}}})", "response_format", "there is no type \"strnig\""},
           {R"({"guided_json": "{"})", "guided_json", "no JSON"},
           {R"({"guided_json": 5})", "guided_json", "a schema must be"},
           {R"({"guided_regex": "("})", "guided_regex", "without its"},
           {R"({"guided_regex": 5})", "guided_regex", "must be a string"},
           {R"({"guided_choice": []})", "guided_choice", "empty"},
           {R"({"guided_choice": [1]})", "guided_choice", "list of strings"},
           {R"({"guided_choice": "yes"})", "guided_choice", "list of strings"},
           {R"({"grammar": "root ::= x"})", "grammar", "not defined"},
           {R"({"grammar": ["root"]})", "grammar", "must be a string"},
           {R"({"structured_outputs": []})", "structured_outputs", "must be an object"},
           {R"({"structured_outputs": {"structural_tag": {}}})", "structured_outputs.structural_tag", "not supported"},
           {R"({"guided_regex": "a", "grammar": "root ::= \"a\""})", "grammar", "send one of them"}}) {
    const Outcome out = Read(body);
    EXPECT_EQ(out.param, param) << body;
    EXPECT_THAT(out.message, testing::HasSubstr(says)) << body;
  }
  EXPECT_EQ(Read(R"({"text": {"format": {"type": "xml"}}})", ReadTextFormat).param, "text.format");
}

}  // namespace
}  // namespace baton
