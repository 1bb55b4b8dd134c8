#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "model/safetensors.h"

namespace baton {
namespace {

/// `text` as a JSON string; kInvalid where it is not UTF-8 (a replacement character would rename
/// the tensor).
Result<std::string> Quote(const std::string& text) {
  using Json = nlohmann::json;
  std::string quoted = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (Json::parse(quoted, nullptr, false) != Json(text))
    return InvalidError("'{}' is not UTF-8", Printable(text));
  return quoted;
}

Result<std::string> MetadataEntry(const std::map<std::string, std::string>& metadata) {
  std::string out = "\"__metadata__\":{";
  const char* separator = "";
  for (const auto& [key, value] : metadata) {
    ASSIGN_OR_RETURN(const std::string quoted_key, Quote(key));
    ASSIGN_OR_RETURN(const std::string quoted_value, Quote(value));
    out += fmt::format("{}{}:{}", separator, quoted_key, quoted_value);
    separator = ",";
  }
  return out + "}";
}

/// Length prefix and header, padded with spaces so that the data begins at a multiple of 8.
Result<std::string> BuildHeader(std::span<const SafetensorsTensor> tensors,
                                const std::map<std::string, std::string>& metadata) {
  ASSIGN_OR_RETURN(std::string json, MetadataEntry(metadata));
  json.insert(0, "{");
  std::set<std::string_view> names = {"__metadata__"};
  uint64_t offset = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    if (!names.insert(tensor.name).second)
      return InvalidError("the tensor name '{}' is reserved or occurs twice",
                          Printable(tensor.name));
    uint64_t size = SafetensorsTypeBytes(tensor.type);
    for (const uint64_t extent : tensor.shape) {
      if (!CheckedMul(size, extent, &size))
        return InvalidError("'{}': the shape overflows 64 bits", Printable(tensor.name));
    }
    if (size != tensor.data.size()) {
      return InvalidError("'{}': the shape needs {} bytes and the data has {}",
                          Printable(tensor.name), size, tensor.data.size());
    }
    ASSIGN_OR_RETURN(const std::string name, Quote(tensor.name));
    json += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", name,
                        SafetensorsTypeName(tensor.type), fmt::join(tensor.shape, ","), offset,
                        offset + size);
    offset += size;
  }
  json += "}";
  json.resize(RoundUp(json.size(), 8), ' ');
  if (json.size() > SafetensorsFile::kMaxHeaderBytes)
    return InvalidError("the header would have {} bytes", json.size());
  std::string out(sizeof(uint64_t), '\0');
  const uint64_t length = json.size();
  std::memcpy(out.data(), &length, sizeof length);
  return out + json;
}

Status WriteAll(int fd, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return UnavailableError("write: {}", std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return OkStatus();
}

Status WriteFile(const std::string& path, std::string_view header,
                 std::span<const SafetensorsTensor> tensors) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return UnavailableError("cannot create {}: {}", path, std::strerror(errno));
  Status status = WriteAll(fd, AsBytes(header));
  for (const SafetensorsTensor& tensor : tensors) {
    if (status.ok()) status = WriteAll(fd, tensor.data);
  }
  if (status.ok() && ::fsync(fd) != 0) status = UnavailableError("fsync: {}", std::strerror(errno));
  if (::close(fd) != 0 && status.ok()) status = UnavailableError("close: {}", std::strerror(errno));
  return status.WithContext(path);
}

/// Makes the rename durable; a file system that cannot sync folders has nothing to add.
void SyncFolder(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)::fsync(fd);
  ::close(fd);
}

}  // namespace

Status WriteSafetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                        const std::map<std::string, std::string>& metadata) {
  static std::atomic<uint64_t> counter{0};
  Result<std::string> header = BuildHeader(tensors, metadata);
  if (!header.ok()) return header.status().WithContext(path);
  const std::string temporary = fmt::format("{}.tmp.{}.{}", path, ::getpid(), counter.fetch_add(1));
  Status status = WriteFile(temporary, *header, tensors);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = UnavailableError("cannot rename {} to {}: {}", temporary, path, std::strerror(errno));
  }
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  SyncFolder(path);
  return OkStatus();
}

}  // namespace baton
