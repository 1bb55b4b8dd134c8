#include "model/grammar/matcher.h"

#include <algorithm>

#include "model/tokenizer.h"

namespace baton {
namespace {

using Kind = Grammar::Kind;

constexpr uint32_t kNoFrame = UINT32_MAX;
constexpr const char* kTooManyWays = "the grammar can read this text in too many ways at once; make its alternatives begin differently";
constexpr size_t kMaxTops = 2048;            // ways a text can be read at once
constexpr size_t kMaxFrames = size_t{1} << 20;
constexpr size_t kMaxStates = size_t{1} << 14;  // a transition table of 1 KiB each
constexpr size_t kMaxMasks = 512;
constexpr size_t kMaxMaskWork = size_t{1} << 25;  // steps times ways of one walk over the vocabulary

}  // namespace

TokenBytes::TokenBytes(std::vector<std::string> bytes) : bytes_(std::move(bytes)) {
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (!bytes_[id].empty()) entries_.push_back({static_cast<TokenId>(id), 0, bytes_[id]});
  }
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.bytes != b.bytes ? a.bytes < b.bytes : a.id < b.id; });
  for (size_t i = 1; i < entries_.size(); ++i) {
    const std::string_view before = entries_[i - 1].bytes, bytes_here = entries_[i].bytes;
    const auto [end, other] = std::mismatch(before.begin(), before.end(), bytes_here.begin(), bytes_here.end());
    entries_[i].shared = static_cast<uint32_t>(end - before.begin());
  }
}

std::shared_ptr<const TokenBytes> TokenBytes::Of(const Tokenizer& tokenizer, uint32_t vocab) {
  std::vector<std::string> bytes(vocab);
  for (uint32_t id = 0; id < std::min(vocab, tokenizer.vocab_size()); ++id) {
    const auto token = static_cast<TokenId>(id);
    if (!tokenizer.IsSpecial(token)) bytes[id] = tokenizer.TokenBytes(token);
  }
  return std::make_shared<const TokenBytes>(std::move(bytes));
}

GrammarMatcher::GrammarMatcher(Grammar grammar, std::shared_ptr<const TokenBytes> tokens) : grammar_(std::move(grammar)), tokens_(std::move(tokens)) {
  Reset();
}

void GrammarMatcher::Reset() {
  frames_.clear();
  frame_ids_.clear();
  states_.clear();
  transitions_.clear();
  state_ids_.clear();
  masks_.clear();
  failure_.clear();
  ++epoch_;
  InternState({});  // kDead
  StateEntry first;
  closed_.clear();
  for (const uint32_t alternative : grammar_.rules[grammar_.root]) Close(alternative, kNoFrame, first);
  start_ = InternState(std::move(first));
}

void GrammarMatcher::Trim() {
  if (frames_.size() > kMaxFrames / 2 || states_.size() > kMaxStates / 2 || !failure_.empty()) Reset();
}

uint32_t GrammarMatcher::Intern(uint32_t symbol, uint32_t parent) {
  const auto [it, added] = frame_ids_.try_emplace(uint64_t{symbol} << 32 | parent, static_cast<uint32_t>(frames_.size()));
  if (added) frames_.push_back({symbol, parent});
  return it->second;
}

GrammarMatcher::State GrammarMatcher::InternState(StateEntry entry) {
  std::sort(entry.tops.begin(), entry.tops.end());
  std::string key(reinterpret_cast<const char*>(entry.tops.data()), entry.tops.size() * sizeof(uint32_t));
  key += entry.accepts ? '\1' : '\0';
  const auto [it, added] = state_ids_.try_emplace(std::move(key), static_cast<State>(states_.size()));
  if (added) {
    states_.push_back(std::move(entry));
    transitions_.emplace_back().fill(kUnknown);
  }
  return it->second;
}

