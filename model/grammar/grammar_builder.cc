#include "model/grammar/grammar_builder.h"

#include <algorithm>
#include <utility>

#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

using Kind = Grammar::Kind;
using Symbol = Grammar::Symbol;

constexpr char32_t kLastCharacter = 0x10FFFF, kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF;

/// The strongly connected components of a graph, as a number for each node (Tarjan, without recursion).
std::vector<uint32_t> Components(const std::vector<std::vector<uint32_t>>& edges) {
  constexpr uint32_t kNone = UINT32_MAX;
  const size_t n = edges.size();
  std::vector<uint32_t> order(n, kNone), low(n, 0), component(n, kNone), open;
  std::vector<std::pair<uint32_t, size_t>> path;  // node and its next edge
  uint32_t visited = 0, components = 0;
  for (uint32_t start = 0; start < n; ++start) {
    if (order[start] != kNone) continue;
    path.emplace_back(start, 0);
    while (!path.empty()) {
      const uint32_t node = path.back().first;
      if (path.back().second == 0) {
        order[node] = low[node] = visited++;
        open.push_back(node);
      }
      if (path.back().second < edges[node].size()) {
        const uint32_t next = edges[node][path.back().second++];
        if (order[next] == kNone) path.emplace_back(next, 0);
        else if (component[next] == kNone) low[node] = std::min(low[node], order[next]);
        continue;
      }
      if (low[node] == order[node]) {
        uint32_t member = kNone;
        while (member != node) {
          member = open.back();
          open.pop_back();
          component[member] = components;
        }
        ++components;
      }
      path.pop_back();
      if (!path.empty()) low[path.back().first] = std::min(low[path.back().first], low[node]);
    }
  }
  return component;
}

/// Whether a sequence's rules all do.
bool Ends(const std::vector<Symbol>& sequence, const std::vector<bool>& ending) {
  return std::all_of(sequence.begin(), sequence.end(), [&](const Symbol& symbol) { return symbol.kind != Kind::kRule || ending[symbol.index]; });
}

}  // namespace

std::vector<CodeRange> NormalizeRanges(std::vector<CodeRange> ranges, bool negated) {
  ranges.emplace_back(kFirstSurrogate, kLastSurrogate);  // taken out below: they join the ranges that are left out
  if (!negated) ranges.pop_back();
  std::sort(ranges.begin(), ranges.end());
  std::vector<CodeRange> joined;
  for (const CodeRange& range : ranges) {
    if (!joined.empty() && range.first <= joined.back().second + 1) joined.back().second = std::max(joined.back().second, range.second);
    else joined.push_back(range);
  }
  std::vector<CodeRange> out;
  if (negated) {
    char32_t next = 0;
    for (const CodeRange& range : joined) {
      if (range.first > next) out.emplace_back(next, range.first - 1);
      next = range.second + 1;
    }
    if (next <= kLastCharacter) out.emplace_back(next, kLastCharacter);
    return out;
  }
  for (const CodeRange& range : joined) {
    if (range.first < kFirstSurrogate) out.emplace_back(range.first, std::min<char32_t>(range.second, kFirstSurrogate - 1));
    if (range.second > kLastSurrogate) out.emplace_back(std::max<char32_t>(range.first, kLastSurrogate + 1), range.second);
  }
  return out;
}

uint32_t GrammarBuilder::NewRule(std::string name) {
  names_.push_back(std::move(name));
  defined_.push_back(false);
  rules_.emplace_back();
  return static_cast<uint32_t>(rules_.size() - 1);
}

uint32_t GrammarBuilder::Named(const std::string& name) {
  const auto [it, added] = by_name_.try_emplace(name, 0);
  if (added) it->second = NewRule(name);
  return it->second;
}

void GrammarBuilder::Define(uint32_t rule, Alternatives alternatives) {
  defined_[rule] = true;
  for (const Sequence& sequence : alternatives) count_ += sequence.size() + 1;
  if (!full()) rules_[rule] = std::move(alternatives);
}

Symbol GrammarBuilder::Set(const std::bitset<256>& bytes) {
  const auto [it, added] = by_set_.try_emplace(bytes.to_string(), static_cast<uint32_t>(sets_.size()));
  if (added) sets_.push_back(bytes);
  return {Kind::kBytes, it->second};
}

