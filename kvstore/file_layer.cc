#include "kvstore/file_layer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

namespace baton {
namespace {

/// Drops the first `n` bytes of the parts; true when something is left.
bool Advance(std::vector<iovec>& parts, size_t& first, size_t n) {
  while (first < parts.size() && n >= parts[first].iov_len) n -= parts[first++].iov_len;
  if (first == parts.size()) return false;
  parts[first].iov_base = static_cast<char*>(parts[first].iov_base) + n;
  parts[first].iov_len -= n;
  return true;
}

class SystemFile final : public File {
 public:
  SystemFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~SystemFile() override { close(fd_); }

  Status ReadAt(uint64_t offset, std::span<const MutableBytes> parts) override {
    std::vector<iovec> left;
    for (const MutableBytes part : parts) left.push_back({part.data(), part.size()});
    return Move(offset, std::move(left), [this](const iovec* parts, int count, off_t at) { return preadv(fd_, parts, count, at); },
                "cannot read");
  }
  Status WriteAt(uint64_t offset, std::span<const Bytes> parts) override {
    std::vector<iovec> left;
    for (const Bytes part : parts) left.push_back({const_cast<std::byte*>(part.data()), part.size()});
    return Move(offset, std::move(left), [this](const iovec* parts, int count, off_t at) { return pwritev(fd_, parts, count, at); },
                "cannot write");
  }
  Status Sync() override { return fdatasync(fd_) == 0 ? OkStatus() : SystemError(errno, "cannot sync", path_); }
  Status PunchHole(uint64_t offset, uint64_t bytes) override {
    if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) return OkStatus();
    return SystemError(errno, "cannot free space in", path_);
  }
  Status Truncate(uint64_t bytes) override {
    return ftruncate(fd_, static_cast<off_t>(bytes)) == 0 ? OkStatus() : SystemError(errno, "cannot shorten", path_);
  }
  Result<uint64_t> Size() override {
    struct stat info {};
    if (fstat(fd_, &info) != 0) return SystemError(errno, "cannot look at", path_);
    return static_cast<uint64_t>(info.st_size);
  }

 private:
  template <typename Call>
  Status Move(uint64_t offset, std::vector<iovec> parts, const Call& call, std::string_view what) {
    size_t first = 0;
    if (!Advance(parts, first, 0)) return OkStatus();
    while (true) {
      const ssize_t n = call(&parts[first], static_cast<int>(parts.size() - first), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SystemError(errno, what, path_);
      if (n == 0) return DataLossError("{} ends at byte {}", path_, offset);
      offset += static_cast<uint64_t>(n);
      if (!Advance(parts, first, static_cast<size_t>(n))) return OkStatus();
    }
  }

  const int fd_;
  const std::string path_;
};

class SystemFiles final : public FileLayer {
 public:
  Result<std::unique_ptr<File>> Open(const std::string& path, bool read_only) override {
    const int fd = open(path.c_str(), (read_only ? O_RDONLY : O_RDWR | O_CREAT) | O_CLOEXEC, 0644);
    if (fd < 0) return SystemError(errno, "cannot open", path);
    return std::unique_ptr<File>(std::make_unique<SystemFile>(fd, path));
  }
};

}  // namespace

std::unique_ptr<FileLayer> MakeSystemFiles() { return std::make_unique<SystemFiles>(); }

Status SystemError(int error, std::string_view what, std::string_view path) {
  const char* reason = std::strerror(error);
  if (error == ENOSPC || error == EDQUOT) return ExhaustedError("{} {}: {}; free space there or lower store.disk_bytes", what, path, reason);
  if (error == ENOENT) return NotFoundError("{} {}: {}", what, path, reason);
  if (error == EISDIR) return InvalidError("{} {}: {}", what, path, reason);
  return UnavailableError("{} {}: {}", what, path, reason);
}

Result<std::string> ReadTextFile(const std::string& path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) return SystemError(errno, "cannot open", path);
  std::string text;
  for (size_t n = 64 << 10; n == 64 << 10;) {
    const size_t begin = text.size();
    text.resize(begin + n);
    n = std::fread(text.data() + begin, 1, n, file.get());
    text.resize(begin + n);
  }
  if (std::ferror(file.get()) != 0) return SystemError(errno, "cannot read", path);
  return text;
}

Status WriteTextFile(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".new", folder = std::filesystem::path(path).parent_path().string();
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<File> file, SystemFiles().Open(temporary, false));
    RETURN_IF_ERROR(file->Truncate(0));
    const Bytes bytes = AsBytes(text);
    RETURN_IF_ERROR(file->WriteAt(0, std::span(&bytes, 1)));
    RETURN_IF_ERROR(file->Sync());
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) return SystemError(errno, "cannot replace", path);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return SystemError(errno, "cannot open", folder);
  const int failed = fsync(fd) != 0 ? errno : 0;
  close(fd);
  return failed == 0 ? OkStatus() : SystemError(failed, "cannot sync", folder);
}

}  // namespace baton
