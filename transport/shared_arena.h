// Memory that another process on this host may map: the block pool's arena when the shm transport is used. Backed by a
// memfd, so nothing is left in /dev/shm whatever happens to the process.
#pragma once

#include <cstddef>

#include "base/status.h"
#include "transport/transport.h"

namespace baton {

/// Owns the mapping and the descriptor. Thread: any; the memory itself is the user's to synchronise.
class SharedArena {
 public:
  SharedArena() = default;
  SharedArena(SharedArena&& other) noexcept;
  SharedArena& operator=(SharedArena&& other) noexcept;
  ~SharedArena();

  /// What Transport::Register takes; valid while the arena lives.
  ArenaMemory memory() const { return {{data_, bytes_}, fd_}; }

 private:
  friend Result<SharedArena> MakeSharedArena(size_t bytes, bool huge_pages);
  SharedArena(std::byte* data, size_t bytes, int fd) : data_(data), bytes_(bytes), fd_(fd) {}
  void Release();

  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  int fd_ = -1;
};

/// Zero-filled memory of at least `bytes` (rounded up to whole pages). `huge_pages` asks for transparent huge pages, where
/// the system allows them for shared memory. Errors: kInvalid (0 bytes), kExhausted (says how much was asked for).
Result<SharedArena> MakeSharedArena(size_t bytes, bool huge_pages = true);

}  // namespace baton
