// What form a client wants the answer in (response_format and its relatives), as one grammar.
#pragma once

#include <optional>
#include <string>

#include "gateway/api_error.h"
#include "gateway/field_reader.h"

namespace baton {

/// The grammar (GBNF text, checked) that the body asks for; empty: any text. Taken are OpenAI's response_format, vLLM's
/// guided_json, guided_regex, guided_choice, guided_grammar and structured_outputs, llama.cpp's grammar and json_schema; at
/// most one of them. A wrong one is the reader's error, which names the field.
std::string ReadOutputGrammar(FieldReader& fields);

/// The same of the responses API's `text.format`.
std::string ReadTextFormat(FieldReader& fields);

}  // namespace baton
