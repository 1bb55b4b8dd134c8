#include "app/warm_driver.h"

#include <algorithm>
#include <utility>

#include "app/prefix_computation.h"
#include "base/log.h"
#include "base/random.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr kj::Duration kPoll = 10 * kj::MILLISECONDS;
constexpr uint32_t kProbeLanes = 16;         // look-ups of the store under way at once
constexpr uint32_t kMaxStepBlocks = 64;      // bounds what one request holds, and what a kill loses
constexpr size_t kProbeKeys = 1024;          // of one look-up
constexpr int32_t kPriority = -1;            // whoever waits for an answer goes first

kj::Duration Seconds(double seconds) { return static_cast<int64_t>(seconds * 1e9) * kj::NANOSECONDS; }

/// How many leading keys of `chain` are held, asked piece by piece from `from` on.
kj::Promise<Result<size_t>> CountHeld(WarmStore& store, std::vector<BlockKey> chain, size_t from) {
  const size_t count = std::min(kProbeKeys, chain.size() - from);
  std::vector<BlockKey> keys(chain.begin() + static_cast<ptrdiff_t>(from), chain.begin() + static_cast<ptrdiff_t>(from + count));
  return store.Held(chain.front(), std::move(keys)).then([&store, chain = std::move(chain), from, count](Result<size_t> held) mutable -> kj::Promise<Result<size_t>> {
    if (!held.ok()) return kj::mv(held);
    const size_t upto = from + *held;
    if (*held < count || upto == chain.size()) return Result<size_t>(upto);
    return CountHeld(store, std::move(chain), upto);
  });
}

}  // namespace

WarmDriver::WarmDriver(WarmPlan& plan, const WarmLimits& limits, WarmProgress& progress, Backend& backend, WarmStore& store, kj::Timer& timer, const Clock& clock)
    : plan_(plan), limits_(limits), progress_(progress), backend_(backend), store_(store), timer_(timer), clock_(clock), ends_(plan.Ends()),
      request_ids_(EntropySeed()) {}

kj::Promise<Status> WarmDriver::Run() {
  auto lanes = kj::heapArrayBuilder<kj::Promise<Status>>(kProbeLanes);
  for (uint32_t i = 0; i < kProbeLanes; ++i) lanes.add(FindHeld());
  return kj::joinPromises(lanes.finish()).then([this](kj::Array<Status> found) -> kj::Promise<Status> {
    for (const Status& status : found) {
      if (!status.ok()) return status;
    }
    auto pair = kj::newPromiseAndFulfiller<void>();
    done_ = kj::mv(pair.fulfiller);
    Begin();
    return pair.promise.then([this]() { return store_.Flush(); }).then([this](Status flushed) -> Status {
      if (!stopped_.ok()) return stopped_;
      RETURN_IF_ERROR(flushed);
      progress_.complete = progress_.failed == 0 && progress_.left_out == 0;
      return OkStatus();
    });
  });
}

kj::Promise<Status> WarmDriver::FindHeld() {
  if (next_end_ >= ends_.size()) return OkStatus();
  const uint32_t end = ends_[next_end_++];
  return CountHeld(store_, plan_.Keys(end, plan_.Depth(end)), 0).then([this, end](Result<size_t> held) -> kj::Promise<Status> {
    if (!held.ok()) return held.status();
    plan_.MarkHeld(end, *held);
    return FindHeld();
  });
}

void WarmDriver::Begin() {
  progress_.skipped = plan_.held();
  const uint64_t room = limits_.max_blocks - std::min(limits_.max_blocks, progress_.skipped);
  for (const WarmStep& step : plan_.Steps(std::min(kMaxStepBlocks, limits_.unwritten_blocks))) {
    // Steps come best first, each behind the one it follows: those after the first that does not fit are left out.
    if (progress_.left_out > 0 || progress_.to_do + step.blocks > room) progress_.left_out += step.blocks;
    else {
      progress_.to_do += step.blocks;
      steps_.push_back(step);
    }
  }
  followers_.resize(steps_.size());
  for (uint32_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].follows) followers_[*steps_[i].follows].push_back(i);
    else ready_.insert(i);
  }
  StartSteps();
}

/// True when the next step may begin now; else comes back when it may.
bool WarmDriver::RateAllows() {
  if (waits_for_rate_) return false;
  const double wait_s = ToSeconds(next_start_ - clock_.Now());
  if (limits_.tokens_per_s <= 0 || next_start_ == Instant{} || wait_s <= 0) return true;
  waits_for_rate_ = true;
  tasks_.Add(timer_.afterDelay(Seconds(wait_s)).then([this]() {
    waits_for_rate_ = false;
    StartSteps();
  }));
  return false;
}

