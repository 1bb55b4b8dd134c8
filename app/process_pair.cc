#include "app/process_pair.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "app/mpi_launch.h"

namespace baton {
namespace {

constexpr timeval kDialLimit{.tv_sec = 10, .tv_usec = 0};  // until the other process has connected

Status SocketError() { return UnavailableError("no TCP connection over loopback: {}", std::strerror(errno)); }

struct Listener {
  Listener() = default;
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() {
    if (fd >= 0) close(fd);
  }
  Status Open() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, generic, bytes) != 0 || listen(fd, 2) != 0 || getsockname(fd, generic, &bytes) != 0) return SocketError();
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kDialLimit, sizeof kDialLimit);
    port = ntohs(address.sin_port);
    return OkStatus();
  }
  int fd = -1;
  uint16_t port = 0;
};

Result<int> Tuned(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

Result<int> Dial(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return Tuned(fd);
  const Status status = SocketError();
  if (fd >= 0) close(fd);
  return status;
}

Result<int> Accept(const Listener& listener) {
  const int fd = accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return SocketError();
  const timeval none{};  // inherited from the listener
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
  return Tuned(fd);
}

/// Owns the sockets of a PairEnd.
struct OwnedEnd : PairEnd {
  OwnedEnd() = default;
  OwnedEnd(const OwnedEnd&) = delete;
  OwnedEnd& operator=(const OwnedEnd&) = delete;
  ~OwnedEnd() { Close(); }
  void Close() {
    for (int* fd : {&control, &plain}) {
      if (*fd >= 0) close(*fd);
      *fd = -1;
    }
  }
  Status DialBoth(uint16_t port) {
    ASSIGN_OR_RETURN(control, Dial(port));
    ASSIGN_OR_RETURN(plain, Dial(port));
    return OkStatus();
  }
  Status AcceptBoth(const Listener& listener) {
    ASSIGN_OR_RETURN(control, Accept(listener));
    ASSIGN_OR_RETURN(plain, Accept(listener));
    return OkStatus();
  }
};

}  // namespace

Result<int> RunForked(const PairBody& first, const PairBody& second) {
  OwnedEnd here, there;
  Listener listener;
  RETURN_IF_ERROR(listener.Open());
  RETURN_IF_ERROR(here.DialBoth(listener.port));
  RETURN_IF_ERROR(there.AcceptBoth(listener));
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return UnavailableError("no second process: {}", std::strerror(errno));
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    here.Close();
    _exit(second(there));
  }
  there.Close();
  const int code = first(here);
  here.Close();  // the child's sign to end
  waitpid(child, nullptr, 0);
  return code;
}

Result<int> RunAsRanks(const PairBody& first, const PairBody& second) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MpiLaunch> mpi, MpiLaunch::Begin());
  if (mpi->size() != 2) return InvalidError("this command takes two ranks, not {}: mpirun -n 2", mpi->size());
  OwnedEnd end;
  end.mpi_communicator = mpi->communicator();
  Listener listener;
  if (mpi->rank() == 0) RETURN_IF_ERROR(listener.Open());
  ASSIGN_OR_RETURN(const std::string shared, mpi->Share(std::to_string(listener.port)));
  uint16_t port = 0;
  std::from_chars(shared.data(), shared.data() + shared.size(), port);
  const Status joined = mpi->rank() == 0 ? end.AcceptBoth(listener) : end.DialBoth(port);
  if (!joined.ok()) return joined.WithContext("both ranks have to be on one host");
  const int code = (mpi->rank() == 0 ? first : second)(end);
  end.Close();
  mpi->End();
  return code;
}

Status RestartUnderMpirun(const CommandLine& line) {
  std::vector<std::string> words = {"mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "btl", "^openib", "-n", "2", "/proc/self/exe"};
  char program[4096] = {};
  if (readlink("/proc/self/exe", program, sizeof program - 1) > 0) words.back() = program;
  words.insert(words.end(), line.arguments.begin(), line.arguments.end());
  if (geteuid() == 0) {  // Open MPI asks for both
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  return UnavailableError("mpirun cannot be started: {}; install openmpi-bin, or take another transport", std::strerror(errno));
}

bool SendAll(int fd, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return true;
}

bool ReceiveAll(int fd, MutableBytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n = recv(fd, bytes.data(), bytes.size(), 0);
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return true;
}

}  // namespace baton
