// chat, top and bench load against servers that answer strangely or not at all: an error and an exit code, whatever comes.
#include "app/answer_stream.h"
#include "app/http_client.h"
#include "tests/unit/app/canned_server.h"
#include "tests/unit/app/run_program.h"

namespace baton {
namespace {

TEST(StrangeServer, ChatSaysWhatWentWrong) {
  const std::vector<std::pair<std::string, std::string>> replies = {
      {"", ""},
      {"garbage\r\n\r\n", ""},
      {"HTTP/1.1 200 OK\r\n", ""},
      {Whole("<html>Bad Gateway</html>", "502 Bad Gateway", "text/html"), "Bad Gateway"},
      {Whole(R"({"error":{"message":"too many","type":"x"}})", "429 Too Many Requests"), "too many"},
      {Whole(R"({"error":{"message":5}})", "500 Oops"), ""},
      {Whole(R"({"error":"plain text"})", "500 Oops"), "plain text"},
      {Whole("", "503 Service Unavailable"), ""},
      {Stream(""), "[DONE]"},
      {Stream("data: not json\n\n"), ""},
      {Stream("data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n"), "[DONE]"},
      {Stream("data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: {\"error\":{\"message\":\"worker died\"}}\n\n"), "worker died"},
      {Stream("data: {\"error\":\"just text\"}\n\ndata: [DONE]\n\n"), "error"},
      {Stream("data: {\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":1e400}}\n\n"), ""},
      {Stream("data: [1,2,3]\n\ndata: [DONE]\n\n"), ""}};
  for (const auto& [reply, word] : replies) {
    CannedServer server([&reply = reply](const std::string&) { return reply; });
    const Outcome run = RunBaton({"chat", "--url", server.url()}, "hello\n");
    EXPECT_EQ(run.code, 1) << reply;
    EXPECT_THAT(run.err, testing::AllOf(testing::StartsWith("baton: "), testing::HasSubstr(word))) << reply;
  }
}

TEST(StrangeServer, ChatTakesWhatIsStillAnAnswer) {
  const std::vector<std::pair<std::string, std::string>> streams = {
      {"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: [DONE]\n\n", "Hi"},
      {": a comment\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: [DONE]\n\n", "Hi"},
      {"event: x\nid: 5\ndata: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: [DONE]\n\n", "Hi"},
      {"data: {\"choices\":[]}\n\ndata: {\"choices\":[{\"delta\":{}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":null}}]}\n\ndata: [DONE]\n\n", ""},
      {"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\\u0000b\"},\"finish_reason\":\"stop\"}],\"usage\":null}\n\ndata: [DONE]\n\n", std::string("a\0b", 3)},
      {"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"prompt_tokens_details\":null}}\n\ndata: [DONE]\n\n", "Hi"}};
  for (const auto& [events, text] : streams) {
    CannedServer server([&events = events](const std::string&) { return Stream(events); });
    const Outcome run = RunBaton({"chat", "--url", server.url()}, "hello\n");
    EXPECT_EQ(run.code, 0) << events << run.err;
    EXPECT_EQ(run.out, text + "\n") << events;
    const Outcome json = RunBaton({"chat", "--url", server.url(), "--json"}, "hello\n");
    EXPECT_EQ(nlohmann::json::parse(json.out)["text"], text);
  }
}

TEST(StrangeServer, TopNeedsItsThreePages) {
  struct Pages {
    std::string health, metrics, cluster;
    int code;
  };
  const std::string metrics = Whole("# TYPE baton_gateway_connections gauge\nbaton_gateway_connections 3\nbaton_gateway_requests_total{status=\"200\"} 4\nbaton_gateway_requests_total{status=\"400\"} 1\nnonsense\nbaton_x{a=\"b\"} 7\n", "200 OK", "text/plain");
  const std::string health = Whole(R"({"status":"ok"})"), cluster = Whole(R"({"workers":[{"id":1,"name":"a","load":0.51234567},{"id":22,"roles":["x"]}],"epoch":3})");
  const std::vector<Pages> cases = {{health, metrics, cluster, 0},
                                    {Whole(R"({"error":{"message":"loading"}})", "503 Service Unavailable"), metrics, cluster, 0},
                                    {health, metrics, Whole("not json"), 1},
                                    {health, metrics, Whole(R"({"error":{"message":"this path needs the admin key"}})", "401 Unauthorized"), 1},
                                    {health, metrics, Whole("[]"), 0},
                                    {health, metrics, Whole("5"), 0},
                                    {"", metrics, cluster, 1},
                                    {health, "", cluster, 1},
                                    {health, Whole(std::string("\0\xff\n{} \n{ 5\n  \n", 14)), cluster, 0}};
  for (size_t i = 0; i < cases.size(); ++i) {
    const Pages& pages = cases[i];
    CannedServer server([&](const std::string& path) { return path == "/health" ? pages.health : path == "/metrics" ? pages.metrics : pages.cluster; });
    for (const bool json : {false, true}) {
      std::vector<std::string> arguments = {"top", "--once", "--url", server.url()};
      if (json) arguments.push_back("--json");
      const Outcome run = RunBaton(arguments);
      EXPECT_EQ(run.code, pages.code) << i << run.err;
      if (json && pages.code == 0) {
        EXPECT_TRUE(nlohmann::json::parse(run.out, nullptr, false).is_object()) << i;
      }
      if (pages.code != 0) {
        EXPECT_THAT(run.err, testing::StartsWith("baton: ")) << i;
      }
    }
  }
}

