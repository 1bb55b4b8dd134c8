// The kj event loop's door for other threads. kj objects belong to the thread that runs the loop; engine, transport and
// I/O threads hand it work through a LoopQueue.
#pragma once

#include <kj/async-io.h>
#include <kj/async-unix.h>
#include <kj/io.h>

#include <functional>
#include <mutex>
#include <vector>

namespace baton {

/// Runs closures on the loop's thread, in the order they were posted; a batch costs one wake, and one that throws is logged. What may be posted is bounded
/// by who posts: each running request, transfer or I/O job has at most a few closures under way.
/// Create and destroy on the loop's thread, after every thread that posts has ended.
class LoopQueue final : private kj::TaskSet::ErrorHandler {
 public:
  explicit LoopQueue(kj::UnixEventPort& port);
  /// Of a loop that no other thread knows (a simulated process): only the loop's own thread may post.
  LoopQueue();
  LoopQueue(const LoopQueue&) = delete;
  LoopQueue& operator=(const LoopQueue&) = delete;

  ~LoopQueue() noexcept(false);

  /// Thread: any.
  void Post(std::function<void()> work);

 private:
  class Bell;  // wakes the loop from another thread
  kj::Promise<void> Drain();
  void RunBatch();
  void taskFailed(kj::Exception&& exception) override;

  kj::Own<Bell> bell_;  // null: the loop's own thread posts
  std::mutex mutex_;
  std::vector<std::function<void()>> work_;
  kj::TaskSet tasks_;
};

/// Runs promises in the background until destroyed; a failure is logged with `what`.
class Background final : private kj::TaskSet::ErrorHandler {
 public:
  explicit Background(const char* what) : what_(what), tasks_(*this) {}
  void Add(kj::Promise<void> promise) { tasks_.add(kj::mv(promise)); }
  bool empty() { return tasks_.isEmpty(); }
  kj::Promise<void> OnEmpty() { return tasks_.onEmpty(); }

 private:
  void taskFailed(kj::Exception&& exception) override;

  const char* what_;
  kj::TaskSet tasks_;
};

}  // namespace baton
