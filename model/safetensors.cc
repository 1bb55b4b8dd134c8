#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

namespace baton {
namespace {

struct TypeInfo {
  std::string_view name;
  uint32_t bytes;
};
constexpr std::array<TypeInfo, 15> kTypes = {{{"BOOL", 1},
                                              {"U8", 1},
                                              {"I8", 1},
                                              {"F8_E4M3", 1},
                                              {"F8_E5M2", 1},
                                              {"I16", 2},
                                              {"U16", 2},
                                              {"F16", 2},
                                              {"BF16", 2},
                                              {"I32", 4},
                                              {"U32", 4},
                                              {"F32", 4},
                                              {"F64", 8},
                                              {"I64", 8},
                                              {"U64", 8}}};
constexpr size_t kMaxDims = 16;
constexpr std::string_view kMetadataKey = "__metadata__";

std::optional<SafetensorsType> FindType(std::string_view name) {
  for (size_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes[i].name == name) return static_cast<SafetensorsType>(i);
  }
  return std::nullopt;
}

struct HeaderTensor {
  SafetensorsTensor tensor;
  std::vector<uint64_t> offsets;
  bool has_type = false, has_shape = false;
};

/// Builds the table straight from the parser's events. A document tree would cost many times the
/// header, drop duplicate keys silently and allow any nesting; here everything but the one legal
/// shape stops the parse with a reason.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<HeaderTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool null() override { return Fail("a null is out of place"); }
  bool boolean(bool) override { return Fail("a boolean is out of place"); }
  bool number_integer(number_integer_t) override {
    return Fail("a negative number is out of place");
  }
  bool number_float(number_float_t, const string_t&) override {
    return Fail("a number is not an integer of at most 64 bits");
  }
  bool binary(binary_t&) override { return Fail("binary data is out of place"); }
  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::kShape) {
      if (tensors.back().tensor.shape.size() == kMaxDims)
        return Fail("there are more than 16 dimensions");
      tensors.back().tensor.shape.push_back(value);
      return true;
    }
    if (state_ == State::kOffsets) {
      if (tensors.back().offsets.size() == 2) return Fail("data_offsets has more than two numbers");
      tensors.back().offsets.push_back(value);
      return true;
    }
    return Fail("a number is out of place");
  }
  bool string(string_t& value) override {
    if (state_ == State::kMetadata) {
      metadata[key_] = value;
      return true;
    }
    if (state_ != State::kTensor || key_ != "dtype") return Fail("a string is out of place");
    const std::optional<SafetensorsType> type = FindType(value);
    if (!type) return Fail(fmt::format("the dtype '{}' is unknown", Printable(value)));
    tensors.back().tensor.type = *type;
    tensors.back().has_type = true;
    return true;
  }
  bool start_object(std::size_t) override {
    if (state_ == State::kStart) {
      state_ = State::kTop;
      return true;
    }
    if (state_ != State::kTop) return Fail("an object is out of place");
    fields_.clear();
    if (key_ == kMetadataKey) {
      state_ = State::kMetadata;
    } else {
      state_ = State::kTensor;
      tensors.emplace_back().tensor.name = key_;
    }
    return true;
  }
  bool key(string_t& name) override {
    if (state_ == State::kTop) {
      key_ = name;
      if (!names_.insert(name).second) return Fail("the name occurs twice");
      where_ = name;
      return true;
    }
    key_ = name;
    if (!fields_.insert(name).second)
      return Fail(fmt::format("the key '{}' occurs twice", Printable(name)));
    if (state_ == State::kTensor && name != "dtype" && name != "shape" && name != "data_offsets") {
      return Fail(fmt::format("the key '{}' is unknown", Printable(name)));
    }
    return true;
  }
  bool end_object() override {
    if (state_ == State::kTensor) {
      const HeaderTensor& last = tensors.back();
      if (!last.has_type || !last.has_shape || last.offsets.size() != 2)
        return Fail("dtype, shape or data_offsets is missing");
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }
  bool start_array(std::size_t) override {
    if (state_ != State::kTensor || key_ == "dtype") return Fail("an array is out of place");
    state_ = key_ == "shape" ? State::kShape : State::kOffsets;
    if (state_ == State::kShape) tensors.back().has_shape = true;
    return true;
  }
  bool end_array() override {
    state_ = State::kTensor;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    if (error.empty()) error = fmt::format("the header is not valid JSON near byte {}", position);
    return false;
  }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool Fail(const std::string& reason) {
    error = where_.empty() ? reason : fmt::format("'{}': {}", Printable(where_), reason);
    return false;
  }

  State state_ = State::kStart;
  std::string key_, where_;
  std::set<std::string> names_, fields_;
};

