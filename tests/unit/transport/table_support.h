// One table of transfers by itself: what it sends is kept, what it is told is made here.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "transport/receiving.h"
#include "transport/sending.h"

namespace baton {

inline constexpr WorkerId kAlice{1}, kBob{2};
inline constexpr Instant kT0{std::chrono::seconds(100)};
inline Instant At(double seconds) { return kT0 + FromSeconds(seconds); }

/// A frame that was said to somebody.
struct Said {
  WorkerId to;
  std::string frame;
  FrameHeader header() const { return *ParseHeader(AsBytes(frame)); }
  Bytes body() const { return AsBytes(frame).subspan(sizeof(FrameHeader)); }
};

/// Where a table's words go, and who reads its sources.
class Ears final : public Outbox, public SourceReader {
 public:
  void Send(WorkerId peer, std::string frame) override { said.push_back({peer, std::move(frame)}); }
  bool Detach(TransferId id) override {
    detached.push_back(id);
    return by_reference;
  }

  /// What was said since the last call, of one type; the rest is dropped.
  std::vector<Said> Take(FrameType type) {
    std::vector<Said> out;
    for (Said& s : std::exchange(said, {})) {
      if (s.header().type == type) out.push_back(std::move(s));
    }
    return out;
  }

  std::vector<Said> said;
  std::vector<TransferId> detached;
  bool by_reference = false;  // what Detach says
};

/// "landed 3", "segment 3.0", "sent 3.1", "failed 3 deadline": what completions say, in order. Empties the queue.
inline std::vector<std::string> Told(CompletionQueue& queue) {
  std::vector<std::string> out;
  for (const Completion& c : std::exchange(queue, {})) {
    switch (c.kind) {
      case CompletionKind::kSegmentLanded: out.push_back(fmt::format("segment {}.{}", c.transfer.value, c.index)); break;
      case CompletionKind::kTransferLanded: out.push_back(fmt::format("landed {}", c.transfer.value)); break;
      case CompletionKind::kSent: out.push_back(fmt::format("sent {}.{}", c.transfer.value, c.index)); break;
      case CompletionKind::kFailed: out.push_back(fmt::format("failed {} {}", c.transfer.value, StatusCodeName(c.status.code()))); break;
    }
  }
  return out;
}

}  // namespace baton
