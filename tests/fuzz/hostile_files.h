// Files that lie, in the shapes that have broken other readers (sizes that wrap, counts past the file, CVE after CVE), and
// one honest file of each format to start mutations from. Seeds of the fuzz targets; each is also a unit test.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

struct HostileFile {
  std::string name, content;
  bool honest = false;  // loads
};

std::vector<HostileFile> HostileGguf();
std::vector<HostileFile> HostileSafetensors();
std::vector<HostileFile> HostileTokenizerJson();
std::vector<HostileFile> HostileTemplates();
/// By the fuzz target's name.
std::map<std::string, std::vector<HostileFile>> AllHostileFiles();

/// The config.json that HostileSafetensors' honest file goes with.
inline constexpr std::string_view kTinyConfigJson = R"({"model_type":"llama","hidden_size":8,"intermediate_size":16,
"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,"vocab_size":8,"max_position_embeddings":64,
"rms_norm_eps":1e-5,"tie_word_embeddings":true})";

}  // namespace baton
