#include "gateway/answer_request.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "gateway/field_reader.h"
#include "gateway/output_form.h"
#include "gateway/tool_calls.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxChoices = 128;      // of one prompt
constexpr size_t kMaxGenerations = 256;   // of one request
constexpr size_t kMaxStops = 64;
constexpr size_t kMaxStopBytes = 1024;    // of one stop string
constexpr int64_t kMaxAlternatives = 20;  // top_logprobs
constexpr size_t kMaxTokenBytes = 256;    // no token stands for more: a text of more bytes a position cannot fit the model

void ReadStops(FieldReader& fields, AnswerRequest& out) {
  const Json* stop = fields.Find("stop");
  if (stop == nullptr) return;
  const Json list = stop->is_string() ? Json::array({*stop}) : *stop;
  bool good = list.is_array() && list.size() <= kMaxStops;
  for (size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_string() && !list[i].get_ref<const std::string&>().empty() &&
           list[i].get_ref<const std::string&>().size() <= kMaxStopBytes;
    if (good) out.stops.push_back(list[i].get<std::string>());
  }
  if (!good) {
    fields.Fail("stop", fmt::format("'stop' must be a string or a list of at most {} strings, none of them empty or longer than {} bytes",
                                    kMaxStops, kMaxStopBytes));
  }
}

void ReadLogitBias(FieldReader& fields, uint32_t vocab, SamplingParams& out) {
  const Json* bias = fields.Find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) return fields.Fail("logit_bias", "'logit_bias' must be an object of token id to bias");
  for (const auto& [key, value] : bias->items()) {
    uint32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id >= vocab) {
      return fields.Fail("logit_bias", fmt::format("'logit_bias' names token \"{}\"; ids go from 0 to {}", key, vocab - 1));
    }
    if (!value.is_number() || !(value.get<double>() >= -100 && value.get<double>() <= 100)) {
      return fields.Fail("logit_bias", fmt::format("'logit_bias' of token {} must be a number from -100 to 100", id));
    }
    out.logit_bias[static_cast<TokenId>(id)] = value.get<float>();
  }
}

void ReadStream(FieldReader& fields, AnswerRequest& out) {
  fields.Boolean("stream", out.stream);
  const Json* options = fields.Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) return fields.Fail("stream_options", "'stream_options' must be an object");
  if (!out.stream) return fields.Fail("stream_options", "'stream_options' is allowed only with 'stream': true");
  FieldReader inner(*options);
  inner.Boolean("include_usage", out.include_usage);
  inner.Boolean("continuous_usage_stats", out.continuous_usage);
  if (inner.error()) fields.Fail("stream_options." + inner.error()->param, inner.error()->message);
}

/// The names of `tools`, all of them well formed; empty, with the error set, otherwise.
std::vector<std::string> ReadTools(FieldReader& fields, const Json& tools) {
  std::vector<std::string> names;
  for (size_t i = 0; tools.is_array() && i < tools.size(); ++i) {
    const Json& tool = tools[i];
    const Json* function = tool.is_object() && tool.contains("function") ? &tool["function"] : nullptr;
    const bool named = function != nullptr && function->is_object() && function->contains("name") && (*function)["name"].is_string();
    const bool right_type = !tool.is_object() || !tool.contains("type") || tool["type"] == "function";
    if (!named || !right_type) {
      fields.Fail(fmt::format("tools.{}", i), "a tool must be {\"type\": \"function\", \"function\": {\"name\": …}}");
      return {};
    }
    names.push_back((*function)["name"].get<std::string>());
  }
  if (!tools.is_array()) fields.Fail("tools", "'tools' must be a list");
  return names;
}

/// tools and tool_choice: which calls to look for, and whether the answer must be one.
void ReadToolChoice(FieldReader& fields, AnswerRequest& out) {
  const Json* tools = fields.Find("tools");
  const Json* choice = fields.Find("tool_choice");
  if (tools != nullptr) out.tools = ReadTools(fields, *tools);
  if (choice == nullptr || *choice == "auto" || fields.error()) return;
  if (*choice == "none") return out.tools.clear();
  std::string only;
  const bool named = choice->is_object() && choice->contains("function") && (*choice)["function"].is_object() && (*choice)["function"].contains("name") &&
                     (*choice)["function"]["name"].is_string();
  if (named) only = (*choice)["function"]["name"].get<std::string>();
  if (!named && *choice != "required") {
    return fields.Fail("tool_choice", "'tool_choice' must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}");
  }
  if (out.tools.empty()) return fields.Fail("tool_choice", "'tool_choice' needs 'tools'");
  if (!out.sampling.grammar.empty()) return fields.Fail("tool_choice", "a forced tool call and another form of the answer exclude each other");
  auto grammar = ToolCallGbnf(*tools, only);
  if (!grammar.ok()) return fields.Fail(named ? "tool_choice" : "tools", grammar.status().message());
  out.sampling.grammar = *std::move(grammar);
}

