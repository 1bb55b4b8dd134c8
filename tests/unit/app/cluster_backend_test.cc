// The gateway's backend against a played cluster: whatever dies, the client gets the tokens of an undisturbed run, each once,
// or one error that says what to do.
#include "backend_support.h"

#include "base/log.h"

namespace baton {
namespace {

class ClusterBackendTest : public LoopTest {
 protected:
  ClusterBackendTest() {
    before_ = spdlog::get_level();
    spdlog::set_level(spdlog::level::off);
    coordinator_.card.model_name = "model";
    coordinator_.card.kv_layout = "layout";
    coordinator_.card.numerics = "exact";
    coordinator_.card.kv_dtype = "f16";
    coordinator_.card.block_tokens = 4;
    coordinator_.card.block_bytes = 1024;
    coordinator_.card.vocab = 97;
    coordinator_.card.max_positions = 1000;
    coordinator_.card.eos_ids = {kPlayedEos};
    for (uint32_t id = 1; id <= 3; ++id) AddWorker(id);
    Make({});
  }
  ~ClusterBackendTest() noexcept override {
    handle_ = nullptr;
    backend_ = nullptr;
    peers_ = nullptr;
    nodes_.clear();
    for (auto& [id, play] : decode_) play.sinks.clear();  // the last to hold a connection, and with it calls that count in `play`
    io_.waitScope.poll();
    spdlog::set_level(before_);
  }
  void AddWorker(uint32_t id) {
    auto& node = nodes_[id] = std::make_unique<TestNode>(io_);
    node->services.decode = wire::Decode::Client(kj::heap<DecodeServer>(decode_[id]));
    MemberInfo member;
    member.id = WorkerId(id);
    member.incarnation = Incarnation(1);
    member.name = "worker-" + std::to_string(id);
    member.roles = {"decode"};
    member.address = node->address();
    coordinator_.workers.push_back(member);
    view_.Update(coordinator_.workers);
  }
  void Make(ClusterBackendConfig config, kj::Timer* timer = nullptr, const Clock* clock = nullptr) {
    handle_ = nullptr;
    backend_ = nullptr;
    auto find = [this]() -> kj::Promise<Result<wire::Coordinator::Client>> {
      return Result<wire::Coordinator::Client>(wire::Coordinator::Client(kj::heap<CoordinatorServer>(coordinator_)));
    };
    session_ = std::make_unique<MemberSession>(timer_, find, coordinator_.workers[0], view_, std::chrono::seconds(1), MemberSession::Hooks{});
    ASSERT_TRUE(Wait(session_->Join(std::chrono::seconds(10))).ok());
    backend_ = std::make_unique<ClusterBackend>(std::move(config), timer == nullptr ? timer_ : *timer, clock == nullptr ? clock_ : *clock, metrics_, *peers_, *session_, view_);
    Wait(backend_->Ready());
  }
  static GenerateRequest Request(uint32_t max_tokens = 8) {
    GenerateRequest request;
    request.id = RequestId(77);
    request.prompt = {10, 20, 30, 40, 50};
    request.max_tokens = max_tokens;
    return request;
  }
  void Begin(const GenerateRequest& request, RememberingSink& sink) { handle_ = backend_->Generate(request, sink); }
  /// A generation to its end; then the handle goes, as the gateway does it.
  void Run(const GenerateRequest& request, RememberingSink& sink) {
    Begin(request, sink);
    EXPECT_TRUE(Until([&] { return sink.over(); }));
    handle_ = nullptr;
    io_.waitScope.poll();
  }
  double Moves() { return metrics_.Counter("baton_gateway_stream_moves_total", "").Value(); }

