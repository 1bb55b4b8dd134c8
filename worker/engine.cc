#include "worker/engine.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "worker/draft_batch.h"
#include "worker/grammars.h"
#include "worker/request_check.h"
#include "worker/sampler.h"
#include "worker/scheduler.h"
#include "worker/sequence.h"
#include "worker/step_fit.h"
#include "worker/step_meter.h"

namespace baton {
namespace {

constexpr uint64_t kFitEvery = 16;  // steps between two fits of what steps cost: one takes about 10 us
constexpr size_t kStartAhead = 16;           // waiting sequences looked at in a step
constexpr Duration kRetry = std::chrono::milliseconds(1);  // while blocks that others hold are waited for

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineConfig& config, Model& model, BlockPool& pool, EngineListener& listener, const Clock& clock)
      : config_(config),
        model_(model),
        pool_(pool),
        listener_(listener),
        clock_(clock),
        block_tokens_(model.kv_layout().block_tokens),
        pool_blocks_(pool.stats().total),
        grammars_(model.info().tokenizer_path, model.info().vocab),
        sampler_(model.info().vocab) {
    CHECK(pool.block_bytes() >= model.kv_layout().BlockBytes());
    CHECK(config.max_running > 0 && config.prefill_chunk_tokens > 0);
  }
  ~EngineImpl() override;

  Status Submit(EngineRequest request) override;
  void Cancel(RequestId id) override;
  void CancelAll() override;
  void ReleaseHeld(RequestId id) override;
  void Resume(RequestId id, std::vector<BlockId> blocks) override;
  bool Step() override;
  void WaitForWork(Duration timeout) override;
  EngineLoad load() const override;

 private:
  struct Live {  // a submitted request that has not ended
    bool cancelled = false, released = false;
  };

  void Measure(const StepWork& work, double seconds) {
    meter_.Add(work.decode_rows, work.guesses, work.prefill_tokens, seconds);
    fit_.Add({static_cast<double>(work.prefill_tokens), work.pairs, static_cast<double>(work.decode_rows + work.guesses), seconds});
    ++totals_.steps;
  }
  bool TakeNews();
  void Insert(std::unique_ptr<Sequence> sequence);
  void FillView();
  bool IsDeferred(Sequence& sequence, size_t index);
  void Prepare();
  void FillBatch();
  Status RunBatch();
  Status ForwardRuns(size_t first, size_t count);
  void ReportLayer(size_t first, size_t count, uint32_t layer);
  void FinishRuns();
  void FinishRun(const Run& run);
  bool AddToken(const Run& run, uint32_t row);
  void Advance(Sequence& sequence, uint32_t tokens);
  std::optional<FinishReason> ReasonToEnd(Sequence& sequence) const;
  void End(Sequence& sequence, FinishReason reason, const Status& status);
  void Sweep();

  const EngineConfig config_;
  Model& model_;
  BlockPool& pool_;
  EngineListener& listener_;
  const Clock& clock_;
  const uint32_t block_tokens_;
  const size_t pool_blocks_;
  Grammars grammars_;

  mutable std::mutex mutex_;  // guards the next eight; never held over a call to the listener, the model or a wait
  std::condition_variable wake_;
  bool news_ = false;
  std::vector<std::unique_ptr<Sequence>> inbox_;
  std::unordered_map<RequestId, Live> live_;
  std::unordered_map<RequestId, std::vector<BlockId>> held_;  // blocks of ended requests with push_layers
  std::unordered_map<RequestId, std::vector<BlockId>> resumed_;  // brought back for requests that wait
  uint32_t unstarted_ = 0;
  EngineLoad load_;

  // The rest is the step's thread's.
  std::vector<std::unique_ptr<Sequence>> sequences_;  // in rank order: priority, then arrival
  Sampler sampler_;
  StepMeter meter_;
  StepFit fit_;
  EngineLoad totals_;  // what is counted since the start, and the fit's result of now and then
  ScheduleView view_;
  SchedulePlan plan_;
  std::vector<Run> runs_;
  std::vector<SequenceSlice> batch_;  // one a run, in the same order
  DraftBatch drafts_;
  std::vector<float> logits_;
};

