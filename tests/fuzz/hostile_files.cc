#include "tests/fuzz/hostile_files.h"

#include <algorithm>

namespace baton {

std::map<std::string, std::vector<HostileFile>> AllHostileFiles() {
  return {{"gguf", HostileGguf()}, {"safetensors", HostileSafetensors()}, {"tokenizer_json", HostileTokenizerJson()}, {"chat_template", HostileTemplates()}};
}

namespace {

std::string Nested(size_t depth, const std::string& open, const std::string& inner, const std::string& close) {
  std::string out;
  for (size_t i = 0; i < depth; ++i) out += open;
  out += inner;
  for (size_t i = 0; i < depth; ++i) out += close;
  return out;
}

std::string Tokenizer(const std::string& model, const std::string& rest = "") {
  return R"({"version":"1.0","added_tokens":[],"model":{"type":"BPE",)" + model + "}" + rest + "}";
}

std::string Split(const std::string& regex) {
  return Tokenizer(R"("vocab":{"a":0,"b":1},"merges":[])",
                   R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":")" + regex + R"("},"behavior":"Isolated","invert":false})");
}

}  // namespace

std::vector<HostileFile> HostileTokenizerJson() {
  const std::string vocab = R"("vocab":{"a":0,"b":1,"ab":2})";
  return {
      {"honest", Tokenizer(vocab + R"(,"merges":["a b"])", R"(,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true})"), true},
      {"empty", ""},
      {"not_json", "{\"model\":"},
      {"list", "[]"},
      {"no_model", "{}"},
      {"deep_nesting", Nested(100000, "[", "", "]")},
      {"deep_sequence", Tokenizer(vocab + R"(,"merges":[])",
                                  R"(,"pre_tokenizer":)" + Nested(500, R"({"type":"Sequence","pretokenizers":[)", R"({"type":"Digits","individual_digits":true})", "]}"))},
      {"negative_id", Tokenizer(R"("vocab":{"a":-1},"merges":[])")},
      {"id_past_31_bits", Tokenizer(R"("vocab":{"a":2147483648},"merges":[])")},
      {"id_past_64_bits", Tokenizer(R"("vocab":{"a":18446744073709551616},"merges":[])")},
      {"id_claims_huge_vocabulary", Tokenizer(R"("vocab":{"a":2147483647},"merges":[])")},
      {"float_id", Tokenizer(R"("vocab":{"a":0.5},"merges":[])")},
      {"same_id_twice", Tokenizer(R"("vocab":{"a":0,"b":0},"merges":[])")},
      {"merge_of_unknown_tokens", Tokenizer(vocab + R"(,"merges":["x y"])")},
      {"merge_of_one_token", Tokenizer(vocab + R"(,"merges":["ab"])")},
      {"merge_is_a_number", Tokenizer(vocab + R"(,"merges":[7])")},
      {"merge_of_three", Tokenizer(vocab + R"(,"merges":[["a","b","c"]])")},
      {"added_token_without_text", Tokenizer(vocab + R"(,"merges":[])", R"(,"added_tokens":[{"id":3,"content":""}])")},
      {"added_token_with_negative_id", R"({"added_tokens":[{"id":-5,"content":"<x>","special":true}],"model":{"type":"BPE",)" + vocab + R"(,"merges":[]}})"},
      {"unknown_pre_tokenizer", Tokenizer(vocab + R"(,"merges":[])", R"(,"pre_tokenizer":{"type":"Magic"})")},
      {"broken_regex", Split("(((")},
      {"regex_that_backtracks", Split("(a+)+$")},
      {"regex_that_recurses", Split("((?1)?a)")},
      {"regex_of_huge_repeats", Split("((a{1000}){1000}){1000}")},
  };
}

std::vector<HostileFile> HostileTemplates() {
  return {
      {"honest", "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}", true},
      {"open_block", "{% for m in messages %}"},
      {"open_expression", "{{ messages[0"},
      {"open_comment", "{# never ends"},
      {"open_string", "{{ 'abc }}"},
      {"endless_loop", "{% for a in range(100000000) %}{% for b in range(100000000) %}x{% endfor %}{% endfor %}"},
      {"huge_range", "{{ range(10 ** 18) | list }}"},
      {"huge_string", "{{ 'x' * 1000000000 }}"},
      {"doubling", "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"},
      {"huge_power", "{{ 10 ** 10 ** 10 }}"},
      {"divide_by_zero", "{{ 1 // 0 }}{{ 1 % 0 }}"},
      {"least_integer", "{{ (-9223372036854775807 - 1) // -1 }}"},
      {"macro_that_calls_itself", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"},
      {"deep_parentheses", "{{ " + Nested(20000, "(", "1", ")") + " }}"},
      {"deep_lists", "{{ " + Nested(20000, "[", "", "]") + " }}"},
      {"deep_blocks", Nested(5000, "{% if true %}", "x", "{% endif %}")},
      {"long_chain", "{{ x" + Nested(20000, ".a", "", "") + " }}"},
      {"long_not", "{{ " + Nested(20000, "not ", "x", "") + " }}"},
      {"python_classes", "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
      {"python_globals", "{{ cycler.__init__.__globals__.os.popen('id').read() }}"},
      {"attribute_filter", "{{ messages | attr('__class__') }}"},
      {"format_string", "{{ '%s%n%1000000000d' % 1 }}{{ '{0.__class__}'.format(messages) }}"},
      {"list_that_holds_itself", "{% set a = [] %}{{ a.append(a) }}{{ a }}{{ a | tojson }}"},
      {"import", "{% import 'os' as os %}{% include '/etc/passwd' %}"},
      {"slice_bounds", "{{ 'abc'[-9223372036854775807:9223372036854775807:-1] }}{{ 'abc'[::0] }}"},
      {"huge_indent", "{{ 'a\\nb' | indent(1000000000) }}{{ messages | tojson(indent=1000000000) }}"},
      {"bytes_that_are_no_text", "{{ '\xFF\xFE\xED\xA0\x80' | upper }}\xC0\x80"},
  };
}

}  // namespace baton
