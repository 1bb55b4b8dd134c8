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

Result<IncomingTransfer> ExpectBlocks(TransferContext& context, const TransferPump::PeerEnd& from, size_t blocks, uint32_t parts, BlockDigests digests) {
  ASSIGN_OR_RETURN(std::vector<BlockId> ids, context.pool.Allocate(blocks));
  const size_t part_bytes = context.pool.block_bytes() / parts;
  std::vector<Landing> landings;
  landings.reserve(blocks * parts);
  for (const BlockId id : ids) {
    for (uint32_t p = 0; p < parts; ++p) landings.push_back({context.pool.data(id) + p * part_bytes, part_bytes});
  }
  struct State {
    Landed landed;
    kj::Own<kj::PromiseFulfiller<Result<Landed>>> fulfiller;
  };
  auto pair = kj::newPromiseAndFulfiller<Result<Landed>>();
  auto state = std::make_shared<State>(State{{BlockRefs(context.pool, std::move(ids)), {}}, kj::mv(pair.fulfiller)});
  if (digests == BlockDigests::kMade) state->landed.digests.resize(blocks);
  const std::span<Digest128> filled = state->landed.digests;
  const TransferId id = context.ids.Next();
  context.pump.Expect(id, from, std::move(landings), context.clock.Now() + context.timeout,
                      [&loop = context.loop, state](const Status& status) mutable {
                        loop.Post([state = std::move(state), status] {
                          if (status.ok()) state->fulfiller->fulfill(Result<Landed>(std::move(state->landed)));
                          else state->fulfiller->fulfill(Result<Landed>(status));
                        });
                      },
                      filled);
  return IncomingTransfer{id, pair.promise.attach(kj::heap<CancelOnDrop>(context.pump, id))};
}

Status Landed::Verify(const std::vector<Digest128>& given) const {
  if (blocks.size() != given.size()) return DataLossError("{} blocks arrived with {} digests", blocks.size(), given.size());
  CHECK(digests.size() == blocks.size());  // they were asked for
  for (size_t i = 0; i < given.size(); ++i) {
    if (digests[i] == given[i]) continue;
    return DataLossError("block {} of {} does not have the digest its producer gave", i, given.size());
  }
  return OkStatus();
}

}  // namespace baton
