#include "transport/frame.h"

#include <algorithm>

namespace baton {
namespace {

constexpr size_t kMaxEndMessage = 512;

}  // namespace

Result<FrameHeader> ParseHeader(Bytes bytes) {
  FrameHeader h;
  CHECK(bytes.size() >= sizeof h);
  std::memcpy(&h, bytes.data(), sizeof h);
  const auto type = static_cast<uint8_t>(h.type);
  if (type < static_cast<uint8_t>(FrameType::kHello) || type > static_cast<uint8_t>(FrameType::kPong) || h.zero != 0 || h.flags > 7) {
    return InvalidError("bytes that are no frame of Baton's transport (type {}, flags {}); is another program talking to this port?", type, h.flags);
  }
  if (h.body_bytes > kMaxBodyBytes) return InvalidError("a frame of {} bytes; the limit is {}", h.body_bytes, kMaxBodyBytes);
  return h;
}

std::string MakeFrame(FrameHeader header, std::string_view body) {
  header.body_bytes = static_cast<uint32_t>(body.size());
  std::string out;
  out.reserve(sizeof header + body.size());
  AppendNumber(&out, header);
  out.append(body);
  return out;
}

std::string GrantFrame(const Grant& grant) {
  std::string body;
  AppendNumber(&body, static_cast<int64_t>(grant.time_left.count()));
  for (size_t i = 0; i < grant.sizes.size();) {
    size_t end = i + 1;
    while (end < grant.sizes.size() && grant.sizes[end] == grant.sizes[i]) ++end;
    AppendNumber(&body, static_cast<uint32_t>(end - i));
    AppendNumber(&body, grant.sizes[i]);
    i = end;
  }
  return MakeFrame({.type = FrameType::kGrant, .transfer = grant.transfer.value,
                    .index = static_cast<uint32_t>(grant.sizes.size()), .piece = grant.piece_bytes}, body);
}

Result<Grant> ParseGrant(const FrameHeader& header, Bytes body, uint32_t max_landings) {
  Grant grant{.transfer = TransferId(header.transfer), .piece_bytes = header.piece, .time_left = {}, .sizes = {}};
  int64_t left = 0;
  if (header.index == 0 || header.piece == 0 || header.piece > kMaxPieceBytes || !TakeNumber(&body, &left)) {
    return InvalidError("transfer {}: a malformed grant", header.transfer);
  }
  if (header.index > max_landings) {
    return ExhaustedError("transfer {}: {} landings; at most {} are allowed, send in several transfers", header.transfer, header.index, max_landings);
  }
  grant.time_left = Duration(left);
  grant.sizes.reserve(header.index);
  while (!body.empty()) {
    uint32_t count = 0;
    uint64_t bytes = 0;
    const bool read = TakeNumber(&body, &count) && TakeNumber(&body, &bytes);
    if (!read || count == 0 || count > header.index - grant.sizes.size() || PieceCount(bytes, header.piece) > UINT32_MAX) {
      return InvalidError("transfer {}: a malformed grant", header.transfer);
    }
    grant.sizes.insert(grant.sizes.end(), count, bytes);
  }
  if (grant.sizes.size() != header.index) return InvalidError("transfer {}: a grant of {} landings names {}", header.transfer, header.index, grant.sizes.size());
  return Result<Grant>(std::move(grant));
}

std::string EndFrame(TransferId transfer, bool from_receiver, const Status& status) {
  return MakeFrame({.type = FrameType::kEnd, .flags = from_receiver ? uint8_t{kFromReceiver} : uint8_t{0}, .transfer = transfer.value,
                    .index = static_cast<uint32_t>(status.code())}, std::string_view(status.message()).substr(0, kMaxEndMessage));
}

Status ParseEnd(const FrameHeader& header, Bytes body) {
  if (header.index == 0) return OkStatus();
  const bool known = header.index <= static_cast<uint32_t>(StatusCode::kInternal);
  return Status(known ? static_cast<StatusCode>(header.index) : StatusCode::kInternal,
                std::string(AsText(body.first(std::min(body.size(), kMaxEndMessage)))));
}

std::string AckFrame(TransferId transfer, std::span<const PieceRef> pieces) {
  static_assert(sizeof(PieceRef) == 8);
  return MakeFrame({.type = FrameType::kAck, .transfer = transfer.value},
                   std::string_view(reinterpret_cast<const char*>(pieces.data()), pieces.size_bytes()));
}

Result<std::vector<PieceRef>> ParseAck(const FrameHeader& header, Bytes body) {
  if (body.size() % sizeof(PieceRef) != 0) return InvalidError("transfer {}: a malformed ack", header.transfer);
  std::vector<PieceRef> pieces(body.size() / sizeof(PieceRef));
  if (!pieces.empty()) std::memcpy(pieces.data(), body.data(), body.size());
  return Result<std::vector<PieceRef>>(std::move(pieces));
}

}  // namespace baton