/// The text of a content that is a list of parts, joined by `separator`.
std::optional<ApiError> JoinParts(const Json& parts, const std::string& param, std::string_view separator, std::string& text) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const Json& part = parts[i];
    const std::string type = part.is_object() ? part.value("type", Json("text")).dump() : "";
    if (type != "\"text\"" && type != "\"input_text\"" && type != "\"output_text\"") {
      return BadRequest(fmt::format("{}.{}", param, i), type.empty() ? "a content part must be an object"
                                                                     : fmt::format("this model takes no content parts of type {}; send text", type));
    }
    const auto it = part.find("text");
    if (it == part.end() || !it->is_string()) return BadRequest(fmt::format("{}.{}.text", param, i), "a text part needs a string 'text'");
    if (i > 0) text += separator;
    text += it->get_ref<const std::string&>();
  }
  return std::nullopt;
}

ApiError ContextExceeded(std::string message) {
  ApiError error = BadRequest("", std::move(message));
  error.code = "context_length_exceeded";
  return error;
}

/// Refuses a text that is hopelessly long before it is made into tokens, which would hold up every other client.
std::optional<ApiError> CheckBytes(size_t bytes, const ModelCard& card) {
  if (bytes <= kMaxTokenBytes * card.max_positions) return std::nullopt;
  return ContextExceeded(fmt::format("this model's context is {} tokens; a prompt of {} bytes cannot fit", card.max_positions, bytes));
}

std::optional<ApiError> ReadPrompts(FieldReader& fields, const TextCodec& codec, const ModelCard& card, AnswerRequest& out) {
  const Json* prompt = fields.Find("prompt");
  const auto wrong = [] {
    return BadRequest("prompt", "'prompt' must be a string, a list of strings, a list of token ids or a list of such lists, none empty");
  };
  if (prompt == nullptr && !out.cache_tokens.empty()) {  // goes on where the handle ends
    if (out.echo) out.prompt_texts.push_back(codec.Decode(out.cache_tokens));
    out.prompts.push_back(out.cache_tokens);
    return std::nullopt;
  }
  if (prompt == nullptr) return BadRequest("prompt", "'prompt' is missing");
  const bool single = prompt->is_string() || (prompt->is_array() && !prompt->empty() && prompt->front().is_number());
  if (!single && (!prompt->is_array() || prompt->empty())) return wrong();
  if (!single && prompt->size() > kMaxGenerations) return BadRequest("prompt", fmt::format("'prompt' holds more than {} prompts", kMaxGenerations));
  const Json list = single ? Json::array({*prompt}) : *prompt;
  for (const Json& item : list) {
    std::vector<TokenId> tokens;
    if (item.is_string()) {
      if (auto error = CheckBytes(item.get_ref<const std::string&>().size(), card)) return error;
      // A raw prompt is written by who knows the model's format: its special tokens are meant.
      tokens = codec.Encode(item.get_ref<const std::string&>(), /*parse_special=*/true, /*add_special=*/true);
    } else {
      const Json wrapped = {{"prompt", item}};
      FieldReader inner(wrapped);
      if (!inner.Tokens("prompt", card.vocab, tokens)) return inner.error() && item.is_array() ? *inner.error() : wrong();
    }
    if (tokens.empty()) return wrong();
    if (out.echo) out.prompt_texts.push_back(item.is_string() ? item.get<std::string>() : codec.Decode(tokens));
    out.prompts.push_back(std::move(tokens));
  }
  return std::nullopt;
}

/// OpenAI's predicted outputs: {"type":"content","content":…}. A guess: what is too long for any answer is cut off.
std::optional<ApiError> ReadPrediction(const Json& body, const TextCodec& codec, const ModelCard& card, AnswerRequest& out) {
  const auto prediction = body.find("prediction");
  if (prediction == body.end() || prediction->is_null()) return std::nullopt;
  if (!prediction->is_object() || prediction->value("type", Json()) != "content" || !prediction->contains("content")) {
    return BadRequest("prediction", "'prediction' must be an object with the type \"content\" and a 'content'");
  }
  const Json& content = (*prediction)["content"];
  std::string text;
  if (content.is_array()) {
    if (auto error = JoinParts(content, "prediction.content", "", text)) return error;
  } else if (content.is_string()) {
    text = content.get<std::string>();
  } else {
    return BadRequest("prediction.content", "'prediction.content' must be a string or a list of text parts");
  }
  if (auto error = CheckBytes(text.size(), card)) return error;
  out.prediction = codec.Encode(text, /*parse_special=*/false, /*add_special=*/false);
  if (out.prediction.size() > card.max_positions) out.prediction.resize(card.max_positions);
  return std::nullopt;
}

