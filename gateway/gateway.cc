#include "gateway/gateway.h"

#include <fmt/format.h>
#include <kj/compat/http.h>

#include <utility>
#include <vector>

#include "base/log.h"
#include "gateway/answer.h"
#include "gateway/client_stream.h"
#include "gateway/gateway_state.h"
#include "gateway/http_service.h"

namespace baton {
namespace {

kj::Duration Seconds(double s) { return static_cast<int64_t>(s * 1e6) * kj::MICROSECONDS; }

/// What a client may still send of a body that was refused, so that it reads the refusal instead of a broken connection.
constexpr size_t kRefusedBodyBytes = 64 << 20;
/// Connections above max_connections that are told so at the same time; further ones are closed at once.
constexpr uint32_t kMaxRefusals = 64;

}  // namespace

class Gateway::Impl final : private kj::TaskSet::ErrorHandler, private kj::HttpServerCallbacks {
 public:
  Impl(kj::Network& network, kj::Timer& timer, const Clock& clock, Backend& backend, const TextCodec& codec, GatewayConfig config)
      : network_(network), state_(timer, clock, backend, codec, std::move(config)), error_handler_(state_),
        server_(timer, *state_.headers.table, Factory(), Settings()), tasks_(*this) {}

  kj::Promise<Status> Listen();
  kj::Promise<void> Drained();
  uint16_t port() const { return port_; }
  GatewayState& state() { return state_; }

 private:
  kj::HttpServer::HttpServiceFactory Factory() {
    return [this](kj::AsyncIoStream& stream) { return kj::heap<GatewayService>(state_, kj::downcast<ClientStream>(stream)); };
  }
  kj::HttpServerSettings Settings();
  kj::Promise<void> AcceptLoop();
  void Accept(kj::Own<kj::AsyncIoStream> connection);
  kj::Promise<void> Refuse(kj::Own<kj::AsyncIoStream> connection);
  kj::Promise<void> StallLoop();
  void FailAnswers(const ApiError& error);
  bool shouldClose() override { return state_.close_next_answer; }
  void taskFailed(kj::Exception&& exception) override { LOG_DEBUG("gateway connection ended: {}", exception.getDescription().cStr()); }