void GrammarMatcher::Close(uint32_t symbol, uint32_t parent, StateEntry& out) {
  open_.assign(1, {symbol, parent});
  while (!open_.empty()) {
    const auto [at, below] = open_.back();
    open_.pop_back();
    if (!closed_.insert(uint64_t{at} << 32 | below).second) continue;
    if (closed_.size() > 16 * kMaxTops || frames_.size() > kMaxFrames) {
      failure_ = kTooManyWays;
      return;
    }
    const Grammar::Symbol next = grammar_.symbols[at];
    if (next.kind == Kind::kBytes) {
      out.tops.push_back(Intern(at, below));
    } else if (next.kind == Kind::kRule) {
      // Nothing to come back to at the end of an alternative: loops and right recursion need no stack.
      const uint32_t back = grammar_.symbols[at + 1].kind == Kind::kEnd ? below : Intern(at + 1, below);
      for (const uint32_t alternative : grammar_.rules[next.index]) open_.emplace_back(alternative, back);
    } else if (below == kNoFrame) {
      out.accepts = true;
    } else {
      open_.emplace_back(frames_[below].symbol, frames_[below].parent);
    }
  }
}

GrammarMatcher::State GrammarMatcher::Step(State state, uint8_t byte) {
  if (const int32_t known = transitions_[state][byte]; known != kUnknown) return static_cast<State>(known);
  StateEntry next;
  closed_.clear();
  for (size_t i = 0; i < states_[state].tops.size(); ++i) {
    const Frame top = frames_[states_[state].tops[i]];
    if (grammar_.sets[grammar_.symbols[top.symbol].index].test(byte)) Close(top.symbol + 1, top.parent, next);
  }
  if (next.tops.size() > kMaxTops || states_.size() > 4 * kMaxStates) {
    failure_ = kTooManyWays;
  }
  const State to = failure_.empty() ? InternState(std::move(next)) : kDead;
  transitions_[state][byte] = static_cast<int32_t>(to);
  return to;
}

GrammarMatcher::State GrammarMatcher::Next(State state, std::string_view bytes) {
  for (const char byte : bytes) {
    if (state == kDead) break;
    state = Step(state, static_cast<uint8_t>(byte));
  }
  return state;
}

TokenMask GrammarMatcher::BuildMask(State state) {
  TokenMask mask;
  mask.bits.resize((tokens_->vocab() + 63) / 64);
  std::vector<State> path{state};  // path[n]: after n bytes of the entry
  size_t work = 0;
  uint32_t dead_at = UINT32_MAX;   // bytes of the last entry after which nothing is allowed
  for (const TokenBytes::Entry& entry : tokens_->entries()) {
    if (entry.shared >= dead_at) continue;
    path.resize(entry.shared + 1);
    dead_at = UINT32_MAX;
    for (size_t i = entry.shared; i < entry.bytes.size(); ++i) {
      work += 1 + states_[path.back()].tops.size();
      const State next = Step(path.back(), static_cast<uint8_t>(entry.bytes[i]));
      if (next == kDead) {
        dead_at = static_cast<uint32_t>(i + 1);
        break;
      }
      path.push_back(next);
    }
    if (dead_at != UINT32_MAX) continue;
    mask.bits[static_cast<size_t>(entry.id) / 64] |= uint64_t{1} << (static_cast<size_t>(entry.id) % 64);
    ++mask.count;
    if (work > kMaxMaskWork) {
      failure_ = "the grammar is too ambiguous to follow at speed; make its alternatives begin differently";
      break;
    }
  }
  return mask;
}

const TokenMask& GrammarMatcher::Mask(State state) {
  if (const auto known = masks_.find(state); known != masks_.end()) return known->second;
  if (masks_.size() >= kMaxMasks) masks_.clear();
  return masks_.emplace(state, BuildMask(state)).first->second;
}

void GrammarCursor::Seek(std::span<const TokenId> generated) {
  matcher_->Trim();
  const bool grown = epoch_ == matcher_->epoch() && seen_.size() <= generated.size() && std::equal(seen_.begin(), seen_.end(), generated.begin());
  if (!grown) {
    epoch_ = matcher_->epoch();
    state_ = matcher_->start();
    seen_.clear();
  }
  for (const TokenId id : generated.subspan(seen_.size())) {
    state_ = matcher_->Next(state_, matcher_->tokens().of(id));
    seen_.push_back(id);
  }
}

}  // namespace baton
