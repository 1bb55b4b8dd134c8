// The tokenizer of a GGUF file: tokenizer.ggml.* keys. Token types: 1 normal, 2 unknown, 3 control, 4 user-defined,
// 5 unused, 6 byte.
#include <algorithm>

#include "model/gguf.h"
#include "model/mapped_file.h"
#include "model/tokenizer.h"

namespace baton {
namespace {

constexpr std::string_view kSupportedPre = "gpt-2, smollm, qwen2, deepseek-r1-qwen, llama-bpe, llama3, llama-v3";

Status SetPre(std::string_view pre, TokenizerParts& parts, bool& default_bos) {
  if (pre == "gpt-2" || pre == "gpt2") return parts.pre_tokenizer.AddRegex(kGpt2Pattern, SplitBehavior::kIsolated, false);
  if (pre == "smollm") {
    RETURN_IF_ERROR(parts.pre_tokenizer.AddRegex(R"(\p{N})", SplitBehavior::kIsolated, false));
    return parts.pre_tokenizer.AddRegex(kGpt2Pattern, SplitBehavior::kIsolated, false);
  }
  if (pre == "qwen2" || pre == "deepseek-r1-qwen") {
    parts.normalizer.AddUnicode(UnicodeForm::kNfc);
    return parts.pre_tokenizer.AddRegex(kQwen2Pattern, SplitBehavior::kIsolated, false);
  }
  if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    parts.bpe.ignore_merges = true;
    default_bos = true;
    return parts.pre_tokenizer.AddRegex(kLlama3Pattern, SplitBehavior::kIsolated, false);
  }
  return InvalidError("tokenizer.ggml.pre '{}' is not supported; supported are {}", Printable(pre), kSupportedPre);
}

Status ReadMerges(const GgufFile& file, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto merges, file.GetStrings("tokenizer.ggml.merges"));
  parts.merges.reserve(merges.size());
  for (const std::string_view merge : merges) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) return InvalidError("tokenizer.ggml.merges has '{}', which is not two tokens", Printable(merge));
    parts.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return OkStatus();
}

Status ReadVocab(const GgufFile& file, TokenizerParts& parts, std::vector<std::string_view>& tokens) {
  ASSIGN_OR_RETURN(tokens, file.GetStrings("tokenizer.ggml.tokens"));
  std::vector<int64_t> types(tokens.size(), 1);
  if (file.Has("tokenizer.ggml.token_type")) {
    ASSIGN_OR_RETURN(types, file.GetInts("tokenizer.ggml.token_type"));
    if (types.size() != tokens.size()) return InvalidError("tokenizer.ggml.token_type has {} entries for {} tokens", types.size(), tokens.size());
  }
  std::vector<float> scores;
  if (!parts.bpe.byte_level) {
    ASSIGN_OR_RETURN(scores, file.GetFloats("tokenizer.ggml.scores"));
    if (scores.size() != tokens.size()) return InvalidError("tokenizer.ggml.scores has {} entries for {} tokens", scores.size(), tokens.size());
  }
  parts.vocab_size = static_cast<uint32_t>(std::min<size_t>(tokens.size(), UINT32_MAX));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    if (types[i] == 5) continue;  // rows beyond the tokenizer decode to nothing
    if (types[i] == 2 || types[i] == 3 || types[i] == 4) {
      AddedToken added;
      added.content = tokens[i];
      added.id = id;
      added.special = types[i] != 4;
      parts.added.push_back(std::move(added));
      continue;
    }
    parts.vocab.push_back({std::string(tokens[i]), id});
    if (!parts.bpe.byte_level) parts.scores.push_back(scores[i]);
  }
  return OkStatus();
}

Status ReadSpecials(const GgufFile& file, const std::vector<std::string_view>& tokens, TokenizerParts& parts) {
  const struct {
    const char *key, *name;
    TokenId* id;
  } kinds[] = {{"tokenizer.ggml.bos_token_id", "bos_token", &parts.bos},
               {"tokenizer.ggml.eos_token_id", "eos_token", &parts.eos},
               {"tokenizer.ggml.padding_token_id", "pad_token", &parts.pad},
               {"tokenizer.ggml.unknown_token_id", "unk_token", nullptr},
               {"tokenizer.ggml.seperator_token_id", "sep_token", nullptr},
               {"tokenizer.ggml.cls_token_id", "cls_token", nullptr},
               {"tokenizer.ggml.mask_token_id", "mask_token", nullptr}};
  for (const auto& kind : kinds) {
    if (!file.Has(kind.key)) continue;
    ASSIGN_OR_RETURN(const uint64_t id, file.GetUint(kind.key));
    if (id >= tokens.size()) return InvalidError("{} is {}, but there are {} tokens", kind.key, id, tokens.size());
    parts.special_tokens[kind.name] = std::string(tokens[id]);
    if (kind.id != nullptr) *kind.id = static_cast<TokenId>(id);
    if (kind.name == std::string_view("unk_token") && !parts.bpe.byte_level) parts.bpe.unk = static_cast<TokenId>(id);
  }
  return OkStatus();
}

Result<bool> BoolOr(const GgufFile& file, std::string_view key, bool fallback) {
  if (!file.Has(key)) return fallback;
  return file.GetBool(key);
}

Result<TokenizerParts> Read(const GgufFile& file) {
  TokenizerParts parts;
  ASSIGN_OR_RETURN(const std::string_view model, file.GetString("tokenizer.ggml.model"));
  bool add_bos = false;
  if (model == "gpt2") {
    if (!file.Has("tokenizer.ggml.pre")) return InvalidError("tokenizer.ggml.pre is missing; supported are {}", kSupportedPre);
    ASSIGN_OR_RETURN(const std::string_view pre, file.GetString("tokenizer.ggml.pre"));
    RETURN_IF_ERROR(SetPre(pre, parts, add_bos));
    RETURN_IF_ERROR(ReadMerges(file, parts));
  } else if (model == "llama") {
    parts.bpe.byte_level = false;
    parts.bpe.byte_fallback = true;
    parts.bpe.fuse_unk = true;
    add_bos = true;
    ASSIGN_OR_RETURN(const bool prefix, BoolOr(file, "tokenizer.ggml.add_space_prefix", true));
    if (prefix) parts.normalizer.AddPrepend("\xE2\x96\x81");
    parts.normalizer.AddReplace(" ", "\xE2\x96\x81");
  } else {
    return InvalidError("tokenizer.ggml.model '{}' is not supported; supported are gpt2 and llama", Printable(model));
  }
  std::vector<std::string_view> tokens;
  RETURN_IF_ERROR(ReadVocab(file, parts, tokens));
  RETURN_IF_ERROR(ReadSpecials(file, tokens, parts));
  ASSIGN_OR_RETURN(add_bos, BoolOr(file, "tokenizer.ggml.add_bos_token", add_bos));
  ASSIGN_OR_RETURN(const bool add_eos, BoolOr(file, "tokenizer.ggml.add_eos_token", false));
  if (add_bos && parts.bos >= 0) parts.prefix.push_back(parts.bos);
  if (add_eos && parts.eos >= 0) parts.suffix.push_back(parts.eos);
  if (file.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(parts.chat_template, file.GetString("tokenizer.chat_template"));
  }
  return parts;
}

}  // namespace

Result<TokenizerParts> ReadTokenizerGguf(const std::string& path) {
  ASSIGN_OR_RETURN(const auto file, GgufFile::Open(path));
  auto parts = Read(*file);
  if (!parts.ok()) return parts.status().WithContext(path);
  return parts;
}

}  // namespace baton
