#include "model/bpe.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <tuple>

#include "base/bytes.h"
#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

constexpr size_t kShortPiece = 24;  // below it scanning all pairs beats a heap

struct Gpt2Alphabet {
  std::array<char32_t, 256> code{};
  std::array<int16_t, 512> byte{};
  Gpt2Alphabet() {
    byte.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      code[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[code[b]] = static_cast<int16_t>(b);
    }
  }
};
const Gpt2Alphabet& Alphabet() {
  static const Gpt2Alphabet alphabet;
  return alphabet;
}

}  // namespace

char32_t ByteToGpt2(uint8_t byte) { return Alphabet().code[byte]; }

bool Gpt2ToBytes(std::string_view text, std::string& bytes) {
  bytes.clear();
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (!step.valid || step.code >= 512 || Alphabet().byte[step.code] < 0) return false;
    bytes += static_cast<char>(Alphabet().byte[step.code]);
    text.remove_prefix(step.length);
  }
  return true;
}

int ByteFallbackValue(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  const int high = HexDigit(token[3]), low = HexDigit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void BpeModel::AddVocab(const std::vector<Entry>& vocab, const BpeOptions& options) {
  options_ = options;
  byte_ids_.fill(-1);
  ids_.reserve(vocab.size());
  std::string bytes;
  for (const Entry& entry : vocab) {
    if (options.byte_level) {
      if (!Gpt2ToBytes(entry.text, bytes)) continue;  // an added token's text: never the result of a merge
      ids_.emplace(bytes, entry.id);
      if (bytes.size() == 1) byte_ids_[static_cast<uint8_t>(bytes[0])] = entry.id;
    } else {
      ids_.emplace(entry.text, entry.id);
      const int value = options.byte_fallback ? ByteFallbackValue(entry.text) : -1;
      if (value >= 0) byte_ids_[value] = entry.id;
    }
  }
}

Result<BpeModel> BpeModel::Make(const std::vector<Entry>& vocab, const std::vector<std::pair<std::string, std::string>>& merges,
                                const BpeOptions& options, bool strict) {
  BpeModel model;
  model.AddVocab(vocab, options);
  model.merges_.reserve(merges.size());
  std::string left, right;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    left = merges[rank].first;
    right = merges[rank].second;
    bool known = true;
    if (options.byte_level) known = Gpt2ToBytes(merges[rank].first, left) && Gpt2ToBytes(merges[rank].second, right);
    const TokenId a = known ? model.Find(left) : -1, b = known ? model.Find(right) : -1, ab = known ? model.Find(left + right) : -1;
    if (a < 0 || b < 0 || ab < 0) {
      if (!strict) continue;
      return InvalidError("merge {} ('{}' + '{}') names a token that is not in the vocabulary", rank,
                          SanitizeUtf8(merges[rank].first), SanitizeUtf8(merges[rank].second));
    }
    model.merges_.emplace(PairKey(a, b), Merge{static_cast<uint32_t>(rank), ab});
  }
  return model;
}

Result<BpeModel> BpeModel::MakeFromScores(const std::vector<Entry>& vocab, const std::vector<float>& scores,
                                          const BpeOptions& options) {
  if (scores.size() != vocab.size()) return InvalidError("{} scores for {} tokens", scores.size(), vocab.size());
  BpeModel model;
  model.AddVocab(vocab, options);
  std::vector<float> order(scores);
  for (const float score : order) {
    if (score != score) return InvalidError("a token's score is not a number");
  }
  std::sort(order.begin(), order.end(), std::greater<>());
  for (size_t i = 0; i < vocab.size(); ++i) {
    const std::string& text = vocab[i].text;
    if (options.byte_fallback && ByteFallbackValue(text) >= 0) continue;  // "<0x41>" is a byte, not six characters
    const auto rank = static_cast<uint32_t>(std::lower_bound(order.begin(), order.end(), scores[i], std::greater<>()) - order.begin());
    for (size_t cut = 1; cut < text.size() && text.size() <= 256; ++cut) {
      if ((static_cast<uint8_t>(text[cut]) & 0xC0) == 0x80) continue;
      const TokenId a = model.Find(text.substr(0, cut)), b = model.Find(text.substr(cut));
      if (a >= 0 && b >= 0) model.merges_.emplace(PairKey(a, b), Merge{rank, vocab[i].id});
    }
  }
  return model;
}

