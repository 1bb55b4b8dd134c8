#include "app/sim/simulator.h"

#include <algorithm>
#include <map>
#include <queue>
#include <set>
#include <unordered_map>
#include <utility>

#include "app/sim/check.h"
#include "base/bytes.h"
#include "base/random.h"

namespace baton {
namespace {

enum class EventKind : uint8_t { kArrival, kQueued, kStepEnd, kLanded, kBeat, kTick, kFail, kBack, kSample };
struct Event {
  double at_s;
  uint64_t order;  // events of one time come in the order they were made
  EventKind kind;
  size_t subject;      // request, worker or failure
  uint32_t life;       // of the worker or attempt of the request: what belongs to an older one is void
  bool operator<(const Event& other) const { return std::pair(at_s, order) > std::pair(other.at_s, other.order); }
};

struct Request {
  const TraceRequest* trace = nullptr;
  double arrived_s = 0, first_token_s = -1, predicted_ttft_s = 0, prefill_started_s = 0;
  uint32_t prompt_tokens = 0, answer_left = 0;  // of a moved one: with what was sent
  std::vector<BlockKey> keys;
  size_t computing = 0, decoding = 0;  // workers
  uint32_t attempt = 0;
  bool landed = false;  // its KV is at `decoding`: what happens to `computing` no longer matters
  bool moved = false;
  uint32_t cached_tokens = 0;
};

struct Node {  // a worker or the store as the coordinator sees it
  std::string name;
  MemberInfo member;
  uint64_t sequence = 0;
  uint32_t life = 0;
  bool up = false, stopped = false;
  double slow = 1;
};

constexpr double kSlow = 4;       // how many times as long the steps of a slow worker take
constexpr size_t kSpans = 240;

class Simulation {
 public:
  Simulation(const SimConfig& config, const std::vector<TraceRequest>& trace)
      : config_(config),
        trace_(trace),
        coordinator_(Adapted(config), clock_, metrics_),
        store_(config.store_memory_blocks, config.store_blocks, config.store_policy),
        requests_(trace.size()) {}
  Result<SimReport> Run();

 private:
  /// The coordinator's limits grow with the cluster.
  static CoordinatorConfig Adapted(const SimConfig& config) {
    CoordinatorConfig out = config.coordinator;
    const uint32_t workers = config.prefill_workers + config.decode_workers + config.mixed_workers;
    out.admission.max_in_flight = std::max(out.admission.max_in_flight, workers * config.worker.max_running);
    out.membership.max_workers = std::max(out.membership.max_workers, workers + 1);
    return out;
  }
  void Build();
  void Schedule();
  SimSpan& Span() { return report_.spans[std::min(report_.spans.size() - 1, static_cast<size_t>(now_s_ / report_.span_s))]; }
  void Sample();
  Event NextEvent();
  void Push(double at_s, EventKind kind, size_t subject, uint32_t life = 0) { events_.push({at_s, order_++, kind, subject, life}); }
  void Handle(const Event& event);
  void Join(size_t node);
  void Beat(size_t node);
  void Kick(size_t worker);
  void Arrive(size_t r);
  void Place(size_t r, const RouteDecision& decision);
  void Queued(size_t r);
  void StepEnd(size_t worker);
  void Prefilled(const SimPrompt& prompt);
  void Landed(size_t r);
  void Ended(size_t r);
  double ReadStore(size_t r, size_t own);
  void Fail(const SimFailure& failure);
  void Back(const SimFailure& failure);
  void Lose(size_t node);
  void Move(size_t node, const std::map<size_t, uint32_t>& left);
  void Finish();
  double BlockBytes() const { return config_.kv_bytes_per_token * config_.block_tokens; }
  uint32_t BlocksOf(uint64_t tokens) const { return static_cast<uint32_t>(CeilDiv(tokens, config_.block_tokens)); }

