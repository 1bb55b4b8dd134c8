#include "app/http_client.h"

#include <charconv>
#include <utility>

#include "gateway/json_text.h"

namespace baton {
namespace {

std::string HeaderText(const kj::HttpHeaders& headers, kj::HttpHeaderId id) {
  KJ_IF_MAYBE(value, headers.get(id)) return std::string(value->begin(), value->size());
  return "";
}

}  // namespace

Result<HttpUrl> ParseUrl(std::string_view text) {
  const std::string_view whole = text;
  if (text.rfind("https://", 0) == 0) return InvalidError("\"{}\": https is not supported; use http://HOST:PORT", whole);
  if (text.rfind("http://", 0) == 0) text.remove_prefix(7);
  for (const char c : text) {
    if (c <= ' ' || c == 0x7f || c == '@' || c == '?' || c == '#') return InvalidError("\"{}\" holds what an address may not; use http://HOST:PORT", whole);
  }
  HttpUrl url;
  const size_t slash = text.find('/');
  if (slash != std::string_view::npos) {
    url.prefix = text.substr(slash);
    while (!url.prefix.empty() && url.prefix.back() == '/') url.prefix.pop_back();
    text = text.substr(0, slash);
  }
  const size_t colon = text.rfind(':');
  const bool bare_ipv6 = !text.empty() && text.back() == ']';
  if (colon != std::string_view::npos && !bare_ipv6) {
    const std::string_view port = text.substr(colon + 1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), url.port);
    if (error != std::errc() || end != port.data() + port.size() || url.port == 0) {
      return InvalidError("\"{}\": the port must be a number from 1 to 65535", whole);
    }
    text = text.substr(0, colon);
  }
  url.host = text;
  if (url.host.empty()) return InvalidError("\"{}\" names no host; use http://HOST:PORT", whole);
  if (text.find(':') != std::string_view::npos && (text.front() != '[' || text.back() != ']')) {
    return InvalidError("\"{}\": an IPv6 address is put in brackets, as in http://[::1]:8000", whole);
  }
  return Result<HttpUrl>(std::move(url));
}

bool EventReader::Push(std::string_view bytes, const std::function<void(std::string_view data)>& on_data) {
  while (!bytes.empty()) {
    if (after_cr_ && bytes.front() == '\n') bytes.remove_prefix(1);  // the second half of a CRLF
    after_cr_ = false;
    const size_t end = bytes.find_first_of("\r\n");
    line_ += bytes.substr(0, end);
    if (line_.size() + data_.size() > kMaxAnswerBytes) return false;
    if (end == std::string_view::npos) return true;
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    EndLine(on_data);
  }
  return true;
}

void EventReader::EndLine(const std::function<void(std::string_view data)>& on_data) {
  if (line_.empty()) {
    if (has_data_) on_data(data_);
    data_.clear();
    has_data_ = false;
    return;
  }
  const size_t colon = line_.find(':');
  if (line_.compare(0, colon, "data") == 0) {
    if (has_data_) data_ += '\n';
    has_data_ = true;
    if (colon != std::string::npos) data_ += std::string_view(line_).substr(colon + (line_.compare(colon, 2, ": ") == 0 ? 2 : 1));
  }
  line_.clear();
}

std::string HttpAnswer::ErrorMessage() const {
  const auto json = ParseJson(body);
  if (json.ok() && json->is_object() && json->contains("error")) {
    const auto& error = (*json)["error"];
    if (error.is_object() && error.contains("message") && error["message"].is_string() && error["message"] != "") return error["message"];
  }
  return body.empty() ? fmt::format("HTTP status {} without a word", status) : body.substr(0, 2000);
}

struct HttpApiClient::Request {
  HttpAnswer answer;
  EventReader events;
  std::function<void(std::string_view data)> on_data;
  std::string body;  // what is sent
  kj::Own<kj::AsyncOutputStream> output;
  kj::Own<kj::AsyncInputStream> input;
  char buffer[16384];
};

HttpApiClient::HttpApiClient(kj::AsyncIoContext& io, HttpUrl url, std::string api_key, double timeout_s)
    : io_(io), url_(std::move(url)), api_key_(std::move(api_key)), timeout_(static_cast<int64_t>(timeout_s * 1e3) * kj::MILLISECONDS),
      authorization_(builder_.add("Authorization")), route_(builder_.add("x-baton-route")), retry_after_(builder_.add("Retry-After")),
      table_(builder_.build()) {}

