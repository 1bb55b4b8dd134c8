// The faults of a run: what happens to whom and when, drawn from the seed; each heals by itself, and all have by ends_s().
#pragma once

#include "tests/dst/simulation.h"

namespace baton::dst {

class Storm {
 public:
  /// Draws faults and puts them on the world's calendar.
  Storm(Simulation& simulation, World& world);
  double ends_s() const { return ends_s_; }
  uint64_t faults() const { return faults_; }

 private:
  using Machine = Simulation::Machine;
  void Strike();
  Machine* Draw(bool may_have_gateway);
  void KillOne(double heal_s);
  void PauseOne(double heal_s);
  void PartTwo(double heal_s);
  void Isolate(double heal_s);
  void ResetTwo();
  void BreakPath();
  void BadDisk(double heal_s);
  void BadWire(double heal_s);
  void BadNetwork(double heal_s);
  void JumpClock();
  void LoseDisk();

  Simulation& simulation_;
  World& world_;
  double ends_s_ = 0;
  uint64_t faults_ = 0;
};

}  // namespace baton::dst
