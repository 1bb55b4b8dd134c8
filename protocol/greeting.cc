#include "protocol/greeting.h"

#include <array>
#include <cstring>
#include <memory>
#include <utility>

namespace baton {
namespace {

constexpr std::string_view kMagic = "BATONCP1", kChannel = "baton control";
enum class MessageType : uint8_t { kHello = 1, kProof = 2, kRefuse = 3 };
constexpr size_t kHeaderBytes = 3;

std::string Message(MessageType type, std::string_view body) {
  const auto bytes = static_cast<uint16_t>(body.size());
  std::string out(reinterpret_cast<const char*>(&bytes), sizeof bytes);
  out.push_back(static_cast<char>(type));
  out += body;
  return out;
}

template <typename T>
void Append(std::string* out, const T& value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}
template <typename T>
bool Take(Bytes* in, T* value) {
  if (in->size() < sizeof(T)) return false;
  std::memcpy(value, in->data(), sizeof(T));
  *in = in->subspan(sizeof(T));
  return true;
}

std::string MakeHello(SpokenVersions versions, bool keyed, const Nonce& nonce) {
  std::string body(kMagic);
  Append(&body, kByteOrderMark);
  Append(&body, versions);
  body.push_back(keyed ? 1 : 0);
  Append(&body, nonce);
  return body;
}

MessageType TypeOf(std::string_view message) { return static_cast<MessageType>(message[kHeaderBytes - 1]); }

/// The reason in the peer's refusal.
Status ReadRefusal(Bytes body) {
  uint8_t code = 0;
  if (!Take(&body, &code)) return InvalidError("refused without a reason");
  const bool known = code == static_cast<uint8_t>(StatusCode::kInvalid) || code == static_cast<uint8_t>(StatusCode::kExhausted);
  return Status(known ? static_cast<StatusCode>(code) : StatusCode::kUnavailable, fmt::format("refused over there: {}", AsText(body)));
}

kj::Promise<void> Say(kj::AsyncIoStream& stream, std::string message) {
  if (message.empty()) return kj::READY_NOW;
  auto held = kj::heap<std::string>(std::move(message));
  auto written = stream.write(held->data(), held->size());
  return written.attach(kj::mv(held));
}

/// The next message; one that is too long is an error before it is read.
kj::Promise<Result<std::string>> Hear(kj::AsyncIoStream& stream) {
  auto buffer = kj::heap<std::array<char, kHeaderBytes + kMaxGreetingBytes>>();
  char* const bytes = buffer->data();
  return stream.tryRead(bytes, kHeaderBytes, kHeaderBytes)
      .then([&stream, bytes](size_t n) -> kj::Promise<Result<std::string>> {
        if (n < kHeaderBytes) return Result<std::string>(UnavailableError("the connection was closed during the greeting"));
        uint16_t length = 0;
        std::memcpy(&length, bytes, sizeof length);
        if (length > kMaxGreetingBytes) return Result<std::string>(InvalidError("this is not Baton's control port"));
        return stream.tryRead(bytes + kHeaderBytes, length, length).then([bytes, length](size_t got) -> Result<std::string> {
          if (got < length) return UnavailableError("the connection was closed during the greeting");
          return std::string(bytes, kHeaderBytes + length);
        });
      })
      .attach(kj::mv(buffer));
}

kj::Promise<Status> GoOn(kj::AsyncIoStream& stream, Greeting& greeting) {
  if (greeting.done()) return OkStatus();
  return Hear(stream).then([&stream, &greeting](Result<std::string> message) -> kj::Promise<Status> {
    if (!message.ok() && message.status().code() == StatusCode::kUnavailable) return message.status();
    const Result<std::string> answer = message.ok() ? greeting.Take(AsBytes(*message)) : message;
    if (answer.ok()) return Say(stream, *answer).then([&stream, &greeting]() { return GoOn(stream, greeting); });
    const bool refused = message.ok() && TypeOf(*message) == MessageType::kRefuse;
    auto told = Say(stream, refused ? "" : RefusalMessage(answer.status()));
    return told.then([]() {}, [](kj::Exception&&) {}).then([status = answer.status()]() { return status; });  // it may be gone already
  });
}

}  // namespace

Greeting::Greeting(ProofSide side, std::string key, SpokenVersions versions)
    : side_(side), key_(std::move(key)), versions_(versions), hello_(MakeHello(versions, !key_.empty(), nonce_)) {}

std::string Greeting::First() const { return side_ == ProofSide::kDialler ? Message(MessageType::kHello, hello_) : std::string(); }

/// Over both hellos: nobody on the way can change what was said, the versions for example.
Digest256 Greeting::ProofOf(ProofSide side) const {
  const bool mine = side == side_, dialler = side_ == ProofSide::kDialler;
  return MakeProof(key_, kChannel, side, mine ? nonce_ : peer_nonce_, mine ? peer_nonce_ : nonce_, (dialler ? hello_ : peer_hello_) + (dialler ? peer_hello_ : hello_));
}

std::string Greeting::Proof() const {
  if (key_.empty()) return Message(MessageType::kProof, "");
  return Message(MessageType::kProof, AsText(ProofOf(side_)));
}

Status Greeting::TakeHello(Bytes body) {
  peer_hello_ = std::string(AsText(body));
  uint32_t mark = 0;
  uint8_t keyed = 0;
  SpokenVersions theirs;
  if (body.size() < kMagic.size() || AsText(body.first(kMagic.size())) != kMagic) return InvalidError("this is not Baton's control port");
  body = body.subspan(kMagic.size());
  if (!baton::Take(&body, &mark)) return InvalidError("a hello that is too short");
  RETURN_IF_ERROR(CheckByteOrder(mark));
  if (!baton::Take(&body, &theirs)) return InvalidError("a hello that is too short");
  ASSIGN_OR_RETURN(version_, CommonVersion(versions_, theirs, "the control plane"));
  if (!baton::Take(&body, &keyed) || !baton::Take(&body, &peer_nonce_)) return InvalidError("a hello that is too short");
  if (keyed == (key_.empty() ? 1 : 0)) return InvalidError("one side has a cluster key, the other has none: give every rank the same cluster.key");
  return OkStatus();
}

Status Greeting::TakeProof(Bytes body) const {
  if (key_.empty()) return OkStatus();
  const ProofSide prover = side_ == ProofSide::kDialler ? ProofSide::kListener : ProofSide::kDialler;
  if (SameProof(ProofOf(prover), body)) return OkStatus();
  return InvalidError("wrong cluster key: give every rank the same cluster.key");
}

Result<std::string> Greeting::Take(Bytes message) {
  if (message.size() < kHeaderBytes) return InvalidError("half a message in the greeting");
  const MessageType type = TypeOf(AsText(message));
  const Bytes body = message.subspan(kHeaderBytes);
  if (type == MessageType::kRefuse) return ReadRefusal(body);
  const bool dialler = side_ == ProofSide::kDialler;
  if (type == MessageType::kHello && expects_ == Expects::kHello) {
    RETURN_IF_ERROR(TakeHello(body));
    expects_ = Expects::kProof;
    return dialler ? Proof() : Message(MessageType::kHello, hello_);
  }
  if (type == MessageType::kProof && expects_ == Expects::kProof && !done_) {
    RETURN_IF_ERROR(TakeProof(body));
    done_ = true;
    return dialler ? std::string() : Proof();
  }
  return InvalidError("an unexpected word in the greeting: this is not Baton's control port");
}

std::string RefusalMessage(const Status& reason) {
  std::string body(1, static_cast<char>(reason.code()));
  body += std::string_view(reason.message()).substr(0, kMaxGreetingBytes - 1);
  return Message(MessageType::kRefuse, body);
}

kj::Promise<Status> Greet(kj::AsyncIoStream& stream, Greeting& greeting) {
  return Say(stream, greeting.First()).then([&stream, &greeting]() { return GoOn(stream, greeting); });
}

}  // namespace baton
