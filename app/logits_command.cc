// `baton logits`: one forward pass, dumped as safetensors.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/model_flags.h"
#include "app/prompt_input.h"
#include "base/bytes.h"
#include "model/kv_read.h"
#include "model/safetensors.h"

namespace baton {
namespace {

struct LogitsCommand {
  LoadOptions model;
  std::string tokens_file, out;
  bool kv = false, hidden = false, json = false;
};

/// One pass over `tokens`, and everything it left.
struct Pass {
  std::vector<TokenId> tokens;
  std::vector<std::byte> memory;
  std::vector<std::byte*> blocks;
  std::vector<float> logits;  // [tokens][vocab]
  std::vector<float> hidden;  // [layers + 1][tokens][hidden], or empty
};

Status RunPass(Model& model, bool hidden, Pass& pass) {
  const KvLayout& layout = model.kv_layout();
  const ModelInfo& info = model.info();
  const size_t n = pass.tokens.size();
  if (n == 0) return InvalidError("there are no tokens");
  if (n > info.max_positions) return InvalidError("{} tokens, the model has {} positions", n, info.max_positions);
  const size_t blocks = CeilDiv(n, layout.block_tokens);
  pass.memory.resize(blocks * layout.BlockBytes());
  for (size_t i = 0; i < blocks; ++i) pass.blocks.push_back(pass.memory.data() + i * layout.BlockBytes());
  pass.logits.resize(n * info.vocab);
  if (hidden) pass.hidden.resize((info.layers + size_t{1}) * n * info.hidden);
  const SequenceSlice slice{.tokens = pass.tokens,
                            .blocks = pass.blocks,
                            .logit_rows = static_cast<uint32_t>(n),
                            .logits = pass.logits.data(),
                            .hidden = hidden ? pass.hidden.data() : nullptr};
  return model.Forward(std::span(&slice, 1));
}

/// [kv_heads][tokens][head_dim] of one layer's K or V.
std::vector<float> GatherKv(const KvLayout& layout, const Pass& pass, uint32_t layer, uint32_t which) {
  const auto n = static_cast<uint32_t>(pass.tokens.size());
  std::vector<float> out(size_t{layout.kv_heads} * n * layout.head_dim);
  for (uint32_t head = 0; head < layout.kv_heads; ++head) {
    for (uint32_t p = 0; p < n; ++p) ReadKvVector(layout, pass.blocks, layer, which, head, p, &out[(size_t{head} * n + p) * layout.head_dim]);
  }
  return out;
}

Status WriteOut(const Model& model, const LogitsCommand& c, const Pass& pass) {
  const ModelInfo& info = model.info();
  const KvLayout& layout = model.kv_layout();
  const uint64_t n = pass.tokens.size();
  const auto floats = [](std::span<const float> values) { return Bytes(reinterpret_cast<const std::byte*>(values.data()), values.size_bytes()); };
  std::vector<SafetensorsTensor> tensors = {{"logits", SafetensorsType::kF32, {n, info.vocab}, floats(pass.logits)}};
  std::vector<std::vector<float>> gathered;  // keeps the bytes that tensors point to; a vector's buffer stays when it is moved
  for (uint32_t layer = 0; c.kv && layer < info.layers; ++layer) {
    for (uint32_t which = 0; which < 2; ++which) {
      gathered.push_back(GatherKv(layout, pass, layer, which));
      tensors.push_back({fmt::format("layers.{}.{}", layer, which == 0 ? "key" : "value"), SafetensorsType::kF32,
                         {layout.kv_heads, n, layout.head_dim}, floats(gathered.back())});
    }
  }
  const size_t level = n * info.hidden;
  for (uint32_t i = 0; c.hidden && i <= info.layers; ++i) {
    tensors.push_back({fmt::format("hidden.{}", i), SafetensorsType::kF32, {n, info.hidden}, floats(std::span(pass.hidden).subspan(i * level, level))});
  }
  return WriteSafetensors(c.out, tensors);
}

Status RunLogits(const LogitsCommand& c) {
  LazyTokenizer tokenizer(c.model.path);
  Pass pass;
  ASSIGN_OR_RETURN(pass.tokens, ReadTokensFile(c.tokens_file, tokenizer));
  ASSIGN_OR_RETURN(const auto model, LoadModel(c.model));
  RETURN_IF_ERROR(RunPass(*model, c.hidden, pass));
  RETURN_IF_ERROR(WriteOut(*model, c, pass));
  const size_t vocab = model->info().vocab;
  std::vector<size_t> argmax;
  for (size_t i = 0; i < pass.tokens.size(); ++i) {
    const auto row = pass.logits.begin() + static_cast<ptrdiff_t>(i * vocab);
    argmax.push_back(static_cast<size_t>(std::max_element(row, row + static_cast<ptrdiff_t>(vocab)) - row));
  }
  if (c.json) {
    std::printf("%s\n", nlohmann::ordered_json({{"tokens", pass.tokens.size()}, {"vocab", vocab}, {"argmax", argmax}}).dump().c_str());
  } else {
    std::printf("%zu tokens, vocabulary of %zu, written to %s\n", pass.tokens.size(), vocab, c.out.c_str());
  }
  return OkStatus();
}

}  // namespace

void AddLogitsCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<LogitsCommand>();
  LogitsCommand& c = *command;
  CLI::App* app = program.add_subcommand("logits", "one forward pass, dumped as safetensors");
  AddModelFlags(*app, c.model);
  app->add_option("--tokens", c.tokens_file, "JSON file: a list of token ids, or a request with `messages`")->required();
  app->add_option("--out", c.out, "safetensors file to write")->required();
  app->add_flag("--kv", c.kv, "also the KV cache: layers.{i}.key and .value, [kv_heads, tokens, head_dim], keys after RoPE");
  app->add_flag("--hidden", c.hidden, "also the residual stream: hidden.{i}, [tokens, hidden]; 0 is the embedding");
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] {
    const Status status = RunLogits(*command);
    if (!status.ok()) context.exit_code = Fail(status);
  });
}

}  // namespace baton
