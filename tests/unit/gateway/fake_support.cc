#include "tests/unit/gateway/fake_support.h"

#include <utility>

namespace baton {
namespace {

const std::map<TokenId, std::string>& Words() {
  static const std::map<TokenId, std::string> words = {
      {FakeCodec::kEnd, "<|end|>"}, {FakeCodec::kHello, "Hello"}, {FakeCodec::kWorld, " world"}, {FakeCodec::kTail, "abSTOPcd"}};
  return words;
}

/// Gives characters out when they are complete.
class FakeStream final : public TextStream {
 public:
  explicit FakeStream(const FakeCodec& codec) : codec_(codec) {}
  std::string Push(TokenId token) override {
    if (token == FakeCodec::kEnd) return "";
    held_ += codec_.TokenBytes(token);
    size_t lead = held_.size();
    while (lead > 0 && lead + 4 > held_.size() && (held_[lead - 1] & 0xc0) == 0x80) --lead;
    if (lead == 0) return "";
    const auto c = static_cast<uint8_t>(held_[lead - 1]);
    const size_t wanted = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
    return held_.size() - (lead - 1) >= wanted ? std::exchange(held_, "") : Split(lead - 1);
  }
  std::string Finish() override { return held_.empty() ? "" : (held_.clear(), "\xef\xbf\xbd"); }

 private:
  std::string Split(size_t at) {
    std::string front = held_.substr(0, at);
    held_.erase(0, at);
    return front;
  }
  const FakeCodec& codec_;
  std::string held_;
};

}  // namespace

std::vector<TokenId> FakeCodec::Encode(std::string_view text, bool parse_special, bool) const {
  std::vector<TokenId> ids;
  for (size_t i = 0; i < text.size(); ++i) {
    if (parse_special && text.substr(i, 7) == "<|end|>") {
      ids.push_back(kEnd);
      i += 6;
    } else {
      ids.push_back(static_cast<uint8_t>(text[i]));
    }
  }
  return ids;
}

std::string FakeCodec::Decode(const std::vector<TokenId>& ids) const {
  std::string text;
  for (TokenId id : ids) text += TokenBytes(id);
  return text;
}

std::string FakeCodec::TokenBytes(TokenId id) const {
  const auto word = Words().find(id);
  return word != Words().end() ? word->second : std::string(1, static_cast<char>(id));
}

std::unique_ptr<TextStream> FakeCodec::NewStream() const { return std::make_unique<FakeStream>(*this); }

Result<std::string> FakeCodec::Render(const nlohmann::ordered_json& body) const {
  std::string text;
  for (const auto& message : body.at("messages")) {
    if (message.at("role") == "refused") return InvalidError("the template refuses this role");
    text += message.at("role").get<std::string>() + ":" + (message.contains("content") && message["content"].is_string() ? message["content"].get<std::string>() : "") + "\n";
  }
  return body.value("add_generation_prompt", true) ? text + "assistant:" : text;
}

Result<std::vector<TokenId>> FakeCodec::EncodeChat(const nlohmann::ordered_json& body) const {
  ASSIGN_OR_RETURN(const std::string text, Render(body));
  return Encode(text, false, false);
}

class FakeHandle final : public GenerationHandle {
 public:
  FakeHandle(FakeBackend& backend, FakeScript script, uint32_t prompt_tokens, uint32_t max_tokens, GenerationSink& sink)
      : backend_(backend), script_(std::move(script)), max_tokens_(max_tokens), sink_(sink) {
    stats_.prompt_tokens = prompt_tokens;
    stats_.cached_tokens = prompt_tokens / 2;
    stats_.cache_write_tokens = prompt_tokens - prompt_tokens / 2;
    stats_.route = "prefill=1 decode=2 prefix=memory";
    if (script_.immediate) {
      while (Step()) {
      }
    } else {
      task_ = kj::evalLater([this] { return Loop(); }).eagerlyEvaluate(nullptr);
    }
  }
  ~FakeHandle() noexcept override {
    std::lock_guard<std::mutex> lock(backend_.mutex_);
    --backend_.running_;
    backend_.changed_.notify_all();
  }

