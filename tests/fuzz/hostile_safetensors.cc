#include <cstring>

#include "tests/fuzz/hostile_files.h"

namespace baton {
namespace {

std::string File(uint64_t claimed, const std::string& header, size_t data) {
  std::string length(sizeof claimed, '\0');
  std::memcpy(length.data(), &claimed, sizeof claimed);
  return length + header + std::string(data, '\x3f');
}
std::string File(const std::string& header, size_t data) { return File(header.size(), header, data); }

std::string Entry(const std::string& name, const std::string& shape, const std::string& offsets, const std::string& dtype = R"("F32")") {
  return "\"" + name + R"(":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}
std::string One(const std::string& shape, const std::string& offsets, size_t data, const std::string& dtype = R"("F32")") {
  return File("{" + Entry("t", shape, offsets, dtype) + "}", data);
}

/// The weights of kTinyConfigJson.
std::string Honest() {
  const std::vector<std::pair<std::string, std::vector<size_t>>> tensors = {
      {"model.embed_tokens.weight", {8, 8}},
      {"model.norm.weight", {8}},
      {"model.layers.0.input_layernorm.weight", {8}},
      {"model.layers.0.self_attn.q_proj.weight", {8, 8}},
      {"model.layers.0.self_attn.k_proj.weight", {4, 8}},
      {"model.layers.0.self_attn.v_proj.weight", {4, 8}},
      {"model.layers.0.self_attn.o_proj.weight", {8, 8}},
      {"model.layers.0.post_attention_layernorm.weight", {8}},
      {"model.layers.0.mlp.gate_proj.weight", {16, 8}},
      {"model.layers.0.mlp.up_proj.weight", {16, 8}},
      {"model.layers.0.mlp.down_proj.weight", {8, 16}}};
  std::string header = R"({"__metadata__":{"format":"pt"})";
  size_t end = 0;
  for (const auto& [name, shape] : tensors) {
    size_t bytes = sizeof(float);
    std::string extents;
    for (const size_t extent : shape) {
      bytes *= extent;
      extents += (extents.empty() ? "[" : ",") + std::to_string(extent);
    }
    header += "," + Entry(name, extents + "]", "[" + std::to_string(end) + "," + std::to_string(end + bytes) + "]");
    end += bytes;
  }
  return File(header + "}", end);
}

}  // namespace

std::vector<HostileFile> HostileSafetensors() {
  const std::string wrap = "[4294967296,4294967296]";  // 2^64 elements: the product wraps to 0
  return {
      {"honest", Honest(), true},
      {"empty", ""},
      {"seven_bytes", "1234567"},
      {"header_past_file", File(100, "{}", 0)},
      {"header_past_limit", File(100'000'001, "{}", 0)},
      {"header_length_wraps", File(UINT64_MAX - 7, "{}", 0)},
      {"header_length_all_ones", File(UINT64_MAX, "{}", 0)},
      {"no_header", File("", 0)},
      {"header_of_spaces", File(std::string(64, ' '), 0)},
      {"header_cut", File("{\"t\":{\"dtype\":\"F3", 0)},
      {"deep_nesting", File(std::string(100000, '{'), 0)},
      {"deep_lists", File("{\"t\":" + std::string(100000, '['), 0)},
      {"shape_wraps_to_zero", One(wrap, "[0,0]", 0)},
      {"shape_wraps_with_type", One("[4611686018427387904]", "[0,0]", 0)},
      {"shape_of_all_ones", One("[18446744073709551615]", "[0,4]", 4)},
      {"shape_past_64_bits", One("[18446744073709551616]", "[0,4]", 4)},
      {"shape_negative", One("[-1]", "[0,4]", 4)},
      {"shape_float", One("[1.0]", "[0,4]", 4)},
      {"shape_exponent", One("[1e300]", "[0,4]", 4)},
      {"shape_bigger_than_range", One("[2]", "[0,4]", 4)},
      {"shape_of_many_dimensions", One("[" + std::string(2000, ' ') + "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]", 4)},
      {"range_backwards", One("[1]", "[4,0]", 4)},
      {"range_past_file", One("[1]", "[0,4]", 3)},
      {"range_wraps", One("[1]", "[18446744073709551612,0]", 4)},
      {"range_negative", One("[1]", "[-4,0]", 4)},
      {"range_of_one", One("[1]", "[0]", 4)},
      {"overlap", File("{" + Entry("a", "[1]", "[0,4]") + "," + Entry("b", "[1]", "[0,4]") + "}", 4)},
      {"gap", File("{" + Entry("a", "[1]", "[0,4]") + "," + Entry("b", "[1]", "[8,12]") + "}", 12)},
      {"trailing_bytes", One("[1]", "[0,4]", 5)},
      {"same_tensor_twice", File("{" + Entry("t", "[1]", "[0,4]") + "," + Entry("t", "[1]", "[4,8]") + "}", 8)},
      {"same_key_twice", File(R"({"t":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,8]}})", 8)},
      {"dtype_unknown", One("[8]", "[0,4]", 4, R"("F4")")},
      {"dtype_is_a_number", One("[1]", "[0,4]", 4, "6")},
      {"dtype_missing", File(R"({"t":{"shape":[1],"data_offsets":[0,4]}})", 4)},
      {"metadata_not_strings", File(R"({"__metadata__":{"a":1}})", 0)},
      {"metadata_is_a_list", File(R"({"__metadata__":[]})", 0)},
      {"name_no_text", File("{" + Entry("\xFF\xFE", "[1]", "[0,4]") + "}", 4)},
      {"name_escaped_surrogate", File("{" + Entry("\\ud800", "[1]", "[0,4]") + "}", 4)},
      {"after_the_end", File("{}{}", 0)},
  };
}

}  // namespace baton
