#include <atomic>
#include <thread>

#include "worker/engine.h"

namespace baton {
namespace {

constexpr Duration kIdle = std::chrono::milliseconds(500);  // of one sleep without requests; news ends it at once

}  // namespace

struct EngineThread::State {
  explicit State(Engine& e) : engine(e), thread([this] { Loop(); }) {}
  ~State() {
    stop = true;
    engine.CancelAll();  // also wakes it
    thread.join();
  }
  void Loop() {
    while (!stop) {
      if (!engine.Step()) engine.WaitForWork(kIdle);
    }
    engine.CancelAll();
    while (engine.Step()) {
    }
  }

  Engine& engine;
  std::atomic<bool> stop{false};
  std::thread thread;
};

EngineThread::EngineThread(Engine& engine) : state_(std::make_unique<State>(engine)) {}
EngineThread::~EngineThread() = default;

}  // namespace baton
