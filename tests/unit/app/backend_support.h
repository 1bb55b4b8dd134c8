// A coordinator and decode workers that the test plays, behind real ports, and a sink that remembers. A played worker's tokens
// are a function of the prompt so far: a moved stream is right only if it took prompt, tokens and counts along.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/cluster_backend.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "tests/support/loop_support.h"

namespace baton {

constexpr TokenId kPlayedEos = 3;

inline TokenId PlayedToken(const std::vector<TokenId>& prompt) {
  uint64_t sum = prompt.size();
  for (const TokenId token : prompt) sum = sum * 31 + static_cast<uint64_t>(token);
  const auto token = static_cast<TokenId>(sum % 97);
  return token == kPlayedEos ? 4 : token;
}
/// The tokens of an undisturbed answer.
inline std::vector<TokenId> PlayedAnswer(std::vector<TokenId> prompt, uint32_t max_tokens) {
  const size_t begin = prompt.size();
  while (prompt.size() < begin + max_tokens) prompt.push_back(PlayedToken(prompt));
  return {prompt.begin() + static_cast<ptrdiff_t>(begin), prompt.end()};
}

enum class Fate { kEnds, kThrows, kFails, kHangs, kEndsWithoutAWord };

/// What a played decode worker does and saw.
struct PlayedDecode {
  uint32_t tokens = ~0u;  // it gives at most so many, then meets its fate
  Fate fate = Fate::kEnds;
  Status status;          // of kFails
  bool eos = false;       // the last token it gives is EOS
  uint32_t cached = 0;
  std::vector<ReceivedRequest> requests;
  std::vector<uint32_t> prefills;  // workers offered, a call
  int open = 0;
  std::vector<wire::TokenSink::Client> sinks;
};

class DecodeServer final : public wire::Decode::Server {
 public:
  explicit DecodeServer(PlayedDecode& play) : play_(play) {}
  kj::Promise<void> generate(GenerateContext context) override {
    context.allowCancellation();
    play_.requests.push_back(*ReadRequest(context.getParams().getRequest()));
    play_.prefills.push_back(context.getParams().getPrefill().size());
    play_.sinks.push_back(context.getParams().getSink());
    const GenerateRequest& request = play_.requests.back().request;
    auto& sink = play_.sinks.back();
    kj::Vector<kj::Promise<void>> sent;
    RequestStats stats;
    stats.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
    stats.cached_tokens = play_.cached;
    stats.route = "played";
    auto route = sink.routeRequest();
    WriteStats(stats, route.initStats());
    sent.add(route.send());
    std::vector<TokenId> prompt = request.prompt;
    const uint32_t count = std::min(play_.tokens, request.max_tokens);
    for (uint32_t i = 0; i < count; ++i) {
      prompt.push_back(play_.eos && i + 1 == count ? kPlayedEos : PlayedToken(prompt));
      auto tokens = sink.tokensRequest();
      WriteToken({prompt.back(), -1, {}}, tokens.initBatch(1)[0]);
      sent.add(tokens.send());
    }
    ++play_.open;
    auto fate = kj::joinPromises(sent.releaseAsArray()).then([this, context, sink, stats]() mutable { return Meet(context, sink, stats); });
    return fate.attach(kj::defer([this] { --play_.open; }));
  }

 private:
  kj::Promise<void> Meet(GenerateContext context, wire::TokenSink::Client sink, const RequestStats& stats) {
    switch (play_.fate) {
      case Fate::kThrows: return KJ_EXCEPTION(DISCONNECTED, "killed");
      case Fate::kHangs: return kj::NEVER_DONE;
      case Fate::kFails: WriteStatus(play_.status, context.getResults().initStatus()); return kj::READY_NOW;
      case Fate::kEndsWithoutAWord: return kj::READY_NOW;
      case Fate::kEnds: break;
    }
    auto end = sink.endRequest();
    end.setReason(static_cast<uint8_t>(play_.eos ? FinishReason::kStop : FinishReason::kLength));
    WriteStats(stats, end.initStats());
    return end.send().ignoreResult();
  }

