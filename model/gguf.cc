#include "model/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace baton {
namespace {

constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxKeyBytes = 65535;       // the format's own limit
constexpr uint64_t kMaxTensorNameBytes = 255;  // ggml stops at 63; some writers do not
// The least a metadata entry (key length, one byte of key, type, one byte) or tensor entry can take
// in the file.
constexpr uint64_t kMinValueBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

struct TypeInfo {
  std::string_view name;
  uint32_t bytes;  // of one element; 0 for strings and arrays
};
constexpr std::array<TypeInfo, 13> kTypes = {{{"u8", 1},
                                              {"i8", 1},
                                              {"u16", 2},
                                              {"i16", 2},
                                              {"u32", 4},
                                              {"i32", 4},
                                              {"f32", 4},
                                              {"bool", 1},
                                              {"string", 0},
                                              {"array", 0},
                                              {"u64", 8},
                                              {"i64", 8},
                                              {"f64", 8}}};

template <typename T>
T Load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

bool IsInteger(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kU16:
    case GgufType::kI16:
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kU64:
    case GgufType::kI64:
      return true;
    default:
      return false;
  }
}

/// An integer element; nullopt for a u64 above the largest i64.
std::optional<int64_t> LoadInt(GgufType type, const std::byte* data) {
  switch (type) {
    case GgufType::kU8:
      return Load<uint8_t>(data);
    case GgufType::kI8:
      return Load<int8_t>(data);
    case GgufType::kU16:
      return Load<uint16_t>(data);
    case GgufType::kI16:
      return Load<int16_t>(data);
    case GgufType::kU32:
      return Load<uint32_t>(data);
    case GgufType::kI32:
      return Load<int32_t>(data);
    case GgufType::kI64:
      return Load<int64_t>(data);
    case GgufType::kU64: {
      const auto value = Load<uint64_t>(data);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

std::string_view GgufTypeName(GgufType type) {
  const auto index = static_cast<size_t>(type);
  return index < kTypes.size() ? kTypes[index].name : "unknown";
}

/// A cursor that cannot pass the end. A false return leaves the position where it was.
struct GgufFile::Reader {
  Bytes bytes;
  uint64_t position = 0;

  uint64_t remaining() const { return bytes.size() - position; }
  bool Take(uint64_t n, Bytes* out) {
    if (n > remaining()) return false;
    *out = bytes.subspan(position, n);
    position += n;
    return true;
  }
  template <typename T>
  bool Read(T* out) {
    Bytes raw;
    if (!Take(sizeof(T), &raw)) return false;
    *out = Load<T>(raw.data());
    return true;
  }
  bool ReadString(std::string_view* out) {
    const uint64_t start = position;
    uint64_t length = 0;
    Bytes raw;
    if (!Read(&length)) return false;
    if (!Take(length, &raw)) {
      position = start;
      return false;
    }
    *out = AsText(raw);
    return true;
  }
};

struct GgufFile::TensorInfo {
  GgufTensor tensor;
  uint64_t offset = 0, size = 0;  // offset from the start of the data section
};

Result<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapped, MappedFile::Open(path));
  ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, Parse(mapped->bytes(), path));
  file->file_ = std::move(mapped);
  return file;
}

Result<std::unique_ptr<GgufFile>> GgufFile::Parse(Bytes bytes, const std::string& path) {
  std::unique_ptr<GgufFile> file(new GgufFile());
  file->path_ = path;
  RETURN_IF_ERROR(file->ParseAll(bytes).WithContext(path));
  return file;
}

