// What the server is, how it is, and what it counts.
#include <fmt/format.h>

#include <utility>

#include "gateway/endpoints.h"
#include "gateway/json_text.h"
#include "gateway/web_page.h"

namespace baton {
namespace {

std::string ModelJson(const ModelCard& card) {
  std::string id;
  AppendJsonString(id, card.id);
  return fmt::format("{{\"id\":{},\"object\":\"model\",\"created\":{},\"owned_by\":\"baton\",\"root\":{},\"parent\":null,\"permission\":[],"
                     "\"max_model_len\":{},\"vocab_size\":{},\"block_tokens\":{},\"numerics\":\"{}\",\"kv_dtype\":\"{}\",\"fingerprint\":\"{}\"}}",
                     id, card.created_unix_s, id, card.max_positions, card.vocab, card.block_tokens, card.numerics, card.kv_dtype,
                     card.fingerprint_hex);
}

}  // namespace

kj::Promise<void> WebPage(HttpExchange& exchange, const std::string&) { return exchange.Reply(200, "text/html; charset=utf-8", WebPageHtml()); }

kj::Promise<void> OpenApi(HttpExchange& exchange, const std::string&) { return exchange.ReplyJson(OpenApiJson()); }

kj::Promise<void> Health(HttpExchange& exchange, const std::string&) {
  const Status ready = exchange.state().Ready();
  if (ready.ok()) return exchange.ReplyJson("{\"status\":\"ok\"}");
  return exchange.ReplyError(FromStatus(UnavailableError("{}", ready.message())));
}

kj::Promise<void> Live(HttpExchange& exchange, const std::string&) { return exchange.ReplyJson("{\"status\":\"ok\"}"); }

kj::Promise<void> Version(HttpExchange& exchange, const std::string&) {
  std::string out = "{\"version\":";
  AppendJsonString(out, exchange.state().config.version);
  return exchange.ReplyJson(out + "}");
}

kj::Promise<void> MetricsPage(HttpExchange& exchange, const std::string&) {
  return exchange.state().backend.MetricsText().then([&exchange](std::string cluster) {
    return exchange.Reply(200, "text/plain; version=0.0.4; charset=utf-8", exchange.state().metrics.Text() + cluster);
  });
}

kj::Promise<void> ListModels(HttpExchange& exchange, const std::string&) {
  return exchange.ReplyJson("{\"object\":\"list\",\"data\":[" + ModelJson(exchange.state().backend.card()) + "]}");
}

kj::Promise<void> GetModel(HttpExchange& exchange, const std::string& id) {
  const ModelCard& card = exchange.state().backend.card();
  if (id == card.id) return exchange.ReplyJson(ModelJson(card));
  return exchange.ReplyError({404, fmt::format("the model \"{}\" does not exist here; this server has \"{}\"", ValidUtf8(id), card.id), "model",
                              "model_not_found", 0});
}

}  // namespace baton
