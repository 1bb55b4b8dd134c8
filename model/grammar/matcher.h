// Which tokens may follow, under a grammar: an automaton over bytes that is built as texts need it. A state is the set of all
// stacks of positions the grammar can be in; states and their transitions are kept, so that text seen once costs a look-up a
// byte, and the tokens allowed in a state cost one walk over the vocabulary.
//
// Everything here is a pure function of the grammar and the bytes: a moved or restarted answer rebuilds its state from its
// tokens.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "model/grammar/grammar.h"

namespace baton {

class Tokenizer;

/// What the tokens of a model write, in byte order. Immutable. Thread: any.
class TokenBytes {
 public:
  /// `bytes` by token id; empty: the token writes nothing a grammar may contain (control tokens).
  explicit TokenBytes(std::vector<std::string> bytes);
  static std::shared_ptr<const TokenBytes> Of(const Tokenizer& tokenizer, uint32_t vocab);

  struct Entry {
    TokenId id;
    uint32_t shared;  // leading bytes that the entry before has too
    std::string_view bytes;
  };
  std::span<const Entry> entries() const { return entries_; }
  std::string_view of(TokenId id) const { return bytes_[static_cast<size_t>(id)]; }
  size_t vocab() const { return bytes_.size(); }

 private:
  const std::vector<std::string> bytes_;
  std::vector<Entry> entries_;  // sorted by bytes, then id
};

/// One bit a token.
struct TokenMask {
  std::vector<uint64_t> bits;
  size_t count = 0;  // bits that are set
  bool Has(TokenId id) const { return (bits[static_cast<size_t>(id) / 64] >> (static_cast<size_t>(id) % 64) & 1) != 0; }
};

/// Thread: one at a time.
class GrammarMatcher {
 public:
  using State = uint32_t;
  static constexpr State kDead = 0;  // no text of the grammar begins like this

  GrammarMatcher(Grammar grammar, std::shared_ptr<const TokenBytes> tokens);

  State start() const { return start_; }
  /// The state after `bytes` more.
  State Next(State state, std::string_view bytes);
  /// The text may end here.
  bool Accepts(State state) const { return states_[state].accepts; }
  /// The text must end here.
  bool Ends(State state) const { return states_[state].accepts && states_[state].tops.empty(); }
  /// The tokens that may follow. Valid until the next call.
  const TokenMask& Mask(State state);

  const TokenBytes& tokens() const { return *tokens_; }
  /// States of an earlier epoch are void: the caller starts again. Changes only in Trim.
  uint64_t epoch() const { return epoch_; }
  /// Forgets everything if it has grown past its bound, or failed.
  void Trim();
  /// Non-empty once a text was met that the grammar can read in too many ways to follow; its states are dead.
  const std::string& failure() const { return failure_; }

 private:
  static constexpr int32_t kUnknown = -1;
  struct Frame {
    uint32_t symbol;  // of a state's top: what is read next; of the others: where to go on after a rule
    uint32_t parent;  // frame, or kNoFrame
  };
  struct StateEntry {
    std::vector<uint32_t> tops;  // frames, ascending; each at a kBytes symbol
    bool accepts = false;
  };

  void Reset();
  State Step(State state, uint8_t byte);
  uint32_t Intern(uint32_t symbol, uint32_t parent);
  State InternState(StateEntry entry);
  /// Adds what can be read next, starting at `symbol` with `parent` under it.
  void Close(uint32_t symbol, uint32_t parent, StateEntry& out);
  TokenMask BuildMask(State state);

  const Grammar grammar_;
  const std::shared_ptr<const TokenBytes> tokens_;
  std::vector<Frame> frames_;
  std::unordered_map<uint64_t, uint32_t> frame_ids_;
  std::vector<StateEntry> states_;
  std::vector<std::array<int32_t, 256>> transitions_;  // by state and byte
  std::unordered_map<std::string, State> state_ids_;   // by the bytes of `tops` and `accepts`
  std::unordered_map<State, TokenMask> masks_;
  std::vector<std::pair<uint32_t, uint32_t>> open_;    // of Close
  std::unordered_set<uint64_t> closed_;              // what it has been through
  State start_ = kDead;
  uint64_t epoch_ = 0;
  std::string failure_;
};

/// Where one answer stands under a grammar. Thread: one at a time.
class GrammarCursor {
 public:
  explicit GrammarCursor(std::shared_ptr<GrammarMatcher> matcher) : matcher_(std::move(matcher)) {}

  /// Goes to the end of `generated`, the answer's tokens so far; cheap when it has only grown. A token that writes nothing
  /// changes nothing.
  void Seek(std::span<const TokenId> generated);
  const TokenMask& mask() { return matcher_->Mask(state_); }
  bool accepts() const { return matcher_->Accepts(state_); }
  bool ends() const { return matcher_->Ends(state_); }
  const std::string& failure() const { return matcher_->failure(); }

 private:
  const std::shared_ptr<GrammarMatcher> matcher_;
  GrammarMatcher::State state_ = GrammarMatcher::kDead;
  std::vector<TokenId> seen_;
  uint64_t epoch_ = 0;  // 0: nothing is seen yet
};

}  // namespace baton
