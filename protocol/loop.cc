#include "protocol/loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"

namespace baton {

class LoopQueue::Bell {
 public:
  explicit Bell(kj::UnixEventPort& port) : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), observer_(port, fd_, kj::UnixEventPort::FdObserver::OBSERVE_READ) {
    CHECK(fd_.get() >= 0);
  }
  void Ring() {
    const uint64_t one = 1;
    const ssize_t written = write(fd_, &one, sizeof one);
    CHECK(written == sizeof one);
  }
  kj::Promise<void> Rung() {
    return observer_.whenBecomesReadable().then([this]() {
      uint64_t count;
      [[maybe_unused]] const ssize_t ignored = read(fd_, &count, sizeof count);
    });
  }

 private:
  const kj::AutoCloseFd fd_;  // declared before its observer, which lets go of it first
  kj::UnixEventPort::FdObserver observer_;
};

LoopQueue::LoopQueue(kj::UnixEventPort& port) : bell_(kj::heap<Bell>(port)), tasks_(*this) { tasks_.add(Drain()); }
LoopQueue::LoopQueue() : tasks_(*this) {}
LoopQueue::~LoopQueue() noexcept(false) = default;

void LoopQueue::taskFailed(kj::Exception&& exception) { LOG_ERROR("the loop's queue stopped: {}", exception.getDescription().cStr()); }

void LoopQueue::Post(std::function<void()> work) {
  bool was_empty;
  {
    std::lock_guard lock(mutex_);
    was_empty = work_.empty();
    work_.push_back(std::move(work));
  }
  if (!was_empty) return;
  if (bell_.get() != nullptr) bell_->Ring();
  else tasks_.add(kj::evalLater([this]() { RunBatch(); }));
}

kj::Promise<void> LoopQueue::Drain() {
  return bell_->Rung().then([this]() {
    RunBatch();
    return Drain();
  });
}

void LoopQueue::RunBatch() {
  std::vector<std::function<void()>> batch;
  {
    std::lock_guard lock(mutex_);
    batch.swap(work_);
  }
  for (const auto& work : batch) {
    const auto problem = kj::runCatchingExceptions([&work]() { work(); });
    KJ_IF_MAYBE(e, problem) { LOG_ERROR("posted work failed: {}", e->getDescription().cStr()); }
  }
}

void Background::taskFailed(kj::Exception&& exception) {
  LOG_DEBUG("{}: {}", what_, exception.getDescription().cStr());
}

}  // namespace baton
