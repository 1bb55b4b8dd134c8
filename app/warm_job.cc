#include "app/warm_job.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "app/rank_parts.h"
#include "app/start_ranks.h"
#include "base/log.h"
#include "gateway/model_text_codec.h"
#include "kvstore/block_record.h"
#include "kvstore/disk_folder.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr kj::Duration kBarInterval = 200 * kj::MILLISECONDS;
constexpr double kDiskShare = 0.95;  // of the stores' capacity: prefixes spread over several stores unevenly

class ClusterWarmStore final : public WarmStore {
 public:
  explicit ClusterWarmStore(RankContext& context) : context_(context) {}

  kj::Promise<Result<size_t>> Held(BlockKey first, std::vector<BlockKey> keys) override {
    const MemberInfo* store = StoreOf(context_.members, first);
    if (store == nullptr) return Result<size_t>(UnavailableError("there is no store in this cluster: add store to cluster.roles"));
    return CatchAsStatus(context_.peers.Dial(store->address).then([this, keys = std::move(keys)](Result<kj::Own<Peer>> peer) -> kj::Promise<Result<size_t>> {
      if (!peer.ok()) return Result<size_t>(peer.status());
      auto request = (*peer)->store.lookupRequest();
      WriteKeys(keys, request.initKeys(static_cast<uint32_t>(keys.size())));
      auto sent = (*peer)->Guard(kj::Promise<capnp::Response<wire::Store::LookupResults>>(request.send()));
      return WithLimit(kj::mv(sent)).then([](capnp::Response<wire::Store::LookupResults> r) { return Result<size_t>(r.getCount()); });
    }));
  }

  kj::Promise<Status> Flush() override {
    kj::Promise<Status> all = OkStatus();
    for (const MemberInfo* store : context_.members.WithRole("store")) {
      all = all.then([this, address = store->address, name = store->name](Status before) -> kj::Promise<Status> {
        if (!before.ok()) return before;
        return FlushOne(address).then([name](Status s) { return s.ok() ? s : s.WithContext("flushing store " + name); });
      });
    }
    return all;
  }

 private:
  template <typename T>
  kj::Promise<T> WithLimit(kj::Promise<T> promise) {
    const auto limit = static_cast<int64_t>(context_.config.transport.transfer_timeout_s * 1e9) * kj::NANOSECONDS;
    return context_.timer().timeoutAfter(limit, kj::mv(promise));
  }
  kj::Promise<Status> FlushOne(const PeerAddress& address) {
    return CatchAsStatus(context_.peers.Dial(address).then([](Result<kj::Own<Peer>> peer) -> kj::Promise<Status> {
      if (!peer.ok()) return peer.status();
      // The store bounds how long a flush takes (BlockStoreConfig::wait_s).
      auto sent = (*peer)->Guard(kj::Promise<capnp::Response<wire::Store::FlushResults>>((*peer)->store.flushRequest().send()));
      return sent.then([](capnp::Response<wire::Store::FlushResults> r) { return ReadStatus(r.getStatus()); });
    }));
  }

  RankContext& context_;
};

/// Blocks that fit on the disk of all stores together.
uint64_t DiskBlocks(const RankContext& context, uint64_t block_bytes, uint32_t block_tokens) {
  const uint64_t header = kRecordFixedBytes + sizeof(TokenId) * uint64_t{block_tokens};
  const uint64_t pages = CeilDiv(header, uint64_t{kPageBytes}) + CeilDiv(block_bytes, uint64_t{kPageBytes});
  const double stores = static_cast<double>(std::max<size_t>(1, context.members.WithRole("store").size()));
  const auto capacity = static_cast<double>(DiskFolder::CapacityBytes(context.config.store.disk_bytes));
  return static_cast<uint64_t>(stores * kDiskShare * capacity / static_cast<double>(pages * kPageBytes));
}

