// What two ends of a transfer say to each other, as bytes. Every wire (stream, message, in-process) carries these frames,
// so the agreement is written once. All numbers are little-endian.
//
//   header, 32 bytes:  u32 body bytes | u8 type | u8 flags | u16 zero | u64 transfer | u32 index | u32 piece | u64 checksum
//
//   grant  receiver → sender   index: landings, piece: bytes of a piece; body: u64 nanoseconds left, runs of u32 count, u64 bytes
//   data   sender → receiver   index, piece: which; body: its bytes (kByReference: where they lie, see shm_wire.h)
//   ack    receiver → sender   body: pairs of u32 index, u32 piece that have landed
//   end    either → other      index: StatusCode; body: its message. kFromReceiver tells which end of the transfer speaks
//   ask    sender → receiver   nothing; "how does this transfer stand?" The answer is its grant and what has landed, or its end
//   ping   either → other      nothing; answered at once by a pong on the same connection
//
// A landing is cut into pieces of the size that its receiver announces; the last is shorter, and a landing of zero bytes is
// one empty piece. Grant, data and end may arrive twice or late: each is answered with what became of the transfer.
#pragma once

#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"

namespace baton {

static_assert(std::endian::native == std::endian::little, "frames are written as they lie in memory");

enum class FrameType : uint8_t { kHello = 1, kProof = 2, kRefuse = 3, kGrant = 4, kData = 5, kAck = 6, kEnd = 7, kAsk = 8, kArena = 9, kPing = 10, kPong = 11 };

enum FrameFlag : uint8_t {
  kFromReceiver = 1,  // end: the receiving end of the transfer speaks
  kChecksummed = 2,   // data: `checksum` is the XXH3 of the bytes
  kByReference = 4,   // data: the body says where the bytes lie
};

struct FrameHeader {
  uint32_t body_bytes = 0;
  FrameType type{};
  uint8_t flags = 0;
  uint16_t zero = 0;
  uint64_t transfer = 0;
  uint32_t index = 0, piece = 0;
  uint64_t checksum = 0;
};
static_assert(sizeof(FrameHeader) == 32);

inline constexpr size_t kMaxPieceBytes = 1_MiB;
inline constexpr size_t kMaxBodyBytes = 1_MiB;  // of any frame

/// Reads the fixed part. Errors: kInvalid for a type, flag or size that no frame has; `bytes` has at least 32 bytes.
Result<FrameHeader> ParseHeader(Bytes bytes);

template <typename T>
void AppendNumber(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}
/// Takes a number off the front of `*in`; false when it is too short.
template <typename T>
bool TakeNumber(Bytes* in, T* value) {
  if (in->size() < sizeof(T)) return false;
  std::memcpy(value, in->data(), sizeof(T));
  *in = in->subspan(sizeof(T));
  return true;
}
/// The frame with this header, whose body_bytes is set from `body`.
std::string MakeFrame(FrameHeader header, std::string_view body);

/// What a receiver announces: sizes of its landings, how they are cut, how long it will wait.
struct Grant {
  TransferId transfer;
  uint32_t piece_bytes = 0;
  Duration time_left{};
  std::vector<uint64_t> sizes;
};
std::string GrantFrame(const Grant& grant);
/// Errors: kInvalid (malformed, no landings, a piece size out of range), kExhausted (more than `max_landings`).
Result<Grant> ParseGrant(const FrameHeader& header, Bytes body, uint32_t max_landings);

std::string EndFrame(TransferId transfer, bool from_receiver, const Status& status);
/// The status an end frame carries; an unknown code becomes kInternal, an ok one means "all had landed".
Status ParseEnd(const FrameHeader& header, Bytes body);

/// One piece of a landing.
struct PieceRef {
  uint32_t index = 0, piece = 0;
  friend bool operator==(const PieceRef&, const PieceRef&) = default;
};
std::string AckFrame(TransferId transfer, std::span<const PieceRef> pieces);
Result<std::vector<PieceRef>> ParseAck(const FrameHeader& header, Bytes body);

/// How a size is cut: at least one piece.
inline uint64_t PieceCount(uint64_t bytes, uint64_t piece_bytes) { return bytes == 0 ? 1 : CeilDiv(bytes, piece_bytes); }
inline size_t PieceSize(uint64_t bytes, uint64_t piece_bytes, uint32_t piece) {
  return static_cast<size_t>(std::min(piece_bytes, bytes - uint64_t{piece} * piece_bytes));
}

}  // namespace baton