EngineImpl::~EngineImpl() {
  for (const auto& sequence : sequences_) sequence->Release(pool_);
  for (const auto& sequence : inbox_) sequence->Release(pool_);
  for (const auto* blocks_of : {&held_, &resumed_}) {
    for (const auto& [id, blocks] : *blocks_of) {
      for (const BlockId block : blocks) pool_.Unref(block);
    }
  }
}

Status EngineImpl::Submit(EngineRequest request) {
  RETURN_IF_ERROR(CheckRequest(request, model_.info(), block_tokens_, pool_blocks_));
  ASSIGN_OR_RETURN(Constraint constraint, MakeConstraint(request.request, model_.info().eos_ids, grammars_));
  auto sequence = std::make_unique<Sequence>(std::move(request), std::move(constraint), block_tokens_, clock_.Now());
  const RequestId id = sequence->id();
  {
    std::lock_guard lock(mutex_);
    if (unstarted_ >= config_.max_waiting) {
      return ExhaustedError("{} requests wait at this worker already; retry later or raise engine.max_waiting", unstarted_);
    }
    if (held_.contains(id) || !live_.try_emplace(id).second) return InvalidError("request id {} is in use", id.value);
    inbox_.push_back(std::move(sequence));
    ++unstarted_;
    news_ = true;
  }
  wake_.notify_one();
  return OkStatus();
}

void EngineImpl::Cancel(RequestId id) {
  {
    std::lock_guard lock(mutex_);
    const auto found = live_.find(id);
    if (found == live_.end()) return;
    found->second.cancelled = true;
    news_ = true;
  }
  wake_.notify_one();
}

void EngineImpl::CancelAll() {
  {
    std::lock_guard lock(mutex_);
    for (auto& [id, live] : live_) live.cancelled = true;
    news_ = true;
  }
  wake_.notify_one();
}

void EngineImpl::ReleaseHeld(RequestId id) {
  std::vector<BlockId> blocks;
  {
    std::lock_guard lock(mutex_);
    if (const auto live = live_.find(id); live != live_.end()) live->second.released = true;
    const auto held = held_.find(id);
    if (held == held_.end()) return;
    blocks = std::move(held->second);
    held_.erase(held);
    news_ = true;
  }
  for (const BlockId block : blocks) pool_.Unref(block);
  wake_.notify_one();
}

void EngineImpl::Resume(RequestId id, std::vector<BlockId> blocks) {
  {
    std::lock_guard lock(mutex_);
    if (live_.contains(id) && resumed_.try_emplace(id, std::move(blocks)).second) news_ = true;
  }
  for (size_t i = blocks.size(); i > 0; --i) pool_.Unref(blocks[i - 1]);  // not taken
  wake_.notify_one();
}

void EngineImpl::WaitForWork(Duration timeout) {
  if (!sequences_.empty()) timeout = std::min(timeout, kRetry);
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, timeout, [this] { return news_; });
}

EngineLoad EngineImpl::load() const {
  std::lock_guard lock(mutex_);
  EngineLoad load = load_;
  for (const auto& sequence : inbox_) {
    ++load.waiting;
    load.queued_prefill_tokens += sequence->size() - sequence->computed();
  }
  return load;
}

bool EngineImpl::Step() {
  bool busy = TakeNews();
  FillView();
  Schedule(view_, plan_);
  busy = busy || !plan_.expired.empty() || !plan_.preempted.empty();
  Prepare();
  if (!runs_.empty()) {
    busy = true;
    drafts_.Choose(meter_.decode_cost(), config_.speculative_tokens, pool_, runs_);
    FillBatch();
    const Instant begin = clock_.Now();
    const Status status = RunBatch();
    if (status.ok()) Measure(WorkOf(runs_), ToSeconds(clock_.Now() - begin));
    FinishRuns();
  }
  if (busy) Sweep();
  return busy;
}

