#include "app/bind_host.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <charconv>
#include <memory>
#include <set>
#include <vector>

#include <fmt/ranges.h>

namespace baton {
namespace {

/// One address of this host.
struct Local {
  std::string interface, address;
  bool six = false;
};

std::vector<Local> LocalAddresses() {
  ifaddrs* raw = nullptr;
  if (getifaddrs(&raw) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> list(raw, &freeifaddrs);
  std::vector<Local> four, six;
  for (const ifaddrs* i = list.get(); i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || (i->ifa_flags & IFF_UP) == 0) continue;
    char text[INET6_ADDRSTRLEN] = {};
    if (i->ifa_addr->sa_family == AF_INET) {
      inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr, text, sizeof text);
      four.push_back({i->ifa_name, text, false});
    } else if (i->ifa_addr->sa_family == AF_INET6) {
      const in6_addr& address = reinterpret_cast<const sockaddr_in6*>(i->ifa_addr)->sin6_addr;
      if (IN6_IS_ADDR_LINKLOCAL(&address)) continue;  // useless without its interface's number
      inet_ntop(AF_INET6, &address, text, sizeof text);
      six.push_back({i->ifa_name, text, true});
    }
  }
  four.insert(four.end(), six.begin(), six.end());
  return four;
}

bool IsNumeric(const std::string& text) {
  in6_addr address;
  return inet_pton(AF_INET, text.c_str(), &address) == 1 || inet_pton(AF_INET6, text.c_str(), &address) == 1;
}

Result<std::string> AddressIn(const std::string& network, const std::vector<Local>& addresses) {
  const size_t slash = network.find('/');
  in_addr base{};
  unsigned bits = 0;
  const char* end = network.data() + network.size();
  const auto read = std::from_chars(network.data() + slash + 1, end, bits);
  if (inet_pton(AF_INET, network.substr(0, slash).c_str(), &base) != 1 || read.ec != std::errc() || read.ptr != end || bits > 32) {
    return InvalidError("\"{}\" is not an IPv4 network; give cluster.bind_host as in 10.0.0.0/8", network);
  }
  const uint32_t mask = bits == 0 ? 0 : ~uint32_t{0} << (32 - bits);
  for (const Local& local : addresses) {
    in_addr address{};
    if (local.six || inet_pton(AF_INET, local.address.c_str(), &address) != 1) continue;
    if ((ntohl(address.s_addr) & mask) == (ntohl(base.s_addr) & mask)) return std::string(local.address);
  }
  std::vector<std::string> all;
  for (const Local& local : addresses) all.push_back(local.address);
  return InvalidError("this host has no address in {}; it has {}", network, fmt::join(all, ", "));
}

}  // namespace

Result<std::string> ResolveBindHost(const std::string& text) {
  if (text == "0.0.0.0" || text == "::") {
    return InvalidError("cluster.bind_host is {}, which is no address that other ranks could dial: give one of this host, an interface's name or a network", text);
  }
  if (text == "localhost") return std::string("127.0.0.1");
  if (IsNumeric(text)) return text;
  const std::vector<Local> addresses = LocalAddresses();
  if (text.find('/') != std::string::npos) return AddressIn(text, addresses);
  std::set<std::string> names;
  for (const Local& local : addresses) {
    if (local.interface == text) return local.address;
    names.insert(local.interface);
  }
  return InvalidError("cluster.bind_host is \"{}\", neither an address nor an interface of this host that is up and has one; it has {}", text, fmt::join(names, ", "));
}

bool IsLoopback(const std::string& address) { return address.rfind("127.", 0) == 0 || address == "localhost" || address == "::1"; }

}  // namespace baton
