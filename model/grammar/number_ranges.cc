// Bounds of numbers as expressions over their digits.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
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
  std::string text;
  for (int digits = 1; digits <= 15; ++digits) {  // as it was written: the fewest digits that read back as it
    text = fmt::format("{:.{}f}", value, digits);
    if (std::strtod(text.c_str(), nullptr) == value) break;
  }
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

/// Bounds of a fraction's digits from some place on: those of a number's decimal form without zeros at the end. Nothing: no bound.
struct FractionBounds {
  std::optional<std::string> low, high;
  bool above = false, below = false;  // exclusive

  bool ZeroFits() const { return (!low || (low->empty() && !above)) && (!high || !(high->empty() && below)); }
  /// After the digit `digit`; nullopt where it is out of bounds.
  std::optional<FractionBounds> After(char digit) const {
    FractionBounds rest{std::nullopt, std::nullopt, above, below};
    if (low) {
      const char first = low->empty() ? '0' : (*low)[0];
      if (digit < first) return std::nullopt;
      if (digit == first) rest.low = low->empty() ? "" : low->substr(1);
    }
    if (high) {
      const char first = high->empty() ? '0' : (*high)[0];
      if (digit > first) return std::nullopt;
      if (digit == first) rest.high = high->empty() ? "" : high->substr(1);
    }
    return rest;
  }
};

/// One digit or more within the bounds, at most `digits`; empty where there are none.
std::string FractionDigits(FractionBounds bounds, size_t digits) {
  if (bounds.low && bounds.low->empty() && !bounds.above) bounds.low.reset();
  const bool nothing = digits == 0 || (bounds.high && bounds.high->empty() && (bounds.low || bounds.below));
  if (nothing) return "";
  if (bounds.high && bounds.high->empty()) return fmt::format("\"0\"{{1,{}}}", digits);
  if (!bounds.low && !bounds.high) return fmt::format("[0-9]{{1,{}}}", digits);
  if (!bounds.high && bounds.low->empty()) return fmt::format("\"0\"{{0,{}}} [1-9] [0-9]{{0,{}}}", digits - 1, digits - 1);
  std::string out;
  char free_from = 0;  // a run of digits after which everything is free
  const auto close = [&](char end) {
    if (free_from != 0) AddAlternative(out, fmt::format("{} [0-9]{{0,{}}}", Digit(free_from, end), digits - 1));
    free_from = 0;
  };
  for (char digit = '0'; digit <= '9'; ++digit) {
    const auto rest = bounds.After(digit);
    if (rest && !rest->low && !rest->high) {
      if (free_from == 0) free_from = digit;
      continue;
    }
    close(static_cast<char>(digit - 1));
    if (!rest) continue;
    const std::string more = FractionDigits(*rest, digits - 1);
    if (rest->ZeroFits()) AddAlternative(out, more.empty() ? Digit(digit, digit) : fmt::format("{} ({})?", Digit(digit, digit), more));
    else if (!more.empty()) AddAlternative(out, fmt::format("{} ({})", Digit(digit, digit), more));
  }
  close('9');
  return out;
}

/// What may stand after a whole part: a point and digits within the bounds, or nothing where that is within them. nullopt: not
/// even that.
std::optional<std::string> Fraction(const FractionBounds& bounds) {
  const std::string digits = FractionDigits(bounds, kMaxDigits);
  if (digits.empty()) return bounds.ZeroFits() ? std::optional<std::string>("") : std::nullopt;
  return fmt::format("(\".\" ({})){}", digits, bounds.ZeroFits() ? "?" : "");
}

struct Range {  // of numbers that are not negative
  double least = 0;
  std::optional<double> most;
  bool above = false, below = false;
  bool empty() const { return most && (least > *most || (least == *most && (above || below))); }
};

/// The range's numbers that are not negative, and those that are, with their sign turned.
void Split(NumberBounds bounds, std::optional<Range>& positive, std::optional<Range>& negative) {
  for (auto* bound : {&bounds.least, &bounds.most}) {
    if (*bound) **bound += 0.0;  // -0 becomes 0
  }
  if (!bounds.most || *bounds.most >= 0) {
    Range range{std::max(bounds.least.value_or(0), 0.0), bounds.most, bounds.least.value_or(-1) >= 0 && bounds.above, bounds.below};
    if (!range.empty()) positive = range;
  }
  if (!bounds.least || *bounds.least < 0) {
    Range range;
    if (bounds.most && *bounds.most <= 0) range = {0 - *bounds.most, std::nullopt, bounds.below, false};
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

/// Empty where there are none.
std::string DecimalIn(const Range& range) {
  const Decimal low = ToDecimal(range.least);
  std::string out;
  const auto add = [&out](const std::string& whole, const std::optional<std::string>& fraction) {
    if (!whole.empty() && fraction) AddAlternative(out, whole + " " + *fraction);
  };
  if (!range.most) {
    add("\"" + low.whole + "\"", Fraction({low.fraction, std::nullopt, range.above, false}));
    add(Natural(Increment(low.whole), ""), kAnyFraction);
    return out;
  }
  const Decimal high = ToDecimal(*range.most);
  if (low.whole == high.whole) {
    add("\"" + low.whole + "\"", Fraction({low.fraction, high.fraction, range.above, range.below}));
    return out;
  }
  add("\"" + low.whole + "\"", Fraction({low.fraction, std::nullopt, range.above, false}));
  if (Increment(low.whole) != high.whole) add(Natural(Increment(low.whole), Decrement(high.whole)), kAnyFraction);
  add("\"" + high.whole + "\"", Fraction({std::nullopt, high.fraction, false, range.below}));
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
    if (const std::string decimal = DecimalIn(*positive); !decimal.empty()) AddAlternative(out, decimal);
  }
  if (negative) {
    if (const std::string decimal = DecimalIn(*negative); !decimal.empty()) AddAlternative(out, "\"-\" (" + decimal + ")");
  }
  if (out.empty()) return InvalidError("the bounds allow no number");
  return "(" + out + ")";
}

}  // namespace baton
