// The gateway's TextCodec made of a model's own tokenizer and chat template.
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/status.h"
#include "gateway/text_codec.h"

namespace baton {

/// `model_path`: a GGUF file or a Hugging Face folder. `clock` gives templates the date and must outlive the codec.
/// Answers are decoded without special tokens. A model without a chat template loads; its Render and EncodeChat give
/// kInvalid and name /v1/completions instead. Errors: kNotFound, kInvalid (file, field and reason; for a template that
/// does not parse its line).
///
/// What the codec makes of a request body before the template sees it: add_generation_prompt is true unless the body says
/// otherwise or continues a message; a tool call's `arguments` in JSON text become the object; content given as text parts
/// becomes one text where the template knows no parts. The body's own `special_tokens` and `now` are ignored.
Result<std::unique_ptr<TextCodec>> LoadTextCodec(const std::string& model_path, const Clock& clock);

}  // namespace baton
