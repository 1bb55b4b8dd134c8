// What both ends of a transfer share: where frames and completions go, and the memory of transfers that have ended, so that
// whatever still arrives for them is answered and goes nowhere.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <utility>

#include "transport/transport.h"

namespace baton {

/// Takes frames for a peer; drops them while it is not connected (what matters is said again when it is).
class Outbox {
 public:
  virtual ~Outbox() = default;
  virtual void Send(WorkerId peer, std::string frame) = 0;
};

using CompletionQueue = std::deque<Completion>;

/// The last `capacity` transfers that ended here, oldest forgotten first. By peer: what one says of a transfer is nothing to another's.
class EndedTransfers {
 public:
  explicit EndedTransfers(size_t capacity) : capacity_(capacity) {}

  /// `peer` 0: whoever asks. `status` ok: everything had landed.
  void Remember(TransferId id, WorkerId peer, Status status) {
    if (!records_.try_emplace({id, peer}, std::move(status)).second) return;  // the first end is the one that counts
    order_.push_back({id, peer});
    if (order_.size() > capacity_) {
      records_.erase(order_.front());
      order_.pop_front();
    }
  }
  /// How it ended with `peer`; null where that is unknown.
  const Status* Find(TransferId id, WorkerId peer) const {
    for (const WorkerId whose : {peer, WorkerId()}) {
      if (const auto it = records_.find({id, whose}); it != records_.end()) return &it->second;
    }
    return nullptr;
  }
  /// Whether it ended, with whomever.
  bool Knows(TransferId id) const {
    const auto it = records_.lower_bound({id, WorkerId()});
    return it != records_.end() && it->first.first == id;
  }
  /// "1:2:kOk …": transfer, peer and how it ended, in the order of the transfers.
  std::string Describe() const {
    std::string out;
    for (const auto& [key, status] : records_) out += fmt::format("{}:{}:{} ", key.first.value, key.second.value, StatusCodeName(status.code()));
    return out;
  }

 private:
  using Key = std::pair<TransferId, WorkerId>;
  const size_t capacity_;
  std::map<Key, Status> records_;
  std::deque<Key> order_;
};

struct TransferLimits {
  uint32_t max_transfers = 4096;
  uint32_t max_landings = 1u << 16;           // of one transfer
  uint64_t max_landings_in_all = 1u << 20;    // of all transfers of one end together
  size_t remembered = 16384;                  // transfers that have ended
  size_t piece_bytes = 256_KiB;
  Duration hold = std::chrono::seconds(10);
};

}  // namespace baton
