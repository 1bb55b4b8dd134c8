// A generation that is wanted for the blocks of its prompt: the token it gives is of no interest.
#pragma once

#include <kj/async.h>

#include <memory>
#include <utility>

#include "gateway/backend.h"

namespace baton {

/// Thread: the loop's. Destroying it cancels.
class PrefixComputation final : public GenerationSink {
 public:
  ~PrefixComputation() noexcept override = default;
  struct Outcome {
    Status status;
    double retry_after_s = 0;
  };
  /// Call once.
  kj::Promise<Outcome> Start(Backend& backend, GenerateRequest request) {
    auto pair = kj::newPromiseAndFulfiller<Outcome>();
    ended_ = kj::mv(pair.fulfiller);
    handle_ = backend.Generate(std::move(request), *this);
    return kj::mv(pair.promise);
  }
  void OnRoute(const RequestStats&) override {}
  void OnToken(const TokenEvent&) override {}
  void OnEnd(FinishReason reason, const RequestStats&) override {
    const bool done = reason == FinishReason::kLength || reason == FinishReason::kStop;
    ended_->fulfill({done ? OkStatus() : CancelledError("the computation was cancelled")});
  }
  void OnError(const Status& status, double retry_after_s) override { ended_->fulfill({status, retry_after_s}); }

 private:
  kj::Own<kj::PromiseFulfiller<Outcome>> ended_;
  std::unique_ptr<GenerationHandle> handle_;
};

}  // namespace baton