std::string Minutes(double seconds) {
  const auto s = static_cast<uint64_t>(std::min(seconds, 3.6e6));
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

std::string ProgressLine(const WarmProgress& progress, double seconds) {
  constexpr uint64_t kWidth = 30;
  const uint64_t total = progress.to_do, done = std::min(total, progress.blocks + progress.failed);
  const uint64_t filled = total == 0 ? kWidth : kWidth * done / total;
  std::string line = fmt::format("[{}{}] {:3} %  {}/{} blocks", std::string(filled, '#'), std::string(kWidth - filled, '.'),
                                 total == 0 ? 100 : 100 * done / total, done, total);
  if (done > 0 && seconds > 0) {
    const double rate = static_cast<double>(done) / seconds;
    line += fmt::format("  {:.1f} blocks/s  {} left", rate, Minutes(static_cast<double>(total - done) / rate));
  }
  return line;
}

Status WarmJob::Prepare(const Config& config) {
  std::ifstream in(options_.input, std::ios::binary);
  if (!in) return NotFoundError("cannot read the corpus {}: {}", options_.input, std::strerror(errno));
  ASSIGN_OR_RETURN(const ModelDescription described, DescribeModel(ModelLoadOptions(config.model)));
  const ModelIdentity model = IdentityOf(described.info, described.layout, described.numerics, config.model.name);
  const SystemClock clock;
  ASSIGN_OR_RETURN(const std::unique_ptr<TextCodec> codec, LoadTextCodec(config.model.path, clock));
  plan_ = std::make_unique<WarmPlan>(model.block_tokens);
  bool tenants = false;
  const auto take = [&](const WarmPrompt& prompt) {
    tenants = tenants || !prompt.tenant.empty();
    // A block that ends at the model's last position is of no use: no answer could follow it.
    const size_t usable = std::min<size_t>(prompt.tokens.size(), model.max_positions - 1);
    plan_->Add(TenantRoot(model, TenantSecret(config), prompt.tenant), prompt.tenant, std::span(prompt.tokens).first(usable));
  };
  const auto bad = [&](uint64_t line, const Status& reason) {
    std::fprintf(stderr, "%s:%llu: %s\n", options_.input.c_str(), static_cast<unsigned long long>(line), reason.message().c_str());
  };
  report_.corpus = ReadCorpus(in, *codec, {model.vocab, model.max_positions}, take, bad);
  if (in.bad()) return UnavailableError("reading {} failed after line {}: {}", options_.input, report_.corpus.lines, std::strerror(errno));
  if (tenants && !OnLoopback(config) && TenantSecret(config).empty()) {
    return InvalidError("the corpus names tenants, whose blocks are bound to gateway.tenant_secret, or cluster.key: set it to that of the cluster that will serve them");
  }
  report_.prefixes = plan_->Ends().size();
  report_.block_bytes = model.block_bytes;
  return OkStatus();
}

/// The job under way.
class WarmJob::Work {
 public:
  Work(WarmJob& job, RankContext& context, ClusterBackend& backend)
      : job_(job), context_(context), store_(context), begin_(context.clock.Now()),
        driver_(*job.plan_, Limits(), job.report_.progress, backend, store_, context.timer(), context.clock) {}
  ~Work() {
    NoteTime();
    if (drawn_) std::fprintf(stderr, "\n");
  }

  kj::Promise<Status> Run() {
    if (!job_.options_.show_progress) return driver_.Run();
    return driver_.Run().then([this](Status status) {
      Draw();
      return status;
    }).exclusiveJoin(KeepDrawing());
  }

 private:
  WarmLimits Limits() const {
    WarmLimits limits;
    limits.requests = job_.options_.requests;
    limits.tokens_per_s = job_.options_.limit_tokens_per_s;
    limits.write_timeout_s = std::max(limits.write_timeout_s, 2 * context_.config.transport.transfer_timeout_s);
    limits.max_blocks = DiskBlocks(context_, job_.report_.block_bytes, context_.config.model.block_tokens);
    return limits;
  }
  void NoteTime() { job_.report_.seconds = ToSeconds(context_.clock.Now() - begin_); }
  void Draw() {
    NoteTime();
    std::fprintf(stderr, "\r%s\x1b[K", ProgressLine(job_.report_.progress, job_.report_.seconds).c_str());
    drawn_ = true;
  }
  kj::Promise<Status> KeepDrawing() {
    Draw();
    return context_.timer().afterDelay(kBarInterval).then([this]() { return KeepDrawing(); });
  }

  WarmJob& job_;
  RankContext& context_;
  ClusterWarmStore store_;
  const Instant begin_;
  bool drawn_ = false;
  WarmDriver driver_;
};

kj::Promise<Status> WarmJob::Run(RankContext& context, ClusterBackend& backend) {
  report_.started = true;
  auto work = kj::heap<Work>(*this, context, backend);
  auto done = work->Run();
  return done.attach(kj::mv(work));
}

}  // namespace baton
