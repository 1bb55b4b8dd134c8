// Pieces that the chat and the completion form share. Only answer_form.cc and the forms include this.
#pragma once

#include <string>
#include <vector>

#include "gateway/answer_form.h"

namespace baton {

/// {"id":…,"object":…,"created":…,"model":…,"system_fingerprint":…,"choices":[ — the front of an answer and of every chunk.
std::string FormHead(const AnswerIdentity& identity, const char* id_prefix, const char* object);
/// `name` opens the list, for example ,"token_ids":[
void AppendTokenIds(std::string& out, const char* name, const std::vector<TokenId>& ids);
std::vector<TokenId> TokensOf(const std::vector<TokenEvent>& events);
/// Closes a chunk of `choice`: the end of "choices", the usage so far where asked for, the end of the event.
void AppendChunkTail(std::string& out, const AnswerRequest& request, const Choice& choice, const std::string& cache_id = {});
/// The usage chunk where asked for, and [DONE]. `head` is a chunk's front with its "data: ".
void AppendStreamEnd(std::string& out, const std::string& head, const AnswerRequest& request, const Usage& usage, const std::string& cache_id);
/// ,"cache_id":"…" where there is one.
void AppendCacheId(std::string& out, const std::string& cache_id);

}  // namespace baton
