// What one step of the engine runs: a pure function of a view. Decode rows go first, one token each; what is left of the token
// budget goes to prefill chunks. Chunk bounds change no bit of any answer, so they follow load alone.
//
// Rows come in rank order: higher priority first, then earlier arrival. A row that needs blocks when none are left takes them
// from the lowest-ranked row that holds any and is not pinned (it will be recomputed); nobody takes from a higher rank, so the
// first row always gets on. A row without a victim keeps its blocks and waits. Waiting rows start in rank order, each only when
// its whole prompt fits beside what the running prompts still need, so that starting one seldom evicts another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"

namespace baton {

struct ScheduleRow {
  uint32_t tokens = 0;          // known tokens; the row is decoding when one of them is left to compute
  uint32_t computed = 0;        // of these, how many have their KV (or would find it on starting); < tokens
  uint32_t blocks = 0;          // held
  uint32_t reserve_tokens = 0;  // positions that must have blocks before it runs; 0: it grows with its tokens
  int32_t priority = 0;         // only to let a waiting row take the slot of a running one
  bool running = false;         // was started and not preempted since
  bool pinned = false;          // its blocks cannot be taken
  bool deferred = false;        // waits for another row that computes the same prefix
  Instant deadline = Instant::max();
};

struct ScheduleView {
  std::vector<ScheduleRow> rows;  // in rank order
  Instant now{};
  uint32_t block_tokens = 64;
  uint32_t max_running = 64;
  uint32_t token_budget = 512;  // of the step. All decode rows run whatever it is, and at least one prefill token
  uint32_t chunk_tokens = 256;  // of one row
  size_t available_blocks = 0;  // free or evictable
};

struct ScheduledRow {
  uint32_t row = 0;         // index in the view
  uint32_t tokens = 0;      // to compute from `computed` on; > 0
  uint32_t new_blocks = 0;  // to allocate first
  friend bool operator==(const ScheduledRow&, const ScheduledRow&) = default;
};

struct SchedulePlan {
  std::vector<uint32_t> expired;    // past their deadline
  std::vector<uint32_t> preempted;  // give up all blocks and wait again; in the order chosen
  std::vector<ScheduledRow> run;    // decode rows first. A row that is not running starts
  void Clear();
};

/// Blocks freed by preemption count as available at once, although some may turn out to be shared: the engine then runs the
/// row a step later, with the true number in its view. `plan` is overwritten; its memory is reused.
void Schedule(const ScheduleView& view, SchedulePlan& plan);

}  // namespace baton
