// How the answers of each API look: the pieces of a stream and the whole. Everything is written into one buffer by hand; what
// does not change from token to token is made once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/answer_request.h"
#include "gateway/choice.h"
#include "gateway/text_codec.h"

namespace baton {

/// The fields that all pieces of an answer share.
struct AnswerIdentity {
  std::string id;  // without its prefix, for example "1f00ba7a"
  int64_t created_unix_s = 0;
  std::string model, fingerprint;
};

struct Usage {
  uint64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0, cache_write_tokens = 0;
  uint64_t accepted_prediction_tokens = 0, rejected_prediction_tokens = 0;
};
/// {"prompt_tokens":…,"completion_tokens":…,"total_tokens":…,"prompt_tokens_details":{…},"completion_tokens_details":{…}}
void AppendUsage(std::string& out, const Usage& usage);
/// "stop" or "length".
const char* FinishReasonName(FinishReason reason);

/// Thread: the gateway's loop. The stream's methods append whole SSE events.
class AnswerForm {
 public:
  virtual ~AnswerForm() = default;
  /// The handle of the answer's KV, which what comes last names.
  void set_cache_id(std::string id) { cache_id_ = std::move(id); }
  virtual void Begin(std::string& out) = 0;  // before the first token of any choice
  virtual void Token(std::string& out, const Choice& choice, std::string_view text, const TokenEvent& event) = 0;
  virtual void End(std::string& out, const Choice& choice, std::string_view rest) = 0;
  virtual void Done(std::string& out, const Usage& usage) = 0;
  /// The answer sent whole; choices in the order of their index.
  virtual std::string Whole(const std::vector<const Choice*>& choices, const Usage& usage) = 0;

 protected:
  std::string cache_id_;
};

/// `request` and `codec` outlive the form.
std::unique_ptr<AnswerForm> NewChatForm(AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec);
std::unique_ptr<AnswerForm> NewCompletionForm(AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec);
std::unique_ptr<AnswerForm> NewResponsesForm(AnswerIdentity identity, const AnswerRequest& request);

}  // namespace baton