TEST(StrangeServer, TopsTableIsAligned) {
  CannedServer server([](const std::string& path) {
    if (path == "/health") return Whole("{}");
    if (path == "/metrics") return Whole("baton_gateway_connections 3\n", "200 OK", "text/plain");
    return Whole(R"({"workers":[{"id":1,"name":"a"},{"id":22,"name":"longer","extra":0.123456789},{"name":")" + std::string(80, 'n') + R"("}],"none":[],"note":"text"})");
  });
  const Outcome run = RunBaton({"top", "--once", "--url", server.url()});
  ASSERT_EQ(run.code, 0) << run.err;
  std::vector<std::string> rows;
  std::istringstream in(run.out);
  for (std::string line; std::getline(in, line);) rows.push_back(line);
  const auto header = std::find_if(rows.begin(), rows.end(), [](const std::string& r) { return r.find("  id") == 0; });
  ASSERT_NE(header, rows.end()) << run.out;
  const size_t name = header->find("name"), extra = header->find("extra");
  EXPECT_EQ((header + 1)->find("a"), name) << run.out;
  EXPECT_EQ((header + 2)->find("longer"), name);
  EXPECT_EQ((header + 2)->find("0.1235"), extra) << "numbers of four digits";
  EXPECT_EQ((header + 3)->find(std::string(40, 'n')), name);
  EXPECT_EQ((header + 3)->find(std::string(41, 'n')), std::string::npos) << "cells are cut";
}

TEST(StrangeServer, BenchLoadNeedsAModel) {
  const std::string good = R"({"data":[{"id":"m","vocab_size":1000,"max_model_len":2048}]})";
  for (const std::string& models : {Whole("not json"), Whole("{}"), Whole(R"({"data":[]})"), Whole(R"({"data":5})"), Whole(R"({"data":[5]})"), Whole(R"({"data":[{"vocab_size":"x"}]})"), Whole("", "404 Not Found"),
                                    Whole(R"({"data":[{"vocab_size":-1,"max_model_len":-1}]})"), Whole(R"({"data":[{"vocab_size":0,"max_model_len":0}]})"), std::string()}) {
    CannedServer server([&](const std::string&) { return models; });
    const Outcome run = RunBaton({"bench", "load", "--url", server.url(), "--requests", "1", "--json"});
    EXPECT_TRUE(run.code == 1 || run.code == 2) << models << run.code;
    EXPECT_THAT(run.err, testing::StartsWith("baton: ")) << models;
    EXPECT_EQ(run.out, "") << models;
  }
  CannedServer server([&](const std::string& path) { return path == "/v1/models" ? Whole(good) : Whole("<html>", "500 Oops", "text/html"); });
  const Outcome run = RunBaton({"bench", "load", "--url", server.url(), "--requests", "3", "--prompt-tokens", "4", "--max-tokens", "2", "--json"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(nlohmann::json::parse(run.out)["errors"], (nlohmann::json{{"500: <html>", 3}}));
}

TEST(StrangeServer, ASilentOneIsGivenUp) {
  CannedServer server([](const std::string& path) { return path == "/v1/models" ? Whole(R"({"data":[{"vocab_size":1000,"max_model_len":2048}]})") : Stream("data: {\"choices\":[]}\n\n") + std::string(1, ' '); });
  const Outcome run = RunBaton({"bench", "load", "--url", server.url(), "--requests", "1", "--prompt-tokens", "4", "--max-tokens", "2", "--timeout-s", "0.5", "--json"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(nlohmann::json::parse(run.out)["failed"], 1);
}

}  // namespace
}  // namespace baton
