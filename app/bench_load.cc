// `baton bench load`: sends requests to a running gateway, made up or from a trace, and measures what its clients see.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/answer_stream.h"
#include "app/cli.h"
#include "app/json_input.h"
#include "app/load_report.h"
#include "app/load_trace.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

struct BenchLoadCommand {
  std::string url = "http://127.0.0.1:8000", api_key, trace;
  uint32_t concurrency = 0, prompt_tokens = 256, max_tokens = 64;
  uint64_t requests = 32;
  double timeout_s = 600;
  LoadShape shape;
  bool json = false;
};

/// Sends the requests when they are due, at most `concurrency` at a time.
class LoadRun {
 public:
  LoadRun(kj::AsyncIoContext& io, HttpApiClient& client, const std::vector<LoadRequest>& requests) : io_(io), client_(client), requests_(requests) {}

  LoadReport Run(uint32_t concurrency, double& seconds) {
    start_ = clock_.Now();
    auto lanes = kj::heapArrayBuilder<kj::Promise<void>>(concurrency);
    for (uint32_t i = 0; i < concurrency; ++i) lanes.add(Lane());
    kj::joinPromises(lanes.finish()).wait(io_.waitScope);
    seconds = ToSeconds(clock_.Now() - start_);
    return report_;
  }

 private:
  kj::Promise<void> Lane() {
    if (next_ == requests_.size()) return kj::READY_NOW;
    const LoadRequest& request = requests_[next_++];
    const double wait_s = request.at_s - ToSeconds(clock_.Now() - start_);
    kj::Promise<void> due = kj::READY_NOW;
    if (wait_s > 0) due = io_.provider->getTimer().afterDelay(static_cast<int64_t>(wait_s * 1e6) * kj::MICROSECONDS);
    return due.then([this, &request] {
                const nlohmann::json body = {{"prompt", request.prompt}, {"max_tokens", request.max_tokens}, {"ignore_eos", true}, {"temperature", 0},
                                             {"stream", true}, {"stream_options", {{"include_usage", true}}}};
                return StreamAnswer(client_, clock_, "/v1/completions", body.dump(), nullptr);
              })
        .then([this](StreamedAnswer answer) {
          report_.Add(answer);
          return Lane();
        });
  }

  kj::AsyncIoContext& io_;
  HttpApiClient& client_;
  const std::vector<LoadRequest>& requests_;
  const SystemClock clock_;
  Instant start_;
  size_t next_ = 0;
  LoadReport report_;
};

/// A size that the server tells, where it tells one; false if it is none.
bool ReadSize(const nlohmann::ordered_json& model, const char* name, uint32_t& out) {
  const auto it = model.find(name);
  if (it == model.end()) return true;
  if (!it->is_number_unsigned() || it->get<uint64_t>() == 0 || it->get<uint64_t>() > INT32_MAX) return false;
  out = it->get<uint32_t>();
  return true;
}

/// The served model's sizes, which made-up prompts must respect.
Status AskModel(HttpApiClient& client, kj::AsyncIoContext& io, LoadShape& shape) {
  auto answer = client.Get("/v1/models").wait(io.waitScope);
  if (!answer.ok()) return answer.status();
  if (answer->status != 200) return UnavailableError("/v1/models answered {}: {}", answer->status, answer->ErrorMessage());
  const auto parsed = ParseJson(answer->body);
  const auto json = parsed.ok() ? *parsed : nlohmann::ordered_json();
  if (!json.is_object() || !json.contains("data") || !json["data"].is_array() || json["data"].empty()) {
    return UnavailableError("/v1/models did not list a model");
  }
  const auto& model = json["data"][0];
  if (!model.is_object() || !ReadSize(model, "vocab_size", shape.vocab) || !ReadSize(model, "max_model_len", shape.max_positions)) {
    return UnavailableError("/v1/models lists a model whose sizes make no sense: {}", ShortJson(model));
  }
  return OkStatus();
}

int RunBenchLoad(BenchLoadCommand c) {
  auto url = ParseUrl(c.url);
  if (!url.ok()) return Fail(url.status());
  auto io = kj::setupAsyncIo();
  HttpApiClient client(io, *url, c.api_key, c.timeout_s);
  if (Status status = AskModel(client, io, c.shape); !status.ok()) return Fail(status);
  std::vector<LoadRequest> requests;
  if (!c.trace.empty()) {
    auto trace = ReadLoadTrace(c.trace, c.shape);
    if (!trace.ok()) return Fail(trace.status());
    requests = std::move(*trace);
  } else if (uint64_t{c.prompt_tokens} + c.max_tokens > c.shape.max_positions) {
    return Fail(InvalidError("--prompt-tokens and --max-tokens are more than the model's context of {} tokens", c.shape.max_positions));
  } else {
    requests = MakeLoad(c.requests, c.prompt_tokens, c.max_tokens, c.shape);
  }
  uint32_t lanes = c.concurrency;
  if (lanes == 0) lanes = c.trace.empty() ? 1 : 1024;  // a trace sends when its clock says so
  double seconds = 0;
  const LoadReport report = LoadRun(io, client, requests).Run(static_cast<uint32_t>(std::min<uint64_t>(lanes, requests.size())), seconds);
  const auto result = report.Json(seconds);
  if (c.json) {
    std::printf("%s\n", result.dump().c_str());
  } else {
    for (const auto& [name, value] : result.items()) std::printf("%-24s %s\n", name.c_str(), value.dump().c_str());
  }
  return report.failed() == 0 ? 0 : 1;
}

}  // namespace

void AddBenchLoadCommand(CLI::App& bench, CommandContext& context) {
  auto command = std::make_shared<BenchLoadCommand>();
  BenchLoadCommand& c = *command;
  CLI::App* app = bench.add_subcommand("load", "load on a running server: TTFT, ITL, throughput, errors");
  app->add_option("--url", c.url, "the gateway, http://HOST:PORT")->capture_default_str();
  app->add_option("--api-key", c.api_key, "key of gateway.api_keys");
  CLI::Option* trace = app->add_option("--trace", c.trace, "JSON lines of timestamp, input_length, output_length and hash_ids");
  app->add_option("--concurrency", c.concurrency, "requests at a time; default 1, with --trace 1024")->check(CLI::Range(1, 100000));
  app->add_option("--requests", c.requests, "requests in all")->capture_default_str()->check(CLI::Range(1, 100000000))->excludes(trace);
  app->add_option("--prompt-tokens", c.prompt_tokens, "tokens of each prompt")->capture_default_str()->check(CLI::Range(1, 10000000))->excludes(trace);
  app->add_option("--max-tokens", c.max_tokens, "tokens of each answer")->capture_default_str()->check(CLI::Range(1, 10000000))->excludes(trace);
  app->add_option("--speed", c.shape.speed, "of the trace's clock: 10 sends ten times as fast")->check(CLI::Range(1e-3, 1e6))->needs(trace);
  app->add_option("--limit", c.shape.limit, "most requests of the trace")->needs(trace);
  app->add_option("--block-tokens", c.shape.block_tokens, "tokens that stand for each 512 of the trace")->check(CLI::Range(1, 512))->needs(trace);
  app->add_option("--seed", c.shape.seed, "of the prompts' tokens: another seed shares no prefix with earlier runs");
  app->add_option("--timeout-s", c.timeout_s, "longest answer")->check(CLI::Range(0.1, 1e6));
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunBenchLoad(*command); });
}

}  // namespace baton
