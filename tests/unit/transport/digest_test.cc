// Digests that are made while bytes arrive: the same as of the whole, in whatever order pieces come, over every transport.
#include <map>
#include <thread>

#include "base/mailbox.h"
#include "base/random.h"
#include "transport/receiving.h"
#include "transport/transfer_pump.h"

namespace baton {
namespace {

TEST(Xxh3HasherTest, PartsAndTheWholeAgree) {
  Random random(3);
  std::vector<std::byte> bytes(70000);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.Below(256));
  for (const size_t size : {size_t{0}, size_t{1}, size_t{16}, size_t{240}, size_t{241}, size_t{256}, size_t{1024}, size_t{4097}, bytes.size()}) {
    const Bytes whole = Bytes(bytes).first(size);
    for (int round = 0; round < 20; ++round) {
      Xxh3Hasher hasher;
      for (Bytes rest = whole; !rest.empty();) {
        const size_t part = std::min<size_t>(rest.size(), random.Below(round % 2 == 0 ? 300 : 20000));
        hasher.Update(rest.first(part));
        rest = rest.subspan(part);
      }
      ASSERT_EQ(hasher.Digest(), Xxh3(whole)) << size;
      Xxh3Hasher moved = std::move(hasher);
      EXPECT_EQ(moved.Digest(), Xxh3(whole));
    }
  }
}

constexpr WorkerId kSender{1};
constexpr size_t kPiece = 100;

/// A receiving table and what it lands in.
class Receiver final : private Outbox {
 public:
  explicit Receiver(std::vector<size_t> sizes) : sizes_(std::move(sizes)), memory_bytes_(Total()) {
    EXPECT_TRUE(registered_.Add(memory_bytes_).ok());
    Random random(17);
    source_.resize(memory_bytes_.size());
    for (std::byte& b : source_) b = static_cast<std::byte>(random.Below(256));
  }

  /// Lands every piece in a random order, some of them twice; gives each run's digest, by the landing that completed it.
  std::map<uint32_t, Digest128> Land(uint32_t run, Random& random) {
    const TransferId id(next_++);
    std::vector<Landing> landings;
    for (uint32_t i = 0; i < sizes_.size(); ++i) landings.push_back({sizes_[i] == 0 ? nullptr : memory_bytes_.data() + Offset(i), sizes_[i]});
    EXPECT_TRUE(table_.Expect(id, kSender, landings, Instant(std::chrono::hours(1)), Instant(), run).ok());
    std::vector<FrameHeader> pieces;
    for (uint32_t i = 0; i < sizes_.size(); ++i) {
      for (uint32_t piece = 0; piece < PieceCount(sizes_[i], kPiece); ++piece) {
        pieces.push_back({.type = FrameType::kData, .transfer = id.value, .index = i, .piece = piece});
        if (random.Below(5) == 0) pieces.push_back(pieces.back());
      }
    }
    random.Shuffle(pieces);
    for (const FrameHeader& h : pieces) {
      const size_t bytes = PieceSize(sizes_[h.index], kPiece, h.piece);
      std::byte* place = table_.Locate(kSender, h, bytes);
      if (place == nullptr) {
        table_.Drained(kSender, h);
        continue;
      }
      if (bytes > 0) std::copy_n(source_.data() + Offset(h.index) + h.piece * kPiece, bytes, place);
      table_.Landed(kSender, h);
    }
    std::map<uint32_t, Digest128> digests;
    for (const Completion& c : std::exchange(completions_, {})) {
      if (!c.digested) continue;
      EXPECT_TRUE(digests.emplace(c.index / run, c.digest).second) << "one digest a run";
    }
    return digests;
  }
  Digest128 Wanted(uint32_t first, uint32_t count) const {
    const auto end = std::min<size_t>(first + count, sizes_.size());
    return Xxh3(Bytes(source_).subspan(Offset(first), (end == sizes_.size() ? source_.size() : Offset(static_cast<uint32_t>(end))) - Offset(first)));
  }
  size_t landings() const { return sizes_.size(); }

