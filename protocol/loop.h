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
class LoopQueue {
 public:
  explicit LoopQueue(kj::UnixEventPort& port);
  LoopQueue(const LoopQueue&) = delete;
  LoopQueue& operator=(const LoopQueue&) = delete;

  /// Thread: any.
  void Post(std::function<void()> work);

 private:
  kj::Promise<void> Drain();

  const kj::AutoCloseFd fd_;  // eventfd; declared before its observer, which lets go of it first
  kj::UnixEventPort::FdObserver observer_;
  std::mutex mutex_;
  std::vector<std::function<void()>> work_;
  kj::Promise<void> task_;
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
