#include "tests/fuzz/fuzz_model.h"

#include <stdlib.h>

#include <fstream>

#include "base/check.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "model/tokenizer_utf8.h"

namespace baton {

FuzzFolder::FuzzFolder() {
  char name[] = "/tmp/baton_fuzz_XXXXXX";
  CHECK(mkdtemp(name) != nullptr);
  path_ = name;
}

std::string FuzzFolder::Write(const std::string& name, Bytes bytes) const {
  std::string path = path_ + "/" + name;
  std::ofstream(path, std::ios::binary) << AsText(bytes);
  return path;
}

void UseModel(const std::string& path) {
  LoadOptions options;
  options.path = path;
  options.block_tokens = 4;
  options.threads = 1;
  options.weights_cache = "none";
  for (const char* isa : {"scalar", "auto"}) {
    options.isa = isa;
    const auto model = LoadModel(options);
    if (!model.ok()) {
      CHECK(!model.status().message().empty());
      return;
    }
    constexpr uint64_t kMostKvBytes = 1 << 24, kMostVocab = 1 << 16;
    const uint64_t kv_bytes = (*model)->kv_layout().BlockBytes(), vocab = (*model)->info().vocab;
    if (kv_bytes > kMostKvBytes || vocab > kMostVocab || (*model)->info().max_positions < 2) return;
    std::vector<std::byte> block(kv_bytes);
    std::byte* const blocks[] = {block.data()};
    std::vector<float> logits(vocab);
    const TokenId tokens[] = {0, static_cast<TokenId>(vocab - 1)};
    SequenceSlice slice;
    slice.tokens = tokens;
    slice.blocks = blocks;
    slice.logit_rows = 1;
    slice.logits = logits.data();
    CHECK((*model)->Forward({&slice, 1}).ok());
  }
}

void UseTokenizer(const std::string& path) {
  const auto tokenizer = Tokenizer::Load(path);
  if (!tokenizer.ok()) return;
  for (const bool special : {false, true}) {
    const auto ids = (*tokenizer)->Encode("Hello w\xC3\xB6rld <|im_end|> 123\n\n \xFF", {.parse_special = special, .add_special = true});
    CHECK(IsValidUtf8((*tokenizer)->Decode(ids, special)));
  }
}

}  // namespace baton
