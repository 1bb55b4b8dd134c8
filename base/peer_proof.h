// The first words between two processes of a cluster, on whatever connection: which versions they speak, and the proof that
// each knows the cluster key, which is itself never said. Pure; both handshakes (transport/handshake.h,
// protocol/greeting.h) are made of these.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/hash.h"
#include "base/status.h"

namespace baton {

/// Says in which order a machine writes its bytes: it stands right behind the magic word of every hello.
inline constexpr uint32_t kByteOrderMark = 0x01020304;
/// Errors: kInvalid, with what to change; `mark` is what the peer wrote.
Status CheckByteOrder(uint32_t mark);

struct SpokenVersions {
  uint16_t newest = 0, oldest = 0;
};
/// The newest version that both speak. Errors: kInvalid, naming both ranges.
Result<uint16_t> CommonVersion(SpokenVersions mine, SpokenVersions theirs, std::string_view of_what);

/// A fresh number, so that no recorded answer is worth anything.
using Nonce = std::array<std::byte, 16>;
Nonce MakeNonce();

enum class ProofSide : uint8_t { kDialler = 1, kListener = 2 };
/// HMAC-SHA-256(key, channel ‖ side ‖ prover's nonce ‖ verifier's nonce ‖ what the prover says of itself): neither a recorded
/// nor a mirrored answer holds, nor one from another kind of channel.
Digest256 MakeProof(std::string_view key, std::string_view channel, ProofSide side, const Nonce& prover, const Nonce& verifier, std::string_view said);
/// Takes the same time wherever they differ.
bool SameProof(const Digest256& wanted, Bytes given);

}  // namespace baton
