#include "transport/shared_arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace baton {

SharedArena::SharedArena(SharedArena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)), fd_(std::exchange(other.fd_, -1)) {}

SharedArena& SharedArena::operator=(SharedArena&& other) noexcept {
  if (this != &other) {
    Release();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

SharedArena::~SharedArena() { Release(); }

void SharedArena::Release() {
  if (data_ != nullptr) munmap(data_, bytes_);
  if (fd_ >= 0) close(fd_);
}

Result<SharedArena> MakeSharedArena(size_t bytes, bool huge_pages) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (bytes == 0 || bytes > SIZE_MAX - 2_MiB) return InvalidError("a shared arena of {} bytes cannot be made", bytes);
  bytes = RoundUp(bytes, page);
  const int fd = memfd_create("baton-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  // The seal is what lets a peer map it without fear: the file cannot shrink under its feet.
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return ExhaustedError("{} of shared memory cannot be had: {}; lower the size of the KV arena", HumanBytes(bytes), std::strerror(error));
  }
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    close(fd);
    return ExhaustedError("{} of shared memory cannot be mapped: {}; lower the size of the KV arena", HumanBytes(bytes), std::strerror(error));
  }
  if (huge_pages) madvise(data, bytes, MADV_HUGEPAGE);  // a wish: many systems forbid it for shared memory
  return SharedArena(static_cast<std::byte*>(data), bytes, fd);
}

}  // namespace baton
