#include "app/sim/worker.h"

#include <algorithm>
#include <utility>

namespace baton {
namespace {

constexpr double kSmoothing = 0.1;
void Smooth(double& value, double sample) { value = value == 0 ? sample : value + kSmoothing * (sample - value); }

}  // namespace

bool SimWorker::HasRoom(uint32_t blocks, std::span<const BlockKey> chain) const {
  const size_t used = cache_.pinned() + private_blocks_;
  return used == 0 || used + blocks - chain.size() + cache_.Unpinned(chain) <= config_.blocks;  // alone it runs, however long
}

void SimWorker::SetPrivate(uint32_t blocks) {
  private_blocks_ = blocks;
  cache_.SetCapacity(config_.blocks - std::min(config_.blocks, blocks));
}

void SimWorker::AdmitStreams() {
  while (!waiting_.empty() && running_.size() < config_.max_running && HasRoom(waiting_.front().blocks, waiting_.front().keys)) {
    const SimStream& stream = waiting_.front();
    cache_.Pin(stream.keys);
    SetPrivate(private_blocks_ + stream.blocks - static_cast<uint32_t>(stream.keys.size()));
    running_.push({step_ + stream.tokens_left, stream});
    waiting_.pop_front();
  }
}

bool SimWorker::Start(SimPrompt& prompt, double now_s) {
  if (prompt.started) return true;
  const auto held = prompt.keys.first(cache_.Match(prompt.keys));
  if (!HasRoom(prompt.blocks, held)) return false;
  prompt.started = true;
  prompt.started_at_s = now_s;
  prompt.held_blocks = static_cast<uint32_t>(held.size());
  cache_.Pin(held);
  SetPrivate(private_blocks_ + prompt.blocks - prompt.held_blocks);
  prompt.cached_tokens = std::min(std::max(prompt.fetched_tokens, prompt.held_blocks * block_tokens_), prompt.tokens - 1);
  prompt.left = prompt.tokens - prompt.cached_tokens;
  return true;
}

double SimWorker::BeginStep(double now_s) {
  if (in_step_) return 0;
  AdmitStreams();
  now_ = {};
  now_.streams = static_cast<uint32_t>(running_.size());
  uint32_t budget = config_.step_token_budget - std::min(config_.step_token_budget - 1, now_.streams);
  step_prefill_tokens_ = 0;
  while (!prompts_.empty() && budget > 0 && Start(prompts_.front(), now_s)) {
    SimPrompt& prompt = prompts_.front();
    const uint32_t chunk = std::min(budget, prompt.left);
    prompt.left -= chunk;
    budget -= chunk;
    step_prefill_tokens_ += chunk;
    if (prompt.left > 0) break;
    now_.prefilled.push_back(prompt);
    prompts_.pop_front();
  }
  if (now_.streams == 0 && step_prefill_tokens_ == 0) return 0;
  now_.seconds = config_.cost.Seconds(now_.streams, step_prefill_tokens_);
  in_step_ = true;
  return now_.seconds;
}

void SimWorker::EndStreams(SimStepResult& result) {
  while (!running_.empty() && running_.top().last_step <= step_) {
    const SimStream& stream = running_.top().stream;
    SetPrivate(private_blocks_ - (stream.blocks - static_cast<uint32_t>(stream.keys.size())));
    cache_.Unpin(stream.keys);
    result.ended.push_back(stream.request);
    running_.pop();
  }
}

SimStepResult SimWorker::EndStep() {
  in_step_ = false;
  ++step_;
  SimStepResult result = std::exchange(now_, {});
  busy_s_ += result.seconds;
  if (step_prefill_tokens_ > 0) Smooth(prefill_rate_, step_prefill_tokens_ / result.seconds);
  if (result.streams > 0) Smooth(decode_step_s_, result.seconds);
  for (const SimPrompt& prompt : result.prefilled) {  // its full blocks are shared from now on
    const auto full = static_cast<uint32_t>(prompt.keys.size());
    cache_.Pin(prompt.keys.subspan(prompt.held_blocks));
    SetPrivate(private_blocks_ - (full - prompt.held_blocks));
    const SimStream stream{prompt.request, prompt.answer_tokens > 0 ? prompt.answer_tokens - 1 : 0, prompt.blocks, prompt.keys};
    if (stream.tokens_left > 0) {
      running_.push({step_ + stream.tokens_left, stream});
      continue;
    }
    SetPrivate(private_blocks_ - (prompt.blocks - full));
    cache_.Unpin(prompt.keys);
    if (prompt.answer_tokens == 1) result.ended.push_back(prompt.request);
  }
  EndStreams(result);
  return result;
}

void SimWorker::Abandon(const SimPrompt& prompt) {
  if (!prompt.started) return;
  SetPrivate(private_blocks_ - (prompt.blocks - prompt.held_blocks));
  cache_.Unpin(prompt.keys.first(prompt.held_blocks));
}

void SimWorker::Cancel(size_t request) {
  const auto is = [request](const SimPrompt& prompt) { return prompt.request == request; };
  for (const SimPrompt& prompt : prompts_) {
    if (is(prompt)) Abandon(prompt);
  }
  for (const SimPrompt& prompt : now_.prefilled) {
    if (is(prompt)) Abandon(prompt);
  }
  std::erase_if(prompts_, is);
  std::erase_if(now_.prefilled, is);
}

std::vector<SimLost> SimWorker::Crash() {
  std::vector<SimLost> lost;
  for (const SimPrompt& prompt : prompts_) lost.push_back({prompt.request, 0});
  for (const SimPrompt& prompt : now_.prefilled) lost.push_back({prompt.request, 0});
  for (const SimStream& stream : waiting_) lost.push_back({stream.request, stream.tokens_left});
  for (; !running_.empty(); running_.pop()) lost.push_back({running_.top().stream.request, static_cast<uint32_t>(running_.top().last_step - step_)});
  prompts_.clear();
  waiting_.clear();
  now_ = {};
  in_step_ = false;
  private_blocks_ = 0;
  prefill_rate_ = decode_step_s_ = 0;
  cache_.Clear();
  cache_.SetCapacity(config_.blocks);
  return lost;
}

WorkerLoad SimWorker::load() const {
  WorkerLoad load;
  load.running = static_cast<uint32_t>(running_.size());
  load.waiting = static_cast<uint32_t>(waiting_.size());
  load.total_blocks = config_.blocks;
  load.free_blocks = config_.blocks - static_cast<uint32_t>(std::min<size_t>(config_.blocks, private_blocks_ + cache_.pinned()));
  for (const SimPrompt& p : prompts_) load.queued_prefill_tokens += p.started ? p.left : p.tokens - std::min(p.tokens, p.fetched_tokens);
  load.prefill_tokens_per_s = prefill_rate_;
  load.decode_step_s = decode_step_s_;
  return load;
}

}  // namespace baton