  SystemClock clock_;
  Metrics metrics_;
  PlayedCoordinator coordinator_;
  std::map<uint32_t, PlayedDecode> decode_;
  std::map<uint32_t, std::unique_ptr<TestNode>> nodes_;
  std::unique_ptr<PeerTable> peers_ = std::make_unique<PeerTable>(io_.provider->getNetwork(), timer_, "key", std::chrono::seconds(10));
  MembershipView view_;
  std::unique_ptr<MemberSession> session_;
  std::unique_ptr<ClusterBackend> backend_;
  std::unique_ptr<GenerationHandle> handle_;
  spdlog::level::level_enum before_;
};

TEST_F(ClusterBackendTest, OneAnswer) {
  decode_[1].cached = 4;
  RememberingSink sink;
  Run(Request(), sink);
  EXPECT_EQ(sink.tokens, PlayedAnswer(Request().prompt, 8));
  EXPECT_EQ(sink.end, FinishReason::kLength);
  EXPECT_EQ(sink.end_stats.prompt_tokens, 5u);
  EXPECT_EQ(sink.end_stats.cached_tokens, 4u);
  EXPECT_EQ(sink.end_stats.route, "played; the reason");
  ASSERT_EQ(coordinator_.asked.size(), 1u);
  const Asked& asked = coordinator_.asked[0];
  EXPECT_EQ(asked.request, 77u);
  EXPECT_EQ(asked.keys, KeyChain(coordinator_.card.Root(""), Request().prompt, 4));
  EXPECT_EQ(std::tie(asked.prompt_tokens, asked.max_tokens, asked.moved), std::make_tuple(5u, 8u, false));
  EXPECT_TRUE(asked.avoid.empty());
  ASSERT_EQ(decode_[1].requests.size(), 1u);
  EXPECT_EQ(decode_[1].requests[0].root, coordinator_.card.Root(""));
  EXPECT_EQ(decode_[1].prefills, std::vector<uint32_t>{1});
  ASSERT_EQ(coordinator_.told.size(), 1u);
  EXPECT_TRUE(coordinator_.told[0].ok);
  EXPECT_EQ(coordinator_.told[0].cached_tokens, 4u);
  EXPECT_EQ(Moves(), 0);
}

TEST_F(ClusterBackendTest, AWorkerThatDiesAfterAnyTokenIsReplaced) {
  for (uint32_t k = 0; k <= 7; ++k) {
    for (const Fate fate : {Fate::kThrows, Fate::kEndsWithoutAWord, Fate::kFails}) {
      decode_[1] = {.tokens = k, .fate = fate, .status = UnavailableError("draining")};
      decode_[1].cached = 4;
      decode_[2] = {};
      coordinator_.asked.clear();
      coordinator_.told.clear();
      RememberingSink sink;
      Run(Request(), sink);
      const std::string where = fmt::format("{} tokens, fate {}", k, static_cast<int>(fate));
      const std::vector<TokenId> want = PlayedAnswer(Request().prompt, 8);
      EXPECT_EQ(sink.tokens, want) << where;
      EXPECT_EQ(sink.end, FinishReason::kLength) << where;
      ASSERT_EQ(decode_[2].requests.size(), 1u) << where;
      const GenerateRequest& second = decode_[2].requests[0].request;
      std::vector<TokenId> prompt = Request().prompt;
      prompt.insert(prompt.end(), want.begin(), want.begin() + k);
      EXPECT_EQ(second.prompt, prompt) << where;
      EXPECT_EQ(second.generated, k) << where;
      EXPECT_EQ(second.max_tokens, 8 - k) << where;
      ASSERT_EQ(coordinator_.asked.size(), 2u) << where;
      EXPECT_EQ(coordinator_.asked[1].avoid, std::vector<uint32_t>{1}) << where;
      EXPECT_TRUE(coordinator_.asked[1].moved) << where;
      EXPECT_EQ(coordinator_.asked[1].prompt_tokens, 5 + k) << where;
      EXPECT_EQ(sink.end_stats.prompt_tokens, 5u) << "the client's prompt, not the moved one's";
      EXPECT_EQ(sink.end_stats.cached_tokens, k > 0 ? 4u : 0u) << "what the client was told stays true";
      EXPECT_THAT(sink.end_stats.route, ::testing::HasSubstr("moved=1"));
      ASSERT_EQ(coordinator_.told.size(), 1u);
      EXPECT_TRUE(coordinator_.told[0].ok);
      EXPECT_EQ(coordinator_.told[0].prompt_tokens, 5u);
    }
  }
}

TEST_F(ClusterBackendTest, AConnectionThatBreaksInTheMiddle) {
  decode_[1] = {.tokens = 3, .fate = Fate::kHangs};
  RememberingSink sink;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return sink.tokens.size() == 3; }));
  nodes_[1] = nullptr;  // kill -9
  ASSERT_TRUE(Until([&] { return sink.over(); }));
  EXPECT_EQ(sink.tokens, PlayedAnswer(Request().prompt, 8));
}

