// What a client reads when it is wrong, word for word: the status, OpenAI's error object and the headers that belong to it. A message
// is part of the interface: it says what, where and what to do.
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::json;

struct Row {
  const char* name;
  const char *method, *path, *body;
  int status;
  const char* message;
  Json param, code;  // null where the object has null
};

const Json kNull;
constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kText = "/v1/completions";

class ErrorTable : public testing::TestWithParam<Row> {
 protected:
  static void SetUpTestSuite() { server_ = new GatewayServer; }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }
  static GatewayServer* server_;
};
GatewayServer* ErrorTable::server_ = nullptr;

TEST_P(ErrorTable, IsWordForWord) {
  const Row& row = GetParam();
  HttpSocket socket(server_->port());
  const std::string body = row.body;
  socket.Send(fmt::format("{} {} HTTP/1.1\r\nHost: test\r\nX-Request-Id: row\r\nContent-Length: {}\r\n\r\n{}", row.method, row.path, body.size(), body));
  const HttpReply reply = socket.Read();
  EXPECT_EQ(reply.status, row.status);
  const char* type = row.status == 429 ? "rate_limit_error" : row.status == 503 ? "service_unavailable_error" : "invalid_request_error";
  EXPECT_EQ(reply.json(), (Json{{"error", {{"message", row.message}, {"type", type}, {"param", row.param}, {"code", row.code}}}})) << reply.body;
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  EXPECT_EQ(reply.headers.at("x-request-id"), "row");
  EXPECT_EQ(reply.headers.count("retry-after"), row.status == 429 || row.status == 503 ? 1u : 0u);
  EXPECT_EQ(reply.headers.count("allow"), row.status == 405 ? 1u : 0u);
  socket.Get("/live");
  EXPECT_EQ(socket.Read().status, 200) << "the connection goes on";
  EXPECT_EQ(server_->backend().running(), 0u);
}

