// What people and tools see of the coordinator, as JSON.
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "coordinator/coordinator.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

/// Tenants and names come from outside: bytes that are no UTF-8 are replaced, never an exception.
std::string Text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json PrefillJson(WorkerId prefill) { return prefill == WorkerId() ? Json("local") : Json(prefill.value); }

/// Ids of requests use all 64 bits, of which a browser's numbers hold 53. As the answer's own id shows it.
std::string IdText(RequestId id) { return fmt::format("{:016x}", id.value); }

Json ToJson(const RouteCandidate& candidate) {
  const CostTerms& cost = candidate.cost;
  return {{"decode", candidate.decode.value},
          {"prefill", PrefillJson(candidate.prefill)},
          {"cached_tokens", candidate.cached_tokens},
          {"cached_from", CacheSourceName(candidate.cached_from)},
          {"queue_s", cost.queue_s},
          {"store_load_s", cost.store_load_s},
          {"prefill_s", cost.prefill_s},
          {"transfer_s", cost.transfer_s},
          {"interference_s", cost.interference_s},
          {"decode_s", cost.decode_s},
          {"work_s", cost.work_s},
          {"total_s", cost.total_s},
          {"ttft_s", cost.TtftSeconds()}};
}

Json Ids(const std::vector<WorkerId>& workers) {
  Json ids = Json::array();
  for (const WorkerId worker : workers) ids.push_back(worker.value);
  return ids;
}

Json ToJson(const RouteDecision& decision) {
  Json json = {{"ok", decision.ok()}};
  if (!decision.ok()) {
    json["error"] = decision.status.message();
    json["code"] = StatusCodeName(decision.status.code());
    json["retry_after_s"] = decision.retry_after_s;
  }
  json["route"] = decision.reason;
  json["chosen"] = ToJson(decision.chosen);
  json["prefill_order"] = Ids(decision.prefill_order);
  json["decode_alternates"] = Ids(decision.decode_alternates);
  json["candidates"] = Json::array();
  for (const RouteCandidate& candidate : decision.candidates) json["candidates"].push_back(ToJson(candidate));
  return json;
}

/// One line of the list of last decisions.
Json Summary(const RouteRecord& record) {
  Json json = {{"request", IdText(record.request)},
               {"tenant", record.tenant},
               {"unix_s", record.unix_s},
               {"prompt_tokens", record.prompt_tokens},
               {"route", record.decision.reason}};
  if (!record.decision.ok()) json["error"] = record.decision.status.message();
  if (record.decision.held_s > 0) json["held_s"] = record.decision.held_s;
  json["predicted_ttft_s"] = record.decision.predicted_ttft_s;
  if (record.finished) {
    json["ok"] = record.outcome.ok;
    json["ttft_s"] = record.outcome.ttft_s;
    json["total_s"] = record.outcome.total_s;
    json["cached_tokens"] = record.outcome.cached_tokens;
  }
  return json;
}

Json ToJson(const WorkerLoad& load) {
  return {{"running", load.running},
          {"waiting", load.waiting},
          {"queued_prefill_tokens", load.queued_prefill_tokens},
          {"free_blocks", load.free_blocks},
          {"total_blocks", load.total_blocks},
          {"steps", load.steps},
          {"prefill_tokens_per_s", load.prefill_tokens_per_s},
          {"decode_step_s", load.decode_step_s},
          {"transfer_bytes_per_s", load.transfer_bytes_per_s},
          {"store_bytes_per_s", load.store_bytes_per_s},
          {"step_model", {{"base_s", load.step_model.base_s}, {"token_s", load.step_model.token_s}, {"pair_s", load.step_model.pair_s}, {"row_s", load.step_model.row_s}}}};
}

