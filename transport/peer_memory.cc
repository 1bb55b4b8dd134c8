#include "transport/peer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>

namespace baton {
namespace {

constexpr uint32_t kSlots = 8192;
constexpr size_t kMaxArenas = 64;

/// That `fd` is memory which keeps its size of at least `bytes`.
Status CheckSealed(int fd, uint64_t bytes) {
  struct stat info{};
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return InvalidError("the arena's file can shrink; make it with MakeSharedArena");
  if (fstat(fd, &info) != 0 || static_cast<uint64_t>(info.st_size) < bytes) return InvalidError("the arena's file is smaller than {} bytes", bytes);
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<LocalMemory>> LocalMemory::Create() {
  ASSIGN_OR_RETURN(SharedArena generations, MakeSharedArena(kSlots * sizeof(uint64_t), false));
  return std::unique_ptr<LocalMemory>(new LocalMemory(std::move(generations)));
}

LocalMemory::LocalMemory(SharedArena generations) : generations_(std::move(generations)) {
  arenas_.push_back(generations_.memory());
  for (uint32_t slot = kSlots; slot > 0; --slot) free_slots_.push_back(slot - 1);
}

Status LocalMemory::Add(const ArenaMemory& arena) {
  if (arena.fd < 0) return OkStatus();
  if (arenas_.size() >= kMaxArenas) return ExhaustedError("more than {} shared arenas", kMaxArenas - 1);
  RETURN_IF_ERROR(CheckSealed(arena.fd, arena.bytes.size()));
  arenas_.push_back(arena);
  return OkStatus();
}

std::atomic_ref<uint64_t> LocalMemory::Generation(uint32_t slot) const {
  return std::atomic_ref<uint64_t>(reinterpret_cast<uint64_t*>(generations_.memory().bytes.data())[slot]);
}

std::optional<Reference> LocalMemory::Refer(const OutPiece& piece) {
  const uint64_t bytes = piece.header.body_bytes;
  for (uint32_t number = 1; number < arenas_.size(); ++number) {
    const MutableBytes arena = arenas_[number].bytes;
    if (std::less<>()(piece.data, arena.data()) || !std::less<>()(piece.data, arena.data() + arena.size())) continue;
    const auto offset = static_cast<uint64_t>(piece.data - arena.data());
    if (bytes > arena.size() - offset) return std::nullopt;
    const TransferId id(piece.header.transfer);
    auto it = slots_.find(id);
    if (it == slots_.end()) {
      if (free_slots_.empty()) return std::nullopt;
      it = slots_.emplace(id, free_slots_.back()).first;
      free_slots_.pop_back();
    }
    return Reference{.arena = number, .slot = it->second, .offset = offset, .generation = Generation(it->second).load(std::memory_order_relaxed), .bytes = bytes};
  }
  return std::nullopt;
}

bool LocalMemory::Detach(TransferId id) {
  const auto it = slots_.find(id);
  if (it == slots_.end()) return false;
  Generation(it->second).fetch_add(1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // before the caller writes over its segments
  free_slots_.push_back(it->second);
  slots_.erase(it);
  return true;
}

PeerMemory::~PeerMemory() {
  for (const int fd : descriptors_) close(fd);
  for (const Bytes& arena : arenas_) munmap(const_cast<std::byte*>(arena.data()), arena.size());
}

Status PeerMemory::TakeDescriptor(int fd) {
  descriptors_.push_back(fd);
  return descriptors_.size() > kMaxArenas ? InvalidError("a peer sends more descriptors than arenas") : OkStatus();
}

Status PeerMemory::Map(uint64_t bytes) {
  if (descriptors_.empty() || arenas_.size() >= kMaxArenas || bytes == 0) return InvalidError("a peer shows an arena without its descriptor, or too many");
  const int fd = descriptors_.front();
  descriptors_.pop_front();
  Status status = CheckSealed(fd, bytes);
  void* data = status.ok() ? mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (status.ok() && data == MAP_FAILED) status = UnavailableError("a peer's arena of {} cannot be mapped: {}", HumanBytes(bytes), std::strerror(errno));
  close(fd);
  if (status.ok()) arenas_.emplace_back(static_cast<const std::byte*>(data), bytes);
  return status;
}

Result<PeerMemory::Place> PeerMemory::Find(const Reference& r) const {
  const bool known = r.arena > 0 && r.arena < arenas_.size() && (uint64_t{r.slot} + 1) * sizeof(uint64_t) <= arenas_[0].size();
  if (!known || r.bytes > arenas_[r.arena].size() || r.offset > arenas_[r.arena].size() - r.bytes) {
    return InvalidError("a peer refers to {} bytes outside the arenas it has shown", r.bytes);
  }
  return Place{arenas_[r.arena].data() + r.offset, reinterpret_cast<const uint64_t*>(arenas_[0].data()) + r.slot};
}

}  // namespace baton
