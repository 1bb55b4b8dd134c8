#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace baton {
namespace {

Status ErrnoStatus(const char* what, const std::string& path, int error) {
  if (error == ENOENT || error == ENOTDIR)
    return NotFoundError("{} {}: {}", what, path, std::strerror(error));
  return UnavailableError("{} {}: {}", what, path, std::strerror(error));
}

struct FdCloser {
  int fd;
  ~FdCloser() { ::close(fd); }
};

}  // namespace

Result<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO by mistake must give an error, not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus("cannot open", path, errno);
  const FdCloser closer{fd};
  struct stat info {};
  if (::fstat(fd, &info) != 0) return ErrnoStatus("cannot stat", path, errno);
  if (!S_ISREG(info.st_mode)) return InvalidError("{} is not a regular file", path);
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return std::unique_ptr<MappedFile>(new MappedFile(path, {}));
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (address == MAP_FAILED) return ErrnoStatus("cannot map", path, errno);
  // Loading reads everything once, front to back; a failed hint changes only the speed.
  (void)::madvise(address, size, MADV_WILLNEED);
  return std::unique_ptr<MappedFile>(
      new MappedFile(path, {static_cast<const std::byte*>(address), size}));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::string Printable(std::string_view text) {
  constexpr size_t kLimit = 80;
  std::string out;
  for (const char c : text.substr(0, kLimit)) {
    if (c >= 0x20 && c < 0x7f && c != '\\') {
      out.push_back(c);
    } else {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  if (text.size() > kLimit) out += "...";
  return out;
}

}  // namespace baton
