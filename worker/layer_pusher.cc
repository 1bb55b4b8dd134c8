#include "worker/layer_pusher.h"

#include <algorithm>

namespace baton {

void LayerPusher::Add(uint32_t block, uint32_t layer, const std::vector<BlockId>& blocks, std::vector<Segment>& segments) const {
  if (block < plan_.first_block) return;
  segments.push_back({(block - plan_.first_block) * layout_.layers + layer, pool_.data(blocks[block]) + layout_.PartOffset(layer, 0), layout_.LayerBytes()});
}

void LayerPusher::OnLayer(uint32_t layer, uint32_t begin, uint32_t end, const std::vector<BlockId>& blocks) {
  std::vector<Segment> segments;
  const uint32_t tokens = layout_.block_tokens;
  if (pushed_.empty()) {
    // The first report: what was there before it is complete in all layers.
    const auto last = static_cast<uint32_t>(CeilDiv(plan_.prompt_tokens, tokens));
    pushed_.assign(blocks.begin() + std::min<size_t>(plan_.first_block, blocks.size()), blocks.begin() + std::min<size_t>(last, blocks.size()));
    for (uint32_t block = plan_.first_block; block < begin / tokens; ++block) {
      for (uint32_t l = 0; l < layout_.layers; ++l) Add(block, l, blocks, segments);
    }
  }
  const auto filled = static_cast<uint32_t>(end == plan_.prompt_tokens ? CeilDiv(end, tokens) : end / tokens);
  for (uint32_t block = begin / tokens; block < filled; ++block) Add(block, layer, blocks, segments);
  std::lock_guard lock(mutex_);
  if (!segments.empty() && !stopped_) pump_.Push(plan_.transfer, plan_.to, std::move(segments));
}

}  // namespace baton