Status GgufFile::ParseAll(Bytes bytes) {
  Reader reader{bytes};
  Bytes magic;
  if (!reader.Take(4, &magic) || AsText(magic) != "GGUF")
    return InvalidError("not a GGUF file (no 'GGUF' at its start)");
  uint64_t tensor_count = 0, value_count = 0;
  if (!reader.Read(&version_)) return InvalidError("truncated in the GGUF header");
  if (version_ != 2 && version_ != 3) {
    if ((version_ & 0xffff) == 0)
      return InvalidError("GGUF is big-endian; convert it to little-endian");
    return InvalidError("GGUF version {} is not supported; versions 2 and 3 are", version_);
  }
  if (!reader.Read(&tensor_count) || !reader.Read(&value_count))
    return InvalidError("truncated in the GGUF header");
  RETURN_IF_ERROR(ParseValues(reader, value_count));
  RETURN_IF_ERROR(ParseAlignment());
  return ParseTensors(reader, tensor_count, bytes);
}

Status GgufFile::ParseValues(Reader& reader, uint64_t count) {
  if (count > reader.remaining() / kMinValueBytes) {
    return InvalidError("{} metadata entries cannot fit in the {} bytes left", count,
                        reader.remaining());
  }
  for (uint64_t i = 0; i < count; ++i) {
    std::string_view key;
    if (!reader.ReadString(&key))
      return InvalidError("key {} of {} runs past the end of the file", i, count);
    if (key.empty() || key.size() > kMaxKeyBytes) {
      return InvalidError("key {} of {} has {} bytes; 1 to {} are allowed", i, count, key.size(),
                          kMaxKeyBytes);
    }
    ASSIGN_OR_RETURN(const Value value, ParseValue(reader, key));
    if (!values_.emplace(key, value).second)
      return InvalidError("key '{}' occurs twice", Printable(key));
  }
  return OkStatus();
}

Result<GgufFile::Value> GgufFile::ParseValue(Reader& reader, std::string_view key) const {
  const auto past_end = [&] {
    return InvalidError("the value of key '{}' runs past the end of the file", Printable(key));
  };
  uint32_t type = 0;
  Value value;
  if (!reader.Read(&type)) return past_end();
  if (type == static_cast<uint32_t>(GgufType::kArray)) {
    value.is_array = true;
    if (!reader.Read(&type) || !reader.Read(&value.count)) return past_end();
    if (type == static_cast<uint32_t>(GgufType::kArray)) {
      return InvalidError("key '{}' is an array of arrays, which is not supported", Printable(key));
    }
  }
  if (type >= kTypes.size())
    return InvalidError("key '{}' has the unknown value type {}", Printable(key), type);
  value.type = static_cast<GgufType>(type);
  if (value.type == GgufType::kString) {
    // Each string takes its length prefix at least, so the loop below is bounded by the file.
    if (value.count > reader.remaining() / 8) return past_end();
    const uint64_t start = reader.position;
    std::string_view text;
    for (uint64_t i = 0; i < value.count; ++i) {
      if (!reader.ReadString(&text)) return past_end();
    }
    value.payload = reader.bytes.subspan(start, reader.position - start);
    return value;
  }
  uint64_t size = 0;
  if (!CheckedMul<uint64_t>(value.count, kTypes[type].bytes, &size) ||
      !reader.Take(size, &value.payload))
    return past_end();
  if (value.type == GgufType::kBool) {
    const bool bits = std::all_of(value.payload.begin(), value.payload.end(),
                                  [](std::byte b) { return b <= std::byte{1}; });
    if (!bits) return InvalidError("key '{}' has a bool that is neither 0 nor 1", Printable(key));
  }
  return value;
}

Status GgufFile::ParseAlignment() {
  if (!Has("general.alignment")) return OkStatus();
  ASSIGN_OR_RETURN(const uint64_t alignment, GetUint("general.alignment"));
  if (alignment > UINT32_MAX || !std::has_single_bit(alignment)) {
    return InvalidError("general.alignment is {}; it must be a power of two below 2^32", alignment);
  }
  alignment_ = static_cast<uint32_t>(alignment);
  return OkStatus();
}