 private:
  kj::Promise<void> Loop() {
    if (!Step()) return kj::READY_NOW;
    return kj::evalLater([this] { return Loop(); });
  }
  /// One call of the sink; false when nothing more comes.
  bool Step() {
    if (next_ == 0 && !routed_) {
      routed_ = true;
      if (!script_.tokens.empty()) sink_.OnRoute(stats_);
      return true;
    }
    const bool more = script_.forever ? !script_.tokens.empty() : next_ < script_.tokens.size();
    if (more && next_ < max_tokens_) {
      TokenEvent event{script_.tokens[next_ % script_.tokens.size()], -0.5f - 0.25f * static_cast<float>(next_ % 4), {}};
      event.top = {{event.token, event.logprob}, {static_cast<TokenId>('z'), -2.0f}, {static_cast<TokenId>('y'), -1e30f}};
      if (!script_.rejected.empty()) {
        event.predicted = next_ >= script_.rejected.size();
        event.rejected_tokens = event.predicted ? 0 : script_.rejected[next_];
      }
      ++next_;
      sink_.OnToken(event);
      return true;
    }
    if (script_.hang) return false;
    if (!script_.error.ok()) sink_.OnError(script_.error, script_.retry_after_s);
    else sink_.OnEnd(more ? FinishReason::kLength : script_.reason, stats_);
    return false;
  }

  FakeBackend& backend_;
  const FakeScript script_;
  const uint32_t max_tokens_;
  GenerationSink& sink_;
  RequestStats stats_;
  size_t next_ = 0;
  bool routed_ = false;
  kj::Promise<void> task_ = nullptr;
};

FakeBackend::FakeBackend() {
  card_.id = "org/fake-model";
  card_.created_unix_s = 1700000000;
  card_.vocab = FakeCodec::kVocab;
  card_.max_positions = 2048;
  card_.numerics = "exact";
  card_.kv_dtype = "f16";
  card_.fingerprint_hex = "0123456789abcdef0123";
  default_script.tokens = {FakeCodec::kHello, FakeCodec::kWorld};
}

std::unique_ptr<GenerationHandle> FakeBackend::Generate(GenerateRequest request, GenerationSink& sink) {
  FakeScript script = default_script;
  const auto prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  const uint32_t max_tokens = request.max_tokens;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!scripts_.empty()) {
      script = std::move(scripts_.front());
      scripts_.pop_front();
    }
    requests_.push_back(std::move(request));
    ++running_;
    changed_.notify_all();
  }
  return std::make_unique<FakeHandle>(*this, std::move(script), prompt_tokens, max_tokens, sink);
}

Status FakeBackend::Health() {
  std::lock_guard<std::mutex> lock(mutex_);
  return health_;
}

kj::Promise<Result<std::string>> FakeBackend::ClusterJson() {
  const Status health = Health();
  return health.ok() ? Result<std::string>(std::string("{\"workers\":[]}")) : Result<std::string>(health);
}

kj::Promise<Result<std::string>> FakeBackend::ExplainRoute(std::vector<TokenId> prompt, uint32_t max_tokens, std::string tenant) {
  return Result<std::string>(fmt::format("{{\"tokens\":{},\"max_tokens\":{},\"tenant\":\"{}\"}}", prompt.size(), max_tokens, tenant));
}

kj::Promise<Result<std::string>> FakeBackend::ExplainRequest(RequestId request) {
  for (const GenerateRequest& known : requests()) {
    if (known.id == request) return Result<std::string>(fmt::format("{{\"request\":\"{:016x}\"}}", request.value));
  }
  return Result<std::string>(NotFoundError("request {:016x} is not remembered", request.value));
}

kj::Promise<Status> FakeBackend::Drain(WorkerId worker) {
  return worker.value == 7 ? OkStatus() : NotFoundError("there is no worker {}", worker.value);
}

kj::Promise<void> FakeBackend::HoldsAllowed() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!holds_stopped_) return kj::READY_NOW;
  auto pair = kj::newPromiseAndCrossThreadFulfiller<void>();
  stopped_holds_.push_back(kj::mv(pair.fulfiller));
  return kj::mv(pair.promise);
}

kj::Promise<Result<HeldBlocks>> FakeBackend::HoldCache(CacheRecord record, HoldMode mode) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    holds_.push_back({record, mode});
    changed_.notify_all();
  }
  return HoldsAllowed().then([this, record = std::move(record)]() -> Result<HeldBlocks> {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!hold_error_.ok()) return hold_error_;
    kept_[record.id] = record;
    const auto blocks = static_cast<uint32_t>(record.tokens.size() / card_.block_tokens);
    return HeldBlocks{blocks, blocks, 0, blocks * 1000ull};
  });
}

