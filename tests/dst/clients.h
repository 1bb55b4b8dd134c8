// What clients ask of the simulated cluster, and the check of every token that they get: the very tokens and logprobs of one undisturbed
// sequence, each once, in order, with the right ending.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/backend.h"
#include "model/model.h"
#include "tests/dst/world.h"
#include "tests/unit/worker/engine_support.h"

namespace baton::dst {

/// Told what went wrong.
using Violation = std::function<void(const std::string&)>;

/// One request and what came of it.
class Ask final : public GenerationSink {
 public:
  Ask(GenerateRequest request, Answer want, Violation violation) : request_(std::move(request)), want_(std::move(want)), violation_(std::move(violation)) {}

  void OnRoute(const RequestStats& stats) override;
  void OnToken(const TokenEvent& event) override;
  void OnEnd(FinishReason reason, const RequestStats& stats) override;
  void OnError(const Status& status, double retry_after_s) override;

  void Start(Backend& backend) { handle_ = backend.Generate(request_, *this); }
  /// The client goes away.
  void Leave();
  /// The gateway is gone and the stream with it.
  void Lose();

  const GenerateRequest& request() const { return request_; }
  bool started() const { return handle_ != nullptr || over(); }
  bool over() const { return ended_ || refused_ || left_; }
  bool refused() const { return refused_; }
  bool left() const { return left_; }
  size_t tokens() const { return got_; }
  uint32_t leave_after_tokens = ~0u;
  std::function<void()> on_leave_due;
  std::function<void()> on_token;  // after each, as a test plants it
  std::string Describe() const;

 private:
  void Violate(const std::string& what) { violation_(Describe() + ": " + what); }

  const GenerateRequest request_;
  const Answer want_;
  const Violation violation_;
  std::unique_ptr<GenerationHandle> handle_;
  size_t got_ = 0;
  bool routed_ = false, ended_ = false, refused_ = false, left_ = false;
};

struct ClientTraits {
  size_t requests = 8;
  double over_s = 4;  // they come within this time
  uint32_t longest_prompt = 40, longest_answer = 24, vocab = 50;
  double leaving = 0.1;  // share of clients that go away in the middle
};

/// Draws requests: prompts that share beginnings, two tenants, every kind of sampling, stop tokens, logprobs.
std::vector<std::unique_ptr<Ask>> DrawRequests(World& world, Model& model, const ClientTraits& traits, const Violation& violation);

}  // namespace baton::dst
