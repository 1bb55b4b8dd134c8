#include "coordinator/router.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "base/bytes.h"

namespace baton {
namespace {

constexpr std::array<std::pair<std::string_view, RoutePolicy>, 4> kPolicies = {{{"cost", RoutePolicy::kCost},
                                                                                {"round_robin", RoutePolicy::kRoundRobin},
                                                                                {"least_loaded", RoutePolicy::kLeastLoaded},
                                                                                {"prefix_only", RoutePolicy::kPrefixOnly}}};

/// Mean of what the workers measured, else the default.
class Rates {
 public:
  Rates(const RouterConfig& config, std::span<const WorkerView> workers)
      : prefill_(config.default_prefill_tokens_per_s), step_(config.default_decode_step_s),
        transfer_(config.default_transfer_bytes_per_s), latency_(config.default_transfer_latency_s),
        store_(config.default_store_bytes_per_s) {
    for (const WorkerView& w : workers) {
      prefill_.Count(w.load.prefill_tokens_per_s);
      step_.Count(w.load.decode_step_s);
      transfer_.Count(w.load.transfer_bytes_per_s);
      latency_.Count(w.transfer_latency_s);
      store_.Count(w.load.store_bytes_per_s);
    }
  }
  double PrefillTokensPerS(const WorkerView& w) const { return prefill_.Or(w.load.prefill_tokens_per_s); }
  double DecodeStepS(const WorkerView& w) const { return step_.Or(w.load.decode_step_s); }
  double TransferBytesPerS(const WorkerView& w, WorkerId to) const {
    for (const PathSpeed& path : w.paths) {
      if (path.peer == to && path.bytes_per_s > 0) return path.bytes_per_s;
    }
    return transfer_.Or(w.load.transfer_bytes_per_s);
  }
  double TransferLatencyS(const WorkerView& w) const { return latency_.Or(w.transfer_latency_s); }
  double StoreBytesPerS(const WorkerView& w) const { return store_.Or(w.load.store_bytes_per_s); }

 private:
  class Rate {
   public:
    explicit Rate(double otherwise) : otherwise_(otherwise) {}
    void Count(double measured) {
      if (!(measured > 0)) return;
      sum_ += measured;
      ++count_;
    }
    double Or(double measured) const { return measured > 0 ? measured : count_ > 0 ? sum_ / count_ : otherwise_; }

   private:
    double otherwise_, sum_ = 0;
    int count_ = 0;
  };
  Rate prefill_, step_, transfer_, latency_, store_;
};

/// What a worker would need to get the prompt's KV by itself.
struct PromptCost {
  double queue_s = 0, store_load_s = 0, prefill_s = 0;
  uint32_t cached_tokens = 0, uncached_tokens = 0;
  bool from_store = false;
  double Sum() const { return queue_s + store_load_s + prefill_s; }
};

struct Computing {  // a worker that could compute the prompt for another
  const WorkerView* worker;
  PromptCost prompt;
  double interference_s;  // with its own streams, where it also decodes
};

using LoadKey = std::tuple<uint64_t, uint64_t, uint32_t>;
LoadKey LoadOf(const WorkerView& w) {
  return {uint64_t{w.load.running} + w.load.waiting, w.load.queued_prefill_tokens, w.id.value};
}

/// The `kept` least of `items`, in order. Pointers are moved, not the items.
template <typename T>
std::vector<const T*> InOrder(const std::vector<T>& items, size_t kept) {
  std::vector<const T*> order;
  order.reserve(items.size());
  for (const T& item : items) order.push_back(&item);
  const auto less = [](const T* a, const T* b) { return *a < *b; };
  if (kept < order.size()) {
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), less);
    order.resize(kept);
  } else {
    std::sort(order.begin(), order.end(), less);
  }
  return order;
}

class Planner {
 public:
  Planner(const RouterConfig& config, const RouteQuery& query, std::span<const WorkerView> workers)
      : config_(config), query_(query), workers_(workers), rates_(config, workers), answer_tokens_(std::min(query.max_tokens, config.expected_answer_tokens)),
        block_tokens_(std::max(1u, query.block_tokens)), prompt_blocks_(CeilDiv(query.prompt_tokens, block_tokens_)) {
    for (const WorkerView& w : workers) {
      if (w.store) store_blocks_ = std::max(store_blocks_, w.matched_blocks);
      paths_differ_ = paths_differ_ || !w.paths.empty();
    }
  }

