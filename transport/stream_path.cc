#include "transport/stream_path.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace baton {
namespace {

constexpr size_t kGreetingBufferBytes = 2_KiB;
constexpr size_t kBufferBytes = 64_KiB;
constexpr size_t kDirectBytes = 16_KiB;     // payloads with more left than this are received straight into their landing,
constexpr size_t kReadAheadBytes = 4_KiB;   // together with this much of what follows
constexpr size_t kReadBudgetBytes = 4_MiB;  // of one Read, so that other peers have their turn
constexpr size_t kFrameCost = 256;          // what a frame takes from the budget beside its bytes
constexpr size_t kCopyBytes = 4_KiB;        // smaller payloads are copied behind their header: fewer entries to gather
constexpr size_t kReferenceBytes = 512;     // smaller payloads are cheaper to send than to refer to
constexpr size_t kBatchBytes = 512_KiB;     // taken from the queues at a time, so that a small transfer's turn comes soon
constexpr size_t kOwnedBytes = 64_KiB;
constexpr size_t kMaxGather = 64;
constexpr size_t kMaxDescriptors = 16;      // in one message
constexpr Duration kPingAfter = std::chrono::milliseconds(150);

Status Lost(WorkerId peer, int error) {
  return UnavailableError("the connection to worker {} is lost: {}", peer.value, error == 0 ? "closed by the peer" : std::strerror(error));
}

}  // namespace

StreamPath::StreamPath(int fd, Handshake handshake, WireHost& host, LocalMemory* memory, Instant handshake_deadline)
    : fd_(fd), handshake_(std::move(handshake)), host_(host), memory_(memory), handshake_deadline_(handshake_deadline), in_(kGreetingBufferBytes) {
  if (memory_ != nullptr) peer_memory_ = std::make_unique<PeerMemory>();
  AddOwned(handshake_.Hello());
}

StreamPath::~StreamPath() { close(fd_); }

void StreamPath::Open(uint32_t id) {
  id_ = id;
  state_ = State::kReady;
  in_.resize(std::max(in_.size(), kBufferBytes));
  for (uint32_t number = 0; memory_ != nullptr && number < memory_->arenas(); ++number) ShowArena(number);
}

void StreamPath::ShowArena(uint32_t number) {
  if (memory_ == nullptr) return;
  const ArenaMemory& arena = memory_->arena(number);
  std::string body;
  AppendNumber(&body, static_cast<uint64_t>(arena.bytes.size()));
  Chunk chunk{.owned = MakeFrame({.type = FrameType::kArena}, body), .fd = arena.fd};
  chunk.bytes = chunk.owned.size();
  out_bytes_ += chunk.bytes;
  out_.push_back(std::move(chunk));
}

bool StreamPath::CanWork() const {
  if (readable || out_of_budget_) return true;
  return writable && (out_bytes_ > 0 || (state_ == State::kReady && host_.HasOutput(peer())));
}

void StreamPath::Pulse(Instant now) {
  int unsent = 0;
  ioctl(fd_, SIOCOUTQ, &unsent);
  if (heard_) pinged_ = false;
  if (!alive_ || heard_ || unsent < unsent_) alive_ = now;
  unsent_ = unsent;
  heard_ = false;
  silent_ = now - *alive_;
  if (silent_ < kPingAfter || pinged_) return;
  AddOwned(MakeFrame({.type = FrameType::kPing}, ""));
  pinged_ = true;
}

Status StreamPath::Read() {
  budget_ = kReadBudgetBytes;
  while (true) {
    RETURN_IF_ERROR(Parse());
    out_of_budget_ = budget_ == 0;
    if (out_of_budget_ || !readable || (state_ == State::kGreeting && greeted())) return OkStatus();
    if (state_ == State::kReady && host_.Congested(peer())) return ExhaustedError("worker {} does not read the answers to what it sends", peer().value);
    RETURN_IF_ERROR(Receive());
  }
}

Status StreamPath::Parse() {
  while (budget_ > 0) {
    if (state_ == State::kGreeting && greeted()) return OkStatus();  // the wire decides first
    if (piece_) {
      const size_t bytes = std::min(buffered(), piece_->body_bytes - piece_done_);
      TakePayload(bytes, in_.data() + in_begin_);
      in_begin_ += bytes;
      if (piece_done_ < piece_->body_bytes) return OkStatus();
      EndPiece();
      continue;
    }
    if (buffered() < sizeof(FrameHeader)) return OkStatus();
    ASSIGN_OR_RETURN(const FrameHeader header, ParseHeader({in_.data() + in_begin_, buffered()}));
    const bool word = header.type <= FrameType::kRefuse;
    if (state_ == State::kGreeting && (!word || header.body_bytes > kMaxHandshakeBody)) return UnavailableError("a frame before the hello");
    if (header.type == FrameType::kData && (header.flags & kByReference) == 0) {
      in_begin_ += sizeof(FrameHeader);
      piece_ = header;
      piece_done_ = 0;
      piece_drained_ = false;
      continue;
    }
    const size_t frame_bytes = sizeof(FrameHeader) + header.body_bytes;
    if (buffered() < frame_bytes) {
      if (in_.size() < frame_bytes) in_.resize(frame_bytes);
      return OkStatus();
    }
    RETURN_IF_ERROR(TakeFrame(header, {in_.data() + in_begin_ + sizeof(FrameHeader), header.body_bytes}));
    in_begin_ += frame_bytes;
    budget_ -= std::min(budget_, kFrameCost + frame_bytes);
  }
  return OkStatus();
}

