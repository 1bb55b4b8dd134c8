// Who is in the cluster, as the last heartbeat's answer said. Thread: the loop's.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "protocol/member.h"

namespace baton {

class MembershipView {
 public:
  /// Called with each member that was there and is gone, or came back with a higher incarnation.
  using OnGone = std::function<void(const MemberInfo&)>;

  void Watch(OnGone on_gone) { watchers_.push_back(std::move(on_gone)); }

  void Update(std::vector<MemberInfo> members) {
    std::map<WorkerId, MemberInfo> next;
    for (MemberInfo& member : members) next.emplace(member.id, std::move(member));
    std::map<WorkerId, MemberInfo> before = std::exchange(members_, std::move(next));
    for (const auto& [id, member] : before) {
      const auto now = members_.find(id);
      if (now != members_.end() && now->second.incarnation == member.incarnation) continue;
      for (const OnGone& on_gone : watchers_) on_gone(member);
    }
  }

  const MemberInfo* Find(WorkerId id) const {
    const auto found = members_.find(id);
    return found == members_.end() ? nullptr : &found->second;
  }
  std::vector<const MemberInfo*> WithRole(std::string_view role) const {
    std::vector<const MemberInfo*> out;
    for (const auto& [id, member] : members_) {
      if (member.Has(role)) out.push_back(&member);
    }
    return out;
  }
  const std::map<WorkerId, MemberInfo>& all() const { return members_; }

 private:
  std::map<WorkerId, MemberInfo> members_;
  std::vector<OnGone> watchers_;
};

}  // namespace baton
