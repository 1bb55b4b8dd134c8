// Bounds of numbers as expressions over their digits.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "model/grammar/grammar_text.h"

namespace baton {
namespace {

constexpr double kMaxBound = 1e15;      // beyond it a double no longer names every integer
constexpr size_t kMaxDigits = 16;       // of an unbounded integer
constexpr const char* kAnyFraction = "(\".\" [0-9]{1,16})?";

/// A number that is not negative: digits before and after the point, the latter without zeros at the end.
struct Decimal {
  std::string whole, fraction;
};

Decimal ToDecimal(double value) {
  std::string text = fmt::format("{:.15f}", value);
  const size_t point = text.find('.');
  Decimal out{text.substr(0, point), text.substr(point + 1)};
  out.fraction.erase(out.fraction.find_last_not_of('0') + 1);
  return out;
}

std::string Digit(char low, char high) { return low == high ? fmt::format("\"{}\"", low) : fmt::format("[{}-{}]", low, high); }
std::string Digits(size_t count) { return count == 0 ? "" : fmt::format(" [0-9]{{{}}}", count); }
void AddAlternative(std::string& out, const std::string& expression) { out += (out.empty() ? "" : " | ") + expression; }

/// Digit strings from `low` to `high`, equally long, low <= high.
std::string SameLength(const std::string& low, const std::string& high) {
  if (low.empty()) return "\"\"";
  const std::string low_rest = low.substr(1), high_rest = high.substr(1);
  if (low[0] == high[0]) return Digit(low[0], low[0]) + " (" + SameLength(low_rest, high_rest) + ")";
  std::string out;
  const std::string zeros(low_rest.size(), '0'), nines(low_rest.size(), '9');
  char first = low[0], last = high[0];
  if (low_rest != zeros) AddAlternative(out, Digit(first, first) + " (" + SameLength(low_rest, nines) + ")"), ++first;
  const bool high_whole = high_rest == nines;
  if (!high_whole) --last;
  if (first <= last) AddAlternative(out, Digit(first, last) + Digits(low_rest.size()));
  if (!high_whole) AddAlternative(out, Digit(high[0], high[0]) + " (" + SameLength(zeros, high_rest) + ")");
  return out;
}

/// Integers from `low` to `high` (empty: no end), both not negative and without leading zeros. Empty when there are none.
std::string Natural(const std::string& low, const std::string& high) {
  if (!high.empty() && (low.size() > high.size() || (low.size() == high.size() && low > high))) return "";
  std::string out;
  const size_t longest = high.empty() ? std::max(low.size(), kMaxDigits) : high.size();
  for (size_t length = low.size(); length <= longest; ++length) {
    if (high.empty() && length > low.size()) {
      AddAlternative(out, fmt::format("[1-9] [0-9]{{{},{}}}", length - 1, longest - 1));
      break;
    }
    const std::string least = length == low.size() ? low : "1" + std::string(length - 1, '0');
    const std::string most = !high.empty() && length == high.size() ? high : std::string(length, '9');
    AddAlternative(out, SameLength(least, most));
  }
  return "(" + out + ")";
}

std::string Increment(std::string digits) {
  size_t i = digits.size();
  while (i > 0 && digits[i - 1] == '9') digits[--i] = '0';
  if (i == 0) return "1" + digits;
  ++digits[i - 1];
  return digits;
}
/// Of a number above 0.
std::string Decrement(std::string digits) {
  size_t i = digits.size();
  while (digits[i - 1] == '0') digits[--i] = '9';
  --digits[i - 1];
  if (digits.size() > 1 && digits[0] == '0') digits.erase(0, 1);
  return digits;
}

/// What may stand after the whole part of `bound`: fractions at least (or at most) as large as its own, or strictly so.
std::string FractionFrom(const std::string& fraction, bool exclusive) {
  if (fraction.empty()) return exclusive ? "\".\" [0-9]{0,15} [1-9] [0-9]{0,15}" : kAnyFraction;
  std::string out;
  for (size_t i = 0; i < fraction.size(); ++i) {
    if (fraction[i] < '9') AddAlternative(out, fmt::format("\"{}\" {} [0-9]{{0,15}}", fraction.substr(0, i), Digit(static_cast<char>(fraction[i] + 1), '9')));
  }
  AddAlternative(out, fmt::format("\"{}\"{}", fraction, exclusive ? " [0-9]{0,15} [1-9] [0-9]{0,15}" : " [0-9]{0,15}"));
  return "\".\" (" + out + ")";
}
std::string FractionTo(const std::string& fraction, bool exclusive) {
  if (fraction.empty()) return exclusive ? "" : "(\".\" \"0\"{1,16})?";
  std::string out;
  for (size_t i = 0; i < fraction.size(); ++i) {
    if (fraction[i] > '0') AddAlternative(out, fmt::format("\"{}\" {} [0-9]{{0,15}}", fraction.substr(0, i), Digit('0', static_cast<char>(fraction[i] - 1))));
    if (i > 0) AddAlternative(out, fmt::format("\"{}\"", fraction.substr(0, i)));
  }
  if (!exclusive) AddAlternative(out, fmt::format("\"{}\" \"0\"{{0,15}}", fraction));
  return "(\".\" (" + out + "))?";
}

struct Range {  // of numbers that are not negative
  double least = 0;
  std::optional<double> most;
  bool above = false, below = false;
  bool empty() const { return most && (least > *most || (least == *most && (above || below))); }
};

/// The range's numbers that are not negative, and those that are, with their sign turned.
void Split(const NumberBounds& bounds, std::optional<Range>& positive, std::optional<Range>& negative) {
  if (!bounds.most || *bounds.most >= 0) {
    Range range{std::max(bounds.least.value_or(0), 0.0), bounds.most, bounds.least.value_or(-1) >= 0 && bounds.above, bounds.below};
    if (!range.empty()) positive = range;
  }
  if (!bounds.least || *bounds.least < 0) {
    Range range;
    if (bounds.most && *bounds.most < 0) range = {-*bounds.most, std::nullopt, bounds.below, false};
    if (bounds.least) range.most = -*bounds.least, range.below = bounds.above;
    if (!range.empty()) negative = range;
  }
}

Status CheckBounds(const NumberBounds& bounds) {
  for (const auto& bound : {bounds.least, bounds.most}) {
    if (bound && !(std::fabs(*bound) <= kMaxBound)) return InvalidError("a bound of {} is beyond what can be kept (1e15)", *bound);
  }
  if (bounds.least && bounds.most && *bounds.least > *bounds.most) return InvalidError("the bounds {} and {} allow no number", *bounds.least, *bounds.most);
  return OkStatus();
}

std::string NaturalIn(const Range& range) {
  double least = std::ceil(range.least);
  if (range.above && least == range.least) ++least;
  if (!range.most) return Natural(fmt::format("{:.0f}", least), "");
  double most = std::floor(*range.most);
  if (range.below && most == *range.most) --most;
  return most < 0 ? "" : Natural(fmt::format("{:.0f}", least), fmt::format("{:.0f}", most));
}

Result<std::string> DecimalIn(const Range& range) {
  const Decimal low = ToDecimal(range.least);
  std::string out;
  const auto add = [&out](const std::string& whole, const std::string& fraction) {
    if (!whole.empty()) AddAlternative(out, whole + " " + fraction);
  };
  if (!range.most) {
    add("\"" + low.whole + "\"", FractionFrom(low.fraction, range.above));
    add(Natural(Increment(low.whole), ""), kAnyFraction);
    return out;
  }
  const Decimal high = ToDecimal(*range.most);
  if (low.whole == high.whole) {
    if (!low.fraction.empty() || range.above) return InvalidError("bounds between two neighbouring integers are supported only from the lower one on, itself included");
    add("\"" + high.whole + "\"", FractionTo(high.fraction, range.below));
    return out;
  }
  add("\"" + low.whole + "\"", FractionFrom(low.fraction, range.above));
  if (Increment(low.whole) != high.whole) add(Natural(Increment(low.whole), Decrement(high.whole)), kAnyFraction);
  if (!high.fraction.empty() || !range.below) add("\"" + high.whole + "\"", FractionTo(high.fraction, range.below));
  return out;
}

}  // namespace

Result<std::string> IntegerExpression(const NumberBounds& bounds) {
  RETURN_IF_ERROR(CheckBounds(bounds));
  std::optional<Range> positive, negative;
  Split(bounds, positive, negative);
  std::string out;
  if (positive) {
    if (const std::string natural = NaturalIn(*positive); !natural.empty()) AddAlternative(out, natural);
  }
  if (negative) {
    if (negative->least == 0) negative->above = true;  // no "-0"
    if (const std::string natural = NaturalIn(*negative); !natural.empty()) AddAlternative(out, "\"-\" " + natural);
  }
  if (out.empty()) return InvalidError("the bounds allow no integer");
  return "(" + out + ")";
}

Result<std::string> NumberExpression(const NumberBounds& bounds) {
  RETURN_IF_ERROR(CheckBounds(bounds));
  std::optional<Range> positive, negative;
  Split(bounds, positive, negative);
  std::string out;
  if (positive) {
    ASSIGN_OR_RETURN(const std::string decimal, DecimalIn(*positive));
    if (!decimal.empty()) AddAlternative(out, decimal);
  }
  if (negative) {
    ASSIGN_OR_RETURN(const std::string decimal, DecimalIn(*negative));
    if (!decimal.empty()) AddAlternative(out, "\"-\" (" + decimal + ")");
  }
  if (out.empty()) return InvalidError("the bounds allow no number");
  return "(" + out + ")";
}

}  // namespace baton