TEST_F(ClusterBackendTest, AWorkerThatStandsStillAndIsDeclaredDead) {
  decode_[1] = {.tokens = 3, .fate = Fate::kHangs};
  RememberingSink sink;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return sink.tokens.size() == 3; }));
  peers_->Forget(nodes_[1]->address(), "declared dead");
  ASSERT_TRUE(Until([&] { return sink.over(); }));
  EXPECT_EQ(sink.tokens, PlayedAnswer(Request().prompt, 8));
  EXPECT_TRUE(Until([&] { return decode_[1].open == 0; }));
}

TEST_F(ClusterBackendTest, MovedTwice) {
  decode_[1] = {.tokens = 2, .fate = Fate::kThrows};
  decode_[2] = {.tokens = 3, .fate = Fate::kThrows};
  RememberingSink sink;
  Run(Request(), sink);
  EXPECT_EQ(sink.tokens, PlayedAnswer(Request().prompt, 8));
  ASSERT_EQ(decode_[3].requests.size(), 1u);
  EXPECT_EQ(decode_[3].requests[0].request.generated, 5u);
  EXPECT_EQ(coordinator_.asked[2].avoid, (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(Moves(), 2);
}

TEST_F(ClusterBackendTest, WhatAReplacedWorkerStillSaysIsNotHeard) {
  decode_[1] = {.tokens = 2, .fate = Fate::kThrows};
  decode_[2] = {.tokens = 1, .fate = Fate::kHangs};
  RememberingSink sink;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return sink.tokens.size() == 3; }));
  auto late = decode_[1].sinks[0].tokensRequest();
  WriteToken({9, 0, {}}, late.initBatch(1)[0]);
  Wait(late.send());
  auto end = decode_[1].sinks[0].endRequest();
  end.setReason(static_cast<uint8_t>(FinishReason::kStop));
  Wait(end.send().ignoreResult());
  EXPECT_EQ(sink.tokens.size(), 3u);
  EXPECT_FALSE(sink.over());
}

TEST_F(ClusterBackendTest, TheWordOfTheEndIsLost) {
  struct Case {
    const char* what;
    bool eos, ignore_eos;
    std::vector<TokenId> stop_tokens;
    uint32_t tokens, max_tokens;
    std::optional<FinishReason> want;  // none: it must go on elsewhere
  };
  const TokenId second = PlayedAnswer(Request().prompt, 8)[1];
  for (const Case& c : {Case{"max_tokens", false, false, {}, 8, 8, FinishReason::kLength}, Case{"EOS", true, false, {}, 4, 8, FinishReason::kStop},
                        Case{"EOS as the last of max_tokens", true, false, {}, 8, 8, FinishReason::kStop}, Case{"ignored EOS", true, true, {}, 4, 8, {}},
                        Case{"ignored EOS at max_tokens", true, true, {}, 8, 8, FinishReason::kLength},
                        Case{"stop token", false, true, {second}, 2, 8, FinishReason::kStop}, Case{"one before", false, false, {}, 7, 8, {}}}) {
    decode_[1] = {.tokens = c.tokens, .fate = Fate::kThrows, .eos = c.eos};
    decode_[2] = {};
    coordinator_.told.clear();
    GenerateRequest request = Request(c.max_tokens);
    request.ignore_eos = c.ignore_eos;
    request.stop_tokens = c.stop_tokens;
    RememberingSink sink;
    Run(request, sink);
    EXPECT_EQ(decode_[2].requests.size(), c.want.has_value() ? 0u : 1u) << c.what;
    EXPECT_EQ(sink.tokens.size(), c.want.has_value() ? c.tokens : c.max_tokens) << c.what;
    EXPECT_EQ(sink.end, c.want.value_or(FinishReason::kLength)) << c.what;
    EXPECT_EQ(sink.end_stats.prompt_tokens, 5u) << c.what;
    ASSERT_EQ(coordinator_.told.size(), 1u) << c.what;
    EXPECT_TRUE(coordinator_.told[0].ok) << c.what;
  }
}

