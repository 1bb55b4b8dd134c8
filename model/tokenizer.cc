#include "model/tokenizer.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <filesystem>

#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

constexpr size_t kMaxAddedBytes = 4096;  // an added token's text; bounds the search at each position
constexpr uint32_t kMaxVocab = 16u << 20;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // ▁

bool IsWordCharacter(char32_t c) {
  return u_isalnum(static_cast<UChar32>(c)) || c == '_' || u_charType(static_cast<UChar32>(c)) == U_NON_SPACING_MARK ||
         u_charType(static_cast<UChar32>(c)) == U_CONNECTOR_PUNCTUATION;
}

// The start of the last character of text, which is valid UTF-8 and not empty.
size_t LastCharacter(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

std::string ReplaceSpaceMarks(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i, kSpaceMark.size()) == kSpaceMark) {
      out += ' ';
      i += kSpaceMark.size();
    } else {
      out += text[i++];
    }
  }
  return out;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& path) {
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  auto parts = folder ? ReadTokenizerJson(path) : ReadTokenizerGguf(path);
  if (!parts.ok()) return parts.status();
  auto tokenizer = FromParts(std::move(*parts));
  if (!tokenizer.ok()) return tokenizer.status().WithContext(path);
  return tokenizer;
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::FromParts(TokenizerParts parts) {
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer());
  RETURN_IF_ERROR(tokenizer->Build(std::move(parts)));
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

Status Tokenizer::Build(TokenizerParts parts) {
  parts_ = std::move(parts);
  uint32_t size = parts_.vocab_size;
  const auto grow = [&](TokenId id) {
    if (id < 0 || static_cast<uint32_t>(id) >= kMaxVocab) return false;
    size = std::max(size, static_cast<uint32_t>(id) + 1);
    return true;
  };
  for (const auto& entry : parts_.vocab) {
    if (!grow(entry.id)) return InvalidError("token id {} is outside 0..{}", entry.id, kMaxVocab - 1);
  }
  for (const auto& added : parts_.added) {
    if (!grow(added.id)) return InvalidError("added token id {} is outside 0..{}", added.id, kMaxVocab - 1);
    if (added.content.size() > kMaxAddedBytes) return InvalidError("added token {} has {} bytes, at most {} are allowed", added.id, added.content.size(), kMaxAddedBytes);
  }
  // Ids need not be dense, but a huge hole is a broken file and would cost memory for nothing.
  if (size > 4 * (parts_.vocab.size() + parts_.added.size()) + 65536) {
    return InvalidError("token ids reach {} but there are only {} tokens", size - 1, parts_.vocab.size() + parts_.added.size());
  }
  auto bpe = parts_.scores.empty() ? BpeModel::Make(parts_.vocab, parts_.merges, parts_.bpe, parts_.strict_merges)
                                   : BpeModel::MakeFromScores(parts_.vocab, parts_.scores, parts_.bpe);
  if (!bpe.ok()) return bpe.status();
  bpe_ = std::move(*bpe);
  tokens_.resize(size);
  const auto define = [&](const std::string& text, TokenId id) {
    Token& token = tokens_[static_cast<size_t>(id)];
    token.text = text;
    if (parts_.bpe.byte_level) {
      if (!Gpt2ToBytes(text, token.bytes)) token.bytes = text;
    } else {
      token.byte = static_cast<int16_t>(ByteFallbackValue(text));
      token.bytes = token.byte >= 0 ? std::string(1, static_cast<char>(token.byte)) : ReplaceSpaceMarks(text);
    }
    ids_[text] = id;
  };
  for (const auto& entry : parts_.vocab) define(entry.text, entry.id);
  raw_trie_.resize(1);
  normalized_trie_.resize(1);
  for (size_t i = 0; i < parts_.added.size(); ++i) {
    const AddedToken& added = parts_.added[i];
    define(added.content, added.id);
    tokens_[static_cast<size_t>(added.id)].special |= added.special;
    if (added.content.empty()) continue;
    if (added.normalized) {
      AddToTrie(normalized_trie_, parts_.normalizer.Apply(added.content), static_cast<int32_t>(i));
    } else {
      AddToTrie(raw_trie_, added.content, static_cast<int32_t>(i));
    }
  }
  parts_.vocab.clear();
  parts_.merges.clear();
  parts_.scores.clear();
  return OkStatus();
}

void Tokenizer::AddToTrie(std::vector<TrieNode>& trie, std::string_view content, int32_t added) {
  uint32_t node = 0;
  for (const char c : content) {
    const auto byte = static_cast<uint8_t>(c);
    const auto it = trie[node].next.find(byte);
    if (it != trie[node].next.end()) {
      node = it->second;
      continue;
    }
    const auto fresh = static_cast<uint32_t>(trie.size());
    trie[node].next[byte] = fresh;
    trie.emplace_back();
    node = fresh;
  }
  if (trie[node].added < 0) trie[node].added = added;
}

bool Tokenizer::AcceptAdded(const AddedToken& token, std::string_view text, std::string_view untrusted, Match& match, size_t floor) const {
  if (token.special && untrusted.substr(match.begin, match.end - match.begin).find('\1') != std::string_view::npos) return false;
  if (token.single_word) {
    if (match.begin > 0 && IsWordCharacter(NextUtf8(text.substr(LastCharacter(text.substr(0, match.begin)))).code)) return false;
    if (match.end < text.size() && IsWordCharacter(NextUtf8(text.substr(match.end)).code)) return false;
  }
  while (token.lstrip && match.begin > floor) {
    const size_t last = LastCharacter(text.substr(0, match.begin));
    if (!u_isUWhiteSpace(static_cast<UChar32>(NextUtf8(text.substr(last)).code))) break;
    match.begin = last;
  }
  while (token.rstrip && match.end < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(match.end));
    if (!u_isUWhiteSpace(static_cast<UChar32>(step.code))) break;
    match.end += step.length;
  }
  return true;
}

