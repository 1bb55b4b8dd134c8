#ifdef BATON_HAVE_UCX

#include <poll.h>
#include <sys/eventfd.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <charconv>
#include <deque>
#include <map>
#include <unordered_map>
#include <utility>

#include "transport/message_wire.h"

namespace baton {
namespace {

constexpr unsigned kActiveMessage = 7;
constexpr size_t kMaxMessageBytes = 4_MiB;  // of one that arrives: frames hold at most a piece or a grant beside a batch

class UcxMedium final : public MessageMedium {
 public:
  UcxMedium() = default;
  ~UcxMedium() override {
    for (auto& [link, l] : links_) CloseEndpoint(l, UCP_EP_CLOSE_MODE_FORCE);
    if (worker_ != nullptr) {
      for (int i = 0; i < 1000 && ucp_worker_progress(worker_) != 0; ++i) {
      }
      ucp_worker_destroy(worker_);
    }
    if (context_ != nullptr) ucp_cleanup(context_);
    if (wake_ >= 0) close(wake_);
  }

  Status Open() {
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    ucp_config_t* config = nullptr;
    RETURN_IF_ERROR(Check(ucp_config_read(nullptr, nullptr, &config), "reading UCX's settings"));
    const ucs_status_t made = ucp_init(&params, config, &context_);
    ucp_config_release(config);
    RETURN_IF_ERROR(Check(made, "starting UCX"));
    ucp_worker_params_t worker{};
    worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    worker.thread_mode = UCS_THREAD_MODE_SINGLE;
    RETURN_IF_ERROR(Check(ucp_worker_create(context_, &worker, &worker_), "making a worker"));
    RETURN_IF_ERROR(Check(ucp_worker_get_efd(worker_, &events_), "asking for events"));
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS;
    handler.id = kActiveMessage;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = OnMessage;
    handler.arg = this;
    RETURN_IF_ERROR(Check(ucp_worker_set_am_recv_handler(worker_, &handler), "listening for messages"));
    wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (wake_ < 0) return UnavailableError("no descriptor; raise the limit of open files");
    ucp_address_t* address = nullptr;
    size_t bytes = 0;
    RETURN_IF_ERROR(Check(ucp_worker_get_address(worker_, &address, &bytes), "asking for the worker's address"));
    address_ = "ucx:" + HexEncode({reinterpret_cast<const std::byte*>(address), bytes});
    ucp_worker_release_address(worker_, address);
    return OkStatus();
  }

  std::string_view name() const override { return "ucx"; }
  std::string address() const override { return address_; }

