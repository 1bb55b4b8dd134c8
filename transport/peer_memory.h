// Bytes by reference between processes of one host. The sender shows its arenas (memfds, passed over the Unix socket), the
// receiver maps them read-only and copies from there into its own landings: one copy, and no process ever writes into
// another's memory, so a sender that is late, stopped or mad cannot hurt a landing. A sender that gives a transfer up
// advances the transfer's generation in shared memory first; a receiver looks at it after each copy and does not take
// bytes that may have changed under it (as a seqlock's reader).
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "transport/frame.h"
#include "transport/sending.h"
#include "transport/shared_arena.h"

namespace baton {

/// The body of a data frame that says where its bytes lie.
struct Reference {
  uint32_t arena = 0, slot = 0;
  uint64_t offset = 0, generation = 0, bytes = 0;
};
static_assert(sizeof(Reference) == 32);

/// This process's arenas and the generations of its transfers. Thread: one.
class LocalMemory {
 public:
  static Result<std::unique_ptr<LocalMemory>> Create();

  /// Errors: kInvalid where the file can shrink (no F_SEAL_SHRINK) or is too small.
  Status Add(const ArenaMemory& arena);
  size_t arenas() const { return arenas_.size(); }
  const ArenaMemory& arena(size_t number) const { return arenas_[number]; }  // number 0: the generations

  /// Where a piece lies; nothing if in no arena, or when all slots are taken: then it goes inline.
  std::optional<Reference> Refer(const OutPiece& piece);
  /// Every reference into `id`'s segments is void from now on; false where there was none.
  bool Detach(TransferId id);

 private:
  explicit LocalMemory(SharedArena generations);
  std::atomic_ref<uint64_t> Generation(uint32_t slot) const;

  SharedArena generations_;
  std::vector<ArenaMemory> arenas_;
  std::vector<uint32_t> free_slots_;
  std::unordered_map<TransferId, uint32_t> slots_;
};

/// A peer's arenas, mapped here. Thread: one.
class PeerMemory {
 public:
  PeerMemory() = default;
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  /// A descriptor that came with the stream; owned from now on. Errors: kInvalid when too many wait.
  Status TakeDescriptor(int fd);
  /// The arena whose announcement has arrived after its descriptor. Errors: kInvalid (no descriptor, not sealed, wrong
  /// size, too many).
  Status Map(uint64_t bytes);
  /// The bytes and their generation's cell. Errors: kInvalid (outside what was shown).
  struct Place {
    const std::byte* data;
    const uint64_t* generation;
  };
  Result<Place> Find(const Reference& reference) const;

 private:
  std::deque<int> descriptors_;
  std::vector<Bytes> arenas_;
};

}  // namespace baton
