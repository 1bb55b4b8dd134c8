#include "app/dynamic_cache.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "app/json_input.h"
#include "gateway/json_text.h"
#include "model/quant.h"

namespace baton {
namespace {

using Json = nlohmann::json;

std::string TensorName(uint32_t layer, uint32_t which) { return fmt::format("layers.{}.{}", layer, which == 0 ? "key" : "value"); }

/// Of the metadata, what export writes itself; the rest travels with the blocks.
constexpr std::string_view kOwnMetadata[] = {"format", "version", "num_layers", "seq_length", "batch_size", "num_key_value_heads",
                                             "head_dim", "layout", "rope", "dtype", "token_ids"};

uint16_t FloatToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
}

float LoadElement(const std::byte* at, KvDtype dtype) {
  float f = 0;
  uint16_t h = 0;
  if (dtype == KvDtype::kF32) {
    std::memcpy(&f, at, sizeof f);
    return f;
  }
  std::memcpy(&h, at, sizeof h);
  return dtype == KvDtype::kF16 ? quant::HalfToFloat(h) : quant::Bf16ToFloat(h);
}

void StoreElement(std::byte* at, KvDtype dtype, float value) {
  if (dtype == KvDtype::kF32) {
    std::memcpy(at, &value, sizeof value);
    return;
  }
  const uint16_t h = dtype == KvDtype::kF16 ? quant::FloatToHalf(value) : FloatToBf16(value);
  std::memcpy(at, &h, sizeof h);
}

void ConvertElements(const std::byte* from, KvDtype from_type, std::byte* to, KvDtype to_type, size_t n) {
  if (from_type == to_type) {
    std::memcpy(to, from, n * KvElementBytes(to_type));
    return;
  }
  for (size_t i = 0; i < n; ++i) StoreElement(to + i * KvElementBytes(to_type), to_type, LoadElement(from + i * KvElementBytes(from_type), from_type));
}

Result<KvDtype> DtypeOf(const SafetensorsTensor& tensor) {
  if (tensor.type == SafetensorsType::kF32) return KvDtype::kF32;
  if (tensor.type == SafetensorsType::kF16) return KvDtype::kF16;
  if (tensor.type == SafetensorsType::kBF16) return KvDtype::kBf16;
  return InvalidError("tensor {} is {}; a cache is F32, F16 or BF16", tensor.name, SafetensorsTypeName(tensor.type));
}

Status CheckMetadata(const std::map<std::string, std::string>& metadata) {
  const std::pair<std::string_view, std::string_view> wanted[] = {
      {"format", "hf_dynamic_cache"}, {"version", "1"}, {"layout", "BHTD"}, {"rope", "applied"}, {"batch_size", "1"}};
  for (const auto& [name, value] : wanted) {
    const auto it = metadata.find(std::string(name));
    if (it == metadata.end()) {
      if (name == "batch_size" || name == "version") continue;
      return InvalidError("its metadata has no '{}' (wanted: {}); is it a DynamicCache written as Baton's documentation says?", name, value);
    }
    if (it->second != value) return InvalidError("its metadata says {}={}, only {} can be imported", name, it->second, value);
  }
  return OkStatus();
}

Status ReadTokenIds(const std::map<std::string, std::string>& metadata, DynamicCacheFile& out) {
  const auto it = metadata.find("token_ids");
  if (it == metadata.end()) return InvalidError("its metadata has no token_ids; without them no prefix can be found again");
  const auto ids = ParseJson(it->second);
  auto read = ids.ok() ? TokenIdsOf(*ids) : ids.status();
  if (!read.ok()) return read.status().WithContext("its metadata's token_ids");
  out.token_ids = std::move(*read);
  // generate() leaves the last token out of its cache
  if (out.token_ids.size() == size_t{out.tokens} + 1) out.token_ids.pop_back();
  if (out.token_ids.size() != out.tokens) return InvalidError("it has {} positions and {} token ids", out.tokens, out.token_ids.size());
  return OkStatus();
}

Status CheckTensors(DynamicCacheFile& out) {
  const SafetensorsTensor* first = out.file->Find("layers.0.key");
  if (first == nullptr) return InvalidError("it has no tensor layers.0.key");
  if (first->shape.size() != 4) return InvalidError("layers.0.key has {} dimensions, wanted [1, kv_heads, tokens, head_dim]", first->shape.size());
  const std::vector<uint64_t>& shape = first->shape;
  if (shape[0] != 1) return InvalidError("it holds a batch of {}; split it and import one sequence at a time", shape[0]);
  for (const uint64_t n : shape) {
    if (n == 0 || n > (1u << 24)) return InvalidError("layers.0.key has a dimension of {}", n);
  }
  ASSIGN_OR_RETURN(out.layout.dtype, DtypeOf(*first));
  out.layout.kv_heads = static_cast<uint32_t>(shape[1]);
  out.tokens = static_cast<uint32_t>(shape[2]);
  out.layout.head_dim = static_cast<uint32_t>(shape[3]);
  while (out.file->Find(TensorName(out.layout.layers, 0)) != nullptr) ++out.layout.layers;
  for (uint32_t part = 0; part < 2 * out.layout.layers; ++part) {
    const SafetensorsTensor* tensor = out.file->Find(TensorName(part / 2, part % 2));
    if (tensor == nullptr || tensor->shape != shape || tensor->type != first->type) {
      return InvalidError("{} is missing or has another shape or type than layers.0.key", TensorName(part / 2, part % 2));
    }
  }
  const auto& metadata = out.file->metadata();
  const auto layers = metadata.find("num_layers");
  if (layers != metadata.end() && layers->second != std::to_string(out.layout.layers)) {
    return InvalidError("its metadata says num_layers={}, it has {}", layers->second, out.layout.layers);
  }
  return OkStatus();
}

/// The rows of `position_ids` [3, tokens], or none.
Result<std::vector<std::vector<int32_t>>> PositionIds(const DynamicCacheFile& cache) {
  std::vector<std::vector<int32_t>> rows;
  const SafetensorsTensor* tensor = cache.file->Find("position_ids");
  if (tensor == nullptr) return rows;
  if (tensor->type != SafetensorsType::kI32 || tensor->shape != std::vector<uint64_t>{3, cache.tokens}) {
    return InvalidError("{}: position_ids must be I32 of shape [3, {}]", cache.file->path(), cache.tokens);
  }
  rows.resize(3, std::vector<int32_t>(cache.tokens));
  for (size_t r = 0; r < 3; ++r) std::memcpy(rows[r].data(), tensor->data.data() + r * cache.tokens * 4, size_t{cache.tokens} * 4);
  return rows;
}

/// The file's images as marks. It does not hold their digests, so its own bytes stand in: such blocks serve exports only.
std::vector<ImageMark> ImageMarks(const DynamicCacheFile& cache, const std::vector<std::vector<int32_t>>& positions) {
  if (positions.empty()) return {};
  size_t first = 0;
  while (first < cache.tokens && positions[0][first] == positions[1][first] && positions[1][first] == positions[2][first] &&
         positions[0][first] == static_cast<int32_t>(first)) {
    ++first;
  }
  if (first == cache.tokens) return {};
  return {{first, Sha256(cache.file->Find("layers.0.key")->data)}};
}

/// What a block carries unread, so that an export gives the same file again.
std::string ExtraOf(const DynamicCacheFile& cache, const std::vector<std::vector<int32_t>>& positions, size_t begin, size_t end) {
  Json extra = Json::object();
  for (const auto& [name, value] : cache.file->metadata()) {
    if (std::find(std::begin(kOwnMetadata), std::end(kOwnMetadata), name) == std::end(kOwnMetadata)) extra["metadata"][name] = value;
  }
  for (const auto& row : positions) {
    extra["position_ids"].push_back(std::vector<int32_t>(row.begin() + static_cast<long>(begin), row.begin() + static_cast<long>(end)));
  }
  return extra.empty() ? "" : extra.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void FillBlock(const DynamicCacheFile& cache, const KvLayout& layout, size_t begin, size_t tokens, std::byte* block) {
  const size_t file_vector = layout.head_dim * KvElementBytes(cache.layout.dtype);
  for (uint32_t part = 0; part < 2 * layout.layers; ++part) {
    const std::byte* from = cache.file->Find(TensorName(part / 2, part % 2))->data.data();
    for (uint32_t head = 0; head < layout.kv_heads; ++head) {
      ConvertElements(from + (size_t{head} * cache.tokens + begin) * file_vector, cache.layout.dtype,
                      block + layout.PartOffset(part / 2, part % 2) + layout.VectorOffset(head, 0), layout.dtype, tokens * layout.head_dim);
    }
  }
}

}  // namespace

Result<DynamicCacheFile> OpenDynamicCache(const std::string& path) {
  DynamicCacheFile out;
  ASSIGN_OR_RETURN(out.file, SafetensorsFile::Open(path));
  Status status = CheckMetadata(out.file->metadata());
  if (status.ok()) status = CheckTensors(out);
  if (status.ok()) status = ReadTokenIds(out.file->metadata(), out);
  if (!status.ok()) return status.WithContext(path);
  return out;
}

Result<std::vector<CacheBlock>> SplitDynamicCache(const DynamicCacheFile& cache, const StoreIdentity& identity, const KvLayout& layout) {
  const KvLayout& mine = cache.layout;
  if (mine.layers != layout.layers || mine.kv_heads != layout.kv_heads || mine.head_dim != layout.head_dim) {
    return InvalidError("{} has {} layers of {} heads of {}, the store's model {} of {} of {}; it is another model's cache", cache.file->path(),
                        mine.layers, mine.kv_heads, mine.head_dim, layout.layers, layout.kv_heads, layout.head_dim);
  }
  if (layout.dtype == KvDtype::kInt8) return InvalidError("a cache cannot be imported into an int8 store; use one of f16, bf16 or f32");
  ASSIGN_OR_RETURN(const auto positions, PositionIds(cache));
  const std::vector<ImageMark> images = ImageMarks(cache, positions);
  BlockKey parent = RootKey({identity.model_fingerprint, identity.kv_layout, identity.numerics, ""});
  std::vector<CacheBlock> blocks;
  for (size_t begin = 0; begin < cache.tokens; begin += layout.block_tokens) {
    const size_t end = std::min<size_t>(begin + layout.block_tokens, cache.tokens);
    CacheBlock block;
    block.bytes.resize(layout.BlockBytes());
    FillBlock(cache, layout, begin, end - begin, block.bytes.data());
    BlockHeader& h = block.header;
    h.parent = parent;
    h.depth = static_cast<uint32_t>(blocks.size());
    h.tokens = static_cast<uint32_t>(end - begin);
    h.token_ids.assign(cache.token_ids.begin() + static_cast<long>(begin), cache.token_ids.begin() + static_cast<long>(end));
    std::vector<Digest256> inside;
    for (const ImageMark& image : images) {
      if (image.first_token >= begin && image.first_token < end) inside.push_back(image.digest);
    }
    h.key = NextKey(parent, h.token_ids, inside);
    h.digest = Xxh3(block.bytes);
    h.extra = ExtraOf(cache, positions, begin, end);
    if (h.extra.size() > BlockHeader::kMaxExtraBytes) {
      return InvalidError("{}: its other metadata takes {} bytes, a block carries {}; leave some of it out", cache.file->path(), h.extra.size(), BlockHeader::kMaxExtraBytes);
    }
    parent = h.key;
    blocks.push_back(std::move(block));
  }
  return blocks;
}

namespace {

/// [kv_heads][tokens][head_dim] of one part of the chain, as `dtype`.
std::vector<std::byte> JoinPart(std::span<const StoredBlock> chain, const KvLayout& layout, KvDtype dtype, size_t tokens, uint32_t part) {
  const size_t out_vector = layout.head_dim * KvElementBytes(dtype);
  std::vector<std::byte> out(layout.kv_heads * tokens * out_vector);
  size_t begin = 0;
  for (const StoredBlock& block : chain) {
    const std::byte* from = block.bytes.data() + layout.PartOffset(part / 2, part % 2);
    for (uint32_t head = 0; head < layout.kv_heads; ++head) {
      for (uint32_t t = 0; t < block.header.tokens; ++t) {
        const std::byte* vector = from + layout.VectorOffset(head, t);
        std::byte* to = out.data() + (head * tokens + begin + t) * out_vector;
        if (layout.dtype != KvDtype::kInt8) {
          std::memcpy(to, vector, out_vector);
          continue;
        }
        float scale = 0;
        std::memcpy(&scale, from + layout.ScaleOffset(head, t), sizeof scale);
        for (uint32_t d = 0; d < layout.head_dim; ++d) {
          StoreElement(to + d * 4, KvDtype::kF32, static_cast<float>(static_cast<int8_t>(vector[d])) * scale);
        }
      }
    }
    begin += block.header.tokens;
  }
  return out;
}

Status CheckChain(std::span<const StoredBlock> chain, const KvLayout& layout) {
  for (size_t i = 0; i < chain.size(); ++i) {
    const BlockHeader& h = chain[i].header;
    if (chain[i].bytes.size() != layout.BlockBytes()) {
      return InvalidError("block {} has {} bytes, the layout's blocks have {}", h.key.ToHex(), chain[i].bytes.size(), layout.BlockBytes());
    }
    if (h.tokens > layout.block_tokens || h.token_ids.size() != h.tokens) {
      return InvalidError("block {} does not name the ids of its {} tokens", h.key.ToHex(), h.tokens);
    }
    if (i + 1 < chain.size() && h.tokens != layout.block_tokens) return InvalidError("block {} is short, but not the last", h.key.ToHex());
  }
  return chain.empty() ? InvalidError("an empty chain cannot be exported") : OkStatus();
}

void AddExtras(std::span<const StoredBlock> chain, std::map<std::string, std::string>& metadata, std::vector<std::vector<int32_t>>& positions) {
  for (const StoredBlock& block : chain) {
    const Json extra = Json::parse(block.header.extra, nullptr, false);
    if (!extra.is_object()) continue;
    if (const auto it = extra.find("metadata"); it != extra.end() && it->is_object()) {
      for (const auto& [name, value] : it->items()) {
        if (value.is_string()) metadata[name] = value.get<std::string>();
      }
    }
    const auto rows = extra.find("position_ids");
    if (rows == extra.end() || !rows->is_array() || rows->size() != 3) continue;
    positions.resize(3);
    for (size_t r = 0; r < 3; ++r) {
      for (const Json& p : (*rows)[r]) {
        if (p.is_number_integer()) positions[r].push_back(p.get<int32_t>());
      }
    }
  }
}

}  // namespace

Status WriteDynamicCache(const std::string& path, std::span<const StoredBlock> chain, const KvLayout& layout, const std::string& model_name) {
  RETURN_IF_ERROR(CheckChain(chain, layout));
  const KvDtype dtype = layout.dtype == KvDtype::kInt8 ? KvDtype::kF32 : layout.dtype;
  std::vector<TokenId> ids;
  for (const StoredBlock& block : chain) ids.insert(ids.end(), block.header.token_ids.begin(), block.header.token_ids.end());
  const size_t tokens = ids.size();
  const SafetensorsType type = dtype == KvDtype::kF32   ? SafetensorsType::kF32
                               : dtype == KvDtype::kF16 ? SafetensorsType::kF16
                                                        : SafetensorsType::kBF16;
  std::map<std::string, std::string> metadata = {
      {"format", "hf_dynamic_cache"}, {"version", "1"}, {"layout", "BHTD"}, {"rope", "applied"}, {"batch_size", "1"},
      {"num_layers", std::to_string(layout.layers)}, {"seq_length", std::to_string(tokens)},
      {"num_key_value_heads", std::to_string(layout.kv_heads)}, {"head_dim", std::to_string(layout.head_dim)},
      {"dtype", dtype == KvDtype::kF32 ? "float32" : dtype == KvDtype::kF16 ? "float16" : "bfloat16"},
      {"token_ids", Json(ids).dump()}, {"model", model_name}};
  std::vector<std::vector<int32_t>> positions;
  AddExtras(chain, metadata, positions);
  std::vector<std::vector<std::byte>> parts;
  std::vector<SafetensorsTensor> tensors;
  for (uint32_t part = 0; part < 2 * layout.layers; ++part) {
    parts.push_back(JoinPart(chain, layout, dtype, tokens, part));
    tensors.push_back({TensorName(part / 2, part % 2), type, {1, layout.kv_heads, tokens, layout.head_dim}, parts.back()});
  }
  std::vector<int32_t> flat;
  for (const auto& row : positions) flat.insert(flat.end(), row.begin(), row.end());
  if (flat.size() == 3 * tokens) tensors.push_back({"position_ids", SafetensorsType::kI32, {3, tokens}, std::as_bytes(std::span(flat))});
  return WriteSafetensors(path, tensors, metadata);
}

}  // namespace baton