Symbol GrammarBuilder::Byte(uint8_t byte) {
  std::bitset<256> set;
  set.set(byte);
  return Set(set);
}

Symbol GrammarBuilder::Group(Alternatives alternatives) {
  if (alternatives.size() == 1 && alternatives[0].size() == 1) return alternatives[0][0];
  const uint32_t rule = NewRule("");
  Define(rule, std::move(alternatives));
  return {Kind::kRule, rule};
}

/// Characters [low, high], which have equally long UTF-8, as sequences of byte ranges: cut wherever a range of following
/// bytes would not be whole.
void GrammarBuilder::Utf8Sequences(char32_t low, char32_t high, Alternatives& out) {
  std::string first, last;
  AppendUtf8(low, first);
  AppendUtf8(high, last);
  for (size_t tail = 1; tail < first.size(); ++tail) {
    const char32_t mask = (char32_t{1} << (6 * tail)) - 1;
    if ((low & ~mask) == (high & ~mask)) continue;
    if ((low & mask) != 0) {
      Utf8Sequences(low, low | mask, out);
      return Utf8Sequences((low | mask) + 1, high, out);
    }
    if ((high & mask) != mask) {
      Utf8Sequences(low, (high & ~mask) - 1, out);
      return Utf8Sequences(high & ~mask, high, out);
    }
  }
  Sequence sequence;
  for (size_t i = 0; i < first.size(); ++i) {
    std::bitset<256> set;
    for (unsigned byte = static_cast<uint8_t>(first[i]); byte <= static_cast<uint8_t>(last[i]); ++byte) set.set(byte);
    sequence.push_back(Set(set));
  }
  out.push_back(std::move(sequence));
}

Symbol GrammarBuilder::Characters(const std::vector<CodeRange>& ranges) {
  const auto known = by_ranges_.find(ranges);
  if (known != by_ranges_.end()) return known->second;
  std::bitset<256> ascii;
  Alternatives alternatives;
  for (const auto& [low, high] : ranges) {
    for (char32_t c = low; c <= std::min<char32_t>(high, 0x7F); ++c) ascii.set(c);
    for (const auto& [from, to] : {CodeRange{0x80, 0x7FF}, CodeRange{0x800, 0xFFFF}, CodeRange{0x10000, kLastCharacter}}) {
      if (std::max(low, from) <= std::min(high, to)) Utf8Sequences(std::max(low, from), std::min(high, to), alternatives);
    }
  }
  if (ascii.any() || alternatives.empty()) alternatives.insert(alternatives.begin(), {Set(ascii)});
  return by_ranges_[ranges] = Group(std::move(alternatives));
}

GrammarBuilder::Sequence GrammarBuilder::Repeat(const Sequence& item, uint32_t least, uint32_t most) {
  if (item.empty() || most == 0 || full()) return {};
  const Symbol symbol = Group({item});
  if (least > kMaxGrammarSymbols || (most != kUnbounded && most > kMaxGrammarSymbols)) {
    count_ = kMaxGrammarSymbols + 1;
    return {};
  }
  Sequence out(least, symbol);
  count_ += least;
  if (most == kUnbounded) {
    const auto [it, added] = optional_chains_.try_emplace({static_cast<uint8_t>(symbol.kind), symbol.index, kUnbounded}, 0);
    if (added) {
      it->second = NewRule("");
      Define(it->second, {{symbol, {Kind::kRule, it->second}}, {}});
    }
    out.push_back({Kind::kRule, it->second});
  } else if (most > least) {
    Sequence rest;  // x(x(x)?)?, from the inside; shared between repetitions of one symbol
    for (uint32_t k = 1; k <= most - least && !full(); ++k) {
      const auto [it, added] = optional_chains_.try_emplace({static_cast<uint8_t>(symbol.kind), symbol.index, k}, 0);
      if (added) {
        it->second = NewRule("");
        Sequence some{symbol};
        some.insert(some.end(), rest.begin(), rest.end());
        Define(it->second, {std::move(some), {}});
      }
      rest = {{Kind::kRule, it->second}};
    }
    out.insert(out.end(), rest.begin(), rest.end());
  }
  return out;
}