Result<uint64_t> ByteSize(const SafetensorsTensor& tensor) {
  uint64_t size = SafetensorsTypeBytes(tensor.type);
  for (const uint64_t extent : tensor.shape) {
    if (!CheckedMul(size, extent, &size))
      return InvalidError("'{}': the shape overflows 64 bits", Printable(tensor.name));
  }
  return size;
}

}  // namespace

std::string_view SafetensorsTypeName(SafetensorsType type) {
  return kTypes[static_cast<size_t>(type)].name;
}
uint32_t SafetensorsTypeBytes(SafetensorsType type) {
  return kTypes[static_cast<size_t>(type)].bytes;
}

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapped, MappedFile::Open(path));
  ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, Parse(mapped->bytes(), path));
  file->file_ = std::move(mapped);
  return file;
}

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Parse(Bytes bytes,
                                                                const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile());
  file->path_ = path;
  RETURN_IF_ERROR(file->ParseAll(bytes).WithContext(path));
  return file;
}

Status SafetensorsFile::ParseAll(Bytes bytes) {
  uint64_t length = 0;
  if (bytes.size() < sizeof length)
    return InvalidError("{} bytes are too few for a safetensors file", bytes.size());
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMaxHeaderBytes)
    return InvalidError("the header claims {} bytes; at most {} are allowed", length,
                        kMaxHeaderBytes);
  if (length > bytes.size() - sizeof length) {
    return InvalidError("the header claims {} bytes and the file has {} after the length", length,
                        bytes.size() - sizeof length);
  }
  const std::string_view header = AsText(bytes.subspan(sizeof length, length));
  if (header.empty() || header.front() != '{')
    return InvalidError("the header does not begin with '{{'");
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler))
    return InvalidError("{}", handler.error);
  metadata_ = std::move(handler.metadata);

  std::sort(handler.tensors.begin(), handler.tensors.end(),
            [](const HeaderTensor& a, const HeaderTensor& b) { return a.offsets < b.offsets; });
  const Bytes data = bytes.subspan(sizeof length + length);
  uint64_t expected = 0;
  for (HeaderTensor& entry : handler.tensors) {
    const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
    const std::string label = Printable(entry.tensor.name);
    if (begin > end || end > data.size()) {
      return InvalidError(
          "'{}': bytes {} to {} are not inside the {} bytes of data; is the file truncated?", label,
          begin, end, data.size());
    }
    if (begin != expected)
      return InvalidError("'{}': its data begins at {}, not at {}: a gap or overlap", label, begin,
                          expected);
    ASSIGN_OR_RETURN(const uint64_t size, ByteSize(entry.tensor));
    if (size != end - begin) {
      return InvalidError("'{}': the shape needs {} bytes and data_offsets give {}", label, size,
                          end - begin);
    }
    entry.tensor.data = data.subspan(begin, size);
    expected = end;
    tensors_.push_back(std::move(entry.tensor));
  }
  if (expected != data.size())
    return InvalidError("{} bytes at the end belong to no tensor", data.size() - expected);
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
  return OkStatus();
}

const SafetensorsTensor* SafetensorsFile::Find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace baton