Status StreamPath::TakeFrame(const FrameHeader& header, Bytes body) {
  if (state_ == State::kGreeting) {
    ASSIGN_OR_RETURN(const std::string answer, handshake_.Take(header, body));
    AddOwned(answer);
    return OkStatus();
  }
  if (header.type == FrameType::kRefuse) return UnavailableError("refused by worker {}: {}", peer().value, AsText(body));
  if (header.type == FrameType::kData) return TakeReference(header, body);
  if (header.type == FrameType::kPong) return OkStatus();  // that it came is all
  if (header.type == FrameType::kPing) {
    asked_ = true;
    AddOwned(MakeFrame({.type = FrameType::kPong}, ""));
    return OkStatus();
  }
  if (header.type == FrameType::kArena && memory_ != nullptr) {
    uint64_t bytes = 0;
    if (!TakeNumber(&body, &bytes)) return InvalidError("worker {} sent a malformed arena", peer().value);
    return peer_memory_->Map(bytes);
  }
  return host_.OnFrame(peer(), header, body);
}

Status StreamPath::TakeReference(const FrameHeader& header, Bytes body) {
  Reference reference;
  if (memory_ == nullptr || body.size() != sizeof reference || !TakeNumber(&body, &reference)) {
    return InvalidError("worker {} sent a malformed reference", peer().value);
  }
  ASSIGN_OR_RETURN(const PeerMemory::Place source, peer_memory_->Find(reference));
  std::byte* place = host_.Locate(peer(), header, reference.bytes);
  if (place == nullptr) {
    host_.Drained(peer(), header, reference.bytes);
    return OkStatus();
  }
  std::memcpy(place, source.data, reference.bytes);
  budget_ -= std::min<size_t>(budget_, reference.bytes);
  std::atomic_thread_fence(std::memory_order_acquire);
  // Another generation: the sender took the bytes back while they were read, and says so in a frame that follows.
  if (__atomic_load_n(source.generation, __ATOMIC_RELAXED) == reference.generation) host_.Landed(peer(), header);
  return OkStatus();
}

std::byte* StreamPath::Place() {
  if (piece_drained_) return nullptr;
  std::byte* place = host_.Locate(peer(), *piece_, piece_->body_bytes);
  piece_drained_ = place == nullptr;
  return place == nullptr ? nullptr : place + piece_done_;
}

void StreamPath::TakePayload(size_t bytes, const std::byte* from) {
  if (bytes == 0) return;
  if (std::byte* place = Place(); place != nullptr) std::memcpy(place, from, bytes);
  piece_done_ += bytes;
}

void StreamPath::EndPiece() {
  const FrameHeader header = *piece_;
  if (header.body_bytes == 0) Place();  // an empty piece has to fit, too
  piece_.reset();
  budget_ -= std::min(budget_, kFrameCost + header.body_bytes);
  if (piece_drained_) {
    host_.Drained(peer(), header, header.body_bytes);
  } else {
    host_.Landed(peer(), header);
  }
}

Status StreamPath::Receive() {
  if (piece_ && buffered() == 0 && piece_->body_bytes - piece_done_ >= kDirectBytes) {
    if (std::byte* place = Place(); place != nullptr) return ReceiveInto(place, piece_->body_bytes - piece_done_);
  }
  return ReceiveInto(nullptr, 0);
}

Status StreamPath::ReceiveInto(std::byte* place, size_t bytes) {
  if (in_begin_ > 0) {
    std::memmove(in_.data(), in_.data() + in_begin_, buffered());
    in_end_ -= in_begin_;
    in_begin_ = 0;
  }
  const size_t ahead = place == nullptr ? in_.size() - in_end_ : kReadAheadBytes;
  iovec parts[2] = {{place, bytes}, {in_.data() + in_end_, ahead}};
  msghdr message{};
  message.msg_iov = place == nullptr ? parts + 1 : parts;
  message.msg_iovlen = place == nullptr ? 1 : 2;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
  if (memory_ != nullptr) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  const ssize_t n = recvmsg(fd_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
    readable = errno == EINTR;
    return OkStatus();
  }
  if (n <= 0) return Lost(peer(), n == 0 ? 0 : errno);
  heard_ = true;
  const size_t direct = std::min(bytes, static_cast<size_t>(n));
  piece_done_ += direct;
  in_end_ += static_cast<size_t>(n) - direct;
  return memory_ == nullptr ? OkStatus() : TakeDescriptors(message);
}

