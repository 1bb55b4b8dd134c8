// The GGUF container, versions 2 and 3, little-endian: typed metadata by key and a table of tensors
// whose data stays mapped. Every count, length and offset is checked against the file's size before
// use, so what a file claims never decides how much memory is taken: it stays within a small
// multiple of the file's size. Thread: read-only after Open, so any. Views and spans live as long
// as the GgufFile.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "model/mapped_file.h"
#include "model/weights.h"

namespace baton {

/// GGUF's value types, as stored.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
std::string_view GgufTypeName(GgufType type);

struct GgufTensor {
  std::string_view name;
  TensorType type = TensorType::kF32;
  std::vector<uint64_t>
      shape;   // outermost first, the reverse of the file's order; 1 to 4 dimensions, none zero
  Bytes data;  // exactly the tensor's bytes
};

class GgufFile {
 public:
  /// Maps and checks a file. Errors: kNotFound, kUnavailable, kInvalid (path, the key or tensor,
  /// the reason).
  static Result<std::unique_ptr<GgufFile>> Open(const std::string& path);
  /// The same on bytes that the caller keeps alive; `path` is only for messages.
  static Result<std::unique_ptr<GgufFile>> Parse(Bytes bytes, const std::string& path);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  uint32_t alignment() const { return alignment_; }

  /// True where the key exists, whatever its type.
  bool Has(std::string_view key) const { return values_.count(key) != 0; }
  std::vector<std::string_view> Keys() const;

  // Each getter: kNotFound where the key is absent, kInvalid where the value has another type or
  // does not fit.
  Result<std::string_view> GetString(std::string_view key) const;
  Result<uint64_t> GetUint(std::string_view key) const;  // any integer type, not negative
  Result<int64_t> GetInt(std::string_view key) const;    // any integer type
  Result<double> GetFloat(std::string_view key) const;   // f32 or f64
  Result<bool> GetBool(std::string_view key) const;
  Result<std::vector<std::string_view>> GetStrings(std::string_view key) const;
  Result<std::vector<int64_t>> GetInts(std::string_view key) const;  // array of any integer type
  Result<std::vector<float>> GetFloats(std::string_view key) const;  // array of f32 or f64
  /// The number of elements of an array value.
  Result<uint64_t> GetCount(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in file order
  /// Null when there is none of that name (GGUF's name, such as "blk.0.attn_q.weight").
  const GgufTensor* FindTensor(std::string_view name) const;

 private:
  struct Value {
    GgufType type = GgufType::kU8;  // of the elements when is_array
    bool is_array = false;
    uint64_t count = 1;
    Bytes payload;  // elements; strings with their length prefixes
  };
  struct Reader;
  struct TensorInfo;

  GgufFile() = default;
  Status ParseAll(Bytes bytes);
  Status ParseValues(Reader& reader, uint64_t count);
  Result<Value> ParseValue(Reader& reader, std::string_view key) const;
  Status ParseAlignment();
  static Result<TensorInfo> ParseTensorInfo(Reader& reader);
  Status ParseTensors(Reader& reader, uint64_t count, Bytes bytes);
  Status CheckOverlaps() const;
  Result<const Value*> FindValue(std::string_view key, bool is_array,
                                 std::string_view wanted) const;
  Status WrongType(std::string_view key, const Value& value, std::string_view wanted) const;

  std::string path_;
  std::unique_ptr<MappedFile> file_;
  uint32_t version_ = 0, alignment_ = 32;
  std::map<std::string_view, Value> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string_view, size_t> tensor_index_;
};

}  // namespace baton