Result<GgufFile::TensorInfo> GgufFile::ParseTensorInfo(Reader& reader) {
  TensorInfo info;
  std::string_view& name = info.tensor.name;
  if (!reader.ReadString(&name)) return InvalidError("its name runs past the end of the file");
  if (name.empty() || name.size() > kMaxTensorNameBytes) {
    return InvalidError("its name has {} bytes; 1 to {} are allowed", name.size(),
                        kMaxTensorNameBytes);
  }
  const std::string label = Printable(name);
  uint32_t dims = 0, type = 0;
  if (!reader.Read(&dims)) return InvalidError("'{}' runs past the end of the file", label);
  if (dims == 0 || dims > kMaxDims)
    return InvalidError("'{}' has {} dimensions; 1 to {} are allowed", label, dims, kMaxDims);
  info.tensor.shape.resize(dims);
  uint64_t elements = 1;
  for (uint32_t d = 0; d < dims; ++d) {
    uint64_t& extent = info.tensor.shape[dims - 1 - d];
    if (!reader.Read(&extent)) return InvalidError("'{}' runs past the end of the file", label);
    if (extent == 0) return InvalidError("'{}' has an empty dimension", label);
    if (!CheckedMul(elements, extent, &elements) || elements > static_cast<uint64_t>(INT64_MAX)) {
      return InvalidError("'{}' has more elements than 63 bits can count", label);
    }
  }
  if (!reader.Read(&type) || !reader.Read(&info.offset))
    return InvalidError("'{}' runs past the end of the file", label);
  const TensorTypeInfo* format = FindTensorType(type);
  if (format == nullptr) {
    return InvalidError(
        "'{}' has the unsupported type {}; requantise the model, for example to Q8_0 or Q4_K_M",
        label, TensorTypeName(type));
  }
  info.tensor.type = static_cast<TensorType>(type);
  if (info.tensor.shape.back() % format->block_elements != 0) {
    return InvalidError("'{}' has rows of {} elements, which is no multiple of {}'s block of {}",
                        label, info.tensor.shape.back(), format->name, format->block_elements);
  }
  if (!CheckedMul<uint64_t>(elements / format->block_elements, format->block_bytes, &info.size)) {
    return InvalidError("'{}' is larger than 64 bits can count", label);
  }
  return info;
}

Status GgufFile::ParseTensors(Reader& reader, uint64_t count, Bytes bytes) {
  if (count > reader.remaining() / kMinTensorBytes) {
    return InvalidError("{} tensors cannot fit in the {} bytes left", count, reader.remaining());
  }
  std::vector<TensorInfo> infos;
  for (uint64_t i = 0; i < count; ++i) {
    Result<TensorInfo> info = ParseTensorInfo(reader);
    if (!info.ok()) return info.status().WithContext(fmt::format("tensor {} of {}", i, count));
    infos.push_back(std::move(info).value());
  }
  // position <= 2^63 and alignment < 2^32: no overflow. Without tensors the padding may be missing.
  const uint64_t start = RoundUp(reader.position, alignment_);
  if (count != 0 && start > bytes.size()) return InvalidError("truncated before the tensor data");
  for (TensorInfo& info : infos) {
    const std::string label = Printable(info.tensor.name);
    if (info.offset % alignment_ != 0) {
      return InvalidError(
          "tensor '{}' starts at offset {}, which is no multiple of the alignment {}", label,
          info.offset, alignment_);
    }
    const uint64_t room = bytes.size() - start;
    if (info.offset > room || info.size > room - info.offset) {
      return InvalidError(
          "tensor '{}' of {} bytes at offset {} runs past the {} bytes of tensor data; is the file "
          "truncated?",
          label, info.size, info.offset, room);
    }
    info.tensor.data = bytes.subspan(start + info.offset, info.size);
    if (!tensor_index_.emplace(info.tensor.name, tensors_.size()).second)
      return InvalidError("tensor '{}' occurs twice", label);
    tensors_.push_back(std::move(info.tensor));
  }
  return CheckOverlaps();
}

Status GgufFile::CheckOverlaps() const {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& tensor : tensors_) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) {
    return a->data.data() < b->data.data();
  });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->data.data() + order[i - 1]->data.size() > order[i]->data.data()) {
      return InvalidError("tensors '{}' and '{}' overlap", Printable(order[i - 1]->name),
                          Printable(order[i]->name));
    }
  }
  return OkStatus();
}

