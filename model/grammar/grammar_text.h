// Other ways to say what an answer must look like, as GBNF text (grammar.h). Pure functions. Thread: any.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/grammar/grammar_builder.h"

namespace baton {

/// The text is one JSON value as `schema` describes it: types, enum, const, properties in the order given, required,
/// additionalProperties (absent: none where properties are given), items, prefixItems, counts, lengths, pattern, the formats
/// date, time, date-time and uuid, bounds of numbers, anyOf, oneOf, allOf, $ref within the schema, recursion. `true` and {}
/// allow any value. Other formats are annotations. Beside enum and const other keywords of the same schema are not looked at, beside $ref
/// they are refused. Errors: kInvalid for a keyword that is not one of these; says where it stands.
Result<std::string> JsonSchemaToGbnf(const nlohmann::ordered_json& schema);
/// The text is one JSON object, whatever is in it.
std::string JsonObjectGbnf();
/// The whole text matches `regex` (the common subset of ECMAScript and Perl without look-around and back-references).
/// Errors: kInvalid with the position.
Result<std::string> RegexToGbnf(std::string_view regex);
/// The text is one of `choices`, none empty. Errors: kInvalid.
Result<std::string> ChoicesToGbnf(const std::vector<std::string>& choices);

// What the above are made of:

/// How a class of characters is written: as they are, or as inside a JSON string (quotes, backslashes and control characters
/// escaped).
enum class Spelling : uint8_t { kPlain, kJsonString };
/// `regex` as an expression; with kJsonString it matches anywhere in the string unless anchored, as JSON schema's pattern does.
Result<std::string> RegexExpression(std::string_view regex, Spelling spelling);
/// An expression for one character out of `ranges`, which are normalized and not empty.
std::string ClassExpression(const std::vector<CodeRange>& ranges, Spelling spelling);
/// A quoted literal.
std::string LiteralExpression(std::string_view text);

struct NumberBounds {
  std::optional<double> least, most;
  bool above = false, below = false;  // exclusive
  bool any() const { return least || most; }
};
/// Decimal numbers within the bounds, without exponents. Errors: kInvalid for bounds that allow nothing or are too fine.
Result<std::string> IntegerExpression(const NumberBounds& bounds);
Result<std::string> NumberExpression(const NumberBounds& bounds);

}  // namespace baton
