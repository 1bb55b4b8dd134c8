#include "app/sim/worker.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"

namespace baton {
namespace {

constexpr size_t kLookAhead = 16;           // waiting sequences looked at in a step, as the engine does
constexpr uint32_t kMinPrefillTokens = 32;  // "

}  // namespace

void SimWorker::AddPrivate(int64_t blocks) {
  private_blocks_ = static_cast<uint32_t>(private_blocks_ + blocks);
  cache_.SetCapacity(config_.blocks - std::min(config_.blocks, private_blocks_));
}

void SimWorker::Enqueue(const SimPrompt& prompt) {
  Sequence s;
  s.prompt = prompt;
  s.size = prompt.tokens;
  s.end = prompt.tokens + prompt.answer_tokens;
  const auto fetched = prompt.keys.first(std::min<size_t>(prompt.keys.size(), prompt.fetched_tokens / block_tokens_));
  const size_t new_blocks = fetched.size() - std::min(fetched.size(), cache_.Match(fetched));
  if (!fetched.empty() && used() + new_blocks <= config_.blocks) cache_.Insert(fetched);
  // What is here is this request's from now on; at least the last token is computed.
  const size_t usable = (prompt.tokens - 1) / block_tokens_;
  s.held = static_cast<uint32_t>(std::min(usable, cache_.Match(prompt.keys)));
  cache_.Pin(prompt.keys.first(s.held));
  s.computed = s.held * block_tokens_;
  sequences_.push_back(s);
}

void SimWorker::TakeLanded() {
  while (!landing_.empty()) {
    const SimStream& stream = landing_.front();
    const auto blocks = static_cast<uint32_t>(CeilDiv(stream.prompt_tokens, block_tokens_));
    const auto shared = static_cast<uint32_t>(std::min<size_t>(stream.keys.size(), blocks));
    const bool alone = sequences_.empty();
    if (!alone && used() + (blocks - shared) + cache_.Unpinned(stream.keys) > config_.blocks) return;
    Sequence s;
    s.prompt = {.request = stream.request, .tokens = stream.prompt_tokens, .keys = stream.keys, .answer_tokens = stream.tokens_left};
    s.size = stream.prompt_tokens + 1;  // with its first token, which has been sent
    s.computed = stream.prompt_tokens;
    s.end = s.size + stream.tokens_left;
    s.held = shared;
    s.own = blocks - shared;
    s.has_first = true;
    cache_.Pin(stream.keys.first(shared));
    AddPrivate(s.own);
    sequences_.push_back(s);
    landing_.pop_front();
  }
}

/// As the engine's: a waiting one whose next block an earlier one is about to compute waits for it.
bool SimWorker::IsDeferred(const Sequence& sequence, size_t index) const {
  const auto& keys = sequence.prompt.keys;
  // Who shares a later block shares the first one that is not held here, too: most often nobody does.
  const auto shares = [&](uint32_t other) {
    const auto& others = sequences_[other].prompt.keys;
    return other < index && others.size() > sequence.held && others[sequence.held] == keys[sequence.held];
  };
  if (sequence.held >= keys.size() || std::none_of(rows_.begin(), rows_.end(), shares)) return false;
  const size_t missing = std::max<size_t>(sequence.computed / block_tokens_, cache_.Match(keys));
  if (missing >= keys.size()) return false;
  for (const uint32_t other : rows_) {
    if (other >= index) break;
    const Sequence& o = sequences_[other];
    if (o.computed / block_tokens_ <= missing && o.prompt.keys.size() > missing && o.prompt.keys[missing] == keys[missing]) return true;
  }
  return false;
}

void SimWorker::FillView(double now_s) {
  view_.rows.clear();
  rows_.clear();
  view_.now = Instant(FromSeconds(now_s));
  view_.block_tokens = block_tokens_;
  view_.max_running = config_.max_running;
  view_.chunk_tokens = config_.prefill_chunk_tokens;
  view_.available_blocks = config_.blocks - std::min<size_t>(config_.blocks, used());
  uint32_t decode_rows = 0, running_seen = 0;
  size_t waiting_seen = 0;
  for (uint32_t i = 0; i < sequences_.size() && (running_seen < running_ || waiting_seen < kLookAhead); ++i) {
    const Sequence& s = sequences_[i];
    if (!s.running && waiting_seen++ >= kLookAhead) continue;
    ScheduleRow& row = view_.rows.emplace_back();
    row.tokens = s.size;
    row.computed = std::min(s.computed, s.size - 1);
    row.blocks = s.held + s.own;
    row.reserve_tokens = s.hand_off() ? s.prompt.tokens : 0;
    row.running = s.running;
    row.pinned = s.hand_off() && s.running;
    if (s.running) {
      ++running_seen;
      decode_rows += row.tokens - row.computed == 1;
    } else {
      row.deferred = IsDeferred(s, i);
    }
    rows_.push_back(i);
  }
  const double in_time = config_.target_step_s * meter_.prefill_tokens_per_s();
  view_.token_budget = config_.step_token_budget;
  if (in_time > 0 && in_time < config_.step_token_budget) {
    view_.token_budget = std::min(config_.step_token_budget, decode_rows + std::max(kMinPrefillTokens, static_cast<uint32_t>(in_time)));
  }
}

void SimWorker::TakePrefix(Sequence& s) {
  const size_t usable = (s.size - 1) / block_tokens_;
  const auto found = static_cast<uint32_t>(std::min(usable, cache_.Match(s.prompt.keys)));
  if (found <= s.held) return;
  cache_.Pin(s.prompt.keys.subspan(s.held, found - s.held));
  const uint32_t replaced = std::min(s.own, found - s.held);
  s.own -= replaced;
  AddPrivate(-static_cast<int64_t>(replaced));
  s.held = found;
  s.computed = std::max(s.computed, found * block_tokens_);
}

void SimWorker::Release(Sequence& s) {
  cache_.Unpin(s.prompt.keys.first(s.held));
  AddPrivate(-static_cast<int64_t>(s.own));
  running_ -= s.running ? 1 : 0;
  s.held = s.own = s.computed = 0;
  s.running = false;
}

void SimWorker::Prepare(double now_s) {
  for (const uint32_t row : plan_.preempted) Release(sequences_[rows_[row]]);
  preemptions_ += plan_.preempted.size();
  runs_.clear();
  for (const ScheduledRow& planned : plan_.run) {
    Sequence& s = sequences_[rows_[planned.row]];
    if (!s.running) TakePrefix(s);
    const uint32_t tokens = std::min(planned.tokens, s.size - s.computed);
    const auto needed = static_cast<uint32_t>(CeilDiv(std::max(s.computed + tokens, s.hand_off() ? s.prompt.tokens : 0u), block_tokens_));
    if (needed > s.held + s.own) {
      AddPrivate(needed - s.held - s.own);
      s.own = needed - s.held;
    }
    running_ += s.running ? 0 : 1;
    s.running = true;
    if (!std::exchange(s.started, true)) {
      s.prompt.started_at_s = now_s;
      s.prompt.cached_tokens = std::min(s.computed, s.prompt.tokens);
    }
    runs_.push_back({rows_[planned.row], tokens});
  }
}

double SimWorker::BeginStep(double now_s) {
  if (in_step_) return 0;
  TakeLanded();
  if (sequences_.empty()) return 0;
  FillView(now_s);
  Schedule(view_, plan_);
  if (plan_.run.empty()) {  // the first is larger than all the blocks: alone it runs all the same
    view_.rows.resize(1);
    view_.rows[0].deferred = false;
    view_.available_blocks = sequences_[rows_[0]].end / block_tokens_ + 1;
    Schedule(view_, plan_);
  }
  Prepare(now_s);
  uint32_t decode_rows = 0, prefill_tokens = 0;
  for (const Run& run : runs_) {
    if (run.tokens == 1) ++decode_rows;
    else prefill_tokens += run.tokens;
  }
  step_s_ = config_.cost.Seconds(decode_rows, prefill_tokens);
  meter_.Add(decode_rows, 0, prefill_tokens, step_s_);
  in_step_ = true;
  ++steps_;
  return step_s_;
}

void SimWorker::Advance(Sequence& s, uint32_t tokens, SimStepResult& result) {
  s.computed += tokens;
  const auto full = static_cast<uint32_t>(std::min<size_t>(s.prompt.keys.size(), s.computed / block_tokens_));
  if (full > s.held) {  // shared from now on
    const uint32_t published = full - s.held;
    AddPrivate(-static_cast<int64_t>(published));
    cache_.Pin(s.prompt.keys.subspan(s.held, published));
    s.own -= published;
    s.held = full;
  }
  if (s.computed < s.size) return;
  if (std::exchange(s.has_first, true)) ++result.streams;
  else result.prefilled.push_back(s.prompt);
  ++s.size;
  if (!s.hand_off() && s.size < s.end) return;
  if (!s.hand_off()) result.ended.push_back(s.prompt.request);
  Release(s);
  s.ended = true;
}

SimStepResult SimWorker::EndStep() {
  in_step_ = false;
  SimStepResult result;
  result.seconds = step_s_;
  busy_s_ += step_s_;
  bool any_ended = false;
  for (const Run& run : runs_) {
    Sequence& s = sequences_[run.sequence];
    if (!s.ended) Advance(s, run.tokens, result);
    any_ended = any_ended || s.ended;
  }
  runs_.clear();
  if (any_ended) std::erase_if(sequences_, [](const Sequence& s) { return s.ended; });
  return result;
}

void SimWorker::Cancel(size_t request) {
  std::erase_if(landing_, [request](const SimStream& stream) { return stream.request == request; });
  for (Sequence& s : sequences_) {
    if (s.prompt.request != request || s.ended) continue;
    Release(s);
    s.ended = true;
  }
  if (!in_step_) std::erase_if(sequences_, [](const Sequence& s) { return s.ended; });  // else the step's end does it: it knows them by place
}

std::vector<SimLost> SimWorker::Crash() {
  std::vector<SimLost> lost;
  for (const Sequence& s : sequences_) {
    if (!s.ended) lost.push_back({s.prompt.request, s.has_first ? s.end - s.size : 0});
  }
  for (const SimStream& stream : landing_) lost.push_back({stream.request, stream.tokens_left});
  *this = SimWorker(config_, block_tokens_, busy_s_, preemptions_);
  return lost;
}

WorkerLoad SimWorker::load() const {
  WorkerLoad load;
  load.steps = steps_;
  load.waiting = static_cast<uint32_t>(landing_.size());
  load.total_blocks = config_.blocks;
  load.free_blocks = config_.blocks - static_cast<uint32_t>(std::min<size_t>(config_.blocks, used()));
  for (const Sequence& s : sequences_) {
    if (s.ended) continue;
    ++(s.running ? load.running : load.waiting);
    const uint32_t left = s.size - std::min(s.computed, s.size);
    if (!s.running || left > 1) load.queued_prefill_tokens += left;
  }
  load.prefill_tokens_per_s = meter_.prefill_tokens_per_s();
  load.decode_step_s = meter_.decode_step_s();
  return load;
}

}  // namespace baton
