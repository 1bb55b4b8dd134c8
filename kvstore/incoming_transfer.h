// KV blocks on their way into the pool. The transfer owns its landing blocks until the transport has let go of them, so a
// late write of a dead sender can hit nobody else.
#pragma once

#include <kj/async.h>

#include "base/hash.h"
#include "kvstore/block_refs.h"
#include "kvstore/transfer_context.h"

namespace baton {

/// Blocks as they came.
struct Landed {
  BlockRefs blocks;
  std::vector<Digest128> digests;  // of each block's bytes, made while they arrived; empty where none were asked for

  /// kDataLoss naming the block unless each has the digest its producer gave.
  Status Verify(const std::vector<Digest128>& given) const;
};
/// Ends with the landed blocks, or the reason why not (kDeadline, kCancelled, kUnavailable; kExhausted before anything began).
using LandedBlocks = kj::Promise<Result<Landed>>;

struct IncomingTransfer {
  TransferId id;
  LandedBlocks landed;  // dropping it cancels the transfer
};

enum class BlockDigests { kNone, kMade };
/// Reserves `blocks` pool blocks, each received in `parts` equal pieces (landing b * parts + p). Errors: kExhausted.
Result<IncomingTransfer> ExpectBlocks(TransferContext& context, const TransferPump::PeerEnd& from, size_t blocks, uint32_t parts, BlockDigests digests);

}  // namespace baton
