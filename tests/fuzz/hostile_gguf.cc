#include <cmath>
#include <functional>
#include <optional>

#include "tests/fuzz/hostile_files.h"
#include "tests/support/gguf_builder.h"

namespace baton {
namespace {

using namespace testing_formats;  // NOLINT(google-build-using-namespace)

constexpr TinyShape kTiny{.hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 16, .vocab = 8, .layers = 1};
constexpr uint64_t kTop = uint64_t{1} << 63, kWrap = uint64_t{1} << 32;

GgufBuilder& AddTinyTokenizer(GgufBuilder& b) {
  b.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  b.Strings("tokenizer.ggml.tokens", {"<|im_start|>", "<|im_end|>", "a", "b", "ab", "c", "d", "e"});
  b.Array("tokenizer.ggml.token_type", 5, 8, Raw<int32_t>(3) + Raw<int32_t>(3) + Raw<int32_t>(1) + Raw<int32_t>(1) + Raw<int32_t>(1) + Raw<int32_t>(1) + Raw<int32_t>(1) + Raw<int32_t>(1));
  b.Strings("tokenizer.ggml.merges", {"a b"});
  return b.U32("tokenizer.ggml.bos_token_id", 0).U32("tokenizer.ggml.eos_token_id", 1);
}

/// A whole small model with `change` made to it.
std::string Whole(const std::function<void(GgufBuilder&)>& change = [](GgufBuilder&) {}, const TinyShape& shape = kTiny, const std::string& arch = "llama") {
  GgufBuilder b;
  AddTinyKeys(b, arch, shape);
  change(b);
  AddTinyTensors(b, arch, kTiny);
  return b.Build();
}

std::string WithTokenizer(const std::function<void(GgufBuilder&)>& change = [](GgufBuilder&) {}) {
  return Whole([&](GgufBuilder& b) {
    AddTinyTokenizer(b);
    change(b);
  });
}

/// One tensor's table entry over 64 bytes of data.
std::string Table(const std::vector<uint64_t>& dims, uint32_t type = 0, uint64_t offset = 0, size_t data = 64) {
  return GgufBuilder().RawTensor("t", dims, type, offset).Build() + std::string(data, 'x');
}

std::string Counts(std::optional<uint64_t> tensors, std::optional<uint64_t> values) {
  GgufBuilder b;
  b.tensor_count = tensors;
  b.value_count = values;
  return b.Build();
}

std::string Key(uint32_t type, const std::string& raw) { return GgufBuilder().Value("k", type, raw).Build(); }

TinyShape Shape(uint64_t TinyShape::*member, uint64_t value) {
  TinyShape shape = kTiny;
  shape.*member = value;
  return shape;
}

void AddContainers(std::vector<HostileFile>& out) {
  GgufBuilder other;
  other.magic = "GGML";
  out.push_back({"magic", other.Build()});
  for (const uint32_t version : {0u, 1u, 4u, 0x03000000u, UINT32_MAX}) {
    GgufBuilder b;
    b.version = version;
    out.push_back({"version_" + std::to_string(version), b.Build()});
  }
  for (const uint64_t n : {uint64_t{1} << 20, kWrap, kTop, UINT64_MAX}) {
    out.push_back({"tensor_count_" + std::to_string(n), Counts(n, std::nullopt)});
    out.push_back({"value_count_" + std::to_string(n), Counts(std::nullopt, n)});
    out.push_back({"string_length_" + std::to_string(n), Key(8, Raw(n) + "x")});
    out.push_back({"key_length_" + std::to_string(n), Counts(std::nullopt, 1).substr(0, 24) + Raw(n) + std::string(64, 'k')});
    for (const uint32_t type : {0u, 4u, 7u, 8u, 10u, 12u}) {
      out.push_back({"array_of_" + std::to_string(type) + "_" + std::to_string(n), Key(9, Raw(type) + Raw(n) + std::string(16, '\0'))});
    }
  }
  out.push_back({"array_of_arrays", Key(9, Raw<uint32_t>(9) + Raw<uint64_t>(1) + Raw<uint32_t>(9) + Raw<uint64_t>(1))});
  out.push_back({"value_type_unknown", Key(13, Raw<uint64_t>(0))});
  out.push_back({"element_type_unknown", Key(9, Raw<uint32_t>(UINT32_MAX) + Raw<uint64_t>(1) + Raw<uint64_t>(0))});
  out.push_back({"bool_of_two", Key(7, "\2")});
  out.push_back({"key_empty", GgufBuilder().Value("", 4, Raw<uint32_t>(1)).Build()});
  out.push_back({"key_twice", GgufBuilder().U32("k", 1).U32("k", 2).Build()});
  for (const uint32_t alignment : {0u, 3u, 33u}) out.push_back({"alignment_" + std::to_string(alignment), Whole([&](GgufBuilder& b) { b.U32("general.alignment", alignment); })});
  out.push_back({"alignment_past_file", Whole([](GgufBuilder& b) { b.U32("general.alignment", 1u << 31); })});
  out.push_back({"alignment_wide", Whole([](GgufBuilder& b) { b.Value("general.alignment", 10, Raw(kWrap)); })});
  out.push_back({"alignment_is_text", Whole([](GgufBuilder& b) { b.String("general.alignment", "32"); })});
}

void AddTables(std::vector<HostileFile>& out) {
  out.push_back({"no_dimensions", Table({})});
  out.push_back({"five_dimensions", Table({1, 1, 1, 1, 1})});
  out.push_back({"zero_dimension", Table({16, 0})});
  out.push_back({"negative_dimension", Table({UINT64_MAX})});
  out.push_back({"product_wraps_to_zero", Table({kWrap, kWrap})});
  out.push_back({"product_wraps_to_four", Table({kWrap + 1, kWrap, 1, 4})});
  out.push_back({"product_of_four_wraps", Table({65536, 65536, 65536, 65536})});
  out.push_back({"bytes_wrap", Table({uint64_t{1} << 62})});
  out.push_back({"bytes_wrap_after_padding", Table({(uint64_t{1} << 62) - 1})});
  out.push_back({"rows_wrap", Table({32, kTop / 32}, 8)});
  out.push_back({"larger_than_file", Table({1 << 20, 1 << 10})});
  out.push_back({"one_element_more_than_file", Table({17})});
  out.push_back({"block_cut", Table({33}, 8)});
  out.push_back({"type_unknown", Table({16}, 999)});
  out.push_back({"type_all_ones", Table({16}, UINT32_MAX)});
  out.push_back({"type_only_named", Table({256}, 16)});
  out.push_back({"offset_past_file", Table({4}, 0, 1 << 20)});
  out.push_back({"offset_wraps", Table({16}, 0, UINT64_MAX - 31)});
  out.push_back({"offset_negative", Table({16}, 0, kTop)});
  out.push_back({"offset_unaligned", Table({4}, 0, 4)});
  out.push_back({"overlap", GgufBuilder().RawTensor("a", {16}, 0, 0).RawTensor("b", {16}, 0, 32).Build() + std::string(96, 'x')});
  out.push_back({"tensor_twice", GgufBuilder().RawTensor("a", {8}, 0, 0).RawTensor("a", {8}, 0, 32).Build() + std::string(64, 'x')});
  out.push_back({"tensor_without_name", GgufBuilder().RawTensor("", {8}, 0, 0).Build() + std::string(32, 'x')});
  out.push_back({"tensor_name_long", GgufBuilder().RawTensor(std::string(4096, 'n'), {8}, 0, 0).Build() + std::string(32, 'x')});
  // Sizes that sum past 64 bits: each passes alone where only the sum is checked.
  GgufBuilder many;
  for (int i = 0; i < 8; ++i) many.RawTensor("t" + std::to_string(i), {(kTop - 32) / 4}, 0, 0);
  out.push_back({"sum_of_sizes_wraps", many.Build() + std::string(64, 'x')});
}

void AddModels(std::vector<HostileFile>& out) {
  const auto key = [](const std::string& name, uint32_t value) { return Whole([&](GgufBuilder& b) { b.U32(name, value); }); };
  for (const auto& [name, member] : std::map<std::string, uint64_t TinyShape::*>{
           {"hidden", &TinyShape::hidden}, {"heads", &TinyShape::heads}, {"kv_heads", &TinyShape::kv_heads}, {"ffn", &TinyShape::ffn}}) {
    for (const uint64_t value : {uint64_t{0}, uint64_t{3}, uint64_t{UINT32_MAX}}) {
      out.push_back({name + "_" + std::to_string(value), Whole([](GgufBuilder&) {}, Shape(member, value))});
    }
  }
  for (const uint32_t layers : {0u, 2u, 1u << 31, UINT32_MAX}) {
    TinyShape shape = kTiny;
    shape.layers = layers;
    out.push_back({"layers_" + std::to_string(layers), Whole([](GgufBuilder&) {}, shape)});
  }
  for (const uint32_t length : {0u, 1u, 5u, UINT32_MAX}) out.push_back({"head_dim_" + std::to_string(length), key("llama.attention.key_length", length)});
  out.push_back({"rope_over_part", key("llama.rope.dimension_count", 2)});
  out.push_back({"experts", key("llama.expert_count", 8)});
  out.push_back({"end_token_past_vocabulary", key("tokenizer.ggml.eos_token_id", 8)});
  for (const float base : {0.f, -1.f, std::nanf(""), INFINITY}) out.push_back({"rope_base_" + std::to_string(base), Whole([&](GgufBuilder& b) { b.F32("llama.rope.freq_base", base); })});
  out.push_back({"heads_in_an_array_too_short", Whole([](GgufBuilder& b) { b.Array("llama.feed_forward_length", 4, 0, ""); })});
  out.push_back({"frequencies_of_wrong_size", Whole([](GgufBuilder& b) { b.Tensor("rope_freqs.weight", {1}, 0, FloatData(1)); })});
  out.push_back({"another_architecture", GgufBuilder().String("general.architecture", std::string(1000, '%')).Build()});
  for (const size_t part : {0, 3, 4, 8, 23, 24, 40, 200, 600, 1200}) out.push_back({"cut_at_" + std::to_string(part), Whole().substr(0, part)});
  std::string last = Whole();
  last.pop_back();
  out.push_back({"cut_at_last_byte", last});
}

/// The model in these is sound, its tokenizer is not: only the second must be refused, so these count as honest or not by
/// what OpenWeights says.
void AddTokenizers(std::vector<HostileFile>& out) {
  out.push_back({"honest", WithTokenizer(), true});
  out.push_back({"honest_qwen2", Whole([](GgufBuilder&) {}, kTiny, "qwen2"), true});
  const auto tokens = [](const std::vector<std::string>& texts) {
    return Whole([&](GgufBuilder& b) { b.String("tokenizer.ggml.model", "llama").Strings("tokenizer.ggml.tokens", texts); });
  };
  const std::vector<std::string> eight(8, "t");
  out.push_back({"tokens_all_equal", tokens(eight), true});
  out.push_back({"token_of_a_megabyte", tokens({std::string(1 << 20, 'a'), "b", "c", "d", "e", "f", "g", "h"}), true});
  out.push_back({"tokens_no_text", tokens({"\xFF", "\xC0\x80", "\xED\xA0\x80", "<0xZZ>", "<0x>", "", "", "<0x100>"}), true});
  out.push_back({"more_tokens_than_rows", tokens(std::vector<std::string>(9, "t"))});
  out.push_back({"scores_too_few", WithTokenizer([](GgufBuilder& b) { b.Array("tokenizer.ggml.scores", 6, 1, Raw(1.f)); }), true});
  out.push_back({"added_token_flag_is_a_number", WithTokenizer([](GgufBuilder& b) { b.U32("tokenizer.ggml.add_bos_token", 1); }), true});
  out.push_back({"template_deep", WithTokenizer([](GgufBuilder& b) { b.String("tokenizer.chat_template", std::string(5000, '{')); }), true});
  out.push_back({"unknown_pre", Whole([](GgufBuilder& b) {
                   b.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "nobody").Strings("tokenizer.ggml.tokens", std::vector<std::string>(8, "t"));
                 }),
                 true});
}

}  // namespace

std::vector<HostileFile> HostileGguf() {
  std::vector<HostileFile> out;
  AddContainers(out);
  AddTables(out);
  AddModels(out);
  AddTokenizers(out);
  return out;
}

}  // namespace baton