  RouteDecision Decide();

 private:
  struct Option {
    RouteCandidate candidate;
    const WorkerView* decode = nullptr;
    const WorkerView* prefill = nullptr;  // null: local
    std::tuple<LoadKey, LoadKey> Tie() const { return {LoadOf(*decode), prefill == nullptr ? LoadKey{} : LoadOf(*prefill)}; }
    bool operator<(const Option& other) const {
      const double mine = candidate.cost.total_s, others = other.candidate.cost.total_s;
      return mine < others || (mine == others && Tie() < other.Tie());
    }
  };
  struct Decoding {  // a decode worker with its two ways
    const WorkerView* worker;
    Option local;
    std::optional<Option> remote;  // none: has to be local
    bool remote_wins = false;
    const Option& Best() const { return remote_wins ? *remote : local; }
    bool operator<(const Decoding& other) const { return Best() < other.Best(); }
  };

  bool Fits(const WorkerView& w) const { return w.load.total_blocks == 0 || CeilDiv(uint64_t{query_.prompt_tokens} + 1, block_tokens_) <= w.load.total_blocks; }
  bool Avoided(const WorkerView& w) const { return std::find(query_.avoid.begin(), query_.avoid.end(), w.id) != query_.avoid.end(); }
  std::vector<const WorkerView*> DecodeWorkers();
  Status NoDecodeWorker() const;
  PromptCost PromptOn(const WorkerView& w) const;
  double DecodeSeconds(const WorkerView& w) const;
  double TransferSeconds(const WorkerView& decode, const Computing& prefill) const;
  double WorkSeconds(const PromptCost& prompt) const { return config_.work_weight * prompt.prefill_s; }
  CostTerms Terms(const WorkerView& decode, const PromptCost& prompt, double transfer_s, double interference_s) const;
  Option Local(const WorkerView& decode) const;
  Option Remote(const WorkerView& decode, const Computing& prefill) const;
  const Computing* BestPrefill(const WorkerView& decode);
  const WorkerView* ByPolicy(std::vector<const WorkerView*> among) const;
  const Computing* PrefillByPolicy(const WorkerView& decode) const;
  Decoding WaysOf(const WorkerView& decode);
  void Fill(RouteDecision& decision, const std::vector<Decoding>& ways, const Decoding& chosen) const;
  void FillPrefills(RouteDecision& decision, const Decoding& chosen, bool remote) const;
  std::string Why(const Decoding& chosen, const Option& option) const;

  const RouterConfig& config_;
  const RouteQuery& query_;
  std::span<const WorkerView> workers_;
  Rates rates_;
  uint32_t answer_tokens_, block_tokens_;
  uint64_t prompt_blocks_;
  uint32_t store_blocks_ = 0;
  bool paths_differ_ = false;
  std::string note_;  // why the decode workers are not the usual ones
  std::vector<Computing> prefills_;
  /// The two best prefill workers for a decode worker that holds so many blocks (two: the best may be the decode worker itself).
  struct Best {
    uint32_t matched_blocks;
    std::array<const Computing*, 2> two{};
  };
  std::vector<Best> best_;
};

std::vector<const WorkerView*> Planner::DecodeWorkers() {
  const auto select = [this](bool stand_in, bool avoided) {
    std::vector<const WorkerView*> found;
    for (const WorkerView& w : workers_) {
      if ((stand_in ? w.prefill && !w.decode : w.decode) && !w.draining && Fits(w) && Avoided(w) == avoided) found.push_back(&w);
    }
    return found;
  };
  for (const bool avoided : {false, true}) {
    for (const bool stand_in : {false, true}) {
      if (stand_in && !config_.prefill_may_decode) continue;
      auto found = select(stand_in, avoided);
      if (found.empty()) continue;
      if (stand_in) note_ = "no decode worker, a prefill worker does both";
      if (avoided) note_ = "all others failed, one that just failed is tried again";
      return found;
    }
  }
  return {};
}

Status Planner::NoDecodeWorker() const {
  uint32_t largest = 0;
  for (const WorkerView& w : workers_) {
    if (w.decode && !w.draining && !Fits(w)) largest = std::max(largest, w.load.total_blocks);
  }
  if (largest == 0) return UnavailableError("no decode worker is ready; start one with `baton cluster --join HOST:PORT --role decode`, or wait");
  return InvalidError("a prompt of {} tokens needs {} KV blocks, the largest worker has {}; shorten the prompt or raise engine.kv_bytes",
                      query_.prompt_tokens, CeilDiv(uint64_t{query_.prompt_tokens} + 1, block_tokens_), largest);
}