void ReadMaxTokens(FieldReader& fields, std::initializer_list<const char*> names, int64_t least, AnswerRequest& out) {
  for (const char* name : names) {
    int64_t value = 0;
    if (!fields.Integer(name, least, UINT32_MAX, value)) continue;
    out.max_tokens = static_cast<uint32_t>(value);
    return;
  }
}

std::optional<ApiError> CheckModel(FieldReader& fields, const ModelCard& card) {
  std::string model;
  fields.String("model", model);
  if (model.empty() || model == card.id) return std::nullopt;
  return ApiError{404, fmt::format("the model \"{}\" does not exist here; this server has \"{}\"", model, card.id), "model", "model_not_found", 0};
}

std::optional<ApiError> CheckContext(const AnswerRequest& request, const ModelCard& card) {
  for (const auto& prompt : request.prompts) {
    const uint64_t answer = request.max_tokens ? *request.max_tokens : 1;
    if (prompt.size() + answer <= card.max_positions) continue;
    return ContextExceeded(fmt::format("this model's context is {} tokens; the prompt has {} and the answer may have {}: shorten the prompt or "
                                       "lower max_tokens", card.max_positions, prompt.size(), answer));
  }
  if (request.prompts.size() * request.best_of > kMaxGenerations) {
    return BadRequest("n", fmt::format("the request asks for more than {} answers", kMaxGenerations));
  }
  if (request.return_cache && request.prompts.size() * request.best_of > 1) {
    return BadRequest("return_cache", "'return_cache' gives one handle: ask for one answer to one prompt");
  }
  return std::nullopt;
}

void ReadSampling(FieldReader& fields, const ModelCard& card, AnswerRequest& out) {
  SamplingParams& s = out.sampling;
  fields.Number("temperature", 0, 2, s.temperature);
  fields.Number("top_p", 0, 1, s.top_p);
  fields.Number("min_p", 0, 1, s.min_p);
  fields.Number("typical_p", 0, 1, s.typical_p);
  fields.Number("repetition_penalty", 1e-3, 1e3, s.repetition_penalty);
  fields.Number("presence_penalty", -2, 2, s.presence_penalty);
  fields.Number("frequency_penalty", -2, 2, s.frequency_penalty);
  int64_t number = 0;
  if (fields.Integer("top_k", -1, INT32_MAX, number)) s.top_k = number > 0 ? static_cast<uint32_t>(number) : 0;
  if (fields.Integer("seed", INT64_MIN, INT64_MAX, number)) {
    s.seed = static_cast<uint64_t>(number);
    out.has_seed = true;
  }
  if (fields.Integer("n", 1, kMaxChoices, number)) out.n = out.best_of = static_cast<uint32_t>(number);
  if (fields.Integer("priority", INT32_MIN, INT32_MAX, number)) out.priority = static_cast<int32_t>(number);
  fields.Boolean("ignore_eos", out.ignore_eos);
  fields.Boolean("include_stop_str_in_output", out.include_stop);
  fields.Boolean("return_token_ids", out.return_token_ids);
  fields.Tokens("stop_token_ids", card.vocab, out.stop_tokens);
  fields.String("cache_salt", out.cache_salt);
  fields.String("cache_id", out.cache_id);
  fields.Boolean("return_cache", out.return_cache);
  double ttl_s = 0;
  if (fields.Number("cache_ttl_s", 1, kMaxCacheTtlS, ttl_s)) out.cache_ttl_s = ttl_s;
  ReadStops(fields, out);
  ReadLogitBias(fields, card.vocab, s);
  ReadStream(fields, out);
  if (fields.Integer("min_tokens", 0, UINT32_MAX, number)) s.min_tokens = static_cast<uint32_t>(number);
  s.grammar = ReadOutputGrammar(fields);
}

}  // namespace

