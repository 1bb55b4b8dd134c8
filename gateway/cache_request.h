// What clients ask of cache handles, read and checked; and how a handle looks to them.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "gateway/answer_request.h"
#include "gateway/api_error.h"
#include "gateway/backend.h"
#include "gateway/caches.h"
#include "gateway/text_codec.h"

namespace baton {

/// The body of a call that makes or changes a handle.
struct CacheRequest {
  enum class Source { kNone, kPrompt, kMessages, kTokens };
  Source source = Source::kNone;
  std::vector<TokenId> tokens;     // of `prompt`, `messages` or `tokens`
  std::optional<double> ttl_s;
  std::optional<bool> pin;
  std::optional<int64_t> length;   // of crop and fork: keep so many tokens; negative: drop so many from the end
  std::string cache_salt;

  /// When a handle that is made or changed at `now` expires; 0: never.
  double Expires(double now, double default_ttl_s) const { return pin.value_or(false) ? 0 : now + ttl_s.value_or(default_ttl_s); }
};

/// Errors: 400 names the field; 404 for another model. With `append`, a `prompt` is the text to add: no BOS before it.
std::optional<ApiError> ReadCacheRequest(const nlohmann::ordered_json& body, const TextCodec& codec, const ModelCard& card, bool append, CacheRequest& out);

/// What each operation makes of a record; kInvalid says what does not fit.
Result<CacheRecord> ExtendRecord(CacheRecord record, const CacheRequest& request, const ModelCard& card);
Result<CacheRecord> CropRecord(CacheRecord record, const CacheRequest& request);

/// Where two token sequences first differ, at the latest where the shorter ends.
size_t CommonPrefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b);
/// Ok when `prompt` begins with all tokens of the handle, else 422 that says where they part.
std::optional<ApiError> CheckCachePrefix(const CacheRecord& record, const std::vector<TokenId>& prompt, const TextCodec& codec);

/// How a failed operation is told: kInvalid is 422 here, and each has a code for programs.
ApiError CacheError(const Status& status);
std::string CacheJson(const CacheHandle& handle);

}  // namespace baton
