// Connections: keep-alive, pipelining, clients that leave, broken HTTP, limits and drain.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

const std::string kChat = R"({"messages":[{"role":"user","content":"hi"}]})";
const std::string kStream = R"({"messages":[{"role":"user","content":"hi"}],"stream":true})";

FakeScript Hanging() {
  FakeScript script;
  script.tokens = {FakeCodec::kHello};
  script.hang = true;
  return script;
}

TEST(Connection, ManyRequestsOnOne) {
  GatewayServer server;
  HttpSocket socket(server.port());
  for (int i = 0; i < 3; ++i) {
    socket.Get("/live");
    ASSERT_EQ(socket.Read().status, 200) << i;
    socket.Post("/tokenize", R"({"prompt":"ab"})");
    ASSERT_EQ(socket.Read().status, 200) << i;
    socket.Post("/v1/chat/completions", kChat);
    ASSERT_EQ(socket.Read().status, 200) << i;
    socket.Post("/v1/chat/completions", kStream);
    ASSERT_TRUE(socket.Read().complete) << i;
  }
}

TEST(Connection, PipelinedRequestsAreAnsweredInOrder) {
  GatewayServer server;
  HttpSocket socket(server.port());
  for (int i = 0; i < 20; ++i) {  // all sent before the first answer is read
    socket.Post("/v1/chat/completions", i % 2 ? kStream : kChat, "X-Request-Id: " + std::to_string(i) + "\r\n");
  }
  for (int i = 0; i < 20; ++i) {
    const HttpReply reply = socket.Read();
    ASSERT_EQ(reply.status, 200);
    EXPECT_EQ(reply.headers.at("x-request-id"), std::to_string(i));
  }
}

TEST(Connection, ALeavingClientCancelsItsStream) {
  GatewayServer server;
  for (const bool reset : {false, true}) {
    server.backend().Push(Hanging());
    HttpSocket socket(server.port());
    socket.Post("/v1/chat/completions", kStream);
    ASSERT_NE(socket.ReadUntil("Hello").find("Hello"), std::string::npos);
    ASSERT_EQ(server.backend().running(), 1u);
    const auto start = std::chrono::steady_clock::now();
    if (reset) socket.Reset();
    else socket.Close();
    EXPECT_TRUE(server.backend().AwaitRunning(0));  // although no token is ever written again
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  }
}

TEST(Connection, ALeavingClientCancelsAnAnswerThatHasNotBegun) {
  GatewayServer server;
  for (const std::string& body : {kChat, kStream}) {
    FakeScript script;
    script.hang = true;
    server.backend().Push(script);
    HttpSocket socket(server.port());
    socket.Post("/v1/chat/completions", body);
    ASSERT_TRUE(server.backend().AwaitRunning(1));
    socket.Close();
    EXPECT_TRUE(server.backend().AwaitRunning(0));
  }
}

TEST(Connection, ALeavingClientCancelsAStreamInFullFlow) {
  GatewayServer server;
  FakeScript script;
  script.tokens = {'a'};
  script.forever = true;
  server.backend().Push(script);
  HttpSocket socket(server.port());
  socket.Post("/v1/chat/completions", kStream);
  socket.ReadUntil("\"a\"");
  socket.Close();
  EXPECT_TRUE(server.backend().AwaitRunning(0));
}

TEST(Connection, SixteenStreamsOfWhichFourLeave) {
  GatewayServer server;
  std::vector<std::unique_ptr<HttpSocket>> sockets;
  for (int i = 0; i < 16; ++i) {
    if (i % 4 == 0) server.backend().Push(Hanging());
    else server.backend().Push(server.backend().default_script);
    sockets.push_back(std::make_unique<HttpSocket>(server.port()));
    sockets.back()->Post("/v1/chat/completions", kStream);
    ASSERT_NE(sockets.back()->ReadUntil("Hello").find("Hello"), std::string::npos);
  }
  for (int i = 0; i < 16; i += 4) sockets[i]->Close();
  for (int i = 0; i < 16; ++i) {
    if (i % 4 != 0) {
      EXPECT_TRUE(sockets[i]->Read().complete) << i;
    }
  }
  EXPECT_TRUE(server.backend().AwaitRunning(0));
  EXPECT_NE(Get(server.port(), "/metrics").body.find("baton_gateway_client_disconnects_total 4\n"), std::string::npos);
}