PromptCost Planner::PromptOn(const WorkerView& w) const {
  PromptCost cost;
  const uint32_t last = query_.prompt_tokens == 0 ? 0 : query_.prompt_tokens - 1;  // the last token is always computed: its logits are needed
  const uint64_t blocks = std::max(w.matched_blocks, store_blocks_);
  cost.from_store = store_blocks_ > w.matched_blocks;
  cost.cached_tokens = static_cast<uint32_t>(std::min<uint64_t>(blocks * block_tokens_, last));
  cost.uncached_tokens = query_.prompt_tokens - cost.cached_tokens;
  const double rate = rates_.PrefillTokensPerS(w);
  cost.queue_s = static_cast<double>(w.load.queued_prefill_tokens) / rate;
  const StepModel& step = w.load.step_model;
  cost.prefill_s = step.known() ? step.PrefillSeconds(cost.uncached_tokens, cost.cached_tokens, std::max(1u, config_.prefill_chunk_tokens), w.load.running)
                                : cost.uncached_tokens / rate;
  if (cost.from_store) {
    cost.store_load_s = static_cast<double>(store_blocks_ - w.matched_blocks) * static_cast<double>(query_.block_bytes) / rates_.StoreBytesPerS(w);
  }
  return cost;
}

double Planner::DecodeSeconds(const WorkerView& w) const {
  const double step = rates_.DecodeStepS(w);
  const double running = w.load.running;
  double seconds = w.load.waiting * step;
  // A step takes a + b * streams, and one more stream makes each of the others' tokens b later. Unmeasured: the knee is a / b.
  const double row_s = w.load.step_model.known() ? w.load.step_model.row_s : step / (running + config_.decode_knee_streams);
  seconds += answer_tokens_ * row_s * running;
  const uint64_t needed = CeilDiv(uint64_t{query_.prompt_tokens} + answer_tokens_, block_tokens_) - std::min<uint64_t>(w.matched_blocks, prompt_blocks_);
  if (w.load.total_blocks > 0 && needed > w.load.free_blocks) {  // that share of what runs must end first
    const double used = std::max(1u, w.load.total_blocks - std::min(w.load.free_blocks, w.load.total_blocks));
    seconds += std::min(1.0, static_cast<double>(needed - w.load.free_blocks) / used) * answer_tokens_ * step;
  }
  return seconds;
}

double Planner::TransferSeconds(const WorkerView& decode, const Computing& prefill) const {
  const uint64_t blocks = prompt_blocks_ - std::min<uint64_t>(decode.matched_blocks, prompt_blocks_);
  const double bytes_s = static_cast<double>(blocks) * static_cast<double>(query_.block_bytes) / rates_.TransferBytesPerS(*prefill.worker, decode.id);
  return rates_.TransferLatencyS(*prefill.worker) + std::max(0.0, bytes_s - prefill.prompt.prefill_s);
}

CostTerms Planner::Terms(const WorkerView& decode, const PromptCost& prompt, double transfer_s, double interference_s) const {
  CostTerms cost{prompt.queue_s, prompt.store_load_s, prompt.prefill_s, transfer_s, interference_s, DecodeSeconds(decode), WorkSeconds(prompt)};
  cost.total_s = prompt.Sum() + cost.transfer_s + cost.interference_s + cost.decode_s + cost.work_s;
  return cost;
}

Planner::Option Planner::Local(const WorkerView& decode) const {
  const PromptCost prompt = PromptOn(decode);
  const double streams = decode.load.running + (decode.prefill ? 0 : config_.reserved_streams);
  const CostTerms cost = Terms(decode, prompt, 0, prompt.prefill_s * streams);
  const CacheSource from = prompt.cached_tokens == 0 ? CacheSource::kNone : prompt.from_store ? CacheSource::kStore : CacheSource::kDecode;
  return {{decode.id, WorkerId(), prompt.cached_tokens, from, cost}, &decode, nullptr};
}

Planner::Option Planner::Remote(const WorkerView& decode, const Computing& prefill) const {
  const PromptCost& prompt = prefill.prompt;
  const CostTerms cost = Terms(decode, prompt, TransferSeconds(decode, prefill), prefill.interference_s);
  const CacheSource from = prompt.cached_tokens == 0 ? CacheSource::kNone : prompt.from_store ? CacheSource::kStore : CacheSource::kPrefill;
  return {{decode.id, prefill.worker->id, prompt.cached_tokens, from, cost}, &decode, prefill.worker};
}