 private:
  void Send(WorkerId, std::string) override {}
  size_t Total() const {
    size_t total = 0;
    for (const size_t size : sizes_) total += size;
    return total;
  }
  size_t Offset(uint32_t index) const {
    size_t at = 0;
    for (uint32_t i = 0; i < index; ++i) at += sizes_[i];
    return at;
  }
  static TransferLimits Limits() {
    TransferLimits limits;
    limits.piece_bytes = kPiece;
    return limits;
  }

  const std::vector<size_t> sizes_;
  std::vector<std::byte> memory_bytes_, source_;
  uint64_t next_ = 1;
  RegisteredMemory registered_;
  CompletionQueue completions_;
  ReceivingTable table_{Limits(), registered_, *this, completions_};
};

TEST(DigestRuns, AnyOrderOfPiecesGivesTheDigestOfTheWhole) {
  Random random(5);
  Receiver receiver({250, 0, 100, 1, 99, 101, 0, 777, 300, 50});
  for (int round = 0; round < 300; ++round) {
    const auto run = static_cast<uint32_t>(1 + random.Below(12));
    const auto digests = receiver.Land(run, random);
    ASSERT_EQ(digests.size(), CeilDiv(receiver.landings(), run)) << run;
    for (const auto& [number, digest] : digests) ASSERT_EQ(digest, receiver.Wanted(number * run, run)) << "run " << number << " of " << run << " landings";
  }
}

TEST(DigestRuns, NoneAreMadeWhereNoneAreAsked) {
  Random random(6);
  Receiver receiver({250, 100});
  EXPECT_TRUE(receiver.Land(0, random).empty());
}

TEST(DigestRuns, OverEveryTransportOfOneProcess) {
  SystemClock clock;
  for (const std::string kind : {"local", "tcp", "auto"}) {
    const auto hub = MakeLocalHub();
    std::vector<std::byte> from(3000000), to(from.size());
    Random random(9);
    for (std::byte& b : from) b = static_cast<std::byte>(random.Next64());
    std::vector<std::unique_ptr<TransferPump>> pumps;
    for (const uint32_t worker : {1, 2}) {
      TransportConfig config;
      config.kind = kind;
      config.self = WorkerId(worker);
      config.incarnation = Incarnation(1);
      config.hub = hub;
      auto transport = MakeTransport(config);
      ASSERT_TRUE(transport.ok()) << kind << transport.status().message();
      ASSERT_TRUE((*transport)->Register({worker == 1 ? from : to}).ok());
      pumps.push_back(std::make_unique<TransferPump>(std::move(*transport), clock));
    }
    // Six landings in three runs; pushed backwards.
    constexpr size_t kEach = 500000;
    std::vector<Landing> landings;
    for (uint32_t i = 0; i < 6; ++i) landings.push_back({to.data() + i * kEach, kEach});
    std::vector<Digest128> digests(3);
    Mailbox<Status> ended(4);
    const auto tell = [&](const Status& status) { (void)ended.Push(Status(status)); };
    pumps[1]->Expect(TransferId(1), {WorkerId(1), pumps[0]->address()}, landings, clock.Now() + std::chrono::seconds(30), tell, digests);
    for (uint32_t i = 6; i > 0; --i) pumps[0]->Push(TransferId(1), {WorkerId(2), pumps[1]->address()}, {{i - 1, from.data() + (i - 1) * kEach, kEach}});
    pumps[0]->CloseSend(TransferId(1), tell);
    std::vector<Status> ends;
    for (const Instant limit = clock.Now() + std::chrono::seconds(30); ends.size() < 2 && clock.Now() < limit;) {
      ended.WaitFor(std::chrono::seconds(1));
      for (Status& status : ended.Drain()) ends.push_back(std::move(status));
    }
    ASSERT_EQ(ends.size(), 2u) << kind;
    for (const Status& end : ends) EXPECT_TRUE(end.ok()) << kind << ": " << end.message();
    EXPECT_EQ(from, to);
    for (size_t run = 0; run < 3; ++run) EXPECT_EQ(digests[run], Xxh3(Bytes(from).subspan(run * 2 * kEach, 2 * kEach))) << kind;
  }
}

}  // namespace
}  // namespace baton
