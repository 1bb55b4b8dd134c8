#include "gateway/logprobs_text.h"

#include <algorithm>
#include <vector>

#include "gateway/json_text.h"

namespace baton {
namespace {

void AppendTokenFields(std::string& out, TokenId token, float logprob, const TextCodec& codec) {
  const std::string bytes = codec.TokenBytes(token);
  out += "\"token\":";
  AppendJsonString(out, bytes);
  out += ",\"logprob\":";
  AppendLogprob(out, logprob);
  out += ",\"bytes\":[";
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out += ',';
    AppendInteger(out, static_cast<uint8_t>(bytes[i]));
  }
  out += ']';
}

/// {"token": logprob, …}: the alternatives, and the chosen token if it is none of them. Tokens of equal text count once.
void AppendTopObject(std::string& out, const TokenEvent& event, size_t alternatives, const TextCodec& codec) {
  std::vector<std::string> written;
  out += '{';
  const auto append = [&](TokenId token, float logprob) {
    std::string text = ValidUtf8(codec.TokenBytes(token));
    if (std::find(written.begin(), written.end(), text) != written.end()) return;
    if (!written.empty()) out += ',';
    AppendJsonString(out, text);
    out += ':';
    AppendLogprob(out, logprob);
    written.push_back(std::move(text));
  };
  for (size_t i = 0; i < std::min(alternatives, event.top.size()); ++i) append(event.top[i].token, event.top[i].logprob);
  append(event.token, event.logprob);
  out += '}';
}

template <typename Append>
void AppendList(std::string& out, const char* name, std::span<const TokenEvent> events, Append append) {
  out += name;
  for (size_t i = 0; i < events.size(); ++i) {
    if (i > 0) out += ',';
    append(events[i]);
  }
  out += ']';
}

}  // namespace

size_t CountCharacters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; }));
}

void AppendChatLogprobs(std::string& out, std::span<const TokenEvent> events, size_t alternatives, const TextCodec& codec) {
  AppendList(out, "{\"content\":[", events, [&](const TokenEvent& event) {
    out += '{';
    AppendTokenFields(out, event.token, event.logprob, codec);
    out += ",\"top_logprobs\":[";
    for (size_t i = 0; i < std::min(alternatives, event.top.size()); ++i) {
      out += i > 0 ? ",{" : "{";
      AppendTokenFields(out, event.top[i].token, event.top[i].logprob, codec);
      out += '}';
    }
    out += "]}";
  });
  out += ",\"refusal\":null}";
}

void AppendCompletionLogprobs(std::string& out, std::span<const TokenEvent> events, size_t alternatives, const TextCodec& codec,
                              size_t& offset) {
  AppendList(out, "{\"tokens\":[", events, [&](const TokenEvent& event) { AppendJsonString(out, codec.TokenBytes(event.token)); });
  AppendList(out, ",\"token_logprobs\":[", events, [&](const TokenEvent& event) { AppendLogprob(out, event.logprob); });
  AppendList(out, ",\"top_logprobs\":[", events, [&](const TokenEvent& event) { AppendTopObject(out, event, alternatives, codec); });
  AppendList(out, ",\"text_offset\":[", events, [&](const TokenEvent& event) {
    AppendInteger(out, static_cast<int64_t>(offset));
    offset += CountCharacters(ValidUtf8(codec.TokenBytes(event.token)));
  });
  out += '}';
}

}  // namespace baton
