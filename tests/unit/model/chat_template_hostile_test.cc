// Templates and inputs made to hang, crash or exhaust memory: each must fail, soon.
#include "base/clock.h"
#include "model/chat_template.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

std::string Repeat(std::string_view text, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += text;
  return out;
}

Result<std::string> Render(const std::string& source, Json input = {{"messages", Json::array()}}) {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(input);
}

struct Hostile {
  const char* name;
  std::string source;
};
void PrintTo(const Hostile& hostile, std::ostream* out) { *out << hostile.name; }

class HostileTemplate : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileTemplate, FailsInBoundedTime) {
  const SystemClock clock;
  const Instant begin = clock.Now();
  const auto text = Render(GetParam().source);
  ASSERT_FALSE(text.ok()) << text->size() << " bytes came out";
  EXPECT_EQ(text.status().code(), StatusCode::kInvalid);
  // The bound is in work, not in time; ten times what a release build needs leaves room for sanitizers and busy machines.
  EXPECT_LT(ToSeconds(clock.Now() - begin), 10.0);
}

const Hostile kHostile[] = {
    {"loops_in_loops", Repeat("{% for i in range(100000) %}", 4) + "x" + Repeat("{% endfor %}", 4)},
    {"loops_without_output", Repeat("{% for i in range(100000) %}", 4) + Repeat("{% endfor %}", 4)},
    {"range_too_big", "{{ range(100001) | length }}"},
    {"range_of_huge_numbers", "{{ range(10**37, -10**37, -1) | length }}"},
    {"text_doubled", "{% set ns = namespace(t='x') %}{% for i in range(200) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t | length }}"},
    {"text_repeated", "{{ 'abc' * 100000000000 }}"},
    {"list_repeated", "{{ ([1] * 100000000000) | length }}"},
    {"list_doubled", "{% set ns = namespace(t=[1]) %}{% for i in range(200) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t | length }}"},
    {"list_in_list", "{% set ns = namespace(t=[]) %}{% for i in range(90000) %}{% set ns.t = [ns.t] %}{% endfor %}{{ ns.t }}"},
    {"dict_in_dict", "{% set ns = namespace(t={}) %}{% for i in range(90000) %}{% set ns.t = {'a': ns.t} %}{% endfor %}{{ ns.t | tojson }}"},
    {"shared_lists_printed", "{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.t }}"},
    {"shared_lists_as_json", "{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.t | tojson }}"},
    {"shared_lists_compared", "{% set ns = namespace(t=[1], u=[1]) %}{% for i in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% set ns.u = [ns.u, ns.u] %}{% endfor %}{{ ns.t == ns.u }}"},
    {"shared_tuples_as_keys", "{% set ns = namespace(t=(1,)) %}{% for i in range(60) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}{{ {ns.t: 1} }}"},
    {"namespace_in_itself", "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}"},
    {"namespace_in_itself_deep", "{% set ns = namespace() %}{% set ns.me = " + Repeat("[", 60) + "ns" + Repeat("]", 60) + " %}{{ ns }}"},
    {"macro_calls_itself", "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"},
    {"macro_calls_itself_twice", "{% macro m(n) %}{% if n < 60 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro %}{{ m(0) }}"},
    {"macro_in_deep_expression", "{% macro m(n) %}{{ " + Repeat("[", 60) + "m(n)" + Repeat("]", 60) + " }}{% endmacro %}{{ m(0) }}"},
    {"call_blocks", "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}"},
    {"loop_calls_itself", "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}"},
    {"parentheses", "{{ " + Repeat("(", 100000) + "1" + Repeat(")", 100000) + " }}"},
    {"brackets", "{{ " + Repeat("[", 100000) + "1" + Repeat("]", 100000) + " }}"},
    {"unclosed_brackets", "{{ " + Repeat("[", 300000)},
    {"nots", "{{ " + Repeat("not ", 100000) + "1 }}"},
    {"minuses", "{{ " + Repeat("- ", 100000) + "1 }}"},
    {"long_sum", "{{ 1" + Repeat("+1", 100000) + " }}"},
    {"long_path", "{{ messages" + Repeat(".a", 100000) + " }}"},
    {"long_filters", "{{ 1" + Repeat("|string", 100000) + " }}"},
    {"conditions", "{{ " + Repeat("1 if 1 else ", 50000) + "1 }}"},
    {"calls", "{{ " + Repeat("f(", 100000) + Repeat(")", 100000) + " }}"},
    {"targets", "{% set " + Repeat("(", 100000) + "a" + Repeat(")", 100000) + " = 1 %}"},
    {"ifs", Repeat("{% if 1 %}", 50000) + Repeat("{% endif %}", 50000)},
    {"source_too_long", Repeat("x", 2 << 20)},
    {"format_width", "{{ '%99999999999d' % 1 }}"},
    {"brace_width", "{{ '{:99999999999}'.format(1) }}"},
    {"center_width", "{{ 'x' | center(99999999999) }}"},
    {"indent_lines", "{{ ('\\n' * 1000000) | indent(1000) }}"},
    {"replace_grows", "{{ ('x' * 1000000) | replace('x', 'y' * 1000) }}"},
    {"replace_nothing_grows", "{{ ('x' * 1000000) | replace('', 'y' * 1000) }}"},
    {"join_grows", "{{ ('y' * 1000000).join('x' * 100000) }}"},
    {"batch_fill", "{{ [1] | batch(100000000000, 0) | list | length }}"},
    {"slice_count", "{{ [1] | slice(100000000000) | list | length }}"},
    {"power", "{{ 9 ** 9 ** 9 ** 9 }}"},
    {"shift_to_the_end", "{{ 2 ** 126 * 2 ** 126 }}"},
    {"json_indent", "{{ [[[[[[1]]]]]] | tojson(indent=100000000) }}"},
    {"stars", "{% macro m() %}{{ m(*range(100000)) }}{% endmacro %}{{ m() }}"},
    {"sort_of_shared", "{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ [ns.t, ns.t, ns.t] | sort }}"},
};
INSTANTIATE_TEST_SUITE_P(All, HostileTemplate, ::testing::ValuesIn(kHostile), [](const auto& info) { return std::string(info.param.name); });