kj::Promise<void> HttpApiClient::Connect() {
  if (client_.get() != nullptr) return kj::READY_NOW;
  return io_.provider->getNetwork().parseAddress(url_.host.c_str(), url_.port).then([this](kj::Own<kj::NetworkAddress> address) {
    if (client_.get() != nullptr) return;
    address_ = kj::mv(address);
    client_ = kj::newHttpClient(io_.provider->getTimer(), *table_, *address_);
  });
}

kj::Promise<Result<HttpAnswer>> HttpApiClient::Get(const std::string& path) { return Send(kj::HttpMethod::GET, path, "", nullptr); }
kj::Promise<Result<HttpAnswer>> HttpApiClient::Post(const std::string& path, const std::string& body) {
  return Send(kj::HttpMethod::POST, path, body, nullptr);
}
kj::Promise<Result<HttpAnswer>> HttpApiClient::Stream(const std::string& path, const std::string& body,
                                                      std::function<void(std::string_view data)> on_data) {
  return Send(kj::HttpMethod::POST, path, body, std::move(on_data));
}

kj::Promise<Result<HttpAnswer>> HttpApiClient::Send(kj::HttpMethod method, const std::string& path, const std::string& body,
                                                    std::function<void(std::string_view data)> on_data) {
  auto owned = kj::heap<Request>();
  Request& request = *owned;
  request.body = body;
  request.on_data = std::move(on_data);
  auto late = io_.provider->getTimer().afterDelay(timeout_).then([]() -> kj::Promise<void> {
    return kj::Exception(kj::Exception::Type::OVERLOADED, __FILE__, __LINE__, kj::str("no whole answer in time"));
  });
  return kj::evalNow([this] { return Connect(); })
      .then([this, &request, method, path] {
        kj::HttpHeaders headers(*table_);
        const std::string host = url_.host + ":" + std::to_string(url_.port);
        headers.set(kj::HttpHeaderId::HOST, kj::StringPtr(host.c_str()));
        if (!api_key_.empty()) headers.set(authorization_, kj::str("Bearer ", api_key_.c_str()));
        const bool has_body = method == kj::HttpMethod::POST;
        if (has_body) headers.set(kj::HttpHeaderId::CONTENT_TYPE, "application/json"_kj);
        auto sent = client_->request(method, (url_.prefix + path).c_str(), headers, has_body ? kj::Maybe<uint64_t>(request.body.size()) : nullptr);
        kj::Promise<void> written = kj::READY_NOW;
        if (has_body) {
          request.output = kj::mv(sent.body);
          written = request.output->write(request.body.data(), request.body.size());
        }
        return written.then([response = kj::mv(sent.response)]() mutable { return kj::mv(response); });
      })
      .then([this, &request](kj::HttpClient::Response&& response) {
        request.output = nullptr;
        request.answer.status = static_cast<int>(response.statusCode);
        request.answer.route = HeaderText(*response.headers, route_);
        request.answer.retry_after = HeaderText(*response.headers, retry_after_);
        if (HeaderText(*response.headers, kj::HttpHeaderId::CONTENT_TYPE).rfind("text/event-stream", 0) != 0) request.on_data = nullptr;
        request.input = kj::mv(response.body);
        return ReadBody(request);
      })
      .exclusiveJoin(kj::mv(late))
      .then([&request] { return Result<HttpAnswer>(std::move(request.answer)); },
            [this](kj::Exception&& e) -> Result<HttpAnswer> {
              if (e.getType() == kj::Exception::Type::OVERLOADED) return DeadlineError("{}:{} gave no whole answer in time", url_.host, url_.port);
              return UnavailableError("{}:{} cannot be reached or broke off: {}", url_.host, url_.port, e.getDescription().cStr());
            })
      .attach(kj::mv(owned));
}

kj::Promise<void> HttpApiClient::ReadBody(Request& request) {
  return request.input->tryRead(request.buffer, 1, sizeof request.buffer).then([this, &request](size_t amount) -> kj::Promise<void> {
    if (amount == 0) return kj::READY_NOW;
    const std::string_view bytes(request.buffer, amount);
    bool fits = true;
    if (request.on_data) fits = request.events.Push(bytes, request.on_data);
    else fits = (request.answer.body += bytes).size() <= kMaxAnswerBytes;
    if (!fits) return kj::Exception(kj::Exception::Type::FAILED, __FILE__, __LINE__, kj::str("more than ", kMaxAnswerBytes, " bytes in one piece"));
    return ReadBody(request);
  });
}

}  // namespace baton
