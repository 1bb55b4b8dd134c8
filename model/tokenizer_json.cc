// The tokenizer of a Hugging Face folder: tokenizer.json (what it does), tokenizer_config.json or special_tokens_map.json
// (which tokens templates may name), and the chat template from wherever the folder keeps it.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/mapped_file.h"
#include "model/pretokenizer.h"
#include "model/tokenizer.h"

namespace baton {
namespace {

using Json = nlohmann::json;
constexpr size_t kMaxFileBytes = 256_MiB;
constexpr int kMaxNesting = 16;

const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}
std::string StringOr(const Json& object, const char* key, std::string fallback) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::move(fallback);
}
bool BoolOr(const Json& object, const char* key, bool fallback) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : fallback;
}
Result<TokenId> IdOf(const Json& value, std::string_view what) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > INT32_MAX) return InvalidError("{} is not a token id", what);
  return static_cast<TokenId>(value.get<int64_t>());
}

Result<std::string> ReadText(const std::string& path) {
  ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  if (file->bytes().size() > kMaxFileBytes) return InvalidError("{} has {} bytes, at most {} are read", path, file->bytes().size(), kMaxFileBytes);
  return std::string(AsText(file->bytes()));
}

Result<Json> ReadJson(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) return InvalidError("{} is not a JSON object", path);
  return json;
}

Status AddNormalizer(const Json& json, int depth, TokenizerParts& parts) {
  if (depth > kMaxNesting) return InvalidError("normalizer is nested deeper than {}", kMaxNesting);
  const std::string type = StringOr(json, "type", "");
  if (type == "Sequence") {
    const Json* list = Find(json, "normalizers");
    if (list == nullptr || !list->is_array()) return InvalidError("normalizer Sequence has no list 'normalizers'");
    for (const Json& entry : *list) RETURN_IF_ERROR(AddNormalizer(entry, depth + 1, parts));
    return OkStatus();
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    parts.normalizer.AddUnicode(type == "NFC" ? UnicodeForm::kNfc : type == "NFD" ? UnicodeForm::kNfd : type == "NFKC" ? UnicodeForm::kNfkc : UnicodeForm::kNfkd);
    return OkStatus();
  }
  if (type == "Lowercase") {
    parts.normalizer.AddLowercase();
    return OkStatus();
  }
  if (type == "Prepend") {
    parts.normalizer.AddPrepend(StringOr(json, "prepend", ""));
    return OkStatus();
  }
  if (type == "Replace") {
    const Json* pattern = Find(json, "pattern");
    const std::string from = pattern == nullptr ? "" : StringOr(*pattern, "String", "");
    if (from.empty()) return InvalidError("normalizer Replace is supported with a pattern of kind 'String' only");
    parts.normalizer.AddReplace(from, StringOr(json, "content", ""));
    return OkStatus();
  }
  return InvalidError("normalizer '{}' is not supported; supported are NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Sequence", Printable(type));
}

Result<SplitBehavior> ParseBehavior(const std::string& name) {
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return InvalidError("split behavior '{}' is not known", Printable(name));
}

Status AddSplit(const Json& json, PreTokenizer& pre) {
  const Json* pattern = Find(json, "pattern");
  if (pattern == nullptr) return InvalidError("pre_tokenizer Split has no pattern");
  ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(StringOr(json, "behavior", "Isolated")));
  const bool invert = BoolOr(json, "invert", false);
  const Json* regex = Find(*pattern, "Regex");
  if (regex != nullptr && regex->is_string()) return pre.AddRegex(regex->get<std::string>(), behavior, invert);
  return pre.AddString(StringOr(*pattern, "String", ""), behavior, invert);
}

Status AddPreTokenizer(const Json& json, int depth, TokenizerParts& parts, bool& byte_level) {
  if (depth > kMaxNesting) return InvalidError("pre_tokenizer is nested deeper than {}", kMaxNesting);
  const std::string type = StringOr(json, "type", "");
  PreTokenizer& pre = parts.pre_tokenizer;
  if (type == "Sequence") {
    const Json* list = Find(json, "pretokenizers");
    if (list == nullptr || !list->is_array()) return InvalidError("pre_tokenizer Sequence has no list 'pretokenizers'");
    for (const Json& entry : *list) RETURN_IF_ERROR(AddPreTokenizer(entry, depth + 1, parts, byte_level));
    return OkStatus();
  }
  if (byte_level) return InvalidError("pre_tokenizer '{}' after ByteLevel is not supported", Printable(type));
  if (type == "Split") return AddSplit(json, pre);
  if (type == "Digits") {
    return pre.AddRegex(R"(\p{N})", BoolOr(json, "individual_digits", false) ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false);
  }
  if (type == "ByteLevel") {
    byte_level = true;
    if (BoolOr(json, "add_prefix_space", true)) pre.AddPrefixSpace();
    return BoolOr(json, "use_regex", true) ? pre.AddRegex(kGpt2Pattern, SplitBehavior::kIsolated, false) : OkStatus();
  }
  if (type == "Metaspace") {
    const std::string scheme = StringOr(json, "prepend_scheme", BoolOr(json, "add_prefix_space", true) ? "always" : "never");
    return pre.AddMetaspace(StringOr(json, "replacement", "\xE2\x96\x81"),
                            scheme == "always" ? PreTokenizer::PrependScheme::kAlways :
                            scheme == "first" ? PreTokenizer::PrependScheme::kFirst : PreTokenizer::PrependScheme::kNever,
                            BoolOr(json, "split", true));
  }
  return InvalidError("pre_tokenizer '{}' is not supported; supported are Split, Digits, ByteLevel, Metaspace, Sequence", Printable(type));
}