const std::vector<Row>& Rows() {
  static const std::vector<Row> rows = {
      // bodies
      {"no_body", "POST", kChat, "", 400, "the request has no body; send a JSON object", kNull, kNull},
      {"a_list", "POST", kChat, "[1]", 400, "the body is a JSON array; send a JSON object", kNull, kNull},
      {"a_string", "POST", kText, "\"prompt\"", 400, "the body is a JSON string; send a JSON object", kNull, kNull},
      {"a_null", "POST", "/tokenize", "null", 400, "the body is a JSON null; send a JSON object", kNull, kNull},
      {"too_deep", "POST", "/detokenize", R"({"tokens":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]})", 400,
       "the body is JSON nested deeper than 64 levels at byte 73", kNull, kNull},
      // chat completions
      {"no_messages", "POST", kChat, "{}", 400, "'messages' must be a list of at least one message", "messages", kNull},
      {"empty_messages", "POST", kChat, R"({"messages":[]})", 400, "'messages' must be a list of at least one message", "messages", kNull},
      {"message_not_object", "POST", kChat, R"({"messages":["hi"]})", 400, "a message must be an object", "messages.0", kNull},
      {"no_role", "POST", kChat, R"({"messages":[{"role":"user","content":"a"},{"content":"b"}]})", 400, "a message needs a string 'role'", "messages.1.role", kNull},
      {"empty_role", "POST", kChat, R"({"messages":[{"role":"","content":"b"}]})", 400, "a message needs a string 'role'", "messages.0.role", kNull},
      {"no_content", "POST", kChat, R"({"messages":[{"role":"user"}]})", 400, "a message needs a 'content'", "messages.0.content", kNull},
      {"content_number", "POST", kChat, R"({"messages":[{"role":"user","content":1}]})", 400, "'content' must be a string or a list of parts", "messages.0.content", kNull},
      {"image_part", "POST", kChat, R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]})", 400,
       "this model takes no content parts of type \"image_url\"; send text", "messages.0.content.0", kNull},
      {"template_refuses", "POST", kChat, R"({"messages":[{"role":"refused","content":"x"}]})", 400, "the template refuses this role", "messages", "invalid"},
      {"unknown_model", "POST", kChat, R"({"model":"gpt-4o","messages":[{"role":"user","content":"x"}]})", 404,
       "the model \"gpt-4o\" does not exist here; this server has \"org/fake-model\"", "model", "model_not_found"},
      {"temperature_text", "POST", kChat, R"({"temperature":"hot"})", 400, "'temperature' must be a number, not string", "temperature", kNull},
      {"temperature_high", "POST", kChat, R"({"temperature":2.5})", 400, "'temperature' is 2.5; it must be from 0 to 2", "temperature", kNull},
      {"n_zero", "POST", kChat, R"({"n":0})", 400, "'n' is 0; it must be from 1 to 128", "n", kNull},
      {"seed_half", "POST", kChat, R"({"seed":1.5})", 400, "'seed' is 1.5; it must be an integer of 64 bits", "seed", kNull},
      {"seed_huge", "POST", kChat, R"({"seed":18446744073709551615})", 400, "'seed' is 18446744073709551615; it must be an integer of 64 bits", "seed", kNull},
      {"stop_empty", "POST", kChat, R"({"stop":""})", 400, "'stop' must be a string or a list of at most 64 strings, none of them empty or longer than 1024 bytes", "stop", kNull},
      {"bias_token", "POST", kChat, R"({"logit_bias":{"260":1}})", 400, "'logit_bias' names token \"260\"; ids go from 0 to 259", "logit_bias", kNull},
      {"bias_value", "POST", kChat, R"({"logit_bias":{"7":101}})", 400, "'logit_bias' of token 7 must be a number from -100 to 100", "logit_bias", kNull},
      {"stop_ids", "POST", kChat, R"({"stop_token_ids":[260]})", 400, "'stop_token_ids' must hold token ids from 0 to 259", "stop_token_ids", kNull},
      {"options_without_stream", "POST", kChat, R"({"stream_options":{"include_usage":true}})", 400, "'stream_options' is allowed only with 'stream': true", "stream_options", kNull},
      {"option_type", "POST", kChat, R"({"stream":true,"stream_options":{"include_usage":"yes"}})", 400, "'include_usage' must be true or false, not string", "stream_options.include_usage", kNull},
      {"top_logprobs_alone", "POST", kChat, R"({"top_logprobs":3})", 400, "'top_logprobs' is allowed only with 'logprobs': true", "top_logprobs", kNull},
      {"top_logprobs_many", "POST", kChat, R"({"logprobs":true,"top_logprobs":21})", 400, "'top_logprobs' is 21; it must be from 0 to 20", "top_logprobs", kNull},
      {"tool_without_name", "POST", kChat, R"({"tools":[{"type":"function","function":{}}]})", 400, "a tool must be {\"type\": \"function\", \"function\": {\"name\": …}}", "tools.0", kNull},
      {"choice_without_tools", "POST", kChat, R"({"tool_choice":"required"})", 400, "'tool_choice' needs 'tools'", "tool_choice", kNull},
      {"choice_of_no_tool", "POST", kChat, R"({"tools":[{"type":"function","function":{"name":"a"}}],"tool_choice":{"type":"function","function":{"name":"b"}}})", 400,
       "there is no tool \"b\"", "tool_choice", kNull},
      {"two_forms", "POST", kChat, R"({"guided_regex":"a+","guided_choice":["a"]})", 400,
       "'guided_regex' and 'guided_choice' both say what the answer must look like; send one of them", "guided_choice", kNull},
      {"prediction", "POST", kChat, R"({"messages":[{"role":"user","content":"x"}],"prediction":"x"})", 400,
       "'prediction' must be an object with the type \"content\" and a 'content'", "prediction", kNull},
      // completions
      {"no_prompt", "POST", kText, "{}", 400, "'prompt' is missing", "prompt", kNull},
      {"prompt_object", "POST", kText, R"({"prompt":{}})", 400,
       "'prompt' must be a string, a list of strings, a list of token ids or a list of such lists, none empty", "prompt", kNull},
      {"prompt_ids", "POST", kText, R"({"prompt":[1,260]})", 400, "'prompt' must hold token ids from 0 to 259", "prompt", kNull},
      {"suffix", "POST", kText, R"({"prompt":"a","suffix":"b"})", 400, "'suffix' is not supported: this model only continues text", "suffix", kNull},
      {"best_of_less", "POST", kText, R"({"prompt":"a","n":3,"best_of":2})", 400, "'best_of' must be at least 'n'", "best_of", kNull},
      {"best_of_stream", "POST", kText, R"({"prompt":"a","best_of":2,"stream":true})", 400, "'best_of' above 'n' cannot be streamed", "best_of", kNull},
      {"too_long", "POST", kText, R"({"prompt":"abcdef","max_tokens":2043})", 400,
       "this model's context is 2048 tokens; the prompt has 6 and the answer may have 2043: shorten the prompt or lower max_tokens", kNull, "context_length_exceeded"},
      {"too_many", "POST", kText, R"({"prompt":["a","b","c"],"n":100})", 400, "the request asks for more than 256 answers", "n", kNull},
      {"return_cache_of_two", "POST", kText, R"({"prompt":"a","n":2,"return_cache":true})", 400, "'return_cache' gives one handle: ask for one answer to one prompt", "return_cache", kNull},
      {"unknown_cache", "POST", kText, R"({"prompt":"a","cache_id":"nothing"})", 404, "there is no cache 'nothing'; it was never made here, was deleted or has expired", "cache_id", "cache_not_found"},
      // responses
      {"no_input", "POST", "/v1/responses", "{}", 400, "'input' must be a string or a list of messages", "input", kNull},
      {"empty_input", "POST", "/v1/responses", R"({"input":[]})", 400, "'input' must be a list of at least one message", "input", kNull},
      {"input_item", "POST", "/v1/responses", R"({"input":[{"role":"user"}]})", 400, "a message needs a 'content'", "input.0.content", kNull},
      {"output_limit", "POST", "/v1/responses", R"({"input":"a","max_output_tokens":0})", 400, "'max_output_tokens' is 0; it must be from 1 to 4294967295", "max_output_tokens", kNull},
      {"previous", "POST", "/v1/responses", R"({"input":"a","previous_response_id":"resp_1"})", 400,
       "'previous_response_id' is not supported: this server keeps no responses; send the whole input", "previous_response_id", kNull},
      // texts, caches, administration
      {"tokenize_nothing", "POST", "/tokenize", "{}", 400, "send a 'prompt', 'content' or 'text', or 'messages'", "prompt", kNull},
      {"tokenize_type", "POST", "/tokenize", R"({"prompt":["a"]})", 400, "'prompt' must be a string, not array", "prompt", kNull},
      {"detokenize_nothing", "POST", "/detokenize", "{}", 400, "'tokens' is missing", "tokens", kNull},
      {"detokenize_range", "POST", "/detokenize", R"({"tokens":[-1]})", 400, "'tokens' must hold token ids from 0 to 259", "tokens", kNull},
      {"template_nothing", "POST", "/apply-template", "{}", 400, "'messages' must be a list of at least one message", "messages", kNull},
      {"cache_nothing", "POST", "/v1/caches", "{}", 400, "send a 'prompt', 'messages' or 'tokens' to keep", "prompt", kNull},
      {"cache_tokens", "POST", "/v1/caches", R"({"tokens":[260]})", 400, "'tokens' must hold token ids from 0 to 259", "tokens", kNull},
      {"cache_ttl", "POST", "/v1/caches", R"({"prompt":"a","ttl_s":0})", 400, "'ttl_s' is 0; it must be from 1 to 2592000", "ttl_s", kNull},
      {"cache_change", "POST", "/v1/caches/x/shrink", "{}", 404, "a cache is changed by POST /v1/caches/ID/extend, /crop or /fork", kNull, "unknown_url"},
      {"cache_unknown", "GET", "/v1/caches/nothing", "", 404, "there is no cache 'nothing'; it was never made here, was deleted or has expired", "cache_id", "cache_not_found"},
      {"worker_id", "POST", "/admin/drain/one", "", 400, "the worker's id must be a number, as /admin/cluster shows it", "worker", kNull},
      {"worker_unknown", "POST", "/admin/drain/8", "", 404, "there is no worker 8", kNull, "not_found"},
      {"worker_overflow", "POST", "/admin/drain/4294967296", "", 400, "the worker's id must be a number, as /admin/cluster shows it", "worker", kNull},
      {"role_missing", "POST", "/admin/role/7", "{}", 400, "role must be one of prefill, decode, prefill+decode", "role", kNull},
      {"explain_nothing", "POST", "/debug/explain", "{}", 400, "send a 'prompt', 'messages' or 'tokens'", "prompt", kNull},
      {"explain_tenant", "POST", "/debug/explain", R"({"prompt":"a","tenant":5})", 400, "'tenant' must be a string, not number", "tenant", kNull},
      {"route_tenant", "POST", "/debug/route", R"({"prompt":"a","tenant":5})", 400, "'tenant' must be a string, not number", "tenant", kNull},
      {"route_nothing", "POST", "/debug/route", "{}", 400, "'prompt' is missing", "prompt", kNull},
      {"request_unknown", "GET", "/debug/requests/cmpl-0123456789abcdef", "", 404, "no answer of that id is remembered here", "id", "not_found"},
      {"request_no_id", "GET", "/debug/requests/%2e%2e", "", 404, "no answer of that id is remembered here", "id", "not_found"},
      // paths and methods
      {"path", "GET", "/v2/%3Cscript%3E?x=1", "", 404, "there is no path /v2/<script> here; /openapi.json lists what there is", kNull, "unknown_url"},
      {"model_path", "GET", "/v1/models/org/other", "", 404, "the model \"org/other\" does not exist here; this server has \"org/fake-model\"", "model", "model_not_found"},
      {"get_chat", "GET", kChat, "", 405, "this path answers POST only", kNull, "method_not_allowed"},
      {"put_cache", "PUT", "/v1/caches/x", "{}", 405, "this path answers GET, HEAD, DELETE, POST only", kNull, "method_not_allowed"},
      {"options_chat", "OPTIONS", kChat, "", 405, "this path answers POST only", kNull, "method_not_allowed"},
      {"delete_models", "DELETE", "/v1/models", "", 405, "this path answers GET, HEAD only", kNull, "method_not_allowed"},
  };
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Rows, ErrorTable, testing::ValuesIn(Rows()), [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace baton