  const SimConfig& config_;
  const std::vector<TraceRequest>& trace_;
  FakeClock clock_;
  Metrics metrics_;
  Coordinator coordinator_;
  std::vector<SimWorker> workers_;
  SimStore store_;
  std::unordered_map<uint32_t, size_t> node_of_;  // by worker id
  std::vector<Node> nodes_;  // the workers, then the store
  std::vector<Request> requests_;
  std::set<size_t> active_;
  std::vector<double> arrivals_s_;  // ascending; not among the events, whose queue stays small so
  std::priority_queue<Event> events_;
  uint64_t order_ = 0;
  double now_s_ = 0;
  size_t arrivals_left_ = 0;
  SimReport report_;
};

void Simulation::Build() {
  const auto add = [this](const std::string& kind, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      nodes_.push_back({.name = kind + std::to_string(i)});
      if (kind != "store") workers_.emplace_back(config_.worker, config_.block_tokens);
    }
  };
  add("prefill", config_.prefill_workers);
  add("decode", config_.decode_workers);
  add("mixed", config_.mixed_workers);
  add("store", config_.store_blocks > 0 ? 1 : 0);
  for (size_t node = 0; node < nodes_.size(); ++node) {
    Join(node);
    Push(config_.heartbeat_s * static_cast<double>(node + 1) / static_cast<double>(nodes_.size() + 1), EventKind::kBeat, node, nodes_[node].life);
  }
  Push(config_.heartbeat_s, EventKind::kTick, 0);
  Push(0, EventKind::kSample, 0);
}

/// Arrivals: the trace's times scaled; where several are equal they are spread evenly at random up to the next.
void Simulation::Schedule() {
  Random random(config_.seed);
  double gap_s = 0;
  for (size_t begin = 0; begin < trace_.size();) {
    size_t end = begin;
    while (end < trace_.size() && trace_[end].at_s == trace_[begin].at_s) ++end;
    if (end < trace_.size()) gap_s = trace_[end].at_s - trace_[begin].at_s;
    std::vector<double> offsets(end - begin, 0.0);
    if (config_.spread && end - begin > 1) {
      for (double& offset : offsets) offset = random.Uniform() * gap_s;
      std::sort(offsets.begin(), offsets.end());
    }
    for (size_t i = begin; i < end; ++i) arrivals_s_.push_back((trace_[i].at_s + offsets[i - begin]) / config_.rate_scale);
    begin = end;
  }
  arrivals_left_ = trace_.size();
  report_.spans.resize(kSpans);
  report_.span_s = std::max(1e-3, (trace_.back().at_s + gap_s) / config_.rate_scale / (kSpans - 40));  // the rest is for what goes on afterwards
  for (size_t i = 0; i < config_.failures.size(); ++i) Push(config_.failures[i].at_s, EventKind::kFail, i);
}

void Simulation::Join(size_t n) {
  Node& node = nodes_[n];
  MemberInfo info;
  info.name = node.name;
  const std::string role = node.name.substr(0, node.name.find_first_of("0123456789"));
  if (role == "mixed") {
    info.roles = {"prefill", "decode"};
  } else {
    info.roles = {role};
  }
  if (role != "store") {
    info.model.kv_layout = "simulated";
    info.model.block_tokens = config_.block_tokens;
    info.model.block_bytes = static_cast<uint64_t>(BlockBytes());
  }
  node.member = coordinator_.Register(info).value();
  CHECK(coordinator_.Announce(node.member.id, node.member.incarnation, "sim", node.name).ok());
  node_of_[node.member.id.value] = n;
  node.sequence = 0;
  node.up = true;
  Beat(n);
}

void Simulation::Beat(size_t n) {
  Node& node = nodes_[n];
  HeartbeatReport report;
  report.snapshot = node.sequence == 0;  // a worker begins with nothing, so its first changes are all it holds
  report.sequence = ++node.sequence;
  if (n < workers_.size()) report.load = workers_[n].load();
  report.load.transfer_bytes_per_s = config_.transfer_bytes_per_s;
  report.load.store_bytes_per_s = config_.store_bytes_per_s;
  report.changes = n < workers_.size() ? workers_[n].cache().DrainChanges() : store_.DrainChanges();
  CHECK(coordinator_.Heartbeat(node.member.id, node.member.incarnation, report).status.ok());
}

void Simulation::Kick(size_t worker) {
  const Node& node = nodes_[worker];
  if (!node.up || node.stopped) return;
  const double seconds = workers_[worker].BeginStep(now_s_) * node.slow;
  if (seconds > 0) Push(now_s_ + seconds, EventKind::kStepEnd, worker, nodes_[worker].life);
}

void Simulation::Arrive(size_t r) {
  Request& request = requests_[r];
  if (request.trace == nullptr) {
    request.trace = &trace_[r];
    request.arrived_s = now_s_;
    request.prompt_tokens = std::max(1u, trace_[r].prompt_tokens);
    request.answer_left = std::max(1u, trace_[r].answer_tokens);
    request.keys = trace_[r].Keys(config_.block_tokens);
    ++report_.requests;
    ++Span().arrived;
    --arrivals_left_;
  }
  active_.insert(r);
  ++request.attempt;
  RouteQuery query;
  query.request = RequestId(r + 1);
  query.prompt_tokens = request.prompt_tokens;
  query.max_tokens = request.answer_left;
  query.moved = request.moved;
  const RouteDecision decision = coordinator_.Route(request.keys, query);
  if (decision.ok()) return Place(r, decision);
  if (request.moved && decision.status.code() != StatusCode::kInvalid) return Push(now_s_ + std::max(0.01, decision.retry_after_s), EventKind::kArrival, r);
  ++(decision.status.code() == StatusCode::kInvalid ? report_.invalid : report_.refused);
  ++Span().refused;
  active_.erase(r);
  request.keys = {};
}

void Simulation::Place(size_t r, const RouteDecision& decision) {
  Request& request = requests_[r];
  const bool local = decision.prefill_order.empty();
  request.decoding = node_of_.at(decision.chosen.decode.value);
  request.computing = local ? request.decoding : node_of_.at(decision.chosen.prefill.value);
  request.landed = false;
  if (request.first_token_s < 0) request.predicted_ttft_s = decision.chosen.cost.TtftSeconds();
  ++report_.routed;
  report_.local_prefills += local ? 1 : 0;
  const double load_s = ReadStore(r, workers_[request.computing].cache().Match(request.keys));
  Push(now_s_ + load_s, EventKind::kQueued, r, request.attempt);
}

/// What the store has beyond the worker's own cache is read before the prompt is queued; gives how long that takes.
double Simulation::ReadStore(size_t r, size_t own) {
  Request& request = requests_[r];
  request.cached_tokens = 0;
  const size_t usable = std::min<size_t>(request.keys.size(), (request.prompt_tokens - 1) / config_.block_tokens);
  if (config_.store_blocks == 0 || !nodes_.back().up || nodes_.back().stopped || own >= usable) return 0;
  const size_t stored = store_.Lookup(std::span(request.keys).first(usable));
  if (stored <= own) return 0;
  double seconds = config_.transfer_latency_s;
  for (size_t i = own; i < stored; ++i) {
    const bool disk = store_.Read(request.keys[i]) == SimTier::kDisk;
    ++(disk ? report_.store_disk_reads : report_.store_memory_reads);
    seconds += BlockBytes() / (disk ? config_.store_disk_bytes_per_s : config_.store_bytes_per_s);
  }
  request.cached_tokens = static_cast<uint32_t>(stored) * config_.block_tokens;
  return seconds;
}

void Simulation::Queued(size_t r) {
  Request& request = requests_[r];
  const bool local = request.computing == request.decoding;
  SimPrompt prompt;
  prompt.request = r;
  prompt.tokens = request.prompt_tokens;
  prompt.fetched_tokens = request.cached_tokens;
  prompt.keys = request.keys;
  prompt.answer_tokens = local ? request.answer_left : 0;
  workers_[request.computing].Enqueue(prompt);
  Kick(request.computing);
}

void Simulation::StepEnd(size_t worker) {
  const SimStepResult result = workers_[worker].EndStep();
  report_.itl_s.Add(result.seconds * nodes_[worker].slow, result.streams);
  Span().answer_tokens += result.streams + result.prefilled.size();
  for (const SimPrompt& prompt : result.prefilled) Prefilled(prompt);
  for (const size_t r : result.ended) Ended(r);
  Kick(worker);
}

void Simulation::Prefilled(const SimPrompt& prompt) {
  Request& request = requests_[prompt.request];
  if (request.first_token_s < 0) {
    request.first_token_s = now_s_;
    const double ttft_s = now_s_ - request.arrived_s;
    report_.ttft_s.Add(ttft_s);
    if (ttft_s > 0) report_.prediction_error.Add(std::abs(request.predicted_ttft_s - ttft_s) / ttft_s);
    report_.prompt_tokens += prompt.tokens;
    report_.cached_tokens += prompt.cached_tokens;
    ++Span().first_tokens;
    Span().prompt_tokens += prompt.tokens;
    Span().cached_tokens += prompt.cached_tokens;
  }
  request.cached_tokens = prompt.cached_tokens;
  // What this computed is written behind; full blocks only, and the last token is always computed.
  if (config_.store_blocks > 0 && nodes_.back().up) store_.Put(request.keys, std::min<size_t>(request.keys.size(), prompt.cached_tokens / config_.block_tokens));
  request.landed = request.computing == request.decoding;
  if (request.landed) return;
  if (--request.answer_left == 0) return Ended(prompt.request);
  const size_t missing = BlocksOf(request.prompt_tokens) - workers_[request.decoding].cache().Match(request.keys);
  const double bytes_s = static_cast<double>(missing) * BlockBytes() / config_.transfer_bytes_per_s;
  const double hidden_s = now_s_ - prompt.started_at_s;
  Push(now_s_ + config_.transfer_latency_s + std::max(0.0, bytes_s - hidden_s), EventKind::kLanded, prompt.request, request.attempt);
}

void Simulation::Landed(size_t r) {
  Request& request = requests_[r];
  request.landed = true;
  workers_[request.decoding].AddStream({r, request.prompt_tokens, request.answer_left, request.keys});
  Kick(request.decoding);
}

void Simulation::Ended(size_t r) {
  Request& request = requests_[r];
  const double ttft_s = request.first_token_s - request.arrived_s, total_s = now_s_ - request.arrived_s;
  const uint32_t answer = std::max(1u, request.trace->answer_tokens);
  ++report_.completed;
  report_.answer_tokens += answer;
  report_.request_s.Add(total_s);
  const double itl_s = answer > 1 ? (now_s_ - request.first_token_s) / (answer - 1) : 0;
  if (ttft_s <= config_.slo_ttft_s && itl_s <= config_.slo_itl_s) ++report_.good;
  coordinator_.Finished({RequestId(r + 1), ttft_s, total_s, request.prompt_tokens, request.cached_tokens, true});
  report_.seconds = now_s_;
  active_.erase(r);
  request.keys = {};
}

void Simulation::Fail(const SimFailure& failure) {
  size_t n = 0;
  while (nodes_[n].name != failure.worker) ++n;
  Node& node = nodes_[n];
  if (!node.up) return;
  switch (failure.kind) {
    case SimFailure::Kind::kSlow: node.slow = kSlow; return;
    case SimFailure::Kind::kStop: node.stopped = true; return;  // Tick finds out
    case SimFailure::Kind::kKill: break;
  }
  coordinator_.Disconnect(node.member.id, node.member.incarnation);
  Lose(n);
}

void Simulation::Back(const SimFailure& failure) {
  size_t n = 0;
  while (nodes_[n].name != failure.worker) ++n;
  Node& node = nodes_[n];
  node.slow = 1;
  if (node.up && node.stopped) {  // it goes on before it was missed
    node.stopped = false;
    if (n < workers_.size() && workers_[n].in_step()) Push(now_s_, EventKind::kStepEnd, n, node.life);
    else if (n < workers_.size()) Kick(n);
  }
  node.stopped = false;
  if (node.up) return;
  Join(n);
  Push(now_s_ + config_.heartbeat_s, EventKind::kBeat, n, node.life);
}

/// The process is gone for the cluster; the gateway moves its requests.
void Simulation::Lose(size_t n) {
  Node& node = nodes_[n];
  node.up = false;
  ++node.life;
  if (n >= workers_.size()) {
    store_.Restart();
    return;
  }
  std::map<size_t, uint32_t> left;
  for (const SimLost& lost : workers_[n].Crash()) left[lost.request] = lost.tokens_left;
  Move(n, left);
}

void Simulation::Move(size_t n, const std::map<size_t, uint32_t>& left) {
  std::vector<size_t> moved;
  for (const size_t r : active_) {
    const Request& request = requests_[r];
    if (request.decoding == n || (request.computing == n && !request.landed)) moved.push_back(r);
  }
  for (const size_t r : moved) {
    Request& request = requests_[r];
    if (request.computing != n) workers_[request.computing].Cancel(r);
    const auto it = left.find(r);
    if (it != left.end() && it->second > 0) {  // what was sent becomes part of the prompt
      request.prompt_tokens += request.answer_left - std::min(request.answer_left, it->second);
      request.answer_left = it->second;
    }
    request.moved = true;
    ++report_.moved;
    ++Span().moved;
    Arrive(r);
  }
}

void Simulation::Sample() {
  SimSpan& span = Span();
  for (const SimWorker& worker : workers_) {
    const WorkerLoad load = worker.load();
    span.running += load.running;
    span.waiting += load.waiting;
  }
  ++span.samples;
}

void Simulation::Handle(const Event& event) {
  const size_t subject = event.subject;
  switch (event.kind) {
    case EventKind::kArrival: return Arrive(subject);
    case EventKind::kQueued:
      if (active_.count(subject) != 0 && requests_[subject].attempt == event.life) Queued(subject);
      return;
    case EventKind::kLanded:
      if (active_.count(subject) != 0 && requests_[subject].attempt == event.life) Landed(subject);
      return;
    case EventKind::kStepEnd:
      if (nodes_[subject].life == event.life && !nodes_[subject].stopped) StepEnd(subject);
      return;
    case EventKind::kBeat:
      if (nodes_[subject].life != event.life) return;
      if (!nodes_[subject].stopped) Beat(subject);
      return Push(now_s_ + config_.heartbeat_s, EventKind::kBeat, subject, event.life);
    case EventKind::kTick:
      for (const WorkerId id : coordinator_.Tick()) {
        if (const size_t n = node_of_.at(id.value); nodes_[n].up) Lose(n);
      }
      return Push(now_s_ + config_.heartbeat_s, EventKind::kTick, 0);
    case EventKind::kFail:
      Fail(config_.failures[subject]);
      return Push(now_s_ + config_.failures[subject].down_s, EventKind::kBack, subject);
    case EventKind::kSample:
      Sample();
      if (now_s_ < report_.span_s * kSpans) Push(now_s_ + report_.span_s / 4, EventKind::kSample, 0);  // a short trace has short spans
      return;
    case EventKind::kBack: return Back(config_.failures[subject]);
  }
}

void Simulation::Finish() {
  double busy_s = 0;
  for (size_t n = 0; n < workers_.size(); ++n) {
    busy_s += workers_[n].busy_s();
    report_.preemptions += workers_[n].preemptions();
    if (report_.seconds > 0) report_.workers.push_back({nodes_[n].name, std::min(1.0, workers_[n].busy_s() / report_.seconds)});
  }
  if (report_.seconds > 0) report_.busy_share = busy_s / (report_.seconds * static_cast<double>(workers_.size()));
  report_.store_evictions = store_.evictions();
  const auto used = std::min(report_.spans.size(), static_cast<size_t>(report_.seconds / report_.span_s) + 1);
  report_.spans.resize(used);
}

Event Simulation::NextEvent() {
  const size_t arrived = trace_.size() - arrivals_left_;
  if (arrivals_left_ > 0 && arrivals_s_[arrived] <= events_.top().at_s) return {arrivals_s_[arrived], 0, EventKind::kArrival, arrived, 0};
  const Event event = events_.top();
  events_.pop();
  return event;
}

Result<SimReport> Simulation::Run() {
  Schedule();
  Build();
  while (arrivals_left_ > 0 || !active_.empty()) {
    const Event event = NextEvent();
    if (!(event.at_s <= kLongestSimulationS)) {
      return ExhaustedError("after {} virtual seconds {} requests are still open: such workers are too slow or too few for the trace", kLongestSimulationS,
                            arrivals_left_ + active_.size());
    }
    clock_.Advance(FromSeconds(event.at_s) - FromSeconds(now_s_));
    now_s_ = event.at_s;
    Handle(event);
  }
  Finish();
  return std::move(report_);
}

}  // namespace

Result<SimReport> Simulate(const SimConfig& config, const std::vector<TraceRequest>& trace) {
  RETURN_IF_ERROR(CheckSimulation(config, trace));
  return Simulation(config, trace).Run();
}

}  // namespace baton