TEST_F(ClusterBackendTest, WhatNoOtherWorkerCouldHelpIsPassedOn) {
  for (const StatusCode code : {StatusCode::kInvalid, StatusCode::kDeadline}) {
    decode_[1] = {.tokens = 1, .fate = Fate::kFails, .status = Status(code, "as it is")};
    decode_[2] = {};
    coordinator_.told.clear();
    RememberingSink sink;
    Run(Request(), sink);
    EXPECT_EQ(sink.error, Status(code, "as it is"));
    EXPECT_TRUE(decode_[2].requests.empty());
    ASSERT_EQ(coordinator_.told.size(), 1u);
    EXPECT_FALSE(coordinator_.told[0].ok);
  }
}

TEST_F(ClusterBackendTest, TheCoordinatorsRefusalOfANewRequestIsPassedOn) {
  for (const StatusCode code : {StatusCode::kExhausted, StatusCode::kInvalid}) {
    coordinator_.refuse = Status(code, "not now");
    coordinator_.retry_after_s = 2.5;
    RememberingSink sink;
    Run(Request(), sink);
    EXPECT_EQ(sink.error, coordinator_.refuse);
    EXPECT_EQ(sink.retry_after_s, 2.5);
  }
  EXPECT_EQ(coordinator_.asked.size(), 2u) << "each asked once";
}

/// A coordinator that has just started, and hears of its workers in a moment.
TEST_F(ClusterBackendTest, ANewRequestWaitsALittleForWorkers) {
  kj::TimerImpl timer(kj::origin<kj::TimePoint>());
  FakeClock clock;
  Make({}, &timer, &clock);
  kj::TimePoint now = kj::origin<kj::TimePoint>();
  const auto pass = [&] {
    timer.advanceTo(now += 100 * kj::MILLISECONDS);
    clock.Advance(std::chrono::milliseconds(100));
  };
  coordinator_.refuse = UnavailableError("no decode worker is ready");
  coordinator_.retry_after_s = 2;
  RememberingSink sink;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return pass(), coordinator_.asked.size() >= 3; }));
  EXPECT_FALSE(sink.over());
  coordinator_.refuse = OkStatus();
  ASSERT_TRUE(Until([&] { return pass(), sink.over(); }));
  EXPECT_EQ(sink.tokens, PlayedAnswer(Request().prompt, 8));
  coordinator_.refuse = UnavailableError("no decode worker is ready");
  RememberingSink second;
  Begin(Request(), second);
  const Instant begin = clock.Now();
  ASSERT_TRUE(Until([&] { return pass(), second.over(); }));
  EXPECT_EQ(second.error, coordinator_.refuse);
  EXPECT_EQ(second.retry_after_s, 2);
  EXPECT_NEAR(ToSeconds(clock.Now() - begin), 4, 1) << "wait_for_workers_s, and a pause";
  handle_ = nullptr;
  backend_ = nullptr;
}