kj::Promise<Status> FakeBackend::ReleaseCache(std::string id) {
  std::lock_guard<std::mutex> lock(mutex_);
  kept_.erase(id);
  releases_.push_back(std::move(id));
  return OkStatus();
}

kj::Promise<std::vector<CacheRecord>> FakeBackend::StoredCaches(std::string tenant, std::string id) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<CacheRecord> out;
  for (const auto& [key, record] : kept_) {
    if (BaseTenant(record.tenant) == tenant && (id.empty() || id == key)) out.push_back(record);
  }
  return kj::mv(out);
}

kj::Promise<Result<std::string>> FakeBackend::ExplainCache(std::vector<TokenId> tokens, std::string tenant) {
  return Result<std::string>("{\"tokens\":" + std::to_string(tokens.size()) + ",\"tenant\":\"" + tenant + "\"}");
}

std::vector<FakeBackend::Hold> FakeBackend::holds() {
  std::lock_guard<std::mutex> lock(mutex_);
  return holds_;
}

std::vector<std::string> FakeBackend::releases() {
  std::lock_guard<std::mutex> lock(mutex_);
  return releases_;
}

std::map<std::string, CacheRecord> FakeBackend::kept() {
  std::lock_guard<std::mutex> lock(mutex_);
  return kept_;
}

void FakeBackend::Keep(CacheRecord record) {
  std::lock_guard<std::mutex> lock(mutex_);
  kept_[record.id] = std::move(record);
}

void FakeBackend::FailHolds(Status status) {
  std::lock_guard<std::mutex> lock(mutex_);
  hold_error_ = std::move(status);
}

void FakeBackend::StopHolds() {
  std::lock_guard<std::mutex> lock(mutex_);
  holds_stopped_ = true;
}

void FakeBackend::LetHolds() {
  std::lock_guard<std::mutex> lock(mutex_);
  holds_stopped_ = false;
  for (auto& hold : std::exchange(stopped_holds_, {})) hold->fulfill();
}

bool FakeBackend::AwaitHolds(size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return holds_.size() >= count; });
}

kj::Promise<Status> FakeBackend::SetRole(WorkerId worker, std::string role) {
  if (worker.value != 7) return Status(NotFoundError("there is no worker {}", worker.value));
  if (role == "prefill") return Status(ExhaustedError("worker 7 switched its role a moment ago"));
  return role == "decode" ? OkStatus() : InvalidError("role '{}' cannot be taken", role);
}

void FakeBackend::Push(FakeScript script) {
  std::lock_guard<std::mutex> lock(mutex_);
  scripts_.push_back(std::move(script));
}

void FakeBackend::SetHealth(Status status) {
  std::lock_guard<std::mutex> lock(mutex_);
  health_ = std::move(status);
}

bool FakeBackend::AwaitRunning(size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return running_ == count; });
}

size_t FakeBackend::running() {
  std::lock_guard<std::mutex> lock(mutex_);
  return running_;
}

std::vector<GenerateRequest> FakeBackend::requests() {
  std::lock_guard<std::mutex> lock(mutex_);
  return requests_;
}

GatewayServer::GatewayServer(GatewayConfig config) : thread_([this, config] { Run(config); }) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return started_; });
}

GatewayServer::~GatewayServer() noexcept {
  stop_->fulfill();
  thread_.join();
}

void GatewayServer::StartDrain() { drain_->fulfill(); }

bool GatewayServer::AwaitDrained() {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(10), [this] { return drained_; });
}

void GatewayServer::Run(GatewayConfig config) {
  auto io = kj::setupAsyncIo();
  auto stop = kj::newPromiseAndCrossThreadFulfiller<void>();
  auto drain = kj::newPromiseAndCrossThreadFulfiller<void>();
  stop_ = kj::mv(stop.fulfiller);
  drain_ = kj::mv(drain.fulfiller);
  Gateway gateway(io.provider->getNetwork(), io.provider->getTimer(), clock_, backend_, codec_, std::move(config));
  const Status status = gateway.Listen().wait(io.waitScope);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    status_ = status;
    port_ = gateway.port();
    started_ = true;
    changed_.notify_all();
  }
  auto draining = drain.promise
                      .then([&] {
                        gateway.StartDrain();
                        return gateway.Drained();
                      })
                      .then([this] {
                        std::lock_guard<std::mutex> lock(mutex_);
                        drained_ = true;
                        changed_.notify_all();
                      })
                      .eagerlyEvaluate(nullptr);
  stop.promise.wait(io.waitScope);
}

}  // namespace baton