TEST(Connection, ChunkedBodiesAndContinue) {
  GatewayServer server;
  HttpSocket socket(server.port());
  socket.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"p\r\nb\r\nrompt\":\"ab\"\r\n1\r\n}\r\n0\r\n\r\n");
  EXPECT_EQ(socket.Read().json()["count"], 2);
  socket.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(socket.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  socket.Send("{\"prompt\":\"abc\"}");
  EXPECT_EQ(socket.Read().status, 400);  // one byte more than announced
}

TEST(Connection, ConnectionCloseIsHonoured) {
  GatewayServer server;
  HttpSocket socket(server.port());
  socket.Post("/v1/chat/completions", kChat, "Connection: close\r\n");
  const HttpReply reply = socket.Read();
  EXPECT_EQ(reply.headers.at("connection"), "close");
  EXPECT_TRUE(reply.complete);
  EXPECT_TRUE(socket.AwaitClosed());
}

TEST(Connection, BrokenHttpGetsAnErrorOrIsClosedAndHarmsNobody) {
  GatewayServer server;
  const std::vector<std::string> broken = {
      "garbage\r\n\r\n", std::string("\0\0\0\0\r\n\r\n", 8), "GET\r\n\r\n", "BREW /pot HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n",
      "POST /tokenize HTTP/1.1\r\nContent-Length: x\r\n\r\n", "POST /tokenize HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
      "POST /tokenize HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "GET /" + std::string(1 << 18, 'a') + " HTTP/1.1\r\n\r\n", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 15)};
  for (const std::string& bytes : broken) {
    const auto start = std::chrono::steady_clock::now();
    HttpSocket socket(server.port());
    socket.Send(bytes);
    const HttpReply reply = socket.Read();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3)) << bytes.substr(0, 60);
    EXPECT_TRUE(reply.status == 0 || (reply.status >= 400 && reply.status <= 501 && reply.error().is_object())) << bytes.substr(0, 60) << reply.body;
    EXPECT_EQ(Get(server.port(), "/live").status, 200);
  }
}

TEST(Connection, ABodyShorterThanAnnounced) {
  GatewayConfig config;
  config.body_timeout_s = 0.05;
  GatewayServer server(config);
  HttpSocket waiting(server.port());
  waiting.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_EQ(waiting.Read().status, 408);
  EXPECT_TRUE(waiting.AwaitClosed());
  HttpSocket closing(server.port());
  closing.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
  closing.HalfClose();
  EXPECT_TRUE(closing.AwaitClosed());
}

TEST(Connection, SlowHeadersAndIdleConnectionsAreClosed) {
  GatewayConfig config;
  config.header_timeout_s = config.idle_timeout_s = 0.05;
  GatewayServer server(config);
  HttpSocket slow(server.port());
  slow.Send("GET /live HTTP/1.1\r\nHo");
  EXPECT_TRUE(slow.AwaitClosed());
  HttpSocket idle(server.port());
  idle.Get("/live");
  EXPECT_EQ(idle.Read().status, 200);
  EXPECT_TRUE(idle.AwaitClosed());
}

TEST(Connection, BodiesOverTheLimit) {
  GatewayConfig config;
  config.max_body_bytes = 1000;
  GatewayServer server(config);
  const std::string body = R"({"prompt":")" + std::string(200000, 'x') + "\"}";
  HttpSocket announced(server.port());
  announced.Post("/tokenize", body);
  EXPECT_EQ(announced.Read().status, 413);
  announced.Get("/live");  // what was refused has been skipped
  EXPECT_EQ(announced.Read().status, 200);
  HttpSocket chunked(server.port());
  chunked.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n" + body);
  EXPECT_EQ(chunked.Read().error()["code"], "request_too_large");
  HttpSocket lying(server.port());
  lying.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n");
  EXPECT_EQ(lying.Read().status, 413);
}