Status AddTemplateIds(const Json& processor, TokenizerParts& parts) {
  const Json* single = Find(processor, "single");
  const Json* specials = Find(processor, "special_tokens");
  if (single == nullptr || !single->is_array()) return InvalidError("post_processor TemplateProcessing has no list 'single'");
  bool after = false;
  for (const Json& item : *single) {
    if (Find(item, "Sequence") != nullptr) {
      after = true;
      continue;
    }
    const Json* token = Find(item, "SpecialToken");
    if (token == nullptr) return InvalidError("post_processor 'single' has an entry that is neither Sequence nor SpecialToken");
    const Json* definition = specials == nullptr ? nullptr : Find(*specials, StringOr(*token, "id", "").c_str());
    const Json* ids = definition == nullptr ? nullptr : Find(*definition, "ids");
    if (ids == nullptr || !ids->is_array()) return InvalidError("post_processor names a special token without ids");
    for (const Json& id : *ids) {
      ASSIGN_OR_RETURN(const TokenId value, IdOf(id, "an id of the post_processor"));
      (after ? parts.suffix : parts.prefix).push_back(value);
    }
  }
  return OkStatus();
}

Status AddPostProcessor(const Json& json, int depth, TokenizerParts& parts) {
  if (depth > kMaxNesting) return InvalidError("post_processor is nested deeper than {}", kMaxNesting);
  const std::string type = StringOr(json, "type", "");
  if (type == "ByteLevel") return OkStatus();  // moves offsets only
  if (type == "TemplateProcessing") return AddTemplateIds(json, parts);
  if (type == "Sequence") {
    const Json* list = Find(json, "processors");
    if (list == nullptr || !list->is_array()) return InvalidError("post_processor Sequence has no list 'processors'");
    for (const Json& entry : *list) RETURN_IF_ERROR(AddPostProcessor(entry, depth + 1, parts));
    return OkStatus();
  }
  return InvalidError("post_processor '{}' is not supported; supported are TemplateProcessing, ByteLevel, Sequence", Printable(type));
}

Status ReadMerges(const Json& model, TokenizerParts& parts) {
  const Json* merges = Find(model, "merges");
  if (merges == nullptr || !merges->is_array()) return InvalidError("model has no list 'merges'");
  parts.merges.reserve(merges->size());
  for (const Json& merge : *merges) {
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ', 1);
      if (space == std::string::npos) return InvalidError("merge '{}' is not two tokens", Printable(text));
      parts.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      parts.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    } else {
      return InvalidError("merge {} is neither a string nor a pair of strings", parts.merges.size());
    }
  }
  return OkStatus();
}

Status ReadModel(const Json& model, TokenizerParts& parts) {
  const std::string type = StringOr(model, "type", "BPE");
  if (type != "BPE") return InvalidError("model type '{}' is not supported; only BPE is", Printable(type));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!StringOr(model, key, "").empty()) return InvalidError("model has a {}, which is not supported", key);
  }
  const Json* vocab = Find(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return InvalidError("model has no object 'vocab'");
  parts.vocab.reserve(vocab->size());
  for (const auto& [text, id] : vocab->items()) {
    ASSIGN_OR_RETURN(const TokenId value, IdOf(id, "vocab entry '" + Printable(text) + "'"));
    parts.vocab.push_back({text, value});
  }
  parts.strict_merges = true;
  parts.bpe.ignore_merges = BoolOr(model, "ignore_merges", false);
  parts.bpe.byte_fallback = BoolOr(model, "byte_fallback", false);
  parts.bpe.fuse_unk = BoolOr(model, "fuse_unk", false);
  const std::string unk = StringOr(model, "unk_token", "");
  for (const auto& entry : parts.vocab) {
    if (!unk.empty() && entry.text == unk) parts.bpe.unk = entry.id;
  }
  return ReadMerges(model, parts);
}

