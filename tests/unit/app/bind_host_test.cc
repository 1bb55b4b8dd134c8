// Which address a rank takes for itself.
#include "app/bind_host.h"

namespace baton {
namespace {

TEST(BindHost, AddressesStayAsTheyAre) {
  for (const std::string address : {"127.0.0.1", "127.3.2.1", "10.1.2.3", "203.0.113.9", "::1", "fd00::7"}) {
    const auto host = ResolveBindHost(address);
    ASSERT_TRUE(host.ok()) << address;
    EXPECT_EQ(*host, address) << "whether it is this host's shows when it is bound";
  }
  EXPECT_EQ(*ResolveBindHost("localhost"), "127.0.0.1");
}

TEST(BindHost, AnInterfaceIsItsFirstAddress) {
  EXPECT_EQ(*ResolveBindHost("lo"), "127.0.0.1");
  const auto none = ResolveBindHost("no-such-interface");
  EXPECT_EQ(none.status().code(), StatusCode::kInvalid);
  EXPECT_THAT(none.status().message(), ::testing::HasSubstr("no-such-interface"));
  EXPECT_THAT(none.status().message(), ::testing::ContainsRegex("it has .*lo")) << "says what there is";
}

TEST(BindHost, ANetworkIsTheAddressInIt) {
  for (const std::string network : {"127.0.0.0/8", "127.0.0.1/32", "127.0.0.1/31", "127.255.255.255/8"}) EXPECT_EQ(*ResolveBindHost(network), "127.0.0.1") << network;
  EXPECT_TRUE(ResolveBindHost("0.0.0.0/0").ok()) << "any address";
  EXPECT_THAT(ResolveBindHost("203.0.113.0/24").status().message(), ::testing::HasSubstr("127.0.0.1")) << "says what there is";
  for (const std::string nonsense : {"127.0.0.0/", "127.0.0.0/33", "127.0.0.0/8x", "/8", "lo/8", "127.0.0/8", "127.0.0.0/-1", "::/0"}) {
    EXPECT_EQ(ResolveBindHost(nonsense).status().code(), StatusCode::kInvalid) << nonsense;
  }
}

TEST(BindHost, AnyAddressIsNoAddressForOthers) {
  for (const std::string any : {"0.0.0.0", "::"}) {
    const auto host = ResolveBindHost(any);
    ASSERT_FALSE(host.ok());
    EXPECT_THAT(host.status().message(), ::testing::HasSubstr("interface"));
  }
  EXPECT_FALSE(ResolveBindHost("").ok());
}

TEST(BindHost, LoopbackIsWhatOtherMachinesCannotReach) {
  for (const std::string inside : {"127.0.0.1", "127.9.9.9", "localhost", "::1"}) EXPECT_TRUE(IsLoopback(inside)) << inside;
  for (const std::string outside : {"10.0.0.1", "128.0.0.1", "12.7.0.1", "::2", "fe80::1"}) EXPECT_FALSE(IsLoopback(outside)) << outside;
}

}  // namespace
}  // namespace baton