// Leftmost, then longest. A match refused because a user wrote all of it is passed over whole, as the reference does; one
// that straddles template and user text only by one byte, so that it cannot swallow the template's own tokens.
std::vector<Tokenizer::Match> Tokenizer::FindAdded(const std::vector<TrieNode>& trie, std::string_view text,
                                                   std::string_view untrusted) const {
  std::vector<Match> matches;
  std::vector<std::pair<size_t, int32_t>> candidates;  // (end, added), shortest first
  size_t floor = 0;
  for (size_t at = 0; at < text.size() && trie.size() > 1;) {
    candidates.clear();
    uint32_t node = 0;
    for (size_t i = at; i < text.size(); ++i) {
      const auto it = trie[node].next.find(static_cast<uint8_t>(text[i]));
      if (it == trie[node].next.end()) break;
      node = it->second;
      if (trie[node].added >= 0) candidates.emplace_back(i + 1, trie[node].added);
    }
    size_t next = at + 1;
    if (!candidates.empty()) {
      const std::string_view mask = untrusted.substr(at, candidates.back().first - at);
      const bool mixed = mask.find('\1') != std::string_view::npos && mask.find('\0') != std::string_view::npos;
      if (!mixed) {
        candidates.erase(candidates.begin(), candidates.end() - 1);
        next = candidates.back().first;
      }
      for (auto it = candidates.rbegin(); it != candidates.rend(); ++it) {
        const AddedToken& token = parts_.added[static_cast<size_t>(it->second)];
        Match match{at, it->first, token.id};
        if (!AcceptAdded(token, text, untrusted, match, floor)) continue;
        matches.push_back(match);
        floor = next = match.end;
        break;
      }
    }
    at = next;
  }
  return matches;
}

void Tokenizer::EncodeSegment(std::string_view text, bool untrusted, bool first, std::vector<TokenId>& out) const {
  if (text.empty()) return;
  std::string normal;
  if (!parts_.normalizer.empty()) {
    normal = parts_.normalizer.Apply(std::string(text));
    text = normal;
  }
  const auto encode = [&](std::string_view part, bool part_first) {
    for (const std::string& piece : parts_.pre_tokenizer.Split(part, part_first)) bpe_.Encode(piece, out);
  };
  const std::string mask(text.size(), untrusted ? '\1' : '\0');
  size_t at = 0;
  for (const Match& match : FindAdded(normalized_trie_, text, mask)) {
    encode(text.substr(at, match.begin - at), first && at == 0);
    out.push_back(match.id);
    at = match.end;
  }
  encode(text.substr(at), first && at == 0);
}

void Tokenizer::EncodeRaw(std::string_view text, std::string_view untrusted, std::vector<TokenId>& out) const {
  size_t at = 0;
  const auto segment = [&](size_t begin, size_t end) {
    const bool marked = untrusted.substr(begin, end - begin).find('\1') != std::string_view::npos;
    EncodeSegment(text.substr(begin, end - begin), marked, begin == 0, out);
  };
  for (const Match& match : FindAdded(raw_trie_, text, untrusted)) {
    segment(at, match.begin);
    out.push_back(match.id);
    at = match.end;
  }
  segment(at, text.size());
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, EncodeOptions options) const {
  std::string clean;
  if (!IsValidUtf8(text)) {
    clean = SanitizeUtf8(text);
    text = clean;
  }
  std::vector<TokenId> out;
  if (options.add_special) out = parts_.prefix;
  EncodeRaw(text, std::string(text.size(), options.parse_special ? '\0' : '\1'), out);
  if (options.add_special) out.insert(out.end(), parts_.suffix.begin(), parts_.suffix.end());
  return out;
}

std::vector<TokenId> Tokenizer::EncodeTrusted(std::string_view text, std::string_view untrusted) const {
  if (untrusted.size() != text.size() || !IsValidUtf8(text)) return Encode(text);  // no usable marks: trust nothing
  std::string mask(untrusted);
  for (char& c : mask) c = c == 0 ? '\0' : '\1';
  std::vector<TokenId> out;
  EncodeRaw(text, mask, out);
  return out;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text, run;
  const auto close_run = [&] {
    if (IsValidUtf8(run)) {
      text += run;
    } else {
      for (size_t i = 0; i < run.size(); ++i) text += kReplacementCharacter;
    }
    run.clear();
  };
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= tokens_.size()) continue;
    const Token& token = tokens_[static_cast<size_t>(id)];
    if (skip_special && token.special) continue;
    if (token.byte >= 0) {
      run += static_cast<char>(token.byte);
    } else {
      close_run();
      text += token.bytes;
    }
  }
  close_run();
  if (byte_fallback() && !text.empty() && text[0] == ' ') text.erase(0, 1);
  return SanitizeUtf8(text);
}

std::string Tokenizer::TokenBytes(TokenId id) const {
  return id < 0 || static_cast<size_t>(id) >= tokens_.size() ? "" : tokens_[static_cast<size_t>(id)].bytes;
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < tokens_.size() && tokens_[static_cast<size_t>(id)].special;
}

TokenId Tokenizer::Find(std::string_view token) const {
  const auto it = ids_.find(std::string(token));
  return it == ids_.end() ? -1 : it->second;
}

int Tokenizer::ByteValue(TokenId id) const {
  return id < 0 || static_cast<size_t>(id) >= tokens_.size() ? -1 : tokens_[static_cast<size_t>(id)].byte;
}

}  // namespace baton
