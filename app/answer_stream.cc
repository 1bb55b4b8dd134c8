#include "app/answer_stream.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "gateway/json_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

struct Reading {
  StreamedAnswer answer;
  Instant start, last;
  bool done = false;
  std::function<void(std::string_view)> on_text;

  void OnData(std::string_view data, Instant now);
};

/// A count of a usage object; 0 where there is none.
uint32_t Count(const Json& usage, const char* name) {
  const auto it = usage.find(name);
  return it == usage.end() || !it->is_number_unsigned() ? 0 : static_cast<uint32_t>(std::min<uint64_t>(it->get<uint64_t>(), UINT32_MAX));
}

std::string MessageOf(const Json& error) {
  const bool known = error.is_object() && error.contains("message") && error["message"].is_string() && error["message"] != "";
  return known ? error["message"].get<std::string>() : "error " + error.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 2000);
}

void Reading::OnData(std::string_view data, Instant now) {
  if (data == "[DONE]") {
    done = true;
    return;
  }
  const auto parsed = ParseJson(data);
  if (!parsed.ok() || !parsed->is_object()) {
    answer.error = "the server sent an event that is not JSON";
    return;
  }
  const Json& json = *parsed;
  if (const auto error = json.find("error"); error != json.end() && !error->is_null()) answer.error = MessageOf(*error);
  if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object()) {
    answer.prompt_tokens = Count(*usage, "prompt_tokens");
    answer.tokens = Count(*usage, "completion_tokens");
    if (usage->contains("prompt_tokens_details") && (*usage)["prompt_tokens_details"].is_object()) {
      answer.cached_tokens = Count((*usage)["prompt_tokens_details"], "cached_tokens");
    }
  }
  if (!json.contains("choices") || !json["choices"].is_array() || json["choices"].empty()) return;
  const auto& choice = json["choices"][0];
  if (!choice.is_object()) return;
  const auto& piece = choice.contains("delta") ? choice["delta"] : choice;
  const char* field = choice.contains("delta") ? "content" : "text";
  const std::string text = piece.contains(field) && piece[field].is_string() ? piece[field].get<std::string>() : "";
  answer.text += text;
  if (on_text && !text.empty()) on_text(text);
  if (choice.contains("finish_reason") && choice["finish_reason"].is_string()) {
    answer.finish_reason = choice["finish_reason"];
    return;
  }
  if (text.empty() && piece.contains("role")) return;  // says nothing yet
  if (answer.first_token_s == 0) answer.first_token_s = ToSeconds(now - start);
  else answer.gaps_s.push_back(ToSeconds(now - last));
  last = now;
}

}  // namespace

double StreamedAnswer::TokensPerSecond() const {
  double seconds = 0;
  for (const double gap : gaps_s) seconds += gap;
  return seconds > 0 ? static_cast<double>(gaps_s.size()) / seconds : 0;
}

kj::Promise<StreamedAnswer> StreamAnswer(HttpApiClient& client, const Clock& clock, const std::string& path, const std::string& body,
                                         std::function<void(std::string_view text)> on_text) {
  auto owned = kj::heap<Reading>();
  Reading& reading = *owned;
  reading.start = clock.Now();
  reading.on_text = std::move(on_text);
  return client.Stream(path, body, [&reading, &clock](std::string_view data) { reading.OnData(data, clock.Now()); })
      .then([&reading, &clock](Result<HttpAnswer> result) {
        StreamedAnswer& answer = reading.answer;
        answer.total_s = ToSeconds(clock.Now() - reading.start);
        if (!result.ok()) {
          answer.error = result.status().message();
        } else {
          answer.status = result->status;
          answer.route = result->route;
          if (result->status != 200) answer.error = result->ErrorMessage();
          else if (answer.error.empty() && !reading.done) answer.error = "the stream ended before its [DONE]";
        }
        return std::move(answer);
      })
      .attach(kj::mv(owned));
}

}  // namespace baton