void WarmDriver::StartSteps() {
  while (stopped_.ok() && !ready_.empty() && running_ < limits_.requests) {
    const uint32_t step = *ready_.begin();
    if (running_ > 0 && unwritten_ + steps_[step].blocks > limits_.unwritten_blocks) break;
    if (!RateAllows()) break;
    ready_.erase(ready_.begin());
    ++running_;
    unwritten_ += steps_[step].blocks;
    if (limits_.tokens_per_s > 0) {
      const double tokens = static_cast<double>(steps_[step].blocks) * backend_.card().block_tokens;
      next_start_ = std::max(next_start_, clock_.Now()) + FromSeconds(tokens / limits_.tokens_per_s);
    }
    tasks_.Add(RunStep(step));
  }
  if (running_ == 0 && (ready_.empty() || !stopped_.ok())) done_->fulfill();
}

kj::Promise<void> WarmDriver::RunStep(uint32_t step) {
  auto computed = CatchAsStatus(Compute(step, clock_.Now() + FromSeconds(limits_.refused_timeout_s)));
  return computed
      .then([this, step](Status status) -> kj::Promise<Status> {
        if (!status.ok()) return status;
        return CatchAsStatus(Written(step, clock_.Now() + FromSeconds(limits_.write_timeout_s)));
      })
      .then([this, step](Status status) { EndStep(step, status); });
}

/// One answer of one token: its prompt's blocks are computed, and written behind by the worker.
kj::Promise<Status> WarmDriver::Compute(uint32_t step, Instant give_up) {
  GenerateRequest request;
  request.id = RequestId(++request_ids_);
  request.tenant = plan_.Tenant(steps_[step].last);
  request.prompt = plan_.Tokens(steps_[step].last);
  request.max_tokens = 1;
  request.sampling.temperature = 0;
  request.priority = kPriority;
  auto sink = kj::heap<PrefixComputation>();
  auto ended = sink->Start(backend_, std::move(request));
  return ended.attach(kj::mv(sink)).then([this, step, give_up](PrefixComputation::Outcome outcome) -> kj::Promise<Status> {
    if (outcome.status.code() != StatusCode::kExhausted || clock_.Now() >= give_up) return outcome.status;
    return timer_.afterDelay(Seconds(std::clamp(outcome.retry_after_s, 0.05, 5.0))).then([this, step, give_up]() { return Compute(step, give_up); });
  });
}

/// Until the store holds the step's blocks.
kj::Promise<Status> WarmDriver::Written(uint32_t step, Instant give_up) {
  const WarmStep& s = steps_[step];
  const BlockKey first = plan_.Keys(s.last, plan_.Depth(s.last)).front();
  return store_.Held(first, plan_.Keys(s.last, s.blocks)).then([this, step, give_up](Result<size_t> held) -> kj::Promise<Status> {
    const uint32_t wanted = steps_[step].blocks;
    if (held.ok() && *held == wanted) return OkStatus();
    if (clock_.Now() < give_up) return timer_.afterDelay(kPoll).then([this, step, give_up]() { return Written(step, give_up); });
    if (!held.ok()) return held.status();
    return Status(UnavailableError("the store took {} of {} computed blocks in {} s: look at its log, free disk space or raise store.disk_bytes; "
                                   "run the job again to go on", *held, wanted, limits_.write_timeout_s));
  });
}

void WarmDriver::EndStep(uint32_t step, const Status& status) {
  --running_;
  unwritten_ -= steps_[step].blocks;
  if (status.ok()) {
    progress_.blocks += steps_[step].blocks;
    ready_.insert(followers_[step].begin(), followers_[step].end());
  } else {
    LOG_ERROR("a prefix of {} tokens failed: {}", plan_.Depth(steps_[step].last) * backend_.card().block_tokens, status.ToString());
    Fail(step);
    // Without workers or a store nothing will go better; a prompt that is refused says nothing about the others.
    if (status.code() != StatusCode::kInvalid && stopped_.ok()) stopped_ = status;
  }
  StartSteps();
}

void WarmDriver::Fail(uint32_t step) {
  std::vector<uint32_t> doomed = {step};
  while (!doomed.empty()) {
    const uint32_t next = doomed.back();
    doomed.pop_back();
    progress_.failed += steps_[next].blocks;
    doomed.insert(doomed.end(), followers_[next].begin(), followers_[next].end());
  }
}

}  // namespace baton
