#include "app/roles.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "app/config.h"

namespace baton {
namespace {

const std::vector<std::string>& KnownRoles() {
  static const std::vector<std::string> roles = {"coordinator", "gateway", "store", "prefill", "decode"};
  return roles;
}

std::vector<std::string> DefaultEntries(uint32_t ranks) {
  switch (ranks) {
    case 1: return {"coordinator+gateway+store+prefill+decode"};
    case 2: return {"coordinator+gateway+store+prefill", "decode"};
    case 3: return {"coordinator+gateway+store", "prefill", "decode"};
    default: break;
  }
  std::vector<std::string> entries = {"coordinator+gateway", "store"};
  while (entries.size() < ranks) entries.push_back(entries.size() % 2 == 0 ? "prefill" : "decode");
  return entries;
}

}  // namespace

Result<std::vector<std::string>> ParseRoles(const std::string& text) {
  std::vector<std::string> roles;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    const std::string role = text.substr(begin, end - begin);
    if (std::find(KnownRoles().begin(), KnownRoles().end(), role) == KnownRoles().end()) {
      const std::string near = NearestName(role, KnownRoles());
      return InvalidError("there is no role \"{}\"{}; roles are {}, joined by +", role, near.empty() ? "" : fmt::format(" (did you mean {}?)", near),
                          fmt::join(KnownRoles(), ", "));
    }
    if (std::find(roles.begin(), roles.end(), role) == roles.end()) roles.push_back(role);
    begin = end + 1;
  }
  return Result<std::vector<std::string>>(std::move(roles));
}

Result<std::vector<std::vector<std::string>>> AssignRoles(const std::vector<std::string>& configured, bool is_default, uint32_t ranks) {
  const std::vector<std::string> entries = is_default ? DefaultEntries(ranks) : configured;
  if (entries.empty()) return InvalidError("cluster.roles is empty; give for example coordinator+gateway,store,prefill,decode");
  if (ranks < entries.size()) {
    return InvalidError("{} ranks were started, cluster.roles names {} ({}): start with mpirun -n {}, or give fewer entries, for example "
                        "--cluster.roles=coordinator+gateway+store,prefill+decode",
                        ranks, entries.size(), fmt::join(entries, ", "), entries.size());
  }
  std::vector<std::vector<std::string>> out;
  std::vector<std::string> all;
  for (uint32_t rank = 0; rank < ranks; ++rank) {
    ASSIGN_OR_RETURN(std::vector<std::string> roles, ParseRoles(entries[std::min<size_t>(rank, entries.size() - 1)]));
    const bool coordinates = std::find(roles.begin(), roles.end(), "coordinator") != roles.end();
    if (coordinates != (rank == 0)) return InvalidError("cluster.roles must name the coordinator once, in the first entry (rank 0)");
    all.insert(all.end(), roles.begin(), roles.end());
    out.push_back(std::move(roles));
  }
  for (const char* needed : {"gateway", "prefill or decode"}) {
    const bool engine = std::string(needed) != "gateway";
    const bool there = std::any_of(all.begin(), all.end(), [&](const std::string& r) { return engine ? r == "prefill" || r == "decode" : r == needed; });
    if (!there) return InvalidError("cluster.roles names no {} rank: nobody would answer. Add one", needed);
  }
  return Result<std::vector<std::vector<std::string>>>(std::move(out));
}

}  // namespace baton
