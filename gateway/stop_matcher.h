// Finds stop strings in a text that comes in pieces, and holds back what may still become one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// The stop string that is complete first wins; of several complete at the same byte, the longest. So the outcome does not
/// depend on how the text was cut into pieces. One Knuth-Morris-Pratt automaton a stop string. Thread: one.
class StopMatcher {
 public:
  /// No stop string may be empty. With `include`, the stop string itself stays in the text.
  explicit StopMatcher(std::vector<std::string> stops, bool include = false);

  /// Takes the next piece; gives the text that is certain now. After a match: what stood before the stop string (with it, if
  /// included), and nothing ever again.
  std::string Push(std::string_view piece);
  /// The text ended: gives what was held back.
  std::string Finish();
  bool matched() const { return matched_; }

 private:
  struct Automaton {
    std::string stop;
    std::vector<size_t> fallback;  // length of the longest proper border of stop[0..i]
    size_t state = 0;              // bytes of `stop` that the text ends with
  };
  std::vector<Automaton> automata_;
  std::string held_;
  bool include_ = false, matched_ = false;
};

}  // namespace baton
