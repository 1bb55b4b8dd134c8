#include "app/bench_store_remote.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>

#include "app/process_pair.h"
#include "base/clock.h"
#include "base/random.h"
#include "kvstore/block_store.h"
#include "transport/shared_arena.h"
#include "transport/transport.h"

namespace baton {
namespace {

constexpr uint64_t kWindow = 4, kGroup = 8;  // transfers under way, blocks of one
constexpr double kPatience_s = 60;
const WorkerId kOwner(1), kReader(2);

struct Work {
  std::string transport;
  uint64_t block_bytes, groups;
};

BlockKey KeyOf(uint64_t block) {
  BlockKey key;
  std::memcpy(key.bytes.data(), &block, sizeof block);
  return key;
}

Result<std::unique_ptr<Transport>> Open(const Work& work, WorkerId self) {
  TransportConfig config;
  config.kind = work.transport;
  config.self = self;
  return MakeTransport(config);
}

/// The next completions; sleeps for them.
Status Next(Transport& transport, const Clock& clock, Instant limit, std::vector<Completion>& done) {
  done.resize(256);
  size_t n = 0;
  while ((n = transport.Poll(done)) == 0) {
    if (clock.Now() > limit) return DeadlineError("nothing moved for {:.0f} s", kPatience_s);
    transport.Wait(std::chrono::milliseconds(100));
  }
  done.resize(n);
  for (const Completion& completion : done) {
    if (completion.kind == CompletionKind::kFailed) return completion.status;
  }
  return OkStatus();
}

/// The store's process: fills a store and pushes all its blocks each time it is asked.
class Owner {
 public:
  Owner(const Work& work, const PairEnd& end) : work_(work), end_(end) {}

  Status Run() {
    RETURN_IF_ERROR(Fill());
    ASSIGN_OR_RETURN(transport_, Open(work_, kOwner));
    size_t bytes = 0;
    if (!SendAll(end_.control, std::as_bytes(std::span(digests_))) || !ReceiveAll(end_.control, std::as_writable_bytes(std::span(&bytes, 1)))) return OkStatus();
    std::string address(bytes, '\0');
    if (!ReceiveAll(end_.control, std::as_writable_bytes(std::span(address)))) return OkStatus();
    RETURN_IF_ERROR(transport_->Connect(kReader, address).status());
    uint64_t first = 0;
    while (ReceiveAll(end_.control, std::as_writable_bytes(std::span(&first, 1)))) RETURN_IF_ERROR(Push(first));
    return OkStatus();
  }

 private:
  Status Fill() {
    BlockStoreConfig config;
    config.memory_bytes = (work_.groups * kGroup + 1) * work_.block_bytes;
    ASSIGN_OR_RETURN(store_, OpenBlockStore(config));
    Random random(1);
    std::vector<std::byte> content(work_.block_bytes);
    for (std::byte& b : content) b = static_cast<std::byte>(random.Next64());
    for (uint64_t block = 0; block < work_.groups * kGroup; ++block) {
      std::memcpy(content.data(), &block, sizeof block);
      BlockHeader header;
      header.key = KeyOf(block);
      header.parent = KeyOf(1ull << 63);
      header.digest = Xxh3(content);
      digests_.push_back(header.digest);
      RETURN_IF_ERROR(store_->Put(header, content));
    }
    return OkStatus();
  }

  Status Push(uint64_t first) {
    std::deque<std::pair<uint64_t, std::vector<BlockView>>> held;  // until they are sent
    std::vector<uint64_t> sent(work_.groups);
    uint64_t pushed = 0;
    const Instant limit = clock_.Now() + FromSeconds(kPatience_s);
    while (pushed < work_.groups || !held.empty()) {
      for (; pushed < work_.groups && held.size() < kWindow; ++pushed) {
        std::vector<BlockView>& views = held.emplace_back(pushed, std::vector<BlockView>()).second;
        std::vector<Segment> segments;
        for (uint32_t i = 0; i < kGroup; ++i) {
          ASSIGN_OR_RETURN(BlockView view, store_->View(KeyOf(pushed * kGroup + i)));
          segments.push_back({i, view.bytes.data(), view.bytes.size()});
          views.push_back(std::move(view));
        }
        RETURN_IF_ERROR(transport_->Push(TransferId(first + pushed), kReader, segments));
      }
      RETURN_IF_ERROR(Next(*transport_, clock_, limit, done_));
      for (const Completion& done : done_) {
        if (done.kind == CompletionKind::kSent) ++sent[done.transfer.value - first];
      }
      while (!held.empty() && sent[held.front().first] == kGroup) held.pop_front();
    }
    return OkStatus();
  }