/// One that refuses is no one that dies: it is asked, ever more seldom, until it has room or the request's patience ends.
TEST_F(ClusterBackendTest, AFullClusterIsWaitedFor) {
  kj::TimerImpl timer(kj::origin<kj::TimePoint>());
  FakeClock clock;
  Make({}, &timer, &clock);
  kj::TimePoint now = kj::origin<kj::TimePoint>();
  const auto pass = [&] {
    timer.advanceTo(now += 100 * kj::MILLISECONDS);
    clock.Advance(std::chrono::milliseconds(100));
  };
  for (auto& [id, play] : decode_) play = {.tokens = 0, .fate = Fate::kFails, .status = ExhaustedError("1024 requests wait")};
  RememberingSink sink;
  Begin(Request(), sink);
  const auto tries = [&] { return decode_[1].requests.size() + decode_[2].requests.size() + decode_[3].requests.size(); };
  ASSERT_TRUE(Until([&] { return pass(), tries() >= 20; })) << "more often than workers may die";
  EXPECT_FALSE(sink.over());
  EXPECT_GE(ToSeconds(clock.Now() - Instant{}), 10) << "and not twenty times a second";
  for (auto& [id, play] : decode_) play = {};
  ASSERT_TRUE(Until([&] { return pass(), sink.over(); }));
  EXPECT_EQ(sink.tokens, PlayedAnswer(Request().prompt, 8));
  handle_ = nullptr;
  backend_ = nullptr;
}

TEST_F(ClusterBackendTest, TheDeadlineIsOneForAllTries) {
  FakeClock clock;
  Make({}, nullptr, &clock);
  decode_[1] = {.tokens = 3, .fate = Fate::kHangs};
  GenerateRequest request = Request();
  request.deadline_s = 10;
  RememberingSink sink;
  Begin(request, sink);
  ASSERT_TRUE(Until([&] { return sink.tokens.size() == 3; }));
  EXPECT_NEAR(decode_[1].requests[0].request.deadline_s, 10, 1e-6);
  clock.Advance(FromSeconds(4));
  decode_[2] = {.tokens = 2, .fate = Fate::kHangs};
  peers_->Forget(nodes_[1]->address(), "declared dead");
  ASSERT_TRUE(Until([&] { return sink.tokens.size() == 5; }));
  EXPECT_NEAR(decode_[2].requests[0].request.deadline_s, 6, 1e-6) << "what the first try took is gone";
  clock.Advance(FromSeconds(7));
  peers_->Forget(nodes_[2]->address(), "declared dead");
  ASSERT_TRUE(Until([&] { return sink.over(); }));
  EXPECT_EQ(sink.error.code(), StatusCode::kDeadline);
  EXPECT_THAT(sink.error.message(), ::testing::HasSubstr("after 5 tokens"));
  EXPECT_TRUE(decode_[3].requests.empty());
  handle_ = nullptr;
  backend_ = nullptr;
}

TEST_F(ClusterBackendTest, AStreamThatHasBegunWaitsForAWorker) {
  decode_[1] = {.tokens = 3, .fate = Fate::kHangs};
  RememberingSink sink;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return sink.tokens.size() == 3; }));
  coordinator_.refuse = UnavailableError("no decode worker");
  nodes_[1] = nullptr;
  ASSERT_TRUE(Until([&] { return coordinator_.asked.size() >= 3; })) << "it asks again";
  EXPECT_FALSE(sink.over());
  coordinator_.refuse = OkStatus();
  ASSERT_TRUE(Until([&] { return sink.over(); }));
  EXPECT_EQ(sink.tokens, PlayedAnswer(Request().prompt, 8));
}