std::vector<std::string_view> GgufFile::Keys() const {
  std::vector<std::string_view> keys;
  for (const auto& [key, value] : values_) keys.push_back(key);
  return keys;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

Status GgufFile::WrongType(std::string_view key, const Value& value,
                           std::string_view wanted) const {
  return InvalidError("{}: key '{}' is {}{}, not {}", path_, Printable(key),
                      value.is_array ? "an array of " : "", GgufTypeName(value.type), wanted);
}

Result<const GgufFile::Value*> GgufFile::FindValue(std::string_view key, bool is_array,
                                                   std::string_view wanted) const {
  const auto it = values_.find(key);
  if (it == values_.end()) return NotFoundError("{}: there is no key '{}'", path_, Printable(key));
  if (it->second.is_array != is_array) return WrongType(key, it->second, wanted);
  return &it->second;
}

Result<std::string_view> GgufFile::GetString(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, false, "a string"));
  if (value->type != GgufType::kString) return WrongType(key, *value, "a string");
  return AsText(value->payload.subspan(8));
}

Result<uint64_t> GgufFile::GetUint(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, false, "an integer"));
  if (value->type == GgufType::kU64) return Load<uint64_t>(value->payload.data());
  ASSIGN_OR_RETURN(const int64_t number, GetInt(key));
  if (number < 0)
    return InvalidError("{}: key '{}' is {}, which must not be negative", path_, Printable(key),
                        number);
  return static_cast<uint64_t>(number);
}

Result<int64_t> GgufFile::GetInt(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, false, "an integer"));
  if (!IsInteger(value->type)) return WrongType(key, *value, "an integer");
  const std::optional<int64_t> number = LoadInt(value->type, value->payload.data());
  if (!number) return InvalidError("{}: key '{}' does not fit in 63 bits", path_, Printable(key));
  return *number;
}

Result<double> GgufFile::GetFloat(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, false, "a float"));
  if (value->type == GgufType::kF32) return double{Load<float>(value->payload.data())};
  if (value->type == GgufType::kF64) return Load<double>(value->payload.data());
  return WrongType(key, *value, "a float");
}

Result<bool> GgufFile::GetBool(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, false, "a bool"));
  if (value->type != GgufType::kBool) return WrongType(key, *value, "a bool");
  return value->payload[0] == std::byte{1};
}

Result<std::vector<std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, true, "an array of strings"));
  if (value->type != GgufType::kString) return WrongType(key, *value, "an array of strings");
  std::vector<std::string_view> out(value->count);
  Reader reader{value->payload};
  for (std::string_view& text : out)
    CHECK(reader.ReadString(&text));  // ParseValue walked the same bytes
  return out;
}

Result<std::vector<int64_t>> GgufFile::GetInts(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, true, "an array of integers"));
  if (!IsInteger(value->type)) return WrongType(key, *value, "an array of integers");
  std::vector<int64_t> out(value->count);
  const size_t step = kTypes[static_cast<size_t>(value->type)].bytes;
  for (size_t i = 0; i < out.size(); ++i) {
    const std::optional<int64_t> number = LoadInt(value->type, value->payload.data() + i * step);
    if (!number)
      return InvalidError("{}: element {} of key '{}' does not fit in 63 bits", path_, i,
                          Printable(key));
    out[i] = *number;
  }
  return out;
}

Result<std::vector<float>> GgufFile::GetFloats(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, true, "an array of floats"));
  std::vector<float> out(value->count);
  const std::byte* data = value->payload.data();
  if (value->type == GgufType::kF32) {
    if (!out.empty()) std::memcpy(out.data(), data, out.size() * sizeof(float));
  } else if (value->type == GgufType::kF64) {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<float>(Load<double>(data + i * sizeof(double)));
  } else {
    return WrongType(key, *value, "an array of floats");
  }
  return out;
}

Result<uint64_t> GgufFile::GetCount(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, FindValue(key, true, "an array"));
  return value->count;
}

}  // namespace baton
