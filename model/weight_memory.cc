#include "model/weight_memory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include "base/hash.h"

namespace baton {
namespace {

constexpr size_t kLargePage = 2 << 20, kHeaderBytes = 4096;
constexpr auto kPoll = std::chrono::milliseconds(20);
constexpr int kPolls = 1500;  // 30 s

struct Header {
  char magic[16] = "baton weights 1";
  uint64_t bytes = 0;
  Digest128 digest;
};

struct File {
  int fd;
  explicit File(int fd_in) : fd(fd_in) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
};

Status Failed(std::string_view what, const std::string& path) {
  return UnavailableError("cannot {} {}: {}", what, path, std::strerror(errno));
}

/// Waits for the exclusive lock on `lock`, which ends with the file descriptor.
Status Lock(const File& lock, const std::string& path) {
  for (int i = 0; i < kPolls; ++i) {
    if (::flock(lock.fd, LOCK_EX | LOCK_NB) == 0) return OkStatus();
    if (errno != EWOULDBLOCK && errno != EINTR) return Failed("lock", path);
    std::this_thread::sleep_for(kPoll);
  }
  return DeadlineError("another process has held {} for 30 s", path);
}

/// Zeros for the whole file, in large pieces: the page cache then holds it in large pages, which every mapping shares. (It also
/// takes the disk's space; a full disk would otherwise kill the process that writes through a mapping.)
Status Lengthen(int fd, size_t bytes, const std::string& path) {
  const std::vector<char> zeros(std::min(bytes, kLargePage));
  for (size_t at = 0; at < bytes;) {
    const ssize_t n = ::pwrite(fd, zeros.data(), std::min(zeros.size(), bytes - at), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Failed("write", path);
    at += static_cast<size_t>(n);
  }
  return OkStatus();
}

/// Fills `path` through a mapping.
Status WriteFile(const std::string& path, size_t bytes, const WeightMemory::Filler& fill) {
  const File file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file.fd < 0) return Failed("create", path);
  if ((errno = ::posix_fallocate(file.fd, 0, static_cast<off_t>(kHeaderBytes + bytes))) != 0) return Failed("take space for", path);
  RETURN_IF_ERROR(Lengthen(file.fd, kHeaderBytes + bytes, path));
  void* memory = ::mmap(nullptr, kHeaderBytes + bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
  if (memory == MAP_FAILED) return Failed("map", path);
  std::byte* data = static_cast<std::byte*>(memory) + kHeaderBytes;
  fill(data);
  Header header;
  header.bytes = bytes;
  header.digest = Xxh3({data, bytes});
  std::memcpy(memory, &header, sizeof header);
  ::munmap(memory, kHeaderBytes + bytes);
  return OkStatus();
}

}  // namespace

WeightMemory::WeightMemory(void* mapping, size_t mapped, size_t offset, bool shared)
    : mapping_(mapping), mapped_(mapped), data_(static_cast<std::byte*>(mapping) + offset), shared_(shared) {}

WeightMemory& WeightMemory::operator=(WeightMemory&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  std::swap(data_, other.data_);
  std::swap(shared_, other.shared_);
  return *this;
}

WeightMemory::~WeightMemory() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapped_);
}

Result<WeightMemory> WeightMemory::Own(size_t bytes) {
  const size_t mapped = (bytes + kLargePage) / kLargePage * kLargePage;
  void* memory = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return ExhaustedError("no memory for {} bytes of weights: {}", bytes, std::strerror(errno));
  (void)::madvise(memory, mapped, MADV_HUGEPAGE);  // a wish; ordinary pages do as well
  return WeightMemory(memory, mapped, 0, false);
}

Result<WeightMemory> WeightMemory::MapFile(const std::string& path, size_t bytes) {
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file.fd < 0) return errno == ENOENT ? NotFoundError("there is no {}", path) : Failed("open", path);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return Failed("stat", path);
  const size_t mapped = kHeaderBytes + bytes;
  if (!S_ISREG(info.st_mode) || static_cast<size_t>(info.st_size) != mapped) return DataLossError("{} has another size", path);
  void* memory = ::mmap(nullptr, mapped, PROT_READ, MAP_SHARED, file.fd, 0);
  if (memory == MAP_FAILED) return Failed("map", path);
  WeightMemory weights(memory, mapped, kHeaderBytes, true);
  (void)::madvise(memory, mapped, MADV_HUGEPAGE);  // wishes: what must be read from disk is read into large pages, now
#ifdef MADV_POPULATE_READ
  (void)::madvise(memory, mapped, MADV_POPULATE_READ);
#endif
  Header header;
  std::memcpy(&header, memory, sizeof header);
  if (std::memcmp(header.magic, Header{}.magic, sizeof header.magic) != 0 || header.bytes != bytes || header.digest != Xxh3({weights.data(), bytes})) {
    return DataLossError("{} is damaged", path);
  }
  return Result<WeightMemory>(std::move(weights));
}

Result<WeightMemory> WeightMemory::FromCache(const std::string& folder, const std::string& key, size_t bytes, const Filler& fill) {
  const std::string path = folder + "/" + key + ".packed", lock_path = path + ".lock", partial = path + ".partial";
  if (auto mapped = MapFile(path, bytes); mapped.ok()) return mapped;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return UnavailableError("cannot create the folder {}: {}", folder, error.message());
  const File lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (lock.fd < 0) return Failed("create", lock_path);
  RETURN_IF_ERROR(Lock(lock, lock_path));
  if (auto mapped = MapFile(path, bytes); mapped.ok()) return mapped;  // whoever held the lock made it
  if (const Status written = WriteFile(partial, bytes, fill); !written.ok()) {
    ::unlink(partial.c_str());
    return written;
  }
  if (::rename(partial.c_str(), path.c_str()) != 0) return Failed("rename", partial);
  return MapFile(path, bytes);
}

std::string UserCacheFolder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && cache[0] == '/') return std::string(cache) + "/baton/weights";
  if (const char* home = std::getenv("HOME"); home != nullptr && home[0] == '/') return std::string(home) + "/.cache/baton/weights";
  return {};
}

}  // namespace baton