  PlayedDecode& play_;
};

struct Asked {
  uint64_t request;
  std::string tenant;
  std::vector<BlockKey> keys;
  uint32_t prompt_tokens, max_tokens;
  std::vector<uint32_t> avoid;
  bool moved;
};
struct Told {
  uint64_t request;
  uint32_t prompt_tokens, cached_tokens;
  bool ok;
};

/// What the played coordinator does and saw.
struct PlayedCoordinator {
  std::vector<MemberInfo> workers;  // a route goes to the first that is not to be avoided, or the first
  Status refuse;
  double retry_after_s = 0;
  bool silent = false;
  Status card_status;
  ModelIdentity card;
  std::vector<Asked> asked;
  std::vector<Told> told;
  std::vector<uint32_t> drained;
};

class CoordinatorServer final : public wire::Coordinator::Server {
 public:
  explicit CoordinatorServer(PlayedCoordinator& play) : play_(play) {}
  kj::Promise<void> register_(RegisterContext context) override {
    context.getResults().setId(100);
    context.getResults().setIncarnation(1);
    return kj::READY_NOW;
  }
  kj::Promise<void> route(RouteContext context) override {
    const auto q = context.getParams().getQuery();
    play_.asked.push_back({q.getRequestId(), ToString(q.getTenant()), *ReadKeys(q.getKeys()), q.getPromptTokens(), q.getMaxTokens(), {}, q.getMoved()});
    for (const uint32_t id : q.getAvoid()) play_.asked.back().avoid.push_back(id);
    if (play_.silent) {
      context.allowCancellation();
      return kj::NEVER_DONE;
    }
    auto r = context.getResults();
    WriteStatus(play_.refuse, r.initStatus());
    r.setRetryAfterS(play_.retry_after_s);
    if (!play_.refuse.ok()) return kj::READY_NOW;
    const auto& avoid = play_.asked.back().avoid;
    auto chosen = std::find_if(play_.workers.begin(), play_.workers.end(), [&](const MemberInfo& m) { return std::count(avoid.begin(), avoid.end(), m.id.value) == 0; });
    if (chosen == play_.workers.end()) chosen = play_.workers.begin();
    WriteMember(*chosen, r.initPlan().initDecode());
    WriteMember(*chosen, r.getPlan().initPrefill(1)[0]);
    r.getPlan().setReason("the reason");
    return kj::READY_NOW;
  }
  kj::Promise<void> card(CardContext context) override {
    WriteStatus(play_.card_status, context.getResults().initStatus());
    if (play_.card_status.ok()) WriteIdentity(play_.card, context.getResults().initModel());
    return kj::READY_NOW;
  }
  kj::Promise<void> finished(FinishedContext context) override {
    const auto p = context.getParams();
    play_.told.push_back({p.getRequestId(), p.getPromptTokens(), p.getCachedTokens(), p.getOk()});
    return kj::READY_NOW;
  }
  kj::Promise<void> clusterJson(ClusterJsonContext context) override {
    context.getResults().setJson("{\"workers\":[]}");
    return kj::READY_NOW;
  }
  kj::Promise<void> explainRoute(ExplainRouteContext context) override {
    const auto q = context.getParams().getQuery();
    context.getResults().setJson(fmt::format("{{\"keys\":{},\"tokens\":{},\"max_tokens\":{}}}", q.getKeys().size(), q.getPromptTokens(), q.getMaxTokens()));
    return kj::READY_NOW;
  }
  kj::Promise<void> explainRequest(ExplainRequestContext context) override {
    const uint64_t id = context.getParams().getRequestId();
    WriteStatus(id == 77 ? OkStatus() : NotFoundError("request {}", id), context.getResults().initStatus());
    context.getResults().setJson(fmt::format("{{\"request\":{}}}", id));
    return kj::READY_NOW;
  }
  kj::Promise<void> role(RoleContext context) override {
    const bool known = ToString(context.getParams().getRole()) == "prefill" && context.getParams().getWorker() == 2;
    WriteStatus(known ? OkStatus() : InvalidError("no such role"), context.getResults().initStatus());
    return kj::READY_NOW;
  }
  kj::Promise<void> drain(DrainContext context) override {
    play_.drained.push_back(context.getParams().getWorker());
    WriteStatus(context.getParams().getWorker() == 1 ? OkStatus() : NotFoundError("no such worker"), context.getResults().initStatus());
    return kj::READY_NOW;
  }

 private:
  PlayedCoordinator& play_;
};

/// Remembers a generation and checks the order of its calls.
class RememberingSink final : public GenerationSink {
 public:
  void OnRoute(const RequestStats& stats) override {
    EXPECT_FALSE(over());
    routes.push_back(stats);
  }
  void OnToken(const TokenEvent& event) override {
    EXPECT_FALSE(over());
    EXPECT_FALSE(routes.empty());
    tokens.push_back(event.token);
    if (on_token) on_token();
  }
  void OnEnd(FinishReason reason, const RequestStats& stats) override {
    EXPECT_FALSE(over());
    end = reason;
    end_stats = stats;
  }
  void OnError(const Status& status, double retry) override {
    EXPECT_FALSE(over());
    error = status;
    retry_after_s = retry;
  }
  bool over() const { return end.has_value() || !error.ok(); }

  std::vector<RequestStats> routes;
  std::vector<TokenId> tokens;
  std::optional<FinishReason> end;
  RequestStats end_stats;
  Status error;
  double retry_after_s = 0;
  std::function<void()> on_token;
};

}  // namespace baton
