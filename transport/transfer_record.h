// What both ends of a transfer share: where frames and completions go, and the memory of transfers that have ended, so that
// whatever still arrives for them is answered and goes nowhere.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <unordered_map>

#include "transport/transport.h"

namespace baton {

/// Takes frames for a peer; drops them while it is not connected (what matters is said again when it is).
class Outbox {
 public:
  virtual ~Outbox() = default;
  virtual void Send(WorkerId peer, std::string frame) = 0;
};

using CompletionQueue = std::deque<Completion>;

/// The last `capacity` transfers that ended here, oldest forgotten first.
class EndedTransfers {
 public:
  struct Record {
    WorkerId peer;
    Status status;  // ok: everything had landed
  };
  explicit EndedTransfers(size_t capacity) : capacity_(capacity) {}

  void Remember(TransferId id, WorkerId peer, Status status) {
    if (!records_.try_emplace(id, Record{peer, std::move(status)}).second) return;  // the first end is the one that counts
    order_.push_back(id);
    if (order_.size() > capacity_) {
      records_.erase(order_.front());
      order_.pop_front();
    }
  }
  /// Null where the transfer is unknown.
  const Record* Find(TransferId id) const {
    const auto it = records_.find(id);
    return it == records_.end() ? nullptr : &it->second;
  }
  /// "1:2:kOk …": transfer, peer and how it ended, in the order of the transfers.
  std::string Describe() const {
    std::map<TransferId, const Record*> sorted;
    for (const auto& [id, record] : records_) sorted.emplace(id, &record);
    std::string out;
    for (const auto& [id, record] : sorted) out += fmt::format("{}:{}:{} ", id.value, record->peer.value, StatusCodeName(record->status.code()));
    return out;
  }

 private:
  const size_t capacity_;
  std::unordered_map<TransferId, Record> records_;
  std::deque<TransferId> order_;
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