/// What was predicted beside what happened.
Json Comparison(const RouteRecord& record) {
  const CostTerms& cost = record.decision.chosen.cost;
  const RequestOutcome& outcome = record.outcome;
  const double ttft_s = record.decision.predicted_ttft_s;
  Json json = {{"held_s", record.decision.held_s},
               {"queue_s", {{"predicted", cost.queue_s}}},
               {"prefill_s", {{"predicted", cost.store_load_s + cost.prefill_s}}},
               {"ttft_s", {{"predicted", ttft_s}}},
               {"cached_tokens", {{"predicted", record.decision.chosen.cached_tokens}}}};
  if (!record.finished) return json;
  json["queue_s"]["actual"] = outcome.queue_s;
  json["prefill_s"]["actual"] = outcome.prefill_s;
  json["ttft_s"]["actual"] = outcome.ttft_s;
  if (outcome.ttft_s > 0) json["ttft_s"]["error"] = std::abs(ttft_s - outcome.ttft_s) / outcome.ttft_s;
  json["cached_tokens"]["actual"] = outcome.cached_tokens;
  json["decode_s"] = {{"actual", outcome.decode_s}};
  json["generated_tokens"] = outcome.generated_tokens;
  json["moves"] = outcome.moves;
  return json;
}

Json ToJson(const Member& member, Instant now) {
  const MemberInfo& info = member.info;
  const char* state = !member.alive ? "dead" : member.stuck ? "stuck" : !member.ready ? "starting" : info.draining ? "draining" : "ready";
  return {{"id", info.id.value},
          {"incarnation", info.incarnation.value},
          {"name", info.name},
          {"host", info.hostname},
          {"address", info.address.ToString()},
          {"transport", info.transport_address},
          {"pid", info.pid},
          {"roles", info.roles},
          {"state", state},
          {"synced", member.synced},
          {"silent_s", ToSeconds(now - member.last_heard)},
          {"load", ToJson(member.load)}};
}

}  // namespace

std::string Coordinator::ClusterJson() const {
  constexpr size_t kShownDecisions = 32;
  const ModelIdentity& identity = membership_.identity();
  Json json = {{"model",
                {{"name", identity.model_name},
                 {"kv_layout", identity.kv_layout},
                 {"numerics", identity.numerics},
                 {"block_tokens", identity.block_tokens}}},
               {"policy", RoutePolicyName(config_.router.policy)},
               {"membership_version", membership_.version()},
               {"index", {{"blocks", index_.keys()}, {"holder_blocks", index_.holder_blocks()}, {"bytes", index_.bytes()}}},
               {"prediction",
                {{"samples", ttft_errors_.size()},
                 {"ttft_offset_s", calibration_.offset_s()},
                 {"ttft_factor", calibration_.factor()},
                 {"ttft_error_median", ttft_errors_.Quantile(0.5)}, {"ttft_error_p90", ttft_errors_.Quantile(0.9)}}},
               {"admission",
                {{"held", admission_.held()}, {"in_flight", admission_.in_flight()}, {"tokens_in_flight", admission_.tokens_in_flight()}, {"refused", admission_.refused()}}},
               {"workers", Json::array()},
               {"decisions", Json::array()}};
  for (const auto& [id, member] : membership_.members()) json["workers"].push_back(ToJson(member, clock_.Now()));
  const size_t hidden = decisions_.size() - std::min(decisions_.size(), kShownDecisions);
  for (size_t i = hidden; i < decisions_.size(); ++i) json["decisions"].push_back(Summary(decisions_[i]));
  return Text(json);
}

std::string Coordinator::ExplainRouteJson(std::span<const BlockKey> keys, RouteQuery query) const {
  FillQuery(query);
  std::vector<WorkerView> views;
  FillViews(keys, views);
  Json json = ToJson(baton::Route(config_.router, query, views));
  json["prompt_tokens"] = query.prompt_tokens;
  return Text(json);
}

Result<std::string> Coordinator::ExplainRequestJson(RequestId request) const {
  const RouteRecord* record = FindDecision(request);
  if (record == nullptr) return NotFoundError("request {} is not among the last {} decisions", IdText(request), config_.kept_decisions);
  Json json = Summary(*record);
  json["predicted_and_actual"] = Comparison(*record);
  json["decision"] = ToJson(record->decision);
  return Text(json);
}

}  // namespace baton
