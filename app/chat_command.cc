// `baton chat`: a conversation in the terminal, streamed; reads lines from a pipe as well.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "app/answer_stream.h"
#include "app/cli.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

struct ChatCommand {
  std::string url = "http://127.0.0.1:8000", api_key, system;
  double temperature = -1;
  int64_t seed = -1;
  uint32_t max_tokens = 0;
  bool json = false;
};

Json NewConversation(const ChatCommand& c) {
  Json messages = Json::array();
  if (!c.system.empty()) messages.push_back({{"role", "system"}, {"content", c.system}});
  return messages;
}

std::string RequestBody(const ChatCommand& c, const Json& messages) {
  Json body = {{"messages", messages}, {"stream", true}, {"stream_options", {{"include_usage", true}}}};
  if (c.temperature >= 0) body["temperature"] = c.temperature;
  if (c.seed >= 0) body["seed"] = c.seed;
  if (c.max_tokens > 0) body["max_tokens"] = c.max_tokens;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json StatsJson(const StreamedAnswer& a) {
  return {{"text", a.text}, {"finish_reason", a.finish_reason}, {"prompt_tokens", a.prompt_tokens}, {"cached_tokens", a.cached_tokens},
          {"completion_tokens", a.tokens}, {"ttft_ms", a.first_token_s * 1e3}, {"tokens_per_s", a.TokensPerSecond()},
          {"total_ms", a.total_s * 1e3}, {"route", a.route}};
}

void PrintStats(const StreamedAnswer& a) {
  std::printf("first token %.0f ms, %.1f tokens/s, %llu tokens; prompt %llu tokens, %llu of them cached; route: %s\n", a.first_token_s * 1e3,
              a.TokensPerSecond(), static_cast<unsigned long long>(a.tokens), static_cast<unsigned long long>(a.prompt_tokens),
              static_cast<unsigned long long>(a.cached_tokens), a.route.empty() ? "unknown" : a.route.c_str());
}

int RunChat(const ChatCommand& c) {
  auto url = ParseUrl(c.url);
  if (!url.ok()) return Fail(url.status());
  auto io = kj::setupAsyncIo();
  HttpApiClient client(io, *url, c.api_key);
  const SystemClock clock;
  const bool terminal = isatty(STDIN_FILENO) && !c.json;
  if (terminal) std::printf("Talking to %s. /stats shows the last answer's times, /reset forgets, /quit ends.\n", c.url.c_str());
  Json messages = NewConversation(c);
  StreamedAnswer last;
  int exit_code = 0;
  for (std::string line; (terminal ? std::printf("> "), std::fflush(stdout) : 0), std::getline(std::cin, line);) {
    if (line.empty()) continue;
    if (line == "/quit" || line == "/exit") break;
    if (line == "/stats") {
      if (c.json) std::printf("%s\n", StatsJson(last).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
      else PrintStats(last);
      continue;
    }
    if (line == "/reset") {
      messages = NewConversation(c);
      continue;
    }
    messages.push_back({{"role", "user"}, {"content", line}});
    last = StreamAnswer(client, clock, "/v1/chat/completions", RequestBody(c, messages), [&c](std::string_view text) {
             if (c.json) return;
             std::fwrite(text.data(), 1, text.size(), stdout);
             std::fflush(stdout);
           }).wait(io.waitScope);
    if (!c.json) std::printf("\n");
    if (!last.error.empty()) {
      std::fprintf(stderr, "baton: %s\n", last.error.c_str());
      messages.erase(messages.size() - 1);
      exit_code = 1;
      if (!terminal) return exit_code;  // what follows in a script would answer something else
      continue;
    }
    if (c.json) std::printf("%s\n", StatsJson(last).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    std::fflush(stdout);
    messages.push_back({{"role", "assistant"}, {"content", last.text}});
    exit_code = 0;
  }
  return exit_code;
}

}  // namespace

void AddChatCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<ChatCommand>();
  ChatCommand& c = *command;
  CLI::App* app = program.add_subcommand("chat", "talks to a running server: streams answers, /stats, /reset, /quit");
  app->add_option("--url", c.url, "the gateway, http://HOST:PORT")->capture_default_str();
  app->add_option("--api-key", c.api_key, "key of gateway.api_keys");
  app->add_option("--system", c.system, "system prompt");
  app->add_option("--temperature", c.temperature, "0 takes the likeliest token")->check(CLI::Range(0.0, 2.0));
  app->add_option("--seed", c.seed, "the same seed gives the same answers")->check(CLI::NonNegativeNumber);
  app->add_option("--max-tokens", c.max_tokens, "longest answer");
  app->add_flag("--json", c.json, "one JSON object an answer");
  app->callback([command, &context] { context.exit_code = RunChat(*command); });
}

}  // namespace baton