TEST(HostileInput, NestedDeeperThanAllowed) {
  Json deep = 1;
  for (int i = 0; i < 200; ++i) deep = Json::array({std::move(deep)});
  const auto text = Render("{{ tools }}", {{"messages", Json::array()}, {"tools", deep}});
  ASSERT_FALSE(text.ok());
  EXPECT_THAT(text.status().message(), HasSubstr("nested deeper"));
}

TEST(HostileInput, WrongTypes) {
  const auto message = [](const Json& input) {
    const auto text = Render("{{ messages }}", input);
    return text.ok() ? "no error: " + *text : text.status().message();
  };
  EXPECT_THAT(message(Json::array()), HasSubstr("must be an object"));
  EXPECT_THAT(message(Json::object()), HasSubstr("messages must be a list"));
  EXPECT_THAT(message({{"messages", "x"}}), HasSubstr("messages must be a list"));
  EXPECT_THAT(message({{"messages", {1}}}), HasSubstr("messages[0] must be an object"));
  EXPECT_THAT(message({{"messages", Json::array()}, {"now", "yesterday"}}), HasSubstr("ISO 8601"));
  EXPECT_THAT(message({{"messages", Json::array()}, {"now", 5}}), HasSubstr("ISO 8601"));
  EXPECT_THAT(message({{"messages", Json::array()}, {"continue_final_message", true}}), HasSubstr("no 'content' to continue"));
}

TEST(HostileInput, BadUtf8IsReplacedInTemplateAndInput) {
  const auto text = Render("\xFF{{ messages[0].content }}", {{"messages", {{{"role", "user"}, {"content", "a\xC3"}}}}});
  ASSERT_TRUE(text.ok()) << text.status().ToString();
  EXPECT_EQ(*text, "\xEF\xBF\xBD" "a\xEF\xBF\xBD");
}

TEST(HostileInput, ALargeHonestChatRenders) {
  Json messages = Json::array();
  for (int i = 0; i < 2000; ++i) messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(2000, 'a')}});
  const auto text = Render("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>' + '\\n' }}{% endfor %}", {{"messages", messages}});
  ASSERT_TRUE(text.ok()) << text.status().ToString();
  EXPECT_GT(text->size(), 4'000'000u);
}

}  // namespace
}  // namespace baton
