#include "tests/dst/storm.h"

#include "base/log.h"

namespace baton::dst {

Storm::Storm(Simulation& simulation, World& world) : simulation_(simulation), world_(world) {
  const uint64_t most = world.Chance(0.1) ? 0 : world.Chance(0.5) ? 3 : 12;
  const uint64_t count = most == 0 ? 0 : 1 + world.Below(most);
  for (uint64_t i = 0; i < count; ++i) {
    const double at_s = world.Between(0.05, 6);
    ends_s_ = std::max(ends_s_, at_s + 4.1);  // no fault lasts longer than 4 s
    world.After(at_s, [this] { Strike(); });
  }
}

Storm::Machine* Storm::Draw(bool may_have_gateway) {
  Machine* machine = simulation_.machines_[world_.Below(simulation_.machines_.size())].get();
  if (machine->process == nullptr || (!may_have_gateway && machine->Has("gateway"))) return nullptr;
  return machine;
}

void Storm::Strike() {
  ++faults_;
  const double heal_s = world_.Chance(0.5) ? world_.Between(0.01, 0.5) : world_.Between(0.5, 4);
  switch (world_.Below(14)) {
    case 0: case 1: case 2: return KillOne(heal_s);
    case 3: case 4: return PauseOne(heal_s);
    case 5: return PartTwo(heal_s);
    case 6: return Isolate(heal_s);
    case 7: return ResetTwo();
    case 8: return BreakPath();
    case 9: return BadDisk(heal_s);
    case 10: return BadWire(heal_s);
    case 11: return BadNetwork(heal_s);
    case 12: return JumpClock();
    default: return LoseDisk();
  }
}

void Storm::KillOne(double heal_s) {
  Machine* machine = Draw(world_.Chance(0.2));  // streams of a killed gateway end: not too often
  if (machine == nullptr) return;
  const bool power = world_.Chance(0.3);
  LOG_INFO("FAULT {} of {} for {:.3f} s", power ? "power off" : "kill -9", machine->host->name, heal_s);
  simulation_.Kill(*machine, power);
  world_.After(heal_s, [this, machine] { simulation_.Boot(*machine); });
}

void Storm::PauseOne(double heal_s) {
  Machine* machine = Draw(true);
  if (machine == nullptr || machine->host->paused) return;
  LOG_INFO("FAULT {} is paused for {:.3f} s", machine->host->name, heal_s);
  machine->host->paused = true;
  world_.AfterOn(*machine->host, 0, [] {});  // something to go on with
  world_.After(heal_s, [this, host = machine->host, life = machine->host->life] {
    if (host->life == life) world_.GoOn(*host);
  });
}

void Storm::PartTwo(double heal_s) {
  Machine *a = Draw(true), *b = Draw(true);
  if (a == nullptr || b == nullptr || a == b || world_.Parted(*a->host, *b->host)) return;
  LOG_INFO("FAULT {} and {} are parted for {:.3f} s", a->host->name, b->host->name, heal_s);
  world_.Part(*a->host, *b->host);
  world_.After(heal_s, [this, a, b] { world_.Join(*a->host, *b->host); });
}

void Storm::Isolate(double heal_s) {
  Machine* one = Draw(true);
  if (one == nullptr) return;
  LOG_INFO("FAULT {} is isolated for {:.3f} s", one->host->name, heal_s);
  for (const auto& other : simulation_.machines_) {
    if (other.get() == one) continue;
    world_.Part(*one->host, *other->host);
    world_.After(heal_s, [this, one, host = other->host] { world_.Join(*one->host, *host); });
  }
}

void Storm::ResetTwo() {
  Machine *a = Draw(true), *b = Draw(true);
  if (a == nullptr || b == nullptr || a == b) return;
  LOG_INFO("FAULT the connections between {} and {} break", a->host->name, b->host->name);
  simulation_.network_.Reset(*a->host, *b->host);
}

void Storm::BreakPath() {
  Machine *a = Draw(true), *b = Draw(true);
  if (a == nullptr || b == nullptr || a == b) return;
  LOG_INFO("FAULT a path between {} and {} breaks", a->host->name, b->host->name);
  simulation_.fabric_.BreakPath(*a->host, *b->host);
}

void Storm::BadDisk(double heal_s) {
  Machine* machine = Draw(true);
  if (machine == nullptr) return;
  LOG_INFO("FAULT the disk of {} is bad for {:.3f} s", machine->host->name, heal_s);
  machine->disk->faults = {.unreadable = world_.Between(0, 0.5), .refused = world_.Between(0, 1), .flip = world_.Between(0, 0.5)};
  world_.After(heal_s, [machine] { machine->disk->faults = {}; });
}

void Storm::BadWire(double heal_s) {
  LOG_INFO("FAULT bytes flip and pieces come twice for {:.3f} s", heal_s);
  simulation_.fabric_.traits = {.duplicate = world_.Between(0, 0.3), .flip = world_.Between(0, 0.1)};
  world_.After(heal_s, [this] { simulation_.fabric_.traits = {}; });
}

void Storm::BadNetwork(double heal_s) {
  LOG_INFO("FAULT packets get lost for {:.3f} s", heal_s);
  simulation_.network_.traits = {.latency_s = world_.Between(0, 0.01), .jitter_s = world_.Between(0, 0.05), .loss = world_.Between(0, 0.2)};
  world_.After(heal_s, [this] { simulation_.network_.traits = {}; });
}

void Storm::JumpClock() {
  Machine* machine = Draw(true);
  if (machine == nullptr) return;
  machine->host->wall_offset_s += world_.Between(-100, 100) * (world_.Chance(0.3) ? 100 : 1);
  LOG_INFO("FAULT the wall clock of {} is {:.1f} s off", machine->host->name, machine->host->wall_offset_s);
}

/// The store forgets what it had acknowledged; nobody may notice but by misses.
void Storm::LoseDisk() {
  for (const auto& machine : simulation_.machines_) {
    if (!machine->Has("store") || machine->process == nullptr) continue;
    LOG_INFO("FAULT the disk of {} is replaced", machine->host->name);
    machine->disk->blocks.clear();
    return;
  }
}

}  // namespace baton::dst
