#include "gateway/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace baton {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include) : include_(include) {
  for (std::string& stop : stops) {
    Automaton automaton{std::move(stop), {}, 0};
    automaton.fallback.resize(automaton.stop.size(), 0);
    for (size_t i = 1, border = 0; i < automaton.stop.size(); ++i) {
      while (border > 0 && automaton.stop[i] != automaton.stop[border]) border = automaton.fallback[border - 1];
      if (automaton.stop[i] == automaton.stop[border]) ++border;
      automaton.fallback[i] = border;
    }
    automata_.push_back(std::move(automaton));
  }
}

std::string StopMatcher::Push(std::string_view piece) {
  if (matched_) return "";
  if (automata_.empty()) return std::string(piece);
  for (size_t i = 0; i < piece.size(); ++i) {
    held_ += piece[i];
    size_t longest = 0;
    for (Automaton& a : automata_) {
      while (a.state > 0 && a.stop[a.state] != piece[i]) a.state = a.fallback[a.state - 1];
      if (a.stop[a.state] == piece[i]) ++a.state;
      if (a.state == a.stop.size()) longest = std::max(longest, a.state);
    }
    if (longest > 0) {
      matched_ = true;
      if (!include_) held_.resize(held_.size() - longest);
      return std::exchange(held_, "");
    }
  }
  size_t keep = 0;
  for (const Automaton& a : automata_) keep = std::max(keep, a.state);
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopMatcher::Finish() { return std::exchange(held_, ""); }

}  // namespace baton