TEST_F(ClusterBackendTest, ButNotForEver) {
  Make({.give_up_after_s = 0.02});
  decode_[1] = {.tokens = 3, .fate = Fate::kHangs};
  RememberingSink sink;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return sink.tokens.size() == 3; }));
  coordinator_.refuse = UnavailableError("no decode worker");
  nodes_[1] = nullptr;
  ASSERT_TRUE(Until([&] { return sink.over(); }));
  EXPECT_EQ(sink.error.code(), StatusCode::kUnavailable);
  EXPECT_GE(sink.retry_after_s, 1);
  EXPECT_EQ(sink.tokens.size(), 3u);
  ASSERT_TRUE(Until([&] { return coordinator_.told.size() == 1; }));
  EXPECT_FALSE(coordinator_.told[0].ok);
}

/// It may be the request that kills them: it does not get them all, again and again.
TEST_F(ClusterBackendTest, ARequestUnderWhichWorkersDieIsNotTriedForEver) {
  kj::TimerImpl timer(kj::origin<kj::TimePoint>());
  kj::TimePoint now = kj::origin<kj::TimePoint>();
  Make({}, &timer);
  for (auto& [id, play] : decode_) play = {.tokens = 0, .fate = Fate::kThrows};
  RememberingSink sink;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return timer.advanceTo(now += 100 * kj::MILLISECONDS), sink.over(); }));
  EXPECT_EQ(sink.error.code(), StatusCode::kInternal);
  EXPECT_THAT(sink.error.message(), ::testing::HasSubstr("16 workers died while they ran this request"));
  handle_ = nullptr;
  backend_ = nullptr;
}

TEST_F(ClusterBackendTest, NobodyListens) {
  Make({.give_up_after_s = 0.02});
  for (auto& [id, node] : nodes_) node = nullptr;
  RememberingSink sink;
  Run(Request(), sink);
  EXPECT_EQ(sink.error.code(), StatusCode::kUnavailable);
  EXPECT_THAT(sink.error.message(), ::testing::HasSubstr("cannot reach"));
}

TEST_F(ClusterBackendTest, ASilentCoordinatorIsNotWaitedForForEver) {
  kj::TimerImpl timer(kj::origin<kj::TimePoint>());
  kj::TimePoint now = kj::origin<kj::TimePoint>();
  Make({}, &timer);
  coordinator_.silent = true;
  RememberingSink sink;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return coordinator_.asked.size() == 1; }));
  ASSERT_TRUE(Until([&] {
    timer.advanceTo(now += kj::SECONDS);
    return coordinator_.asked.size() == 2;
  }));
  coordinator_.silent = false;
  ASSERT_TRUE(Until([&] {
    timer.advanceTo(now += 100 * kj::MILLISECONDS);
    return sink.over();
  }));
  EXPECT_EQ(sink.tokens, PlayedAnswer(Request().prompt, 8));
  handle_ = nullptr;
  backend_ = nullptr;
}

TEST_F(ClusterBackendTest, DroppingTheHandleCancelsAtEveryStage) {
  RememberingSink sink;
  Begin(Request(), sink);
  handle_ = nullptr;  // before anything was asked
  io_.waitScope.poll();
  EXPECT_TRUE(coordinator_.asked.empty());
  coordinator_.silent = true;
  Begin(Request(), sink);
  ASSERT_TRUE(Until([&] { return coordinator_.asked.size() == 1; }));
  handle_ = nullptr;
  coordinator_.silent = false;
  for (const uint32_t tokens : {0u, 3u}) {
    decode_[1] = {.tokens = tokens, .fate = Fate::kHangs};
    sink.tokens.clear();
    Begin(Request(), sink);
    ASSERT_TRUE(Until([&] { return decode_[1].open == 1 && sink.tokens.size() == tokens; }));
    coordinator_.told.clear();
    handle_ = nullptr;
    EXPECT_TRUE(Until([&] { return decode_[1].open == 0; })) << "the worker hears of it";
    EXPECT_TRUE(Until([&] { return coordinator_.told.size() == 1; })) << "and the coordinator";
    EXPECT_FALSE(coordinator_.told[0].ok);
    auto late = decode_[1].sinks.back().tokensRequest();
    WriteToken({9, 0, {}}, late.initBatch(1)[0]);
    Wait(late.send().catch_([](kj::Exception&&) {}));
    EXPECT_EQ(sink.tokens.size(), tokens);
  }
  EXPECT_FALSE(sink.over()) << "a sink hears nothing once its handle is gone";
}