  const Work& work_;
  const PairEnd& end_;
  const SystemClock clock_;
  std::unique_ptr<BlockStore> store_;
  std::unique_ptr<Transport> transport_;
  std::vector<Digest128> digests_;
  std::vector<Completion> done_;
};

/// The worker's process: lands, checks, and measures.
class Reader {
 public:
  Reader(const Work& work, const PairEnd& end) : work_(work), end_(end), digests_(work.groups * kGroup) {}

  Result<RemoteGetRates> Run(uint32_t rounds) {
    const size_t window_bytes = kWindow * kGroup * work_.block_bytes;
    ASSIGN_OR_RETURN(arena_, MakeSharedArena(window_bytes));
    std::memset(arena_.memory().bytes.data(), 1, window_bytes);
    ASSIGN_OR_RETURN(transport_, Open(work_, kReader));
    RETURN_IF_ERROR(transport_->Register(arena_.memory()));
    const std::string address = transport_->address();
    const size_t size = address.size();
    if (!ReceiveAll(end_.control, std::as_writable_bytes(std::span(digests_))) || !SendAll(end_.control, std::as_bytes(std::span(&size, 1))) ||
        !SendAll(end_.control, AsBytes(address))) {
      return UnavailableError("the store's process ended");
    }
    RETURN_IF_ERROR(Get().status());  // connects, touches all memory
    std::vector<std::byte> target(window_bytes);
    RemoteGetRates rates;
    const double mb = static_cast<double>(work_.groups * kGroup * work_.block_bytes) / 1e6;
    for (uint32_t round = 0; round < rounds; ++round) {
      const Instant begin = clock_.Now();
      for (uint64_t block = 0; block < work_.groups * kGroup; ++block) {
        const size_t at = block % (kWindow * kGroup) * work_.block_bytes;
        std::memcpy(target.data() + at, arena_.memory().bytes.data() + at, work_.block_bytes);
      }
      rates.memcpy_mb_per_s.push_back(mb / ToSeconds(clock_.Now() - begin));
      ASSIGN_OR_RETURN(const double seconds, Get());
      rates.get_mb_per_s.push_back(mb / seconds);
    }
    return rates;
  }

 private:
  /// Seconds to have every block here, checked.
  Result<double> Get() {
    const uint64_t first = std::exchange(next_, next_ + work_.groups);
    const Instant begin = clock_.Now(), limit = begin + FromSeconds(kPatience_s);
    uint64_t asked = 0, landed = 0;
    for (bool told = false; landed < work_.groups;) {
      for (; asked < work_.groups && asked < landed + kWindow; ++asked) {
        std::vector<Landing> landings;
        for (uint64_t i = 0; i < kGroup; ++i) landings.push_back({Place(asked, i), work_.block_bytes});
        RETURN_IF_ERROR(transport_->Expect(TransferId(first + asked), kOwner, landings, limit));
      }
      if (!told && !SendAll(end_.control, std::as_bytes(std::span(&first, 1)))) return UnavailableError("the store's process ended");
      told = true;
      RETURN_IF_ERROR(Next(*transport_, clock_, limit, done_));
      for (const Completion& done : done_) {
        if (done.kind == CompletionKind::kTransferLanded) ++landed;
        if (done.kind != CompletionKind::kSegmentLanded) continue;
        const uint64_t group = done.transfer.value - first;
        if (Xxh3({Place(group, done.index), work_.block_bytes}) == digests_[group * kGroup + done.index]) continue;
        return DataLossError("block {} arrived with another digest", group * kGroup + done.index);
      }
    }
    return ToSeconds(clock_.Now() - begin);
  }
  std::byte* Place(uint64_t group, uint64_t i) { return arena_.memory().bytes.data() + (group % kWindow * kGroup + i) * work_.block_bytes; }

  const Work& work_;
  const PairEnd& end_;
  const SystemClock clock_;
  std::vector<Digest128> digests_;
  SharedArena arena_;
  std::unique_ptr<Transport> transport_;
  std::vector<Completion> done_;
  uint64_t next_ = 1;
};

}  // namespace

Result<RemoteGetRates> BenchRemoteGet(const std::string& transport, uint64_t block_bytes, uint64_t bytes, uint32_t rounds) {
  const Work work{transport, block_bytes, std::max<uint64_t>(1, bytes / block_bytes / kGroup)};
  Result<RemoteGetRates> rates = UnavailableError("did not run");
  const auto read = [&](const PairEnd& end) {
    rates = Reader(work, end).Run(rounds);
    return rates.ok() ? 0 : 1;
  };
  const auto own = [&](const PairEnd& end) {
    const Status status = Owner(work, end).Run();
    return status.ok() ? 0 : Fail(status);
  };
  RETURN_IF_ERROR(RunForked(read, own).status());
  return rates;
}

}  // namespace baton
