// Pushes a prefill's KV to the decode worker while it is computed: a block's layer leaves as soon as the chunk that fills it
// has written that layer, so the transfer of layer i runs beside the computation of layer i+1.
#pragma once

#include <mutex>
#include <vector>

#include "kvstore/block_pool.h"
#include "model/kv_layout.h"
#include "transport/transfer_pump.h"
#include "worker/engine_host.h"

namespace baton {

/// Thread: OnLayer on the engine's; Stop on any; blocks() on any once the request has ended.
class LayerPusher final : public LayerSink {
 public:
  struct Plan {
    TransferId transfer;
    TransferPump::PeerEnd to;
    uint32_t first_block = 0;    // blocks before it are already over there
    uint32_t prompt_tokens = 0;
  };
  LayerPusher(TransferPump& pump, BlockPool& pool, const KvLayout& layout, Plan plan)
      : pump_(pump), pool_(pool), layout_(layout), plan_(std::move(plan)) {}

  /// Landing of (block, layer) is (block - first_block) * layers + layer.
  void OnLayer(uint32_t layer, uint32_t begin, uint32_t end, const std::vector<BlockId>& blocks) override;

  /// Nothing is pushed once this has returned: the transfer can be closed.
  void Stop() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  /// The pushed blocks, in order.
  const std::vector<BlockId>& blocks() const { return pushed_; }

 private:
  void Add(uint32_t block, uint32_t layer, const std::vector<BlockId>& blocks, std::vector<Segment>& segments) const;

  TransferPump& pump_;
  BlockPool& pool_;
  const KvLayout layout_;
  const Plan plan_;
  std::vector<BlockId> pushed_;
  std::mutex mutex_;  // guards stopped_, and a push against Stop
  bool stopped_ = false;
};

}  // namespace baton
