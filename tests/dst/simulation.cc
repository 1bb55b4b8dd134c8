#include "tests/dst/simulation.h"

#include <map>

#include "base/log.h"
#include "tests/dst/storm.h"

namespace baton::dst {
namespace {

constexpr double kMostS = 45;  // from the last healing to the last ending: far above give_up_after_s and every timeout
constexpr double kQuietS = 15; // from the last ending until nothing is held
constexpr double kCheckS = 0.02;
constexpr double kRestartS = 0.3;  // from the end of a rank that gave up to its next start

}  // namespace

Simulation::Simulation(uint64_t seed, kj::WaitScope& scope) : world_(seed, scope), network_(world_), fabric_(world_, network_.traits) {}

Simulation::~Simulation() {
  for (const auto& ask : asks_) ask->Lose();
  for (const auto& machine : machines_) {
    machine->host->running = false;  // what it still says goes nowhere
    machine->process = nullptr;
  }
  world_.Clear();
}

void Simulation::Violate(const std::string& what) {
  LOG_ERROR("VIOLATION {}", what);
  if (outcome_.violations.size() < 10) outcome_.violations.push_back(fmt::format("at {:.6f} s: {}", world_.seconds(), what));
}

void Simulation::AddMachine(const std::string& name, std::vector<std::string> roles) {
  auto machine = std::make_unique<Machine>();
  machine->host = &world_.AddHost(name);
  machine->roles = std::move(roles);
  machine->host->wall_offset_s = world_.Between(-0.5, 0.5);
  machines_.push_back(std::move(machine));
}

void Simulation::DrawCluster() {
  setup_.layout.block_tokens = 4u << world_.Below(2);
  setup_.layout.dtype = world_.Chance(0.3) ? KvDtype::kInt8 : KvDtype::kF32;
  setup_.pool_blocks = (world_.Chance(0.3) ? 80u : 160u) / setup_.layout.block_tokens + static_cast<uint32_t>(world_.Below(40));
  setup_.store_blocks = 20 + static_cast<uint32_t>(world_.Below(200));
  setup_.max_running = 2 + static_cast<uint32_t>(world_.Below(8));
  setup_.step_s = world_.Between(0.001, 0.02);
  setup_.local_prefill_tokens = static_cast<uint32_t>(world_.Below(32));
  setup_.coordinator = "head";
  if (world_.Chance(0.5)) {
    AddMachine("head", {"coordinator", "gateway"});
  } else {
    AddMachine("head", {"coordinator"});
    AddMachine("gate", {"gateway"});
  }
  const auto add = [this](const char* name, std::vector<std::string> roles, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) AddMachine(name + std::to_string(i), roles);
  };
  add("store", {"store"}, world_.Below(3));
  add("prefill", {"prefill"}, world_.Below(3));
  const uint64_t mixed = world_.Below(2);
  add("mixed", {"prefill", "decode"}, mixed);
  add("decode", {"decode"}, world_.Below(3) + (mixed == 0 ? 1 : 0));
}

void Simulation::Boot(Machine& machine) {
  Host& host = *machine.host;
  if (host.running) return;
  ++host.life;
  host.running = true;
  if (std::exchange(host.dark, false)) network_.Back(host);
  machine.process = std::make_unique<Process>(world_, network_, fabric_, host, *machine.disk, setup_, machine.roles);
  machine.process->on_exit = [this, &machine] {
    world_.After(0, [this, &machine, life = machine.host->life] {
      if (!machine.host->running || machine.host->life != life) return;
      Kill(machine, false);
      world_.After(kRestartS, [this, &machine] { Boot(machine); });
    });
  };
}

void Simulation::Kill(Machine& machine, bool power) {
  Host& host = *machine.host;
  host.running = false;
  host.paused = false;
  host.postponed.clear();
  host.dark = power;
  if (machine.Has("gateway")) {
    outcome_.moves += machine.process->moves();
    for (const auto& ask : asks_) {
      if (ask->started()) ask->Lose();
    }
  }
  network_.Die(host);
  fabric_.Die(host);
  machine.process = nullptr;
}

void Simulation::DrawClients(const RunOptions& options) {
  const std::unique_ptr<Model> model = MakeFakeModel(setup_.vocab, setup_.layout);
  ClientTraits traits;
  traits.requests = 2 + world_.Below(12);
  traits.vocab = setup_.vocab;
  asks_ = DrawRequests(world_, *model, traits, [this](const std::string& what) { Violate(what); });
  for (const auto& ask : asks_) {
    if (options.tamper) options.tamper(*ask);
    ask->on_leave_due = [this, a = ask.get()] { world_.After(0, [a] { a->Leave(); }); };
    StartAsk(*ask, world_.Between(0, traits.over_s));
  }
}

