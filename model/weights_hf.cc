// A Hugging Face folder: config.json in the spellings of transformers 4 and 5, and one or several
// safetensors files.
#include <algorithm>
#include <filesystem>
#include <set>

#include "model/safetensors.h"
#include "model/weights_build.h"
#include "model/weights_json.h"

namespace baton {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = 16_MiB;
constexpr uint64_t kMaxIndexBytes = 100_MiB;

/// The value of a key that is there and not null, else nullptr.
const Json* FindValue(const Json& object, const std::string& key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

/// False too where the question cannot be answered; the opening that follows then says why.
bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

/// Reads keys of one object; remembers the first error so that the reading stays a list.
class ConfigReader {
 public:
  explicit ConfigReader(const Json& object) : object_(object) {}
  const Status& status() const { return status_; }

  uint32_t Count(const std::string& key) {
    if (FindValue(object_, key) != nullptr) return CountOr(key, 0);
    Fail(InvalidError("key '{}' is missing", key));
    return 0;
  }
  uint32_t CountOr(const std::string& key, uint32_t absent) {
    const Json* value = FindValue(object_, key);
    if (value == nullptr) return absent;
    if (value->is_number_unsigned() && value->get<uint64_t>() <= UINT32_MAX)
      return value->get<uint32_t>();
    Fail(InvalidError("key '{}' is {}, not a count", key, Text(*value)));
    return absent;
  }
  double NumberOr(const std::string& key, double absent) {
    const Json* value = FindValue(object_, key);
    if (value == nullptr) return absent;
    if (value->is_number()) return value->get<double>();
    Fail(InvalidError("key '{}' is {}, not a number", key, Text(*value)));
    return absent;
  }
  bool BoolOr(const std::string& key, bool absent) {
    const Json* value = FindValue(object_, key);
    if (value == nullptr) return absent;
    if (value->is_boolean()) return value->get<bool>();
    Fail(InvalidError("key '{}' is {}, not true or false", key, Text(*value)));
    return absent;
  }
  std::string StringOr(const std::string& key, const std::string& absent) {
    const Json* value = FindValue(object_, key);
    if (value == nullptr) return absent;
    if (value->is_string()) return value->get<std::string>();
    Fail(InvalidError("key '{}' is {}, not a string", key, Text(*value)));
    return absent;
  }
  void Fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

 private:
  static std::string Text(const Json& value) {
    return Printable(value.dump(-1, ' ', true, Json::error_handler_t::replace));
  }
  const Json& object_;
  Status status_;
};

/// rope_scaling or rope_parameters. transformers 5 keeps the base in the object, 4 beside it.
Status ReadRope(const Json& config, ModelInfo& info) {
  ConfigReader top(config);
  info.rope_theta = top.NumberOr("rope_theta", 10000);
  RETURN_IF_ERROR(top.status());
  for (const std::string key : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = FindValue(config, key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) return InvalidError("key '{}' is not an object", key);
    ConfigReader reader(*rope);
    info.rope_theta = reader.NumberOr("rope_theta", info.rope_theta);
    const std::string type = reader.StringOr("rope_type", reader.StringOr("type", "default"));
    const double partial = reader.NumberOr("partial_rotary_factor", 1);
    if (type == "llama3") {
      for (const std::string needed :
           {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
        if (FindValue(*rope, needed) == nullptr)
          return InvalidError("key '{}' of '{}' is missing", needed, key);
      }
      info.rope_scaling = {reader.NumberOr("factor", 1), reader.NumberOr("low_freq_factor", 1),
                           reader.NumberOr("high_freq_factor", 4),
                           reader.NumberOr("original_max_position_embeddings", 8192)};
    } else if (type != "default") {
      return InvalidError("RoPE scaling '{}' is not supported; default and llama3 are",
                          Printable(type));
    }
    RETURN_IF_ERROR(reader.status());
    if (partial != 1)
      return InvalidError("a partial_rotary_factor of {} is not supported", partial);
  }
  return OkStatus();
}

/// One id or a list of them; false where it is neither.
bool ReadIds(const Json& value, std::vector<TokenId>* out) {
  if (value.is_array())
    return std::all_of(value.begin(), value.end(),
                       [&](const Json& id) { return !id.is_array() && ReadIds(id, out); });
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX) return false;
  const auto id = value.get<TokenId>();
  if (std::find(out->begin(), out->end(), id) == out->end()) out->push_back(id);
  return true;
}

/// generation_config.json wins over config.json, as in transformers.
Status ReadTokenIds(const std::vector<const Json*>& sources, ModelInfo& info) {
  for (const Json* source : sources) {
    const Json* eos = FindValue(*source, "eos_token_id");
    if (eos == nullptr) continue;
    if (!ReadIds(*eos, &info.eos_ids))
      return InvalidError("key 'eos_token_id' is neither a token id nor a list of them");
    break;
  }
  for (const Json* source : sources) {
    const Json* bos = FindValue(*source, "bos_token_id");
    if (bos == nullptr) continue;
    std::vector<TokenId> ids;
    if (!ReadIds(*bos, &ids) || ids.size() != 1)
      return InvalidError("key 'bos_token_id' is not a token id");
    info.bos_id = ids[0];
    break;
  }
  return OkStatus();
}

/// What would change the arithmetic without changing a shape.
Status CheckFeatures(const Json& config, const Json& text) {
  ConfigReader reader(text);
  const std::string activation = reader.StringOr("hidden_act", "silu");
  const bool sliding = reader.BoolOr("use_sliding_window", false);
  const bool attention_bias = reader.BoolOr("attention_bias", false),
             mlp_bias = reader.BoolOr("mlp_bias", false);
  RETURN_IF_ERROR(reader.status());
  if (activation != "silu")
    return InvalidError("hidden_act '{}' is not supported; silu is", Printable(activation));
  if (sliding) return InvalidError("use_sliding_window is not supported");
  if (const Json* types = FindValue(text, "layer_types"); types != nullptr && types->is_array()) {
    for (const Json& type : *types) {
      if (type != "full_attention")
        return InvalidError("layer_types other than full_attention are not supported");
    }
  }
  if (attention_bias || mlp_bias)
    return InvalidError("attention_bias and mlp_bias are not supported");
  if (FindValue(config, "quantization_config") != nullptr ||
      FindValue(text, "quantization_config") != nullptr) {
    return InvalidError(
        "quantised safetensors (quantization_config) are not supported; use a GGUF file");
  }
  return OkStatus();
}

Result<WeightSource> ReadConfig(const fs::path& folder, bool* nested) {
  ASSIGN_OR_RETURN(const Json config,
                   ReadJsonObject((folder / "config.json").string(), kMaxConfigBytes));
  ConfigReader top(config);
  std::string type = top.StringOr("model_type", "");
  RETURN_IF_ERROR(top.status());
  const Json* text = &config;
  if (const Json* inner = FindValue(config, "text_config");
      inner != nullptr && inner->is_object()) {
    text = inner;
    ConfigReader reader(*inner);
    const std::string inner_type = reader.StringOr("model_type", type);
    if (inner_type == "llama" || inner_type == "qwen2") type = inner_type;
  }
  *nested = text != &config;
  if (type != "llama" && type != "qwen2") {
    return InvalidError("model_type '{}' is not supported; {} are", Printable(type),
                        kSupportedArchitectures);
  }
  WeightSource source;
  ModelInfo& info = source.info;
  info.architecture = type;
  ConfigReader reader(*text);
  info.layers = reader.Count("num_hidden_layers");
  info.hidden = reader.Count("hidden_size");
  info.ffn = reader.Count("intermediate_size");
  info.vocab = reader.Count("vocab_size");
  info.heads = reader.Count("num_attention_heads");
  info.kv_heads = reader.CountOr("num_key_value_heads", info.heads);
  info.head_dim = reader.CountOr("head_dim", info.heads == 0 ? 0 : info.hidden / info.heads);
  info.max_positions = reader.CountOr("max_position_embeddings", type == "llama" ? 2048 : 32768);
  info.norm_eps = reader.NumberOr("rms_norm_eps", 1e-6);
  const bool inner_tied = reader.BoolOr("tie_word_embeddings", false),
             outer_tied = top.BoolOr("tie_word_embeddings", false);
  RETURN_IF_ERROR(reader.status());
  RETURN_IF_ERROR(top.status());
  const bool stated = FindValue(*text, "tie_word_embeddings") != nullptr ||
                      FindValue(config, "tie_word_embeddings") != nullptr;
  if (stated)
    source.tied = inner_tied || outer_tied ? WeightSource::Tied::kYes : WeightSource::Tied::kNo;
  RETURN_IF_ERROR(ReadRope(*text, info));
  RETURN_IF_ERROR(CheckFeatures(config, *text));
  Json generation = Json::object();
  const std::string generation_path = (folder / "generation_config.json").string();
  if (Exists(generation_path)) {
    ASSIGN_OR_RETURN(generation, ReadJsonObject(generation_path, kMaxConfigBytes));
  }
  RETURN_IF_ERROR(ReadTokenIds({&generation, text, &config}, info));
  return source;
}

/// In a model with vision the language part has a prefix, which differs between transformers 4
/// and 5.
std::string CanonicalName(const std::string& name, bool nested) {
  if (!nested) return name;
  const std::string_view view = name;
  if (view.starts_with("model.language_model.")) return "model." + name.substr(21);
  if (view.starts_with("language_model.")) return name.substr(15);
  return name;
}

Status AddFile(const std::string& path, bool nested, WeightSource& source,
               std::set<std::string>* names) {
  ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> opened, SafetensorsFile::Open(path));
  const std::shared_ptr<SafetensorsFile> file = std::move(opened);
  source.owners.push_back(file);
  for (const SafetensorsTensor& stored : file->tensors()) {
    SourceTensor entry;
    entry.file_name = stored.name;
    entry.tensor = {CanonicalName(stored.name, nested), TensorType::kF32, stored.shape,
                    stored.data};
    switch (stored.type) {
      case SafetensorsType::kF32:
        break;
      case SafetensorsType::kF16:
        entry.tensor.type = TensorType::kF16;
        break;
      case SafetensorsType::kBF16:
        entry.tensor.type = TensorType::kBF16;
        break;
      default:
        entry.unsupported = std::string(SafetensorsTypeName(stored.type));
    }
    RETURN_IF_ERROR(source.Add(std::move(entry)).WithContext(path));
    if (names != nullptr) names->insert(stored.name);
  }
  return OkStatus();
}

Status AddShards(const fs::path& folder, bool nested, WeightSource& source) {
  const std::string index_path = (folder / "model.safetensors.index.json").string();
  ASSIGN_OR_RETURN(const Json index, ReadJsonObject(index_path, kMaxIndexBytes));
  const Json* map = FindValue(index, "weight_map");
  if (map == nullptr || !map->is_object())
    return InvalidError("{}: 'weight_map' is missing", index_path);
  std::map<std::string, std::set<std::string>> shards;  // file -> names in it
  for (const auto& [name, value] : map->items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    // A plain name: the index must not lead out of the folder.
    if (file.empty() || file.front() == '.' || file.find('/') != file.npos ||
        file.find('\0') != file.npos) {
      return InvalidError("{}: tensor '{}' is in '{}', which is no file name", index_path,
                          Printable(name), Printable(file));
    }
    shards[file].insert(name);
  }
  if (shards.empty()) return InvalidError("{}: 'weight_map' is empty", index_path);
  for (const auto& [file, wanted] : shards) {
    std::set<std::string> found;
    RETURN_IF_ERROR(AddFile((folder / file).string(), nested, source, &found));
    for (const std::string& name : wanted) {
      if (found.count(name) == 0)
        return InvalidError("{}: tensor '{}' is not in {}", index_path, Printable(name),
                            Printable(file));
    }
  }
  return OkStatus();
}

}  // namespace

Result<WeightSource> ReadHfWeights(const std::string& path) {
  const fs::path folder(path);
  if (!Exists(folder / "config.json")) {
    return InvalidError(
        "{} has no config.json; give a folder in Hugging Face layout or a GGUF file", path);
  }
  bool nested = false;
  Result<WeightSource> config = ReadConfig(folder, &nested);
  if (!config.ok()) return config.status().WithContext((folder / "config.json").string());
  WeightSource source = std::move(config).value();
  const fs::path normal = folder.lexically_normal();
  source.info.name = (normal.has_filename() ? normal : normal.parent_path()).filename().string();
  RETURN_IF_ERROR(CheckDimensions(source.info).WithContext((folder / "config.json").string()));
  if (Exists(folder / "model.safetensors")) {
    RETURN_IF_ERROR(AddFile((folder / "model.safetensors").string(), nested, source, nullptr));
  } else if (Exists(folder / "model.safetensors.index.json")) {
    RETURN_IF_ERROR(AddShards(folder, nested, source));
  } else {
    return InvalidError("{} has neither model.safetensors nor model.safetensors.index.json", path);
  }
  return source;
}

}  // namespace baton