/// Null where no other worker prefills. What a decode worker holds decides how much is sent to it, so decode workers that hold
/// equally much have the same best prefill worker: found once, unless the ways to them differ.
const Computing* Planner::BestPrefill(const WorkerView& decode) {
  const auto fits = [&](const Best& b) { return !paths_differ_ && b.matched_blocks == decode.matched_blocks; };
  auto known = std::find_if(best_.begin(), best_.end(), fits);
  if (known == best_.end()) {
    Best best{decode.matched_blocks};
    using Key = std::tuple<double, LoadKey>;
    const auto key = [&](const Computing& c) {
      return Key(c.prompt.Sum() + WorkSeconds(c.prompt) + c.interference_s + TransferSeconds(decode, c), LoadOf(*c.worker));
    };
    std::array<Key, 2> keys;
    keys.fill({std::numeric_limits<double>::infinity(), LoadKey{}});
    for (const Computing& c : prefills_) {
      const Key k = key(c);
      if (k < keys[0]) {
        best.two = {&c, best.two[0]};
        keys = {k, keys[0]};
      } else if (k < keys[1]) {
        best.two[1] = &c;
        keys[1] = k;
      }
    }
    known = best_.insert(best_.end(), best);
  }
  const Computing* first = known->two[0];
  return first != nullptr && first->worker->id == decode.id ? known->two[1] : first;
}

const WorkerView* Planner::ByPolicy(std::vector<const WorkerView*> among) const {
  std::sort(among.begin(), among.end(), [](const WorkerView* a, const WorkerView* b) { return a->id < b->id; });
  if (config_.policy == RoutePolicy::kRoundRobin) return among[query_.sequence % among.size()];
  const auto key = [this](const WorkerView* w) {
    const uint32_t matched = config_.policy == RoutePolicy::kPrefixOnly ? w->matched_blocks : 0;
    return std::tuple(std::numeric_limits<uint32_t>::max() - matched, LoadOf(*w));
  };
  return *std::min_element(among.begin(), among.end(), [&](const WorkerView* a, const WorkerView* b) { return key(a) < key(b); });
}

const Computing* Planner::PrefillByPolicy(const WorkerView& decode) const {
  std::vector<const WorkerView*> others;
  for (const Computing& c : prefills_) {
    if (c.worker->id != decode.id) others.push_back(c.worker);
  }
  if (others.empty()) return nullptr;
  const WorkerView* picked = ByPolicy(std::move(others));
  return &*std::find_if(prefills_.begin(), prefills_.end(), [&](const Computing& c) { return c.worker == picked; });
}

Planner::Decoding Planner::WaysOf(const WorkerView& decode) {
  Decoding ways{&decode, Local(decode), std::nullopt, false};
  if (query_.prompt_tokens - ways.local.candidate.cached_tokens < config_.local_prefill_tokens) return ways;
  const Computing* prefill = config_.policy == RoutePolicy::kCost ? BestPrefill(decode) : PrefillByPolicy(decode);
  if (prefill == nullptr) return ways;
  ways.remote = Remote(decode, *prefill);
  ways.remote_wins = *ways.remote < ways.local;
  return ways;
}

std::string Planner::Why(const Decoding& chosen, const Option& option) const {
  if (!chosen.remote) {
    const uint32_t uncached = query_.prompt_tokens - option.candidate.cached_tokens;
    if (uncached < config_.local_prefill_tokens) return fmt::format("{} uncached tokens < {}", uncached, config_.local_prefill_tokens);
    return "no other prefill worker";
  }
  if (config_.policy != RoutePolicy::kCost) return fmt::format("policy {}", RoutePolicyName(config_.policy));
  const double remote_s = chosen.remote->candidate.cost.total_s, local_s = chosen.local.candidate.cost.total_s;
  const uint32_t prefill = chosen.remote->candidate.prefill.value;
  if (option.prefill == nullptr) return fmt::format("local {:.3g} s <= prefill {}: {:.3g} s", local_s, prefill, remote_s);
  return fmt::format("prefill {}: {:.3g} s < local {:.3g} s", prefill, remote_s, local_s);
}

