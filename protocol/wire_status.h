// Status over the wire, and the one place where kj's exceptions become Status.
#pragma once

#include <kj/async.h>
#include <kj/exception.h>

#include <utility>

#include "base/status.h"
#include "protocol/cluster.capnp.h"

namespace baton {

void WriteStatus(const Status& status, wire::WireStatus::Builder out);
Status ReadStatus(wire::WireStatus::Reader in);

/// What a failed call means: a lost connection, an overloaded or silent peer, or one of another version is kUnavailable,
/// anything else kInternal.
Status StatusFromException(const kj::Exception& exception);

/// A promise of a Result never fails with an exception: `promise`'s become its status.
template <typename T>
kj::Promise<Result<T>> CatchAsStatus(kj::Promise<Result<T>> promise) {
  return promise.catch_([](kj::Exception&& e) { return Result<T>(StatusFromException(e)); });
}
inline kj::Promise<Status> CatchAsStatus(kj::Promise<Status> promise) {
  return promise.catch_([](kj::Exception&& e) { return StatusFromException(e); });
}

}  // namespace baton
