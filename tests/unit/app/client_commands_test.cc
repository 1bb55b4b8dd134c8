// chat, top and bench load against a gateway with a fake backend.
#include "app/http_client.h"
#include "app/load_report.h"
#include "app/load_trace.h"
#include "base/log.h"
#include "tests/unit/app/run_program.h"
#include "tests/unit/gateway/fake_support.h"

namespace baton {
namespace {

class ClientCommands : public testing::Test {
 protected:
  // As main() does for the program: the gateway's log lines may not mix with what the commands print.
  static void SetUpTestSuite() { ASSERT_TRUE(InitLogging({}).ok()); }
  std::string Url() const { return "http://127.0.0.1:" + std::to_string(server_.port()); }
  GatewayServer server_;
};

TEST_F(ClientCommands, ChatKeepsTheConversation) {
  const Outcome run = RunBaton({"chat", "--url", Url(), "--system", "be kind", "--json"}, "hi\nagain\n/reset\nfresh\n/quit\nnever\n");
  ASSERT_EQ(run.code, 0) << run.err;
  std::istringstream lines(run.out);
  std::vector<nlohmann::json> answers;
  for (std::string line; std::getline(lines, line);) answers.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[0]["text"], "Hello world");
  EXPECT_EQ(answers[0]["completion_tokens"], 2);
  EXPECT_GT(answers[0]["ttft_ms"], 0);
  EXPECT_EQ(answers[0]["route"], "prefill=1 decode=2 prefix=memory");
  EXPECT_EQ(answers[0]["finish_reason"], "stop");
  const auto requests = server_.backend().requests();
  ASSERT_EQ(requests.size(), 3u);
  const FakeCodec codec;
  EXPECT_EQ(codec.Decode(requests[1].prompt), "system:be kind\nuser:hi\nassistant:Hello world\nuser:again\nassistant:");
  EXPECT_EQ(codec.Decode(requests[2].prompt), "system:be kind\nuser:fresh\nassistant:");
  EXPECT_EQ(answers[1]["cached_tokens"], requests[1].prompt.size() / 2);
}

TEST_F(ClientCommands, ChatOfAPipePrintsAnswersAndStats) {
  const Outcome run = RunBaton({"chat", "--url", Url()}, "hi\n/stats\n");
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(run.out.substr(0, 12), "Hello world\n");
  EXPECT_NE(run.out.find("9 of them cached; route: prefill=1"), std::string::npos) << run.out;
}

TEST_F(ClientCommands, ChatFailsWhereTheServerDoes) {
  FakeScript script;
  script.error = ExhaustedError("the queue is full");
  server_.backend().Push(script);
  const Outcome run = RunBaton({"chat", "--url", Url()}, "hi\n");
  EXPECT_EQ(run.code, 1);
  EXPECT_NE(run.err.find("the queue is full"), std::string::npos);
}

TEST_F(ClientCommands, ChatSaysWhenAStreamBreaks) {
  FakeScript script;
  script.tokens = {FakeCodec::kHello};
  script.error = UnavailableError("the worker died");
  server_.backend().Push(script);
  const Outcome run = RunBaton({"chat", "--url", Url()}, "hi\n");
  EXPECT_EQ(run.code, 1);
  EXPECT_NE(run.err.find("the worker died"), std::string::npos) << run.err;
}

TEST(ClientCommand, WithoutAServer) {
  uint16_t port = 0;
  { port = GatewayServer().port(); }
  const std::string url = "127.0.0.1:" + std::to_string(port);
  for (const std::vector<std::string>& command : {std::vector<std::string>{"chat"}, {"top", "--once"}, {"bench", "load", "--requests", "1"}}) {
    std::vector<std::string> arguments = command;
    arguments.insert(arguments.end(), {"--url", url});
    const Outcome run = RunBaton(arguments, "hi\n");
    EXPECT_EQ(run.code, 1);
    EXPECT_NE(run.err.find(std::to_string(port)), std::string::npos) << run.err;
  }
  EXPECT_EQ(RunBaton({"top", "--url", "https://x"}).code, 2);
}

TEST_F(ClientCommands, Top) {
  const Outcome run = RunBaton({"top", "--url", Url(), "--once", "--json"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.json()["ready"], true);
  EXPECT_EQ(run.json()["cluster"], (nlohmann::json{{"workers", nlohmann::json::array()}}));
  EXPECT_EQ(RunBaton({"top", "--url", Url(), "--once"}).code, 0);
}

TEST_F(ClientCommands, BenchLoad) {
  FakeScript script;
  script.tokens = {'a', 'b', 'c', 'd', 'e'};
  server_.backend().default_script = script;
  const Outcome run = RunBaton({"bench", "load", "--url", Url(), "--concurrency", "4", "--requests", "20", "--prompt-tokens", "10", "--max-tokens", "5", "--json"});
  ASSERT_EQ(run.code, 0) << run.err << run.out;
  const auto json = run.json();
  EXPECT_EQ(json["requests"], 20);
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(json["prompt_tokens"], 200);
  EXPECT_EQ(json["cached_tokens"], 100);
  EXPECT_EQ(json["generated_tokens"], 100);
  EXPECT_GT(json["ttft_ms"]["p50"], 0);
  EXPECT_GE(json["ttft_ms"]["p99"], json["ttft_ms"]["p50"]);
  EXPECT_GT(json["itl_ms"]["max"], 0);
  const auto requests = server_.backend().requests();
  EXPECT_NE(requests[0].prompt, requests[1].prompt);
  EXPECT_TRUE(requests[0].ignore_eos);
}

TEST_F(ClientCommands, BenchLoadCountsErrors) {
  FakeScript script;
  script.error = ExhaustedError("full");
  server_.backend().Push(script);
  const Outcome run = RunBaton({"bench", "load", "--url", Url(), "--requests", "3", "--prompt-tokens", "4", "--max-tokens", "2", "--json"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(run.json()["errors"], (nlohmann::json{{"429: full", 1}}));
  EXPECT_EQ(RunBaton({"bench", "load", "--url", Url(), "--prompt-tokens", "5000"}).code, 2);
}

class TraceFile : public testing::Test {
 protected:
  std::string Write(const std::string& text) {
    std::ofstream(path_) << text;
    return path_;
  }
  ~TraceFile() override { std::remove(path_.c_str()); }
  const std::string path_ = testing::TempDir() + "baton_trace_" + std::to_string(getpid()) + ".jsonl";
};

TEST_F(TraceFile, SharesPrefixesAsTheTraceDoes) {
  LoadShape shape;
  shape.block_tokens = 4;
  shape.speed = 2;
  const auto trace = ReadLoadTrace(Write("{\"timestamp\":0,\"input_length\":1024,\"output_length\":256,\"hash_ids\":[1,2]}\n"
                                         "{\"timestamp\":3000,\"input_length\":1100,\"output_length\":1,\"hash_ids\":[1,2,3]}\n"
                                         "{\"timestamp\":3000,\"input_length\":512,\"output_length\":1,\"hash_ids\":[9]}\n"), shape);
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  ASSERT_EQ(trace->size(), 3u);
  const auto& requests = *trace;
  EXPECT_EQ(requests[0].prompt.size(), 8u);
  EXPECT_EQ(requests[0].max_tokens, 2u);
  EXPECT_EQ(requests[1].at_s, 1.5);
  EXPECT_TRUE(std::equal(requests[0].prompt.begin(), requests[0].prompt.end(), requests[1].prompt.begin()));
  EXPECT_NE(requests[2].prompt, std::vector<TokenId>(requests[0].prompt.begin(), requests[0].prompt.begin() + 4));
  for (const TokenId token : requests[1].prompt) EXPECT_TRUE(token >= 0 && token < 1000);
}

TEST_F(TraceFile, FitsTheModelAndTheLimit) {
  LoadShape shape;
  shape.max_positions = 100;
  shape.limit = 1;
  const auto trace = ReadLoadTrace(Write("{\"timestamp\":0,\"input_length\":1024,\"output_length\":1000,\"hash_ids\":[1,2]}\n{\"timestamp\":0,\"input_length\":1,"
                                         "\"output_length\":1,\"hash_ids\":[1]}\n"), shape);
  ASSERT_TRUE(trace.ok());
  ASSERT_EQ(trace->size(), 1u);
  EXPECT_EQ(trace->at(0).prompt.size() + trace->at(0).max_tokens, 100u);
}

TEST_F(TraceFile, RefusesWhatIsNoTrace) {
  EXPECT_EQ(ReadLoadTrace("/nonexistent", {}).status().code(), StatusCode::kNotFound);
  for (const char* text : {"", "{}\n", "x\n", "{\"timestamp\":-1,\"input_length\":1,\"output_length\":1,\"hash_ids\":[1]}\n",
                           "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}\n",
                           "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[\"a\"]}\n"}) {
    EXPECT_EQ(ReadLoadTrace(Write(text), {}).status().code(), StatusCode::kInvalid) << text;
  }
}

TEST(LoadReportTest, PercentilesAreNearestRanks) {
  std::vector<double> seconds;
  for (int i = 100; i >= 1; --i) seconds.push_back(i * 1e-3);
  const auto p = Percentiles(seconds);
  EXPECT_NEAR(p["p50"].get<double>(), 50, 1e-9);
  EXPECT_NEAR(p["p99"].get<double>(), 99, 1e-9);
  EXPECT_NEAR(p["max"].get<double>(), 100, 1e-9);
  EXPECT_NEAR(p["mean"].get<double>(), 50.5, 1e-9);
  EXPECT_EQ(Percentiles({})["p99"], 0);
}

TEST(Url, Forms) {
  const auto full = ParseUrl("http://host:81/a/b/");
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(full->host, "host");
  EXPECT_EQ(full->port, 81);
  EXPECT_EQ(full->prefix, "/a/b");
  EXPECT_EQ(ParseUrl("localhost")->port, 80);
  EXPECT_EQ(ParseUrl("[::1]:8000")->host, "[::1]");
  for (const char* bad : {"", "http://", "https://x", "x:0", "x:99999", "x:1a", ":80"}) EXPECT_FALSE(ParseUrl(bad).ok()) << bad;
}

TEST(EventReaderTest, EventsCutAnywhere) {
  const std::string stream = "data: a\n\n: ping\n\nevent: x\ndata: b c\n\ndata: [DONE]\n\n";
  for (size_t cut = 0; cut <= stream.size(); ++cut) {
    std::vector<std::string> data;
    const auto take = [&data](std::string_view text) { data.emplace_back(text); };
    EventReader reader;
    reader.Push(stream.substr(0, cut), take);
    reader.Push(stream.substr(cut), take);
    EXPECT_EQ(data, (std::vector<std::string>{"a", "b c", "[DONE]"}));
  }
}

}  // namespace
}  // namespace baton
