// Any bytes as what a stranger says: frames of the transport, its handshake, and the control plane's greeting. Nobody gets in, and
// nothing is believed without having been checked.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "protocol/greeting.h"
#include "transport/handshake.h"

namespace {

void TakeFrames(baton::Bytes bytes) {
  baton::Handshake dialler({baton::WorkerId(1), {}, "tcp:a"}, "key", baton::WorkerId(2)), listener({baton::WorkerId(2), {}, "tcp:b"}, "key", {});
  while (bytes.size() >= sizeof(baton::FrameHeader)) {
    const auto header = baton::ParseHeader(bytes);
    if (!header.ok()) return;
    CHECK(header->body_bytes <= baton::kMaxBodyBytes);
    const baton::Bytes body = bytes.subspan(sizeof(baton::FrameHeader)).first(std::min<size_t>(header->body_bytes, bytes.size() - sizeof(baton::FrameHeader)));
    bytes = bytes.subspan(sizeof(baton::FrameHeader) + body.size());
    const auto grant = baton::ParseGrant(*header, body, 1000);
    CHECK(!grant.ok() || (grant->sizes.size() == header->index && grant->sizes.size() <= 1000));
    const auto acks = baton::ParseAck(*header, body);
    CHECK(!acks.ok() || acks->size() * sizeof(baton::PieceRef) == body.size());
    (void)baton::ParseEnd(*header, body);
    (void)dialler.Take(*header, body);
    (void)listener.Take(*header, body);
    CHECK(!dialler.done() && !listener.done());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const baton::Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  TakeFrames(bytes);
  for (const auto side : {baton::ProofSide::kDialler, baton::ProofSide::kListener}) {
    baton::Greeting greeting(side, "key");
    for (baton::Bytes rest = bytes; !rest.empty();) {
      const size_t length = rest.size() < 2 ? 0 : std::min<size_t>(rest.size() - 2, static_cast<size_t>(rest[0]) + 3);
      (void)greeting.Take(rest.first(length));
      CHECK(!greeting.done());
      rest = rest.subspan(std::max<size_t>(1, length));
    }
  }
  return 0;
}