void Planner::Fill(RouteDecision& decision, const std::vector<Decoding>& ways, const Decoding& chosen) const {
  const Option& option = config_.policy == RoutePolicy::kCost || !chosen.remote ? chosen.Best() : *chosen.remote;
  decision.chosen = option.candidate;
  decision.answer_s = answer_tokens_ * rates_.DecodeStepS(*option.decode);
  decision.reason = fmt::format("decode={} prefill={} cached={}/{} why=\"{}{}{}\"", option.candidate.decode.value,
                                option.prefill == nullptr ? "local" : std::to_string(option.candidate.prefill.value), option.candidate.cached_tokens,
                                CacheSourceName(option.candidate.cached_from), note_, note_.empty() ? "" : "; ", Why(chosen, option));
  const auto order = InOrder(ways, config_.max_candidates / 2 + config_.alternates + 1);
  decision.candidates.reserve(2 * order.size() + (chosen.remote ? std::min<size_t>(prefills_.size(), config_.max_candidates / 2 + config_.alternates) : 0));
  for (const Decoding* way : order) {
    decision.candidates.push_back(way->local.candidate);
    if (way->remote) decision.candidates.push_back(way->remote->candidate);
    if (way->worker != chosen.worker && decision.decode_alternates.size() < config_.alternates) decision.decode_alternates.push_back(way->worker->id);
  }
  if (chosen.remote) FillPrefills(decision, chosen, option.prefill != nullptr);
}

/// The other prefill workers for the chosen decode worker, as candidates and, where prefill is remote, as alternates.
void Planner::FillPrefills(RouteDecision& decision, const Decoding& chosen, bool remote) const {
  std::vector<Option> others;
  others.reserve(prefills_.size());
  for (const Computing& c : prefills_) {
    if (c.worker != chosen.worker && c.worker != chosen.remote->prefill) others.push_back(Remote(*chosen.worker, c));
  }
  if (remote) decision.prefill_order.push_back(chosen.remote->candidate.prefill);
  for (const Option* other : InOrder(others, config_.max_candidates / 2 + config_.alternates)) {
    decision.candidates.push_back(other->candidate);
    if (remote && decision.prefill_order.size() <= config_.alternates) decision.prefill_order.push_back(other->candidate.prefill);
  }
}

RouteDecision Planner::Decide() {
  RouteDecision decision;
  const auto decodes = DecodeWorkers();
  if (decodes.empty()) {
    decision.status = NoDecodeWorker();
    if (decision.status.code() == StatusCode::kUnavailable) decision.retry_after_s = config_.unavailable_retry_s;
    return decision;
  }
  for (const WorkerView& w : workers_) {
    if (!w.prefill || w.draining || !Fits(w) || Avoided(w)) continue;
    const PromptCost prompt = PromptOn(w);
    prefills_.push_back({&w, prompt, w.decode ? prompt.prefill_s * w.load.running : 0});
  }
  std::vector<Decoding> ways;
  ways.reserve(decodes.size());
  for (const WorkerView* decode : decodes) ways.push_back(WaysOf(*decode));
  size_t chosen = 0;
  if (config_.policy == RoutePolicy::kCost) {
    for (size_t i = 1; i < ways.size(); ++i) {
      if (ways[i] < ways[chosen]) chosen = i;
    }
  } else {
    const WorkerView* picked = ByPolicy(decodes);
    while (ways[chosen].worker != picked) ++chosen;
  }
  Fill(decision, ways, ways[chosen]);
  return decision;
}

}  // namespace

Result<RoutePolicy> ParseRoutePolicy(std::string_view name) {
  for (const auto& [text, policy] : kPolicies) {
    if (text == name) return policy;
  }
  return InvalidError("router.policy '{}' is unknown; it is one of cost, round_robin, least_loaded, prefix_only", name);
}

std::string_view RoutePolicyName(RoutePolicy policy) {
  for (const auto& [text, known] : kPolicies) {
    if (known == policy) return text;
  }
  return "unknown";
}

std::string_view CacheSourceName(CacheSource source) {
  switch (source) {
    case CacheSource::kNone: return "none";
    case CacheSource::kDecode: return "decode";
    case CacheSource::kPrefill: return "prefill";
    case CacheSource::kStore: return "store";
  }
  return "unknown";
}

RouteDecision Route(const RouterConfig& config, const RouteQuery& query, std::span<const WorkerView> workers) {
  return Planner(config, query, workers).Decide();
}

}  // namespace baton
