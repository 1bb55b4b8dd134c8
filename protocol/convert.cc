#include "protocol/convert.h"

#include <cstring>

#include "protocol/wire_text.h"

namespace baton {

Result<BlockKey> ReadKey(capnp::Data::Reader data) {
  BlockKey key;
  if (data.size() != key.bytes.size()) return InvalidError("a block key has {} bytes, must have {}", data.size(), key.bytes.size());
  std::memcpy(key.bytes.data(), data.begin(), data.size());
  return key;
}

Result<std::vector<BlockKey>> ReadKeys(capnp::List<capnp::Data>::Reader list) {
  std::vector<BlockKey> keys;
  keys.reserve(list.size());
  for (const capnp::Data::Reader data : list) {
    ASSIGN_OR_RETURN(const BlockKey key, ReadKey(data));
    keys.push_back(key);
  }
  return Result<std::vector<BlockKey>>(std::move(keys));
}

void WriteKeys(std::span<const BlockKey> keys, capnp::List<capnp::Data>::Builder out) {
  for (uint32_t i = 0; i < keys.size(); ++i) out.set(i, ToData(keys[i]));
}

void WriteTokens(std::span<const TokenId> tokens, capnp::List<int32_t>::Builder out) {
  for (uint32_t i = 0; i < tokens.size(); ++i) out.set(i, tokens[i]);
}

std::vector<TokenId> ReadTokens(capnp::List<int32_t>::Reader list) {
  std::vector<TokenId> tokens;
  tokens.reserve(list.size());
  for (const int32_t token : list) tokens.push_back(token);
  return tokens;
}

void WriteDigest(const Digest128& digest, wire::Digest::Builder out) {
  out.setLow(digest.low);
  out.setHigh(digest.high);
}

Digest128 ReadDigest(wire::Digest::Reader in) { return {in.getLow(), in.getHigh()}; }

namespace {

void WriteSampling(const SamplingParams& p, wire::Sampling::Builder out) {
  out.setTemperature(p.temperature);
  out.setTopP(p.top_p);
  out.setMinP(p.min_p);
  out.setTypicalP(p.typical_p);
  out.setRepetitionPenalty(p.repetition_penalty);
  out.setPresencePenalty(p.presence_penalty);
  out.setFrequencyPenalty(p.frequency_penalty);
  out.setTopK(p.top_k);
  out.setNoRepeatNgram(p.no_repeat_ngram);
  out.setSeed(p.seed);
  out.setLogprobs(p.logprobs);
  out.setMinTokens(p.min_tokens);
  out.setGrammar(ToText(p.grammar));
  auto biases = out.initLogitBias(static_cast<uint32_t>(p.logit_bias.size()));
  uint32_t i = 0;
  for (const auto& [token, bias] : p.logit_bias) {
    biases[i].setToken(token);
    biases[i++].setBias(bias);
  }
}

SamplingParams ReadSampling(wire::Sampling::Reader in) {
  SamplingParams p;
  p.temperature = in.getTemperature();
  p.top_p = in.getTopP();
  p.min_p = in.getMinP();
  p.typical_p = in.getTypicalP();
  p.repetition_penalty = in.getRepetitionPenalty();
  p.presence_penalty = in.getPresencePenalty();
  p.frequency_penalty = in.getFrequencyPenalty();
  p.top_k = in.getTopK();
  p.no_repeat_ngram = in.getNoRepeatNgram();
  p.seed = in.getSeed();
  p.logprobs = in.getLogprobs();
  p.min_tokens = in.getMinTokens();
  p.grammar = ToString(in.getGrammar());
  for (const auto bias : in.getLogitBias()) p.logit_bias[bias.getToken()] = bias.getBias();
  return p;
}

}  // namespace

void WriteRequest(const GenerateRequest& request, const BlockKey& root, wire::GenerateRequest::Builder out) {
  out.setId(request.id.value);
  out.setTenant(ToText(request.tenant));
  WriteTokens(request.prompt, out.initPrompt(static_cast<uint32_t>(request.prompt.size())));
  out.setMaxTokens(request.max_tokens);
  out.setGenerated(request.generated);
  WriteSampling(request.sampling, out.initSampling());
  out.setIgnoreEos(request.ignore_eos);
  WriteTokens(request.stop_tokens, out.initStopTokens(static_cast<uint32_t>(request.stop_tokens.size())));
  out.setPriority(request.priority);
  out.setDeadlineS(request.deadline_s);
  out.setRoot(ToData(root));
  out.setKeep(request.keep);
  if (!request.prediction.empty()) WriteTokens(request.prediction, out.initPrediction(static_cast<uint32_t>(request.prediction.size())));
}

Result<ReceivedRequest> ReadRequest(wire::GenerateRequest::Reader in) {
  ReceivedRequest r;
  r.request.id = RequestId(in.getId());
  r.request.tenant = ToString(in.getTenant());
  r.request.prompt = ReadTokens(in.getPrompt());
  r.request.max_tokens = in.getMaxTokens();
  r.request.generated = in.getGenerated();
  r.request.sampling = ReadSampling(in.getSampling());
  r.request.ignore_eos = in.getIgnoreEos();
  r.request.stop_tokens = ReadTokens(in.getStopTokens());
  r.request.priority = in.getPriority();
  r.request.deadline_s = in.getDeadlineS();
  r.request.keep = in.getKeep();
  r.request.prediction = ReadTokens(in.getPrediction());
  if (r.request.id.value == 0) return InvalidError("a request without an id");
  ASSIGN_OR_RETURN(r.root, ReadKey(in.getRoot()));
  return Result<ReceivedRequest>(std::move(r));
}

void WriteToken(const TokenEvent& event, wire::TokenEvent::Builder out) {
  out.setToken(event.token);
  out.setLogprob(event.logprob);
  out.setPredicted(event.predicted);
  out.setRejectedTokens(event.rejected_tokens);
  if (event.top.empty()) return;
  auto top = out.initTop(static_cast<uint32_t>(event.top.size()));
  for (uint32_t i = 0; i < event.top.size(); ++i) {
    top[i].setToken(event.top[i].token);
    top[i].setLogprob(event.top[i].logprob);
  }
}

TokenEvent ReadToken(wire::TokenEvent::Reader in) {
  TokenEvent event;
  event.token = in.getToken();
  event.logprob = in.getLogprob();
  event.predicted = in.getPredicted();
  event.rejected_tokens = in.getRejectedTokens();
  for (const auto top : in.getTop()) event.top.push_back({top.getToken(), top.getLogprob()});
  return event;
}

void WriteStats(const RequestStats& stats, wire::Stats::Builder out) {
  out.setPromptTokens(stats.prompt_tokens);
  out.setCachedTokens(stats.cached_tokens);
  out.setCacheWriteTokens(stats.cache_write_tokens);
  out.setQueueS(stats.queue_s);
  out.setPrefillS(stats.prefill_s);
  out.setDecodeS(stats.decode_s);
  out.setRoute(ToText(stats.route));
}

RequestStats ReadStats(wire::Stats::Reader in) {
  RequestStats stats;
  stats.prompt_tokens = in.getPromptTokens();
  stats.cached_tokens = in.getCachedTokens();
  stats.cache_write_tokens = in.getCacheWriteTokens();
  stats.queue_s = in.getQueueS();
  stats.prefill_s = in.getPrefillS();
  stats.decode_s = in.getDecodeS();
  stats.route = ToString(in.getRoute());
  return stats;
}

FinishReason ReadReason(uint8_t reason) {
  return reason <= static_cast<uint8_t>(FinishReason::kError) ? static_cast<FinishReason>(reason) : FinishReason::kError;
}

void WriteCacheRecord(const CacheRecord& record, wire::CacheRecord::Builder out) {
  out.setId(ToText(record.id));
  out.setTenant(ToText(record.tenant));
  WriteTokens(record.tokens, out.initTokens(static_cast<uint32_t>(record.tokens.size())));
  out.setCreatedUnixS(record.created_unix_s);
  out.setExpiresUnixS(record.expires_unix_s);
}

CacheRecord ReadCacheRecord(wire::CacheRecord::Reader in) {
  return {ToString(in.getId()), ToString(in.getTenant()), ReadTokens(in.getTokens()), in.getCreatedUnixS(), in.getExpiresUnixS()};
}

void WriteHeldBlocks(const HeldBlocks& blocks, wire::HeldBlocks::Builder out) {
  out.setHeld(blocks.held);
  out.setMemory(blocks.memory);
  out.setDisk(blocks.disk);
  out.setBytes(blocks.bytes);
}

HeldBlocks ReadHeldBlocks(wire::HeldBlocks::Reader in) { return {in.getHeld(), in.getMemory(), in.getDisk(), in.getBytes()}; }

}  // namespace baton