Status StreamPath::TakeDescriptors(const msghdr& message) {
  Status status;
  for (const cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(const_cast<msghdr*>(&message), const_cast<cmsghdr*>(c))) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + sizeof(int) <= c->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
      if (Status taken = peer_memory_->TakeDescriptor(fd); !taken.ok()) status = std::move(taken);
    }
  }
  return status;
}

Status StreamPath::Write() {
  for (bool blocked = false; writable && !blocked;) {
    if (out_bytes_ < kBatchBytes / 2 && state_ == State::kReady) Fill();
    if (out_.empty()) return OkStatus();
    RETURN_IF_ERROR(SendSome(&blocked));
    if (blocked) writable = false;
  }
  return OkStatus();
}

void StreamPath::Fill() {
  AddOwned(host_.TakeControl(peer()));
  while (out_bytes_ < kBatchBytes) {
    const auto piece = host_.NextPiece(peer(), id_);
    if (!piece) return;
    AddPiece(*piece);
  }
}

void StreamPath::AddPiece(const OutPiece& piece) {
  FrameHeader header = piece.header;
  const size_t bytes = header.body_bytes;
  const auto text = [](const auto& value) { return std::string_view(reinterpret_cast<const char*>(&value), sizeof value); };
  if (memory_ != nullptr && bytes > kReferenceBytes) {
    if (const auto reference = memory_->Refer(piece)) {
      header.flags |= kByReference;
      header.body_bytes = sizeof *reference;
      AddOwned(text(header));
      AddOwned(text(*reference));
      return;
    }
  }
  AddOwned(text(header));
  if (bytes <= kCopyBytes) {
    if (bytes > 0) AddOwned({reinterpret_cast<const char*>(piece.data), bytes});
    return;
  }
  out_bytes_ += bytes;
  out_.push_back({.owned = {}, .data = piece.data, .bytes = bytes, .transfer = TransferId(header.transfer)});
}

void StreamPath::AddOwned(std::string_view bytes) {
  if (bytes.empty()) return;
  out_bytes_ += bytes.size();
  if (out_.empty() || out_.back().data != nullptr || out_.back().fd >= 0 || out_.back().bytes >= kOwnedBytes) out_.emplace_back();
  out_.back().owned += bytes;
  out_.back().bytes += bytes.size();
}

void StreamPath::Detach(TransferId id) {
  for (Chunk& chunk : out_) {
    if (chunk.data == nullptr || chunk.transfer != id) continue;
    chunk.owned.assign(reinterpret_cast<const char*>(chunk.data), chunk.bytes);
    chunk.data = nullptr;
  }
}

Status StreamPath::SendSome(bool* blocked) {
  iovec parts[kMaxGather];
  msghdr message{};
  message.msg_iov = parts;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  size_t offset = out_offset_;
  for (const Chunk& chunk : out_) {
    const bool shows = chunk.fd >= 0 && offset == 0;
    if (message.msg_iovlen == kMaxGather || (shows && message.msg_iovlen > 0)) break;
    const char* data = chunk.data == nullptr ? chunk.owned.data() : reinterpret_cast<const char*>(chunk.data);
    parts[message.msg_iovlen++] = {const_cast<char*>(data) + offset, chunk.bytes - offset};
    offset = 0;
    if (!shows) continue;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &chunk.fd, sizeof(int));
    break;
  }
  const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno == EINTR) return OkStatus();
  *blocked = sent < 0 && (errno == EAGAIN || errno == ENOBUFS);
  if (*blocked) return OkStatus();
  if (sent < 0) return Lost(peer(), errno);
  out_bytes_ -= static_cast<size_t>(sent);
  for (auto left = static_cast<size_t>(sent); left > 0;) {
    const size_t rest = out_.front().bytes - out_offset_;
    const size_t taken = std::min(left, rest);
    left -= taken;
    out_offset_ += taken;
    if (taken < rest) break;
    out_.pop_front();
    out_offset_ = 0;
  }
  return OkStatus();
}

void StreamPath::Refuse(const Status& reason) {
  const std::string frame = MakeFrame({.type = FrameType::kRefuse}, std::string_view(reason.message()).substr(0, kMaxHandshakeBody));
  if (out_offset_ == 0 && out_bytes_ < kMaxHandshakeBody) {  // nothing is half written: it will be understood
    AddOwned(frame);
    bool blocked = false;
    while (!out_.empty() && !blocked && SendSome(&blocked).ok()) {
    }
  }
  shutdown(fd_, SHUT_WR);
}

}  // namespace baton
