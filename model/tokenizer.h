// Text to token ids and back, from a GGUF file or a Hugging Face folder; ids equal those of the reference
// implementation of that format. Thread: immutable after Load, so any.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "model/bpe.h"
#include "model/pretokenizer.h"

namespace baton {

struct EncodeOptions {
  bool parse_special = false;  // special tokens written in the text become those tokens; leave off for untrusted text
  bool add_special = false;    // the tokens that the model wants around a text, such as BOS
};

struct AddedToken {  // cut out of the text before anything else
  std::string content;
  TokenId id = -1;
  bool special = false;     // a control token; skipped by Decode(skip_special) and not recognised in untrusted text
  bool lstrip = false, rstrip = false, single_word = false, normalized = false;
};

/// What a tokenizer is made of; the readers of each file format fill it.
struct TokenizerParts {
  std::vector<BpeModel::Entry> vocab;  // without the added tokens' own entries where the format separates them
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<float> scores;           // instead of merges (SentencePiece), one a vocab entry
  BpeOptions bpe;
  bool strict_merges = false;
  std::vector<AddedToken> added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<TokenId> prefix, suffix;  // add_special
  std::map<std::string, std::string> special_tokens;  // "bos_token" -> "<s>"
  std::string chat_template;
  TokenId bos = -1, eos = -1, pad = -1;
  uint32_t vocab_size = 0;              // at least; rows of the file
};

class Tokenizer {
 public:
  /// `path`: a GGUF file, or a folder with tokenizer.json and tokenizer_config.json. Errors: kNotFound, kInvalid (file,
  /// field and reason; for an unknown pre-tokenizer its name and the supported ones).
  static Result<std::shared_ptr<const Tokenizer>> Load(const std::string& path);
  static Result<std::shared_ptr<const Tokenizer>> FromParts(TokenizerParts parts);

  /// Never fails: invalid UTF-8 counts as U+FFFD.
  std::vector<TokenId> Encode(std::string_view text, EncodeOptions options = {}) const;
  /// Special tokens are recognised except where `untrusted` (one byte a byte of text, nonzero = a user wrote it) marks a
  /// byte of the match. With untrusted all zero this is Encode with parse_special.
  std::vector<TokenId> EncodeTrusted(std::string_view text, std::string_view untrusted) const;
  /// Always valid UTF-8; ids outside the vocabulary are skipped.
  std::string Decode(std::span<const TokenId> ids, bool skip_special = false) const;
  /// The bytes a token stands for (not always valid UTF-8); empty for ids outside the vocabulary.
  std::string TokenBytes(TokenId id) const;
  bool IsSpecial(TokenId id) const;
  /// The id of a token by its text as the file writes it, or -1.
  TokenId Find(std::string_view token) const;
  uint32_t vocab_size() const { return static_cast<uint32_t>(tokens_.size()); }
  TokenId bos_id() const { return parts_.bos; }
  TokenId eos_id() const { return parts_.eos; }
  TokenId pad_id() const { return parts_.pad; }
  /// "bos_token", "eos_token", ... as chat templates name them; only those the model has.
  const std::map<std::string, std::string>& special_tokens() const { return parts_.special_tokens; }
  /// The chat template's source; empty where the model has none.
  const std::string& chat_template() const { return parts_.chat_template; }
  /// SentencePiece-style: "<0xXX>" tokens, and a decoded text loses one leading space.
  bool byte_fallback() const { return !parts_.bpe.byte_level; }
  /// The byte of a "<0xXX>" token of a byte_fallback tokenizer, or -1.
  int ByteValue(TokenId id) const;

 private:
  struct Token {
    std::string text, bytes;
    bool special = false;
    int16_t byte = -1;
  };
  struct TrieNode {
    std::map<uint8_t, uint32_t> next;
    int32_t added = -1;
  };
  struct Match {
    size_t begin = 0, end = 0;
    TokenId id = -1;
  };
  Tokenizer() = default;
  Status Build(TokenizerParts parts);
  static void AddToTrie(std::vector<TrieNode>& trie, std::string_view content, int32_t added);
  std::vector<Match> FindAdded(const std::vector<TrieNode>& trie, std::string_view text, std::string_view untrusted) const;
  bool AcceptAdded(const AddedToken& token, std::string_view text, std::string_view untrusted, Match& match, size_t floor) const;
  void EncodeRaw(std::string_view text, std::string_view untrusted, std::vector<TokenId>& out) const;
  void EncodeSegment(std::string_view text, bool untrusted, bool first, std::vector<TokenId>& out) const;

  TokenizerParts parts_;
  BpeModel bpe_;
  std::vector<Token> tokens_;  // by id
  std::unordered_map<std::string, TokenId> ids_;
  std::vector<TrieNode> raw_trie_, normalized_trie_;
};

/// The readers behind Load.
Result<TokenizerParts> ReadTokenizerJson(const std::string& folder);
Result<TokenizerParts> ReadTokenizerGguf(const std::string& path);

}  // namespace baton
