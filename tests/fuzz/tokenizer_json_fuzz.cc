// Any bytes as tokenizer.json: loading fails cleanly or gives a tokenizer that encodes and decodes any text.
#include <stdlib.h>

#include <cstdint>
#include <fstream>
#include <string>

#include "base/check.h"
#include "model/tokenizer.h"
#include "model/tokenizer_utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string folder = [] {
    char name[] = "/tmp/baton_fuzz_XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    return std::string(name);
  }();
  std::ofstream(folder + "/tokenizer.json", std::ios::binary).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  const auto tokenizer = baton::Tokenizer::Load(folder);
  if (!tokenizer.ok()) return 0;
  const std::string text(reinterpret_cast<const char*>(data), std::min<size_t>(size, 512));
  for (const bool special : {false, true}) {
    const auto ids = (*tokenizer)->Encode("Hello w\xC3\xB6rld <|im_end|> 123\n\n" + text, {.parse_special = special, .add_special = true});
    CHECK(baton::IsValidUtf8((*tokenizer)->Decode(ids, special)));
  }
  return 0;
}
