// HTTP/1.1 as RFC 9110 and 9112 have it, byte by byte: methods, framing, pipelining, continue, and what a proxy would misread.
#include "gateway/endpoints.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

const std::string kTokenize = R"({"prompt":"ab"})";
const std::string kStream = R"({"messages":[{"role":"user","content":"hi"}],"stream":true})";

class HttpDetails : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    GatewayConfig config;
    config.max_body_bytes = 4096;
    server_ = new GatewayServer(config);
  }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }
  static uint16_t port() { return server_->port(); }
  static GatewayServer* server_;
};
GatewayServer* HttpDetails::server_ = nullptr;

TEST_F(HttpDetails, EveryPathAnswersItsMethodsAndNamesThemToOthers) {
  HttpSocket socket(port());
  for (const Endpoint& endpoint : Endpoints()) {
    std::string path = endpoint.path;
    if (path.size() > 1 && path.back() == '/') path += "x";
    std::set<std::string> allowed;
    for (const Endpoint& other : Endpoints()) {
      if (std::string_view(other.path) != endpoint.path) continue;
      if (other.method == kj::HttpMethod::GET) allowed.insert({"GET", "HEAD"});
      else allowed.insert(other.method == kj::HttpMethod::POST ? "POST" : "DELETE");
    }
    for (const char* method : {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
      SCOPED_TRACE(fmt::format("{} {}", method, path));
      socket.Send(fmt::format("{} {} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{{}}", method, path));
      const HttpReply reply = socket.Read();
      ASSERT_NE(reply.status, 0);
      EXPECT_EQ(reply.status == 405, allowed.count(method) == 0) << reply.status;
      EXPECT_EQ(reply.headers.count("allow"), allowed.count(method) == 0 ? 1u : 0u);
      if (reply.status != 405) continue;
      std::set<std::string> told;
      std::stringstream list(reply.headers.at("allow"));
      for (std::string word; std::getline(list, word, ',');) told.insert(word.substr(word.find_first_not_of(' ')));
      EXPECT_EQ(told, allowed);
    }
  }
}

TEST_F(HttpDetails, HeadIsGetWithoutTheBody) {
  for (const char* path : {"/", "/health", "/live", "/version", "/metrics", "/openapi.json", "/v1/models", "/v1/models/none", "/v1/caches", "/admin/cluster", "/nothing"}) {
    SCOPED_TRACE(path);
    const HttpReply get = Get(port(), path);
    HttpSocket socket(port());
    socket.Send(fmt::format("HEAD {} HTTP/1.1\r\nHost: test\r\n\r\nGET /live HTTP/1.1\r\nHost: test\r\n\r\n", path));
    const std::string all = socket.ReadUntil("{\"status\":\"ok\"}");
    const size_t end = all.find("\r\n\r\n");
    ASSERT_NE(end, std::string::npos);
    EXPECT_EQ(std::atoi(all.c_str() + 9), get.status);
    EXPECT_EQ(all.compare(end + 4, 8, "HTTP/1.1"), 0) << "the next answer follows at once, no body stands between: " << all;
    if (std::string_view(path) != "/metrics") {  // which counts the calls of this very test
      EXPECT_NE(all.substr(0, end).find("Content-Length: " + get.headers.at("content-length")), std::string::npos) << all;
    }
  }
}

struct Framing {
  const char* name;
  std::string request;  // of POST /tokenize, from the headers on
  int status;           // 200: the body came whole
};

TEST_F(HttpDetails, BodiesInEveryFraming) {
  const std::string n = std::to_string(kTokenize.size());
  const std::vector<Framing> cases = {
      {"length", "Content-Length: " + n + "\r\n\r\n" + kTokenize, 200},
      {"length in lower case with spaces", "content-length:   " + n + "\r\n\r\n" + kTokenize, 200},
      {"one chunk", "Transfer-Encoding: chunked\r\n\r\nf\r\n" + kTokenize + "\r\n0\r\n\r\n", 200},
      {"a chunk size in capitals", "Transfer-Encoding: chunked\r\n\r\nF\r\n" + kTokenize + "\r\n0\r\n\r\n", 200},
      {"a chunk size with zeros in front", "Transfer-Encoding: chunked\r\n\r\n000f\r\n" + kTokenize + "\r\n0\r\n\r\n", 200},
      {"no body at all", "\r\n", 400},
      {"length 0", "Content-Length: 0\r\n\r\n", 400},
      {"an empty chunked body", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"a length in hexadecimal", "Content-Length: 0xf\r\n\r\n" + kTokenize, 400},
      {"a length beyond 64 bits", "Content-Length: 99999999999999999999999\r\n\r\n", 413},
      {"two lengths", "Content-Length: 15\r\nContent-Length: 3\r\n\r\n" + kTokenize, 400},
      {"chunks that are none", "Transfer-Encoding: chunked\r\n\r\nnone\r\n", 400},
      {"a chunk longer than its size", "Transfer-Encoding: chunked\r\n\r\n3\r\n" + kTokenize + "\r\n0\r\n\r\n", 400},
      {"too long by its length", "Content-Length: 4097\r\n\r\n" + std::string(4097, ' '), 413},
      {"too long in chunks", "Transfer-Encoding: chunked\r\n\r\n1001\r\n" + std::string(4097, ' ') + "\r\n0\r\n\r\n", 413},
  };
  for (const Framing& c : cases) {
    SCOPED_TRACE(c.name);
    HttpSocket socket(port());
    socket.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\n" + c.request);
    const HttpReply reply = socket.Read();
    EXPECT_EQ(reply.status, c.status) << reply.body;
    if (c.status == 200) {
      EXPECT_EQ(reply.json()["count"], 2);
    } else {
      EXPECT_TRUE(reply.error().is_object()) << "an error object, whoever refused it: " << reply.body;
    }
  }
  EXPECT_EQ(Get(port(), "/live").status, 200);
}

TEST_F(HttpDetails, AFullBodyOfExactlyTheLimitIsRead) {
  std::string body = kTokenize;
  body.resize(4096, ' ');
  HttpSocket socket(port());
  socket.Post("/tokenize", body);
  EXPECT_EQ(socket.Read().json()["count"], 2);
  socket.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + body + "\r\n0\r\n\r\n");
  EXPECT_EQ(socket.Read().json()["count"], 2);
}

