// Connections: keep-alive, pipelining, clients that leave, drain and limits.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

TEST(Connection, ManyRequestsOnOne) {
  GatewayServer server;
  HttpSocket socket(server.port());
  for (int i = 0; i < 3; ++i) {
    socket.Get("/live");
    ASSERT_EQ(socket.Read().status, 200) << i;
    socket.Post("/tokenize", R"({"prompt":"ab"})");
    ASSERT_EQ(socket.Read().status, 200) << i;
    socket.Post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"hi"}]})");
    ASSERT_EQ(socket.Read().status, 200) << i;
  }
}

}  // namespace
}  // namespace baton