/// New requests, and the end of cancelled ones.
bool EngineImpl::TakeNews() {
  std::vector<std::unique_ptr<Sequence>> arrived;
  std::vector<Sequence*> cancelled;
  {
    std::lock_guard lock(mutex_);
    if (!news_) return false;
    news_ = false;
    arrived.swap(inbox_);
  }
  const bool busy = !arrived.empty();
  for (auto& sequence : arrived) Insert(std::move(sequence));
  {
    std::lock_guard lock(mutex_);
    for (const auto& sequence : sequences_) {
      const auto live = live_.find(sequence->id());
      if (live != live_.end() && live->second.cancelled) cancelled.push_back(sequence.get());
      const auto resumed = resumed_.extract(sequence->id());
      if (resumed.empty()) continue;
      sequence->resuming = false;
      sequence->Keep(std::move(resumed.mapped()));
    }
  }
  for (Sequence* sequence : cancelled) End(*sequence, FinishReason::kCancelled, OkStatus());
  for (const auto& sequence : sequences_) {
    if (sequence->ended || sequence->started || !sequence->origin().first_token.has_value()) continue;
    if (const auto reason = ReasonToEnd(*sequence)) End(*sequence, *reason, OkStatus());
  }
  std::erase_if(sequences_, [](const auto& sequence) { return sequence->ended; });
  return busy || !cancelled.empty();
}

void EngineImpl::Insert(std::unique_ptr<Sequence> sequence) {
  sequence->stats.prompt_tokens = sequence->prompt_tokens();
  const auto place = std::upper_bound(sequences_.begin(), sequences_.end(), sequence,
                                      [](const auto& a, const auto& b) { return a->request().priority > b->request().priority; });
  sequences_.insert(place, std::move(sequence));
}

void EngineImpl::FillView() {
  const BlockPoolStats pool = pool_.stats();
  view_.rows.clear();
  view_.now = clock_.Now();
  view_.block_tokens = block_tokens_;
  view_.max_running = config_.max_running;
  view_.chunk_tokens = config_.prefill_chunk_tokens;
  view_.available_blocks = pool.free + pool.cached;
  uint32_t decode_rows = 0;
  size_t looked_at = 0;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& s = *sequences_[i];
    ScheduleRow& row = view_.rows.emplace_back();
    row.tokens = s.size();
    row.computed = std::min(s.computed(), s.size() - 1);
    row.blocks = static_cast<uint32_t>(s.held_blocks());
    row.reserve_tokens = s.reserve_tokens();
    row.priority = s.request().priority;
    row.running = s.running;
    row.pinned = s.reported;
    row.deadline = s.deadline();
    if (s.running) decode_rows += row.tokens - row.computed == 1;
    else row.deferred = s.resuming || looked_at++ >= kStartAhead || IsDeferred(s, i);
  }
  view_.token_budget = StepTokens({.decode_rows = decode_rows,
                                   .step_token_budget = config_.step_token_budget,
                                   .target_step_s = config_.target_step_s,
                                   .slowdown = config_.prefill_slowdown,
                                   .prefill_tokens_per_s = meter_.prefill_tokens_per_s(),
                                   .decode_s = meter_.ExpectedDecode(decode_rows),
                                   .token_beside_s = meter_.token_beside_s()});
}

/// A waiting sequence whose next full block a higher-ranked one is about to compute waits and finds it in the pool: the
/// choices of one prompt, or a shared system prompt, are computed once.
bool EngineImpl::IsDeferred(Sequence& sequence, size_t index) {
  if (!sequence.origin().use_pool) return false;
  const size_t missing = sequence.FirstMissing(pool_);
  const auto& keys = sequence.keys();
  if (missing >= keys.size()) return false;
  for (size_t i = 0; i < index; ++i) {
    const auto& other = sequences_[i]->keys();
    if (other.size() <= missing || other[missing] != keys[missing]) continue;
    if (sequences_[i]->computed() / block_tokens_ <= missing) return true;
  }
  return false;
}