  kj::Network& network_;
  GatewayState state_;
  GatewayErrorHandler error_handler_;
  kj::HttpServer server_;
  uint16_t port_ = 0;
  uint32_t connections_ = 0, refusals_ = 0;
  kj::Own<kj::ConnectionReceiver> receiver_;
  kj::TaskSet tasks_;  // last: connections end before what they use
};

kj::HttpServerSettings Gateway::Impl::Settings() {
  kj::HttpServerSettings settings;
  settings.headerTimeout = Seconds(state_.config.header_timeout_s);
  settings.pipelineTimeout = Seconds(state_.config.idle_timeout_s);
  settings.canceledUploadGracePeriod = 2 * kj::SECONDS;
  settings.canceledUploadGraceBytes = kRefusedBodyBytes;
  settings.errorHandler = error_handler_;
  settings.callbacks = static_cast<kj::HttpServerCallbacks&>(*this);
  return settings;
}

kj::Promise<Status> Gateway::Impl::Listen() {
  const GatewayConfig& config = state_.config;
  return kj::evalNow([&] { return network_.parseAddress(config.host.c_str(), config.port); })
      .then([this](kj::Own<kj::NetworkAddress> address) {
        receiver_ = address->listen();
        port_ = static_cast<uint16_t>(receiver_->getPort());
        tasks_.add(AcceptLoop());
        tasks_.add(StallLoop());
        return OkStatus();
      })
      .catch_([&config](kj::Exception&& exception) {
        return UnavailableError("cannot listen on {}:{} ({}): choose another gateway.port or gateway.host, or end what uses it", config.host,
                                config.port, exception.getDescription().cStr());
      });
}

kj::Promise<void> Gateway::Impl::AcceptLoop() {
  return receiver_->accept()
      .then([this](kj::Own<kj::AsyncIoStream> connection) -> kj::Promise<void> {
        Accept(kj::mv(connection));
        return kj::READY_NOW;
      }, [this](kj::Exception&& exception) -> kj::Promise<void> {
        LOG_WARN("gateway cannot accept connections: {}", exception.getDescription().cStr());
        return state_.timer.afterDelay(100 * kj::MILLISECONDS);  // out of descriptors: let some close
      })
      .then([this] { return AcceptLoop(); });
}

void Gateway::Impl::Accept(kj::Own<kj::AsyncIoStream> connection) {
  if (connections_ >= state_.config.max_connections) {
    state_.metrics.refused_connections.Increment();
    if (refusals_ < kMaxRefusals) tasks_.add(Refuse(kj::mv(connection)));
    return;
  }
  state_.metrics.connections.Set(++connections_);
  auto leave = kj::defer([this] { state_.metrics.connections.Set(--connections_); });
  auto stream = kj::heap<ClientStream>(kj::mv(connection), state_.timer, Seconds(state_.config.write_timeout_s));
  tasks_.add(server_.listenHttp(kj::mv(stream)).attach(kj::mv(leave)));
}

kj::Promise<void> Gateway::Impl::Refuse(kj::Own<kj::AsyncIoStream> connection) {
  ++refusals_;
  auto leave = kj::defer([this] { --refusals_; });
  const std::string body = ApiError{503, "too many connections are open (gateway.max_connections); try again", "", "too_many_connections", 1}.Json();
  auto text = kj::heap<std::string>(fmt::format("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\n"
                                   "Retry-After: 1\r\nConnection: close\r\n\r\n{}", body.size(), body));
  kj::AsyncIoStream& stream = *connection;
  auto rest = kj::heapArray<kj::byte>(4096);
  // What the client sent is read before the close, which would otherwise destroy the answer on its way.
  auto promise = stream.write(text->data(), text->size())
                     .then([&stream, buffer = rest.asPtr()]() mutable {
                       stream.shutdownWrite();
                       return stream.tryRead(buffer.begin(), buffer.size(), buffer.size()).ignoreResult();
                     })
                     .exclusiveJoin(state_.timer.afterDelay(1 * kj::SECONDS));
  return promise.attach(kj::mv(text), kj::mv(rest), kj::mv(connection), kj::mv(leave));
}

void Gateway::Impl::FailAnswers(const ApiError& error) {
  for (Answer* answer : std::vector<Answer*>(state_.answers.begin(), state_.answers.end())) answer->Fail(error);
}

kj::Promise<void> Gateway::Impl::StallLoop() {
  return state_.timer.afterDelay(1 * kj::SECONDS).then([this] {
    const Instant now = state_.clock.Now();
    for (Answer* answer : std::vector<Answer*>(state_.answers.begin(), state_.answers.end())) {
      if (ToSeconds(now - answer->last_event()) < state_.config.stall_timeout_s) continue;
      answer->Fail({503, fmt::format("no token came for {} s; the answer was given up", state_.config.stall_timeout_s), "", "stalled", 1});
    }
    return StallLoop();
  });
}

kj::Promise<void> Gateway::Impl::Drained() {
  if (state_.answers.empty()) return kj::READY_NOW;
  auto pair = kj::newPromiseAndFulfiller<void>();
  state_.no_answers = kj::mv(pair.fulfiller);
  auto late = state_.timer.afterDelay(Seconds(state_.config.drain_timeout_s)).then([this] {
    FailAnswers({503, "this server shut down before the answer was complete", "", "shutting_down", 1});
    return state_.timer.afterDelay(1 * kj::SECONDS);  // for the errors to be written
  });
  return pair.promise.exclusiveJoin(kj::mv(late));
}

Gateway::Gateway(kj::Network& network, kj::Timer& timer, const Clock& clock, Backend& backend, const TextCodec& codec, GatewayConfig config)
    : impl_(std::make_unique<Impl>(network, timer, clock, backend, codec, std::move(config))) {}
Gateway::~Gateway() = default;
kj::Promise<Status> Gateway::Listen() { return impl_->Listen(); }
uint16_t Gateway::port() const { return impl_->port(); }
void Gateway::StartDrain() { impl_->state().draining = true; }
kj::Promise<void> Gateway::Drained() { return impl_->Drained(); }

}  // namespace baton