  Result<Link> Reach(const std::string& address) override {
    for (const auto& [link, l] : links_) {
      if (l.address == address && l.endpoint != nullptr) return link;
    }
    std::string raw;
    for (size_t at = 4; at + 2 <= address.size(); at += 2) {
      uint8_t byte = 0;
      if (std::from_chars(&address[at], &address[at] + 2, byte, 16).ptr != &address[at] + 2) return InvalidError("\"{}\" is not an address of the ucx transport", address);
      raw.push_back(static_cast<char>(byte));
    }
    if (address.rfind("ucx:", 0) != 0 || raw.size() < 8 || address.size() % 2 != 0) return InvalidError("\"{}\" is not an address of the ucx transport", address);
    const Link link = next_link_++;
    Line& l = links_[link];
    l.address = address;
    l.medium = this;
    l.link = link;
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
    params.address = reinterpret_cast<const ucp_address_t*>(raw.data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = OnError;
    params.err_handler.arg = &l;
    const Status status = Check(ucp_ep_create(worker_, &params, &l.endpoint), "reaching a peer");
    if (!status.ok()) {
      links_.erase(link);
      return status;
    }
    return link;
  }

  void Send(Link link, MessageBuffer bytes) override {
    const auto it = links_.find(link);
    if (it == links_.end() || it->second.endpoint == nullptr || it->second.broken) return;
    auto* message = new Outgoing{this, link, std::move(bytes)};
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;  // short ones eagerly, long ones by rendezvous
    param.cb.send = OnSent;
    param.user_data = message;
    ++it->second.sending;
    void* request = ucp_am_send_nbx(it->second.endpoint, kActiveMessage, nullptr, 0, message->bytes.data(), message->bytes.size(), &param);
    if (!UCS_PTR_IS_PTR(request)) Sent(message);
  }

  size_t Sending(Link link) const override {
    const auto it = links_.find(link);
    return it == links_.end() ? 0 : it->second.sending;
  }

  std::optional<MessageBuffer> Receive() override {
    for (int i = 0; i < 64 && arrived_.empty() && ucp_worker_progress(worker_) != 0; ++i) {
    }
    if (arrived_.empty()) return std::nullopt;
    MessageBuffer message = std::move(arrived_.front());
    arrived_.pop_front();
    return message;
  }

  std::vector<Link> TakeBroken() override {
    for (const Link link : broken_) CloseEndpoint(links_.at(link), UCP_EP_CLOSE_MODE_FORCE);
    return std::exchange(broken_, {});
  }

  void Wait(Duration timeout) override {
    if (!arrived_.empty() || !broken_.empty() || std::exchange(woken_, false)) return;
    if (ucp_worker_arm(worker_) != UCS_OK) return;  // events are waiting
    pollfd wait[2] = {{events_, POLLIN, 0}, {wake_, POLLIN, 0}};
    const timespec limit{.tv_sec = static_cast<time_t>(timeout.count() / 1'000'000'000), .tv_nsec = static_cast<long>(timeout.count() % 1'000'000'000)};
    ppoll(wait, 2, &limit, nullptr);
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t n = read(wake_, &count, sizeof count);
  }

  void Wake() override {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = write(wake_, &one, sizeof one);
  }

 private:
  struct Line {
    UcxMedium* medium = nullptr;
    Link link = 0;
    std::string address;
    ucp_ep_h endpoint = nullptr;
    size_t sending = 0;
    bool broken = false;
  };
  struct Outgoing {
    UcxMedium* medium;
    Link link;
    MessageBuffer bytes;
  };
  struct Incoming {
    UcxMedium* medium;
    MessageBuffer bytes;
  };

  static Status Check(ucs_status_t status, const char* doing) {
    return status == UCS_OK ? OkStatus() : UnavailableError("ucx: {} failed: {}; `ucx_info -d` shows what it can use", doing, ucs_status_string(status));
  }

  static ucs_status_t OnMessage(void* arg, const void*, size_t, void* data, size_t bytes, const ucp_am_recv_param_t* param) {
    auto& self = *static_cast<UcxMedium*>(arg);
    if (bytes > kMaxMessageBytes) return UCS_OK;  // refused
    MessageBuffer message = self.buffers.Take(bytes);
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return self.Fetch(data, bytes, std::move(message));
    message.Append({static_cast<const std::byte*>(data), bytes});
    self.arrived_.push_back(std::move(message));
    return UCS_OK;
  }
  /// A rendezvous: the sender has said how much there is and where; it is read from there.
  ucs_status_t Fetch(void* announced, size_t bytes, MessageBuffer message) {
    message.Resize(bytes);
    auto* incoming = new Incoming{this, std::move(message)};
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    param.cb.recv_am = OnFetched;
    param.user_data = incoming;
    void* request = ucp_am_recv_data_nbx(worker_, announced, incoming->bytes.data(), bytes, &param);
    if (UCS_PTR_IS_PTR(request)) return UCS_INPROGRESS;
    Fetched(incoming, UCS_PTR_STATUS(request));
    return UCS_OK;
  }
  static void OnFetched(void* request, ucs_status_t status, size_t, void* user_data) {
    ucp_request_free(request);
    auto* incoming = static_cast<Incoming*>(user_data);
    incoming->medium->Fetched(incoming, status);
  }
  void Fetched(Incoming* incoming, ucs_status_t status) {
    if (status == UCS_OK) arrived_.push_back(std::move(incoming->bytes));  // else its sender is gone, which OnError tells
    delete incoming;
  }
  static void OnSent(void* request, ucs_status_t, void* user_data) {
    ucp_request_free(request);
    auto* message = static_cast<Outgoing*>(user_data);
    message->medium->Sent(message);
  }
  static void OnError(void* arg, ucp_ep_h, ucs_status_t) {
    auto& line = *static_cast<Line*>(arg);
    if (!std::exchange(line.broken, true)) line.medium->broken_.push_back(line.link);
  }
  void Sent(Outgoing* message) {
    if (const auto it = links_.find(message->link); it != links_.end()) --it->second.sending;
    buffers.Give(std::move(message->bytes));
    delete message;
  }

  void CloseEndpoint(Line& line, unsigned mode) {
    if (line.endpoint == nullptr) return;
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = mode == UCP_EP_CLOSE_MODE_FORCE ? UCP_EP_CLOSE_FLAG_FORCE : 0;
    void* request = ucp_ep_close_nbx(std::exchange(line.endpoint, nullptr), &param);
    if (UCS_PTR_IS_PTR(request)) {
      for (int i = 0; i < 10000 && ucp_request_check_status(request) == UCS_INPROGRESS; ++i) ucp_worker_progress(worker_);
      ucp_request_free(request);
    }
  }

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int events_ = -1, wake_ = -1;
  bool woken_ = false;
  std::string address_;
  std::map<Link, Line> links_;
  Link next_link_ = 1;
  std::deque<MessageBuffer> arrived_;
  std::vector<Link> broken_;
};

}  // namespace

Result<std::unique_ptr<MessageMedium>> MakeUcxMedium(const TransportConfig& config) {
  if (!config.cluster_key.empty()) return InvalidError("the ucx transport cannot ask peers for a cluster key; use tcp where one is set");
  auto medium = std::make_unique<UcxMedium>();
  RETURN_IF_ERROR(medium->Open());
  return Result<std::unique_ptr<MessageMedium>>(std::move(medium));
}

}  // namespace baton

#endif  // BATON_HAVE_UCX