std::optional<ApiError> NormalizeMessages(Json& body) {
  const auto messages = body.find("messages");
  if (messages == body.end() || !messages->is_array() || messages->empty()) {
    return BadRequest("messages", "'messages' must be a list of at least one message");
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    Json& message = (*messages)[i];
    const std::string param = fmt::format("messages.{}", i);
    if (!message.is_object()) return BadRequest(param, "a message must be an object");
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string() || role->get_ref<const std::string&>().empty()) {
      return BadRequest(param + ".role", "a message needs a string 'role'");
    }
    const auto content = message.find("content");
    const bool calls = message.contains("tool_calls") || message.contains("function_call");
    if (content == message.end() || content->is_null()) {
      if (*role != "assistant" || !calls) return BadRequest(param + ".content", "a message needs a 'content'");
    } else if (content->is_array()) {
      std::string text;
      if (auto error = JoinParts(*content, param + ".content", "\n", text)) return error;
      *content = std::move(text);
    } else if (!content->is_string()) {
      return BadRequest(param + ".content", "'content' must be a string or a list of parts");
    }
  }
  return std::nullopt;
}

std::optional<ApiError> ReadChatRequest(Json body, const TextCodec& codec, const ModelCard& card, AnswerRequest& out) {
  {
    FieldReader fields(body);
    if (auto error = CheckModel(fields, card)) return error;
    ReadSampling(fields, card, out);
    ReadToolChoice(fields, out);
    ReadMaxTokens(fields, {"max_completion_tokens", "max_tokens"}, 1, out);
    fields.Boolean("logprobs", out.logprobs);
    int64_t alternatives = 0;
    if (fields.Integer("top_logprobs", 0, kMaxAlternatives, alternatives) && !out.logprobs) {
      fields.Fail("top_logprobs", "'top_logprobs' is allowed only with 'logprobs': true");
    }
    if (out.logprobs) out.sampling.logprobs = static_cast<int32_t>(alternatives);
    if (fields.error()) return *fields.error();
  }
  if (!body.contains("messages") && !out.cache_tokens.empty()) {  // goes on where the handle ends
    out.prompts.push_back(out.cache_tokens);
    return CheckContext(out, card);
  }
  if (auto error = NormalizeMessages(body)) return error;
  size_t bytes = 0;
  for (const Json& message : body["messages"]) {
    if (message.contains("content") && message["content"].is_string()) bytes += message["content"].get_ref<const std::string&>().size();
  }
  if (auto error = CheckBytes(bytes, card)) return error;
  auto prompt = codec.EncodeChat(body);
  if (!prompt.ok()) {
    ApiError error = FromStatus(prompt.status());
    error.param = "messages";
    return error;
  }
  if (prompt->empty()) return BadRequest("messages", "the chat template made an empty prompt of these messages");
  out.prompts.push_back(std::move(*prompt));
  if (auto error = ReadPrediction(body, codec, card, out)) return error;
  return CheckContext(out, card);
}

std::optional<ApiError> ReadCompletionRequest(const Json& body, const TextCodec& codec, const ModelCard& card, AnswerRequest& out) {
  FieldReader fields(body);
  if (auto error = CheckModel(fields, card)) return error;
  ReadSampling(fields, card, out);
  out.max_tokens = 16;  // OpenAI's default
  ReadMaxTokens(fields, {"max_tokens"}, 0, out);
  fields.Boolean("echo", out.echo);
  int64_t number = 0;
  if (fields.Integer("logprobs", 0, kMaxAlternatives, number)) {
    out.logprobs = true;
    out.sampling.logprobs = static_cast<int32_t>(number);
  }
  if (fields.Integer("best_of", 1, kMaxChoices, number)) {
    out.best_of = static_cast<uint32_t>(number);
    if (out.best_of < out.n) fields.Fail("best_of", "'best_of' must be at least 'n'");
    if (out.best_of > out.n && out.stream) fields.Fail("best_of", "'best_of' above 'n' cannot be streamed");
    if (out.best_of > out.n && out.sampling.logprobs < 0) out.sampling.logprobs = 0;  // the ranking needs them
  }
  std::string suffix;
  if (fields.String("suffix", suffix) && !suffix.empty()) fields.Fail("suffix", "'suffix' is not supported: this model only continues text");
  if (out.echo && out.logprobs) fields.Fail("echo", "'echo' together with 'logprobs' is not supported by this server");
  if (fields.error()) return *fields.error();
  if (auto error = ReadPrompts(fields, codec, card, out)) return error;
  if (auto error = ReadPrediction(body, codec, card, out)) return error;
  return CheckContext(out, card);
}

}  // namespace baton