/// Carries out the plan as far as blocks allow: what it frees may turn out to be shared, then the next step's view knows.
void EngineImpl::Prepare() {
  for (const uint32_t i : plan_.expired) {
    Sequence& s = *sequences_[i];
    End(s, FinishReason::kError, DeadlineError("the request's deadline of {} s passed after {} tokens", s.request().deadline_s, s.produced()));
  }
  for (const uint32_t i : plan_.preempted) sequences_[i]->Preempt(pool_);
  totals_.preemptions += plan_.preempted.size();
  runs_.clear();
  for (const ScheduledRow& planned : plan_.run) {
    Sequence& s = *sequences_[planned.row];
    if (!s.running) {
      const auto lost = s.TakeLost(pool_);
      s.resuming = !lost.empty() && listener_.OnResume(s.id(), lost);
      if (s.resuming) continue;
      s.TakePrefix(pool_);
    }
    const uint32_t tokens = std::min(planned.tokens, s.size() - s.computed());
    if (!s.Reserve(pool_, s.computed() + tokens)) continue;
    s.running = true;
    if (!s.started) {
      s.started = true;
      s.started_at = clock_.Now();
      if (s.origin().first_token.has_value()) s.first_token_at = s.started_at;
      s.stats.queue_s = ToSeconds(s.started_at - s.submitted());
      const uint32_t found = std::min(s.computed(), s.prompt_tokens()), ready = s.origin().ready_tokens;
      s.stats.cached_tokens = s.origin().cached_tokens + (found > ready ? found - ready : 0);
      std::lock_guard lock(mutex_);
      --unstarted_;
    }
    runs_.push_back({&s, tokens, {}, nullptr});
  }
}

void EngineImpl::FillBatch() {
  const size_t vocab = model_.info().vocab;
  const auto rows_of = [](const Run& run) { return run.ends_known() ? 1 + run.draft.size() : 0; };
  size_t rows = 0;
  for (const Run& run : runs_) rows += rows_of(run);
  if (logits_.size() < rows * vocab) logits_.resize(rows * vocab);
  batch_.clear();
  float* next = logits_.data();
  for (Run& run : runs_) {
    const Sequence& s = *run.sequence;
    SequenceSlice& slice = batch_.emplace_back();
    slice.tokens = run.input();
    slice.start = s.computed();
    slice.blocks = s.data();
    slice.logit_rows = static_cast<uint32_t>(rows_of(run));
    if (slice.logit_rows == 0) continue;
    slice.logits = next;
    run.logits = next;
    next += slice.logit_rows * vocab;
  }
}

/// All runs in one pass. When that fails, each alone: the ones that fail end, the others never notice.
Status EngineImpl::RunBatch() {
  const Status together = ForwardRuns(0, runs_.size());
  if (together.ok()) return together;
  for (size_t i = 0; i < runs_.size(); ++i) {
    const Status alone = runs_.size() == 1 ? together : ForwardRuns(i, 1);
    if (!alone.ok()) End(*runs_[i].sequence, FinishReason::kError, alone);
  }
  return together;
}

Status EngineImpl::ForwardRuns(size_t first, size_t count) {
  const auto runs = std::span(runs_).subspan(first, count);
  const bool pushes = std::any_of(runs.begin(), runs.end(), [](const Run& run) { return run.sequence->origin().push_layers; });
  const auto batch = std::span<const SequenceSlice>(batch_).subspan(first, count);
  if (!pushes) return model_.Forward(batch);
  return model_.Forward(batch, [this, first, count](uint32_t layer) { ReportLayer(first, count, layer); });
}

void EngineImpl::ReportLayer(size_t first, size_t count, uint32_t layer) {
  for (const Run& run : std::span(runs_).subspan(first, count)) {
    Sequence& s = *run.sequence;
    if (!s.origin().push_layers || s.computed() >= s.prompt_tokens()) continue;
    s.reported = true;
    listener_.OnLayer(s.id(), layer, s.computed(), std::min(s.computed() + run.tokens, s.prompt_tokens()), s.blocks());
  }
}

void EngineImpl::FinishRuns() {
  for (const Run& run : runs_) {
    if (!run.sequence->ended) FinishRun(run);
  }
}