std::vector<bool> GrammarBuilder::RulesThatEnd(bool without_bytes) const {
  struct Waiting {
    uint32_t rule;
    size_t left;  // rules of one alternative that are not known to end
  };
  std::vector<Waiting> waiting;
  std::vector<std::vector<size_t>> uses(rules_.size());
  std::vector<uint32_t> found;
  for (uint32_t r = 0; r < rules_.size(); ++r) {
    for (const Sequence& sequence : rules_[r]) {
      const auto rules = static_cast<size_t>(std::count_if(sequence.begin(), sequence.end(), [](Symbol s) { return s.kind == Kind::kRule; }));
      if (without_bytes && rules < sequence.size()) continue;
      if (rules == 0) found.push_back(r);
      for (const Symbol symbol : sequence) {
        if (symbol.kind == Kind::kRule) uses[symbol.index].push_back(waiting.size());
      }
      waiting.push_back({r, rules});
    }
  }
  std::vector<bool> ending(rules_.size(), false);
  while (!found.empty()) {
    const uint32_t rule = found.back();
    found.pop_back();
    if (ending[rule]) continue;
    ending[rule] = true;
    for (const size_t use : uses[rule]) {
      if (--waiting[use].left == 0) found.push_back(waiting[use].rule);
    }
  }
  return ending;
}

/// A rule that reaches itself without reading a byte would grow a matcher's stack for ever, unless it does so at the end of
/// an alternative, where nothing is left to return to.
Status GrammarBuilder::CheckLeftRecursion() const {
  const std::vector<bool> nullable = RulesThatEnd(true);
  std::vector<std::vector<uint32_t>> calls(rules_.size());
  std::vector<std::pair<uint32_t, uint32_t>> inner;  // calls that something follows
  for (uint32_t r = 0; r < rules_.size(); ++r) {
    for (const Sequence& sequence : rules_[r]) {
      for (size_t i = 0; i < sequence.size() && sequence[i].kind == Kind::kRule; ++i) {
        calls[r].push_back(sequence[i].index);
        if (i + 1 < sequence.size()) inner.emplace_back(r, sequence[i].index);
        if (!nullable[sequence[i].index]) break;
      }
    }
  }
  const std::vector<uint32_t> component = Components(calls);
  for (const auto& [from, to] : inner) {
    if (component[from] != component[to]) continue;
    for (uint32_t r = 0; r < rules_.size(); ++r) {
      if (component[r] == component[from] && !names_[r].empty()) {
        return InvalidError("rule \"{}\" is left-recursive: it can begin with itself; put what it reads before the rule's own name", names_[r]);
      }
    }
    return InvalidError("a repetition in parentheses can begin with itself without reading anything; make its inside read at least one character");
  }
  return OkStatus();
}

Result<Grammar> GrammarBuilder::Build() && {
  if (full()) return InvalidError("the grammar has more than {} symbols once its repetitions are written out; lower the counts", kMaxGrammarSymbols);
  for (size_t r = 0; r < rules_.size(); ++r) {
    if (!defined_[r]) return InvalidError("rule \"{}\" is used but not defined; add \"{} ::= …\"", names_[r], names_[r]);
  }
  const auto root = by_name_.find("root");
  if (root == by_name_.end() && by_name_.size() != 1) return InvalidError("the grammar has no rule \"root\"; one must say where the text starts");
  RETURN_IF_ERROR(CheckLeftRecursion());
  Grammar grammar;
  grammar.sets = std::move(sets_);
  grammar.rules.resize(rules_.size());
  grammar.root = root == by_name_.end() ? by_name_.begin()->second : root->second;
  const std::vector<bool> ending = RulesThatEnd(false);
  if (!ending[grammar.root]) return InvalidError("rule \"{}\" never ends: each of its alternatives leads back to it; add one that does not", names_[grammar.root]);
  for (size_t r = 0; r < rules_.size(); ++r) {
    for (const Sequence& sequence : rules_[r]) {
      if (!Ends(sequence, ending)) continue;  // no text has it, and an answer that began it would be stuck
      grammar.rules[r].push_back(static_cast<uint32_t>(grammar.symbols.size()));
      grammar.symbols.insert(grammar.symbols.end(), sequence.begin(), sequence.end());
      grammar.symbols.push_back({Kind::kEnd, 0});
    }
  }
  return grammar;
}

}  // namespace baton