TokenId BpeModel::Find(std::string_view text) const {
  const auto it = ids_.find(std::string(text));
  return it == ids_.end() ? -1 : it->second;
}

void BpeModel::AppendUnknown(std::string_view character, std::vector<TokenId>& symbols, bool& after_unk) const {
  if (options_.byte_fallback) {
    const bool all = std::all_of(character.begin(), character.end(), [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; });
    if (all) {
      for (const char c : character) symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
      after_unk = false;
      return;
    }
  }
  if (options_.unk < 0 || (after_unk && options_.fuse_unk)) return;
  symbols.push_back(options_.unk);
  after_unk = true;
}

void BpeModel::InitialSymbols(std::string_view piece, std::vector<TokenId>& symbols) const {
  symbols.reserve(piece.size());
  bool after_unk = false;
  if (options_.byte_level) {
    for (const char c : piece) {
      const TokenId id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        symbols.push_back(id);
        after_unk = false;
      } else {
        AppendUnknown(piece.substr(0, 1), symbols, after_unk);
      }
    }
    return;
  }
  while (!piece.empty()) {
    const std::string_view character = piece.substr(0, NextUtf8(piece).length);
    const TokenId id = Find(character);
    if (id >= 0) {
      symbols.push_back(id);
      after_unk = false;
    } else {
      AppendUnknown(character, symbols, after_unk);
    }
    piece.remove_prefix(character.size());
  }
}

void BpeModel::MergeShort(std::vector<TokenId>& symbols) const {
  while (symbols.size() > 1) {
    const Merge* best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = merges_.find(PairKey(symbols[i], symbols[i + 1]));
      if (it != merges_.end() && (best == nullptr || it->second.rank < best->rank)) {
        best = &it->second;
        at = i;
      }
    }
    if (best == nullptr) return;
    symbols[at] = best->id;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

// Symbols form a linked list; the heap holds candidate merges, leftmost first among equal ranks. A candidate is stale
// when either side changed since it was pushed.
void BpeModel::MergeLong(std::vector<TokenId>& symbols) const {
  struct Candidate {
    uint32_t rank;
    uint32_t left;
    TokenId left_id, right_id, id;
    bool operator>(const Candidate& other) const { return std::tie(rank, left) > std::tie(other.rank, other.left); }
  };
  constexpr uint32_t kNone = UINT32_MAX;
  const auto n = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> prev(n), next(n);
  for (uint32_t i = 0; i < n; ++i) {
    prev[i] = i == 0 ? kNone : i - 1;
    next[i] = i + 1 == n ? kNone : i + 1;
  }
  std::vector<Candidate> storage;
  storage.reserve(n);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap(std::greater<>(), std::move(storage));
  const auto push = [&](uint32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const auto it = merges_.find(PairKey(symbols[left], symbols[next[left]]));
    if (it != merges_.end()) heap.push({it->second.rank, left, symbols[left], symbols[next[left]], it->second.id});
  };
  for (uint32_t i = 0; i + 1 < n; ++i) push(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    const uint32_t right = next[top.left];
    if (symbols[top.left] != top.left_id || right == kNone || symbols[right] != top.right_id) continue;
    symbols[top.left] = top.id;
    symbols[right] = -1;
    next[top.left] = next[right];
    if (next[right] != kNone) prev[next[right]] = top.left;
    push(prev[top.left]);
    push(top.left);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), -1), symbols.end());
}

void BpeModel::Encode(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.empty()) return;
  if (options_.ignore_merges) {
    const TokenId whole = Find(piece);
    if (whole >= 0) {
      out.push_back(whole);
      return;
    }
  }
  std::vector<TokenId> symbols;
  InitialSymbols(piece, symbols);
  if (symbols.size() <= kShortPiece) {
    MergeShort(symbols);
  } else {
    MergeLong(symbols);
  }
  out.insert(out.end(), symbols.begin(), symbols.end());
}

}  // namespace baton
