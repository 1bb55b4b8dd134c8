// The safetensors container: u64 header length, a JSON header, tensor bytes without gaps. Reading
// maps the file and checks every number of the header against the file's size; writing replaces a
// file atomically. Thread: SafetensorsFile is read-only after Open, so any. Data lives as long as
// the file object.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "model/mapped_file.h"

namespace baton {

/// Element types of the format; the names are those of the header ("F32", "BF16").
enum class SafetensorsType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64
};
std::string_view SafetensorsTypeName(SafetensorsType type);
uint32_t SafetensorsTypeBytes(SafetensorsType type);

struct SafetensorsTensor {
  std::string name;
  SafetensorsType type = SafetensorsType::kF32;
  std::vector<uint64_t> shape;  // outermost first; empty for a scalar
  Bytes
      data;  // may be unaligned for its element type where a foreign writer did not pad the header
};

class SafetensorsFile {
 public:
  static constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

  /// Errors: kNotFound, kUnavailable, kInvalid (path, tensor, reason): header past the file or the
  /// limit, duplicate key, unknown dtype, shape that does not match its range, ranges that overlap,
  /// leave gaps or do not end with the file.
  static Result<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  /// The same on bytes that the caller keeps alive; `path` is only for messages.
  static Result<std::unique_ptr<SafetensorsFile>> Parse(Bytes bytes, const std::string& path);

  const std::string& path() const { return path_; }
  const std::vector<SafetensorsTensor>& tensors() const {
    return tensors_;
  }  // in the order of their data
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Null when there is none of that name.
  const SafetensorsTensor* Find(std::string_view name) const;

 private:
  SafetensorsFile() = default;
  Status ParseAll(Bytes bytes);

  std::string path_;
  std::unique_ptr<MappedFile> file_;
  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string_view, size_t> index_;  // views of the names in tensors_
  std::map<std::string, std::string> metadata_;
};

/// Writes `tensors` in the given order, data 8-aligned in the file, to a temporary file beside
/// `path`, then fsync and rename: a reader sees the old file or the whole new one. Errors: kInvalid
/// (duplicate or reserved name, name that is not UTF-8, data size that does not match the shape),
/// kUnavailable (I/O, with errno's text); no temporary file stays.
Status WriteSafetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                        const std::map<std::string, std::string>& metadata = {});

}  // namespace baton
