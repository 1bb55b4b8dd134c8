// Byte-pair encoding of one piece of text, by merge rank. Two alphabets: bytes written in GPT-2's printable characters
// (byte-level), and characters with `<0xXX>` tokens for what the vocabulary lacks (SentencePiece-style). A piece of n
// bytes costs O(n log n) whatever it is. Thread: immutable after Make, so any.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/status.h"

namespace baton {

/// GPT-2's alphabet: the code point that stands for a byte.
char32_t ByteToGpt2(uint8_t byte);
/// The bytes that a token's text stands for; false where a character is not of GPT-2's alphabet.
bool Gpt2ToBytes(std::string_view text, std::string& bytes);
/// The byte of a "<0xXX>" token, or -1.
int ByteFallbackValue(std::string_view token);

struct BpeOptions {
  bool byte_level = true;
  bool ignore_merges = false;  // a piece that is a token as a whole is that token
  bool byte_fallback = false;  // not byte_level: unknown characters become <0xXX> tokens
  bool fuse_unk = false;       // neighbouring unknown characters become one unknown token
  TokenId unk = -1;            // -1: what the vocabulary lacks is dropped
};

class BpeModel {
 public:
  struct Entry {
    std::string text;  // as the file has it
    TokenId id = -1;
  };
  BpeModel() = default;
  /// `merges` in rank order. Errors: kInvalid where strict and a merge names a token that does not exist.
  static Result<BpeModel> Make(const std::vector<Entry>& vocab, const std::vector<std::pair<std::string, std::string>>& merges,
                               const BpeOptions& options, bool strict);
  /// SentencePiece vocabularies without a merge list: every pair whose concatenation is a token merges, best score first.
  static Result<BpeModel> MakeFromScores(const std::vector<Entry>& vocab, const std::vector<float>& scores, const BpeOptions& options);

  /// Appends the tokens of `piece`, valid UTF-8 (byte-level: any bytes).
  void Encode(std::string_view piece, std::vector<TokenId>& out) const;
  /// The token of exactly this text (byte-level: these bytes), or -1.
  TokenId Find(std::string_view text) const;

 private:
  struct Merge {
    uint32_t rank;
    TokenId id;
  };
  static uint64_t PairKey(TokenId left, TokenId right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void AddVocab(const std::vector<Entry>& vocab, const BpeOptions& options);
  void InitialSymbols(std::string_view piece, std::vector<TokenId>& symbols) const;
  void AppendUnknown(std::string_view character, std::vector<TokenId>& symbols, bool& after_unk) const;
  void MergeShort(std::vector<TokenId>& symbols) const;
  void MergeLong(std::vector<TokenId>& symbols) const;

  BpeOptions options_;
  std::unordered_map<std::string, TokenId> ids_;  // key: text, or bytes when byte_level
  std::unordered_map<uint64_t, Merge> merges_;
  std::array<TokenId, 256> byte_ids_{};
};

}  // namespace baton