Status ReadAdded(const Json& json, TokenizerParts& parts) {
  const Json* added = Find(json, "added_tokens");
  if (added == nullptr) return OkStatus();
  if (!added->is_array()) return InvalidError("added_tokens is not a list");
  for (const Json& entry : *added) {
    const Json* id = Find(entry, "id");
    const Json* content = Find(entry, "content");
    if (id == nullptr || content == nullptr || !content->is_string()) return InvalidError("an added token has no id or content");
    AddedToken token;
    ASSIGN_OR_RETURN(token.id, IdOf(*id, "the id of an added token"));
    token.content = content->get<std::string>();
    token.special = BoolOr(entry, "special", false);
    token.lstrip = BoolOr(entry, "lstrip", false);
    token.rstrip = BoolOr(entry, "rstrip", false);
    token.single_word = BoolOr(entry, "single_word", false);
    token.normalized = BoolOr(entry, "normalized", false);
    parts.added.push_back(std::move(token));
  }
  return OkStatus();
}

void ReadSpecials(const Json& config, TokenizerParts& parts) {
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const Json* value = Find(config, name);
    if (value == nullptr || parts.special_tokens.count(name) != 0) continue;
    const std::string text = value->is_string() ? value->get<std::string>() : StringOr(*value, "content", "");
    if (!text.empty()) parts.special_tokens[name] = text;
  }
}

// A single template is a string; several are a list of {name, template} or an object, where "default" is the one.
std::string TemplateOf(const Json* value) {
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  if (value->is_object()) return StringOr(*value, "default", "");
  if (!value->is_array()) return "";
  for (const Json& entry : *value) {
    if (StringOr(entry, "name", "") == "default") return StringOr(entry, "template", "");
  }
  return "";
}

Status ReadSideFiles(const std::filesystem::path& folder, TokenizerParts& parts) {
  const auto exists = [&](const char* name) {
    std::error_code error;
    return std::filesystem::exists(folder / name, error);
  };
  std::string from_config;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (!exists(name)) continue;
    ASSIGN_OR_RETURN(const Json config, ReadJson((folder / name).string()));
    ReadSpecials(config, parts);
    if (from_config.empty()) from_config = TemplateOf(Find(config, "chat_template"));
  }
  if (exists("chat_template.jinja")) {
    ASSIGN_OR_RETURN(parts.chat_template, ReadText((folder / "chat_template.jinja").string()));
  } else if (exists("chat_template.json")) {
    ASSIGN_OR_RETURN(const Json json, ReadJson((folder / "chat_template.json").string()));
    parts.chat_template = TemplateOf(Find(json, "chat_template"));
  }
  if (parts.chat_template.empty()) parts.chat_template = from_config;
  return OkStatus();
}

TokenId IdByText(const TokenizerParts& parts, const char* name) {
  const auto special = parts.special_tokens.find(name);
  if (special == parts.special_tokens.end()) return -1;
  for (const AddedToken& token : parts.added) {
    if (token.content == special->second) return token.id;
  }
  for (const auto& entry : parts.vocab) {
    if (entry.text == special->second) return entry.id;
  }
  return -1;
}

Status ReadParts(const Json& json, TokenizerParts& parts) {
  const Json* model = Find(json, "model");
  if (model == nullptr) return InvalidError("there is no 'model'");
  RETURN_IF_ERROR(ReadModel(*model, parts));
  RETURN_IF_ERROR(ReadAdded(json, parts));
  if (const Json* normalizer = Find(json, "normalizer")) RETURN_IF_ERROR(AddNormalizer(*normalizer, 0, parts));
  bool byte_level = false;
  if (const Json* pre = Find(json, "pre_tokenizer")) RETURN_IF_ERROR(AddPreTokenizer(*pre, 0, parts, byte_level));
  parts.bpe.byte_level = byte_level;
  if (const Json* post = Find(json, "post_processor")) RETURN_IF_ERROR(AddPostProcessor(*post, 0, parts));
  return OkStatus();
}

}  // namespace

Result<TokenizerParts> ReadTokenizerJson(const std::string& folder) {
  const std::filesystem::path base(folder);
  const std::string path = (base / "tokenizer.json").string();
  ASSIGN_OR_RETURN(const Json json, ReadJson(path));
  TokenizerParts parts;
  if (Status status = ReadParts(json, parts); !status.ok()) return status.WithContext(path);
  RETURN_IF_ERROR(ReadSideFiles(base, parts));
  parts.bos = IdByText(parts, "bos_token");
  parts.eos = IdByText(parts, "eos_token");
  parts.pad = IdByText(parts, "pad_token");
  return parts;
}

}  // namespace baton