/// The tokens of a step: one, and those whose guesses came true. It is the plain run's loop with the passes left out.
void EngineImpl::FinishRun(const Run& run) {
  Sequence& s = *run.sequence;
  Advance(s, run.tokens);
  if (run.logits == nullptr) return;
  for (uint32_t row = 0; AddToken(run, row); ++row) Advance(s, 1);
  if (!s.ended && !run.draft.empty()) s.Trim(pool_);
}

void EngineImpl::Advance(Sequence& s, uint32_t tokens) {
  s.Advance(tokens);
  for (SealedBlock sealed; s.SealNext(pool_, sealed);) listener_.OnSealed(s.id(), std::move(sealed));
}

/// The token that a row of logits gives; true when the next row's guess was this token and the request goes on.
bool EngineImpl::AddToken(const Run& run, uint32_t row) {
  Sequence& s = *run.sequence;
  const size_t vocab = model_.info().vocab;
  auto event = s.constraint().Sample(sampler_, {run.logits + row * vocab, vocab}, s.request().sampling, s.history());
  if (!event.ok()) {
    End(s, FinishReason::kError, event.status());
    return false;
  }
  s.Append(event->token);
  if (s.first_token_at == Instant()) {
    s.first_token_at = clock_.Now();
    s.stats.prefill_s = ToSeconds(s.first_token_at - s.started_at);
  }
  const auto reason = ReasonToEnd(s);
  event->predicted = row < run.draft.size() && run.draft[row] == event->token;
  const bool goes_on = event->predicted && !reason;
  if (!goes_on) {
    event->rejected_tokens = static_cast<uint32_t>(run.draft.size()) - row - event->predicted;
    const uint32_t accepted = row + event->predicted;
    s.guesses.Add(accepted, row < run.draft.size() && !event->predicted);
    totals_.accepted_tokens += accepted;
    totals_.rejected_tokens += event->rejected_tokens;
  }
  listener_.OnToken(s.id(), *event);
  if (reason) End(s, *reason, OkStatus());
  return goes_on;
}

std::optional<FinishReason> EngineImpl::ReasonToEnd(Sequence& s) const {
  if (s.origin().prefill_only) return FinishReason::kNone;
  if (s.constraint().Ended(s.history())) return FinishReason::kStop;
  if (s.produced() >= s.request().max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

void EngineImpl::End(Sequence& s, FinishReason reason, const Status& status) {
  const RequestId id = s.id();
  s.ended = true;
  if (s.started) {
    const Instant decode_from = s.first_token_at == Instant() ? clock_.Now() : s.first_token_at;
    s.stats.decode_s = ToSeconds(clock_.Now() - decode_from);
  }
  bool released = true;
  {
    std::lock_guard lock(mutex_);
    if (!s.started) --unstarted_;
    if (auto resumed = resumed_.extract(id); !resumed.empty()) s.Keep(std::move(resumed.mapped()));
    const auto live = live_.find(id);
    if (s.reported && !live->second.released) {
      released = false;
      held_[id] = s.TakeBlocks();
    }
    live_.erase(live);
  }
  if (released) s.Release(pool_);
  listener_.OnEnd(id, reason, s.stats, status);
}

void EngineImpl::Sweep() {
  std::erase_if(sequences_, [](const auto& sequence) { return sequence->ended; });
  if (totals_.steps % kFitEvery == 1) totals_.step_model = fit_.Fit();
  EngineLoad load = totals_;
  for (const auto& s : sequences_) {
    ++(s->running ? load.running : load.waiting);
    const uint32_t left = s->size() - std::min(s->computed(), s->size());
    if (!s->running || left > 1) load.queued_prefill_tokens += left;
  }
  load.step_s = meter_.step_s();
  load.prefill_tokens_per_s = meter_.prefill_tokens_per_s();
  load.decode_step_s = meter_.decode_step_s();
  std::lock_guard lock(mutex_);
  load_ = load;
}

}  // namespace

std::unique_ptr<Engine> Engine::Create(const EngineConfig& config, Model& model, BlockPool& pool, EngineListener& listener, const Clock& clock) {
  return std::make_unique<EngineImpl>(config, model, pool, listener, clock);
}

}  // namespace baton
