#include "kvstore/incoming_transfer.h"

#include <memory>

namespace baton {
namespace {

/// Cancels on destruction; harmless once the transfer has ended.
class CancelOnDrop {
 public:
  CancelOnDrop(TransferPump& pump, TransferId id) : pump_(pump), id_(id) {}
  CancelOnDrop(const CancelOnDrop&) = delete;
  CancelOnDrop& operator=(const CancelOnDrop&) = delete;
  ~CancelOnDrop() { pump_.Cancel(id_); }

 private:
  TransferPump& pump_;
  const TransferId id_;
};

}  // namespace

Result<IncomingTransfer> ExpectBlocks(TransferContext& context, const TransferPump::PeerEnd& from, size_t blocks, uint32_t parts) {
  ASSIGN_OR_RETURN(std::vector<BlockId> ids, context.pool.Allocate(blocks));
  const size_t part_bytes = context.pool.block_bytes() / parts;
  std::vector<Landing> landings;
  landings.reserve(blocks * parts);
  for (const BlockId id : ids) {
    for (uint32_t p = 0; p < parts; ++p) landings.push_back({context.pool.data(id) + p * part_bytes, part_bytes});
  }
  struct State {
    BlockRefs blocks;
    kj::Own<kj::PromiseFulfiller<Result<BlockRefs>>> fulfiller;
  };
  auto pair = kj::newPromiseAndFulfiller<Result<BlockRefs>>();
  auto state = std::make_shared<State>(State{BlockRefs(context.pool, std::move(ids)), kj::mv(pair.fulfiller)});
  const TransferId id = context.ids.Next();
  context.pump.Expect(id, from, std::move(landings), context.clock.Now() + context.timeout,
                      [&loop = context.loop, state](const Status& status) mutable {
                        loop.Post([state = std::move(state), status] {
                          if (status.ok()) state->fulfiller->fulfill(Result<BlockRefs>(std::move(state->blocks)));
                          else state->fulfiller->fulfill(Result<BlockRefs>(status));
                        });
                      });
  return IncomingTransfer{id, pair.promise.attach(kj::heap<CancelOnDrop>(context.pump, id))};
}

Status VerifyBlocks(BlockPool& pool, const std::vector<BlockId>& blocks, const std::vector<Digest128>& digests) {
  if (blocks.size() != digests.size()) return DataLossError("{} blocks arrived with {} digests", blocks.size(), digests.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (Xxh3({pool.data(blocks[i]), pool.block_bytes()}) == digests[i]) continue;
    return DataLossError("block {} of {} does not have the digest its producer gave", i, blocks.size());
  }
  return OkStatus();
}

}  // namespace baton