/// A client asks when the gateway says that it is ready.
void Simulation::StartAsk(Ask& ask, double delay_s) {
  world_.After(delay_s, [this, &ask] {
    for (const auto& machine : machines_) {
      if (!machine->Has("gateway") || machine->process == nullptr || machine->host->paused) continue;
      if (!machine->process->backend()->Health().ok()) continue;
      LOG_INFO("request {}: {} tokens, {} more", ask.request().id.value, ask.request().prompt.size(), ask.request().max_tokens);
      return ask.Start(*machine->process->backend());
    }
    StartAsk(ask, 0.05);
  });
}

void Simulation::CheckStep() {
  for (const auto& machine : machines_) {
    if (machine->process == nullptr) continue;
    if (const std::string broken = machine->process->Broken(); !broken.empty()) Violate(broken);
    const Coordinator* coordinator = machine->process->coordinator();
    if (coordinator == nullptr) continue;
    std::map<std::string, size_t> alive;
    for (const auto& [id, member] : coordinator->membership().members()) {
      if (member.alive && ++alive[member.info.name] > 1) Violate(member.info.name + " is a member twice");
    }
  }
}

bool Simulation::AllReady() const {
  return std::all_of(machines_.begin(), machines_.end(), [](const auto& m) { return m->process != nullptr && m->process->ready() && !m->host->paused; });
}

bool Simulation::AllOver() const {
  return std::all_of(asks_.begin(), asks_.end(), [](const auto& ask) { return ask->over(); });
}

std::string Simulation::Busy() const {
  std::string busy;
  for (const auto& machine : machines_) {
    if (machine->process == nullptr) continue;
    if (const std::string one = machine->process->Busy(); !one.empty()) busy += one + "; ";
  }
  return busy;
}

/// What the coordinator's index lacks or invents; empty when it tells the truth.
std::string Simulation::IndexGap() const {
  const Coordinator* coordinator = machines_[0]->process->coordinator();
  size_t held = 0;
  for (const auto& machine : machines_) {
    Process& process = *machine->process;
    std::vector<BlockKey> keys;
    if (process.pool() != nullptr) keys = process.pool()->Keys();
    if (process.store() != nullptr) keys = process.store()->Keys();
    held += keys.size();
    for (const BlockKey& key : keys) {
      if (!coordinator->index().Holds(process.self().id, key)) return fmt::format("the index does not know a block that {} holds", machine->host->name);
    }
  }
  const size_t known = coordinator->index().holder_blocks();
  return known == held ? "" : fmt::format("the index knows {} blocks, {} are held", known, held);
}

/// Nothing may be left: the faults are over, every request has ended.
void Simulation::CheckQuiet() {
  if (!AllReady()) {
    std::string who;
    for (const auto& machine : machines_) who += machine->process != nullptr && machine->process->ready() ? "" : machine->host->name + " ";
    return Violate("not back in the cluster: " + who);
  }
  if (const std::string busy = Busy(); !busy.empty()) Violate("still held: " + busy);
  if (const std::string gap = IndexGap(); !gap.empty()) Violate(gap);
}

Outcome Simulation::Run(const RunOptions& options) {
  DrawCluster();
  for (const auto& machine : machines_) {
    world_.After(world_.Between(0, 0.3), [this, m = machine.get()] { Boot(*m); });
  }
  DrawClients(options);
  storm_ = std::make_unique<Storm>(*this, world_);
  double next_check_s = 0;
  const auto check = [&] {
    if (world_.seconds() < next_check_s) return;
    next_check_s = world_.seconds() + kCheckS;
    CheckStep();
  };
  const double most_s = storm_->ends_s() + kMostS;
  const bool over = world_.Run(most_s, [&] { return !outcome_.violations.empty() || (world_.seconds() > storm_->ends_s() && AllOver()); }, check);
  if (!over) {
    for (const auto& ask : asks_) {
      if (!ask->over()) Violate(ask->Describe() + (ask->started() ? " never ended" : " could never start"));
    }
  }
  if (outcome_.violations.empty()) {
    const double quiet_s = world_.seconds() + kQuietS, earliest_s = world_.seconds() + 3 * setup_.heartbeat_s;
    world_.Run(quiet_s, [&] { return world_.seconds() > earliest_s && AllReady() && Busy().empty() && IndexGap().empty(); }, check);
    CheckQuiet();
  }
  for (const auto& ask : asks_) {
    outcome_.tokens += ask->tokens();
    outcome_.refused += ask->refused() ? 1 : 0;
    outcome_.left += ask->left() ? 1 : 0;
  }
  for (const auto& machine : machines_) {
    if (machine->Has("gateway") && machine->process != nullptr) outcome_.moves += machine->process->moves();
  }
  outcome_.requests = asks_.size();
  outcome_.trace = world_.trace();
  outcome_.steps = world_.steps();
  outcome_.faults = storm_->faults();
  outcome_.virtual_s = world_.seconds();
  return std::move(outcome_);
}

Outcome RunSeed(uint64_t seed, const RunOptions& options) {
  kj::EventLoop loop;
  kj::WaitScope scope(loop);
  Simulation simulation(seed, scope);
  return simulation.Run(options);
}

}  // namespace baton::dst
