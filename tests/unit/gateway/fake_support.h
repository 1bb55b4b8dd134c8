// A codec of bytes and a backend that says what it is told: what the gateway's tests serve with.
#pragma once

#include <kj/async-io.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gateway/backend.h"
#include "gateway/gateway.h"
#include "gateway/text_codec.h"

namespace baton {

/// Tokens 0 to 255 are bytes; further ones are whole words. 256 is "<|end|>", which the stream does not show.
class FakeCodec final : public TextCodec {
 public:
  static constexpr TokenId kEnd = 256, kHello = 257, kWorld = 258, kTail = 259;  // "Hello", " world", "abSTOPcd"
  static constexpr uint32_t kVocab = 260;
  std::vector<TokenId> Encode(std::string_view text, bool parse_special, bool add_special) const override;
  std::string Decode(const std::vector<TokenId>& ids) const override;
  std::string TokenBytes(TokenId id) const override;
  std::unique_ptr<TextStream> NewStream() const override;
  /// "role:content\n" a message, then "assistant:" unless the body wants no generation prompt; kInvalid for a message of the role "refused".
  Result<std::string> Render(const nlohmann::ordered_json& body) const override;
  Result<std::vector<TokenId>> EncodeChat(const nlohmann::ordered_json& body) const override;
};

/// What the next generations do, one entry each; with none left, FakeBackend::default_script.
struct FakeScript {
  std::vector<TokenId> tokens;
  FinishReason reason = FinishReason::kStop;
  bool hang = false;               // after the tokens nothing more comes
  bool forever = false;            // the tokens are repeated without an end
  bool immediate = false;          // everything happens inside Generate
  std::vector<uint32_t> rejected;  // guesses that fell with each token; a token without an entry was guessed itself
  Status error;                    // instead of an end
  double retry_after_s = 0;
};

/// Lives on the gateway's thread; what it saw may be read from any.
class FakeBackend final : public Backend {
 public:
  FakeBackend();

  const ModelCard& card() const override { return card_; }
  std::unique_ptr<GenerationHandle> Generate(GenerateRequest request, GenerationSink& sink) override;
  Status Health() override;
  kj::Promise<Result<std::string>> ClusterJson() override;
  kj::Promise<Result<std::string>> ExplainRoute(std::vector<TokenId> prompt, uint32_t max_tokens, std::string tenant) override;
  kj::Promise<Result<std::string>> ExplainRequest(RequestId request) override;
  kj::Promise<std::string> MetricsText() override { return std::string("fake_metric 1\n"); }
  kj::Promise<Status> Drain(WorkerId worker) override;
  /// Holds every full block, or fails with the next of FailHolds.
  kj::Promise<Result<HeldBlocks>> HoldCache(CacheRecord record, HoldMode mode) override;
  kj::Promise<Status> ReleaseCache(std::string id) override;
  kj::Promise<std::vector<CacheRecord>> StoredCaches(std::string tenant, std::string id) override;
  kj::Promise<Result<std::string>> ExplainCache(std::vector<TokenId> tokens, std::string tenant) override;

  struct Hold {
    CacheRecord record;
    HoldMode mode;
  };
  std::vector<Hold> holds();            // every call so far
  std::vector<std::string> releases();
  std::map<std::string, CacheRecord> kept();  // what the store has now
  void Keep(CacheRecord record);              // as if an earlier gateway had made it
  void FailHolds(Status status);              // from now on; ok: no more
  /// From now on holds wait until LetHolds.
  void StopHolds();
  void LetHolds();
  /// Waits until so many holds were asked for; false after 10 s.
  bool AwaitHolds(size_t count);
  kj::Promise<Status> SetRole(WorkerId worker, std::string role) override;

  void Push(FakeScript script);
  void SetHealth(Status status);
  /// Waits until so many generations run; false after 10 s.
  bool AwaitRunning(size_t count);
  size_t running();
  std::vector<GenerateRequest> requests();

  FakeScript default_script;  // set before the gateway runs

 private:
  friend class FakeHandle;
  ModelCard card_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Hold> holds_;
  std::vector<std::string> releases_;
  std::map<std::string, CacheRecord> kept_;
  Status hold_error_;
  bool holds_stopped_ = false;
  std::vector<kj::Own<kj::CrossThreadPromiseFulfiller<void>>> stopped_holds_;
  kj::Promise<void> HoldsAllowed();
  std::deque<FakeScript> scripts_;
  std::vector<GenerateRequest> requests_;
  Status health_;
  size_t running_ = 0;
};

/// A gateway on a thread and a port of its own.
class GatewayServer {
 public:
  explicit GatewayServer(GatewayConfig config = {});
  ~GatewayServer() noexcept;
  uint16_t port() const { return port_; }
  FakeBackend& backend() { return backend_; }
  const Status& status() const { return status_; }
  void StartDrain();
  /// Waits until the gateway has drained; false after 10 s.
  bool AwaitDrained();

 private:
  void Run(GatewayConfig config);

  FakeBackend backend_;
  FakeCodec codec_;
  SystemClock clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint16_t port_ = 0;
  bool started_ = false, drained_ = false;
  Status status_;
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> stop_, drain_;
  std::thread thread_;
};

}  // namespace baton