/// A request whose length and chunks disagree is how one client speaks with another's voice through a proxy: one answer at most.
TEST_F(HttpDetails, LengthAndChunksTogetherSmuggleNothing) {
  const std::string hidden = "POST /admin/drain/7 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
  for (const std::string headers : {"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"}) {
    HttpSocket socket(port());
    socket.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + "\r\n" + fmt::format("{:x}\r\n", hidden.size()) + hidden + "\r\n0\r\n\r\n");
    const HttpReply reply = socket.Read();
    EXPECT_EQ(reply.status, 400) << reply.body;
    EXPECT_EQ(socket.ReadUntil("draining").find("draining"), std::string::npos) << "the body was run as a request";
  }
}

TEST_F(HttpDetails, ContinueIsSentOnceAndOnlyForABodyThatIsWanted) {
  for (const char* word : {"100-continue", "100-CONTINUE", "100-Continue"}) {
    HttpSocket socket(port());
    socket.Send(fmt::format("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nExpect: {}\r\n\r\n", kTokenize.size(), word));
    ASSERT_EQ(socket.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    socket.Send(kTokenize);
    EXPECT_EQ(socket.Read().status, 200);
  }
  HttpSocket refused(port());
  refused.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(refused.ReadUntil("\r\n\r\n").rfind("HTTP/1.1 413 ", 0), 0u) << "not first 100";
  HttpSocket nobody(port());
  nobody.Send("POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(nobody.ReadUntil("\r\n\r\n").rfind("HTTP/1.1 404 ", 0), 0u);
}

/// Requests of every kind, all in one write and then one byte at a time: each is answered once, in order.
TEST_F(HttpDetails, ManyRequestsInOneWriteOrOneByteAWrite) {
  struct Step {
    std::string bytes;
    int status;
  };
  const std::string chat = R"({"messages":[{"role":"user","content":"hi"}]})";
  const auto post = [](const std::string& path, const std::string& body) {
    return fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", path, body.size(), body);
  };
  const std::vector<Step> steps = {{"GET /live HTTP/1.1\r\nHost: x\r\n\r\n", 200},
                                   {post("/v1/chat/completions", kStream), 200},
                                   {post("/tokenize", "{"), 400},
                                   {"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\ne\r\n\"prompt\":\"ab\"}\r\n0\r\n\r\n", 200},
                                   {post("/nowhere", chat), 404},
                                   {"DELETE /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", 405},
                                   {post("/v1/chat/completions", chat), 200},
                                   {post("/v1/completions", R"({"prompt":["a","b"],"n":2,"stream":true})"), 200},
                                   {post("/detokenize", R"({"tokens":[97]})"), 200}};
  std::string all;
  for (const Step& step : steps) all += step.bytes;
  for (const bool slowly : {false, true}) {
    HttpSocket socket(port());
    if (slowly) {
      for (const char c : all) socket.Send(std::string(1, c));
    } else {
      socket.Send(all);
    }
    for (size_t i = 0; i < steps.size(); ++i) {
      const HttpReply reply = socket.Read();
      ASSERT_EQ(reply.status, steps[i].status) << slowly << " step " << i << reply.body;
      ASSERT_TRUE(reply.complete);
    }
  }
}

TEST_F(HttpDetails, ConnectionsEndWhenEitherSideSaysSo) {
  HttpSocket closing(port());
  closing.Get("/live", "Connection: Close\r\n");
  const HttpReply reply = closing.Read();
  EXPECT_EQ(reply.headers.at("connection"), "close");
  EXPECT_TRUE(closing.AwaitClosed());
  HttpSocket half(port());
  half.Get("/live");
  half.HalfClose();
  EXPECT_EQ(half.Read().status, 200) << "who has said all still reads its answer";
  EXPECT_TRUE(half.AwaitClosed());
  HttpSocket kept(port());
  kept.Get("/live", "Connection: keep-alive\r\n");
  EXPECT_EQ(kept.Read().status, 200);
  kept.Get("/live");
  EXPECT_EQ(kept.Read().status, 200);
}

TEST_F(HttpDetails, TargetsAreDecodedOnceAndQueriesAreNoPath) {
  const std::vector<std::pair<std::string, int>> targets = {{"/live?x=1", 200}, {"/live?", 200}, {"/%6c%69%76%65", 200}, {"/%256cive", 404}, {"/live%00", 404}, {"/live/", 404}, {"//live", 404}, {"/LIVE", 404},
                                                            {"/v1/models/org%2Ffake-model", 200}, {"/v1/models/org/fake-model?a=b", 200}, {"/%", 404}, {"/%zz", 404}, {"/live#x", 404},
                                                            {"/v1/caches/..%2f..%2fetc", 404}};
  for (const auto& [target, status] : targets) EXPECT_EQ(Get(port(), target).status, status) << target;
}

TEST_F(HttpDetails, RequestIdsAreEchoedAsFarAsAHeaderMayHoldThem) {
  EXPECT_EQ(Get(port(), "/live", "X-Request-Id: my-id 1\r\n").headers.at("x-request-id"), "my-id 1");
  EXPECT_EQ(Get(port(), "/live", "X-Request-Id: a\tb\xff\r\n").headers.at("x-request-id"), "a?b?");
  EXPECT_EQ(Get(port(), "/live", "X-Request-Id: " + std::string(500, 'x') + "\r\n").headers.at("x-request-id"), std::string(128, 'x'));
  const std::string made = Get(port(), "/live").headers.at("x-request-id");
  EXPECT_EQ(made.rfind("req-", 0), 0u);
  EXPECT_NE(made, Get(port(), "/live").headers.at("x-request-id")) << "none is made twice";
}

}  // namespace
}  // namespace baton
