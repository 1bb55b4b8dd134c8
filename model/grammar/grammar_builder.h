// What a grammar is made of while its text is read: rules by number, sets of bytes, repetitions written out as helper rules.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/status.h"
#include "model/grammar/grammar.h"

namespace baton {

using CodeRange = std::pair<char32_t, char32_t>;  // both ends included

/// The sorted, disjoint ranges that cover the same characters; `negated`: every other character. Surrogates are no characters.
std::vector<CodeRange> NormalizeRanges(std::vector<CodeRange> ranges, bool negated);

class GrammarBuilder {
 public:
  using Sequence = std::vector<Grammar::Symbol>;
  using Alternatives = std::vector<Sequence>;

  /// The number of the rule called `name`, defined or not yet.
  uint32_t Named(const std::string& name);
  bool Defined(uint32_t rule) const { return defined_[rule]; }
  void Define(uint32_t rule, Alternatives alternatives);

  Grammar::Symbol Byte(uint8_t byte);
  /// One character out of `ranges`, which are normalized, in UTF-8.
  Grammar::Symbol Characters(const std::vector<CodeRange>& ranges);
  /// What stands for one of `alternatives`.
  Grammar::Symbol Group(Alternatives alternatives);
  /// `item` from `least` to `most` times; most = kUnbounded: any number.
  static constexpr uint32_t kUnbounded = UINT32_MAX;
  Sequence Repeat(const Sequence& item, uint32_t least, uint32_t most);

  /// More symbols than a grammar may have; what is added from then on is left out.
  bool full() const { return count_ > kMaxGrammarSymbols; }

  /// Errors: kInvalid (a rule that is used but not defined, left recursion, no root, a root that never ends); names the rule.
  Result<Grammar> Build() &&;

 private:
  uint32_t NewRule(std::string name);
  Grammar::Symbol Set(const std::bitset<256>& bytes);
  void Utf8Sequences(char32_t low, char32_t high, Alternatives& out);
  Status CheckLeftRecursion() const;
  /// By rule: it stands for a text that ends; `without_bytes`: for the empty one. Linear in the grammar.
  std::vector<bool> RulesThatEnd(bool without_bytes) const;

  std::vector<std::string> names_;
  std::vector<bool> defined_;
  std::vector<Alternatives> rules_;
  std::vector<std::bitset<256>> sets_;
  std::map<std::string, uint32_t> by_name_;
  std::map<std::string, uint32_t> by_set_;
  std::map<std::vector<CodeRange>, Grammar::Symbol> by_ranges_;
  std::map<std::tuple<uint8_t, uint32_t, uint32_t>, uint32_t> optional_chains_;  // (symbol, how many) -> rule
  size_t count_ = 0;
};

}  // namespace baton