TEST_F(ClusterBackendTest, TenantsHaveTheirOwnRoots) {
  Make({.tenant_secret = "secret"});
  const auto root = [&](const std::string& tenant) {
    GenerateRequest request = Request();
    request.tenant = tenant;
    RememberingSink sink;
    Run(request, sink);
    EXPECT_EQ(coordinator_.asked.back().tenant, tenant);
    EXPECT_EQ(coordinator_.asked.back().keys[0], KeyChain(decode_[1].requests.back().root, request.prompt, 4)[0]);
    return decode_[1].requests.back().root;
  };
  const BlockKey none = root(""), a = root("a"), b = root("b");
  EXPECT_EQ(none, coordinator_.card.Root(""));
  EXPECT_NE(a, none);
  EXPECT_NE(a, b);
  EXPECT_EQ(a, root("a"));
  EXPECT_NE(a, coordinator_.card.Root("a")) << "a name alone does not give the salt away";
}

TEST_F(ClusterBackendTest, LearnsTheModelAndSaysWhatIsMissing) {
  EXPECT_EQ(backend_->card().id, "model");
  EXPECT_EQ(backend_->card().block_tokens, 4u);
  EXPECT_EQ(backend_->card().max_positions, 1000u);
  EXPECT_TRUE(backend_->Health().ok());
  view_.Update({});
  EXPECT_EQ(backend_->Health().code(), StatusCode::kUnavailable);
  view_.Update(coordinator_.workers);
  backend_->SetDraining();
  EXPECT_THAT(backend_->Health().message(), ::testing::HasSubstr("draining"));

  coordinator_.card_status = UnavailableError("no decode worker has joined");
  backend_ = std::make_unique<ClusterBackend>(ClusterBackendConfig{.model_name = "alias"}, timer_, clock_, metrics_, *peers_, *session_, view_);
  EXPECT_THAT(backend_->Health().message(), ::testing::HasSubstr("loading"));
  bool ready = false;
  auto waiting = backend_->Ready().then([&] { ready = true; }).eagerlyEvaluate(nullptr);
  ASSERT_TRUE(Until([&] { return backend_->Health().message() == "no decode worker has joined"; }));
  EXPECT_FALSE(ready);
  coordinator_.card_status = OkStatus();
  ASSERT_TRUE(Until([&] { return ready; }));
  EXPECT_EQ(backend_->card().id, "alias");
}

TEST_F(ClusterBackendTest, Administration) {
  EXPECT_EQ(*Wait(backend_->ClusterJson()), "{\"workers\":[]}");
  EXPECT_EQ(*Wait(backend_->ExplainRoute({1, 2, 3, 4, 5, 6, 7, 8, 9}, 30, "")), "{\"keys\":2,\"tokens\":9,\"max_tokens\":30}");
  EXPECT_EQ(*Wait(backend_->ExplainRequest(RequestId(77))), "{\"request\":77}");
  EXPECT_EQ(Wait(backend_->ExplainRequest(RequestId(78))).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(Wait(backend_->SetRole(WorkerId(2), "prefill")).ok());
  EXPECT_EQ(Wait(backend_->SetRole(WorkerId(2), "cook")).code(), StatusCode::kInvalid);
  EXPECT_TRUE(Wait(backend_->Drain(WorkerId(1))).ok());
  EXPECT_EQ(Wait(backend_->Drain(WorkerId(5))).code(), StatusCode::kNotFound);
  EXPECT_EQ(coordinator_.drained, (std::vector<uint32_t>{1, 5}));
  EXPECT_THAT(Wait(backend_->MetricsText()), ::testing::HasSubstr("baton_gateway_route_seconds"));
}

}  // namespace
}  // namespace baton