TEST(Connection, ConnectionsOverTheLimitAreToldSo) {
  GatewayConfig config;
  config.max_connections = 2;
  GatewayServer server(config);
  HttpSocket a(server.port()), b(server.port());
  a.Get("/live");
  EXPECT_EQ(a.Read().status, 200);
  b.Get("/live");
  EXPECT_EQ(b.Read().status, 200);
  HttpSocket c(server.port());
  c.Get("/live");
  const HttpReply refused = c.Read();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.error()["code"], "too_many_connections");
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_TRUE(c.AwaitClosed());
}

TEST(Connection, AClientThatReadsNothingIsGivenUp) {
  GatewayConfig config;
  config.write_timeout_s = 0.1;
  GatewayServer server(config);
  FakeScript script;
  script.tokens = std::vector<TokenId>(1, 'a');
  script.forever = true;
  server.backend().Push(script);
  HttpSocket socket(server.port());
  socket.Post("/v1/completions", R"({"prompt":"x","stream":true,"max_tokens":2000,"logprobs":20,"n":1})");
  EXPECT_TRUE(server.backend().AwaitRunning(0));
}

TEST(Connection, PortInUse) {
  GatewayServer first;
  GatewayConfig config;
  config.port = first.port();
  GatewayServer second(config);
  EXPECT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(second.status().message().find(std::to_string(first.port())), std::string::npos);
}

TEST(Connection, AStalledAnswerEnds) {
  GatewayConfig config;
  config.stall_timeout_s = 0.01;
  GatewayServer server(config);
  server.backend().Push(Hanging());
  const auto events = Events(Post(server.port(), "/v1/chat/completions", nlohmann::ordered_json::parse(kStream)).body);
  EXPECT_EQ(events.back()["error"]["code"], "stalled");
  EXPECT_TRUE(server.backend().AwaitRunning(0));
}

TEST(Drain, RunningAnswersEndAndNewOnesAreRefused) {
  GatewayServer server;
  FakeScript script;
  script.tokens = {'a'};
  script.forever = true;
  server.backend().Push(script);
  HttpSocket socket(server.port());
  socket.Post("/v1/completions", R"({"prompt":"x","stream":true,"max_tokens":1900})");
  socket.ReadUntil("data: ");
  server.StartDrain();
  const HttpReply whole = socket.Read();
  EXPECT_TRUE(whole.complete);
  EXPECT_EQ(Events(whole.body).back(), "[DONE]");
  EXPECT_TRUE(server.AwaitDrained());
  EXPECT_EQ(Get(server.port(), "/health").status, 503);
  EXPECT_EQ(Get(server.port(), "/live").status, 200);
  const HttpReply refused = Post(server.port(), "/v1/chat/completions", nlohmann::ordered_json::parse(kChat));
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.headers.count("retry-after"));
}

TEST(Drain, AnAnswerThatDoesNotEndIsEnded) {
  GatewayConfig config;
  config.drain_timeout_s = 0.05;
  GatewayServer server(config);
  server.backend().Push(Hanging());
  HttpSocket socket(server.port());
  socket.Post("/v1/chat/completions", kStream);
  socket.ReadUntil("Hello");
  server.StartDrain();
  const auto events = Events(socket.Read().body);
  EXPECT_EQ(events.back()["error"]["code"], "shutting_down");
  EXPECT_TRUE(server.AwaitDrained());
  EXPECT_TRUE(server.backend().AwaitRunning(0));
}

TEST(Drain, AnIdleGatewayDrainsAtOnce) {
  GatewayServer server;
  server.StartDrain();
  EXPECT_TRUE(server.AwaitDrained());
}

}  // namespace
}  // namespace baton
