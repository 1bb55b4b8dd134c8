// Work that may block on a disk, asked for by the loop.
#pragma once

#include <kj/async.h>

#include <memory>
#include <utility>

#include "kvstore/transfer_context.h"

namespace baton {

/// Runs `work` on a thread of `io`; its result comes back on the loop.
template <typename Runner, typename Work>
auto OnIoThread(TransferContext& context, Runner& io, Work work) -> kj::Promise<decltype(work())> {
  using T = decltype(work());
  auto pair = kj::newPromiseAndFulfiller<T>();
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<T>>>(kj::mv(pair.fulfiller));
  io.Post([&loop = context.loop, fulfiller, work = std::move(work)]() mutable {
    auto result = std::make_shared<T>(work());
    loop.Post([fulfiller = std::move(fulfiller), result = std::move(result)] { (*fulfiller)->fulfill(std::move(*result)); });
  });
  return kj::mv(pair.promise);
}

}  // namespace baton
