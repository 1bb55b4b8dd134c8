// `baton store explain`: for each block of a prompt, whether a store's folder holds it, or why not.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/cluster_backend.h"
#include "app/model_flags.h"
#include "app/prompt_input.h"
#include "app/rank_parts.h"
#include "base/log.h"
#include "kvstore/explain.h"
#include "kvstore/store_identity.h"

namespace baton {
namespace {

struct ExplainCommand {
  LoadOptions model;
  PromptInput prompt;
  std::string path, tenant, tenant_secret, cache_salt;
  bool json = false;
};

/// Why no block of the folder can be this model's; "" when they can be.
std::string Mismatch(const StoreIdentity& stored, const StoreIdentity& asked) {
  if (stored.model_fingerprint != asked.model_fingerprint) return "model";
  if (stored.numerics != asked.numerics) return "numerics";
  if (stored.kv_layout == asked.kv_layout) return "";
  const auto a = ParseKvLayout(stored.kv_layout), b = ParseKvLayout(asked.kv_layout);
  if (a.ok() && b.ok() && a->block_tokens != b->block_tokens) return "block_tokens";
  return a.ok() && b.ok() && a->dtype != b->dtype ? "dtype" : "layout";
}

void PrintForeign(const ExplainCommand& c, const std::vector<BlockKey>& keys, const std::string& reason, const StoreIdentity& stored, const StoreIdentity& asked) {
  for (size_t i = 0; c.json && i < keys.size(); ++i) {
    const nlohmann::ordered_json row = {{"block", i}, {"key", keys[i].ToHex()}, {"hit", false}, {"reason", reason},
                                        {"stored", stored.ToString()}, {"asked", asked.ToString()}};
    std::printf("%s\n", row.dump().c_str());
  }
  if (!c.json) std::printf("no block can hit: %s differs\n  stored: %s\n  asked:  %s\n", reason.c_str(), stored.ToString().c_str(), asked.ToString().c_str());
}

std::string Sentence(const BlockVerdict& v, LazyTokenizer& lazy) {
  const auto piece = [&lazy](TokenId id) {
    const auto tokenizer = lazy.Get();
    return id < 0 || !tokenizer.ok() ? std::string("its end") : fmt::format("{} '{}'", id, (*tokenizer)->Decode(std::vector{id}));
  };
  switch (v.reason) {
    case BlockVerdict::Reason::kHit: return "hit";
    case BlockVerdict::Reason::kDiffers: return fmt::format("token differs at position {}: asked {}, stored {}", v.position, piece(v.asked), piece(v.stored));
    case BlockVerdict::Reason::kSalt: return "held for another tenant or cache_salt only";
    case BlockVerdict::Reason::kParent: return "held, but a block before it is missing";
    case BlockVerdict::Reason::kEvicted: return fmt::format("evicted at {:.0f} (seconds since 1970)", v.evicted_unix_s);
    case BlockVerdict::Reason::kNeverStored: return "never stored, or too long ago to be remembered";
  }
  CHECK(false);
}

Status Explain(const ExplainCommand& c) {
  ASSIGN_OR_RETURN(const ModelDescription described, DescribeModel(c.model));
  LazyTokenizer tokenizer(c.model.path);
  ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, ReadPrompt(c.prompt, tokenizer));
  BlockStoreConfig config;
  config.path = c.path;
  config.read_only = true;
  config.disk_bytes = 1ull << 44;
  ASSIGN_OR_RETURN(const auto store, OpenBlockStore(config));
  ASSIGN_OR_RETURN(const StoreIdentity stored, ParseStoreIdentity(store->identity()));
  const ModelIdentity model = IdentityOf(described.info, described.layout, described.numerics, "");
  const BlockKey root = TenantRoot(model, c.tenant_secret, SaltedTenant(c.tenant, c.cache_salt));
  const StoreIdentity asked{model.fingerprint, model.numerics, model.kv_layout};
  if (const std::string reason = Mismatch(stored, asked); !reason.empty()) {
    PrintForeign(c, KeyChain(root, tokens, model.block_tokens), reason, stored, asked);
    return OkStatus();
  }
  const auto verdicts = ExplainBlocks(*store, root, tokens, model.block_tokens);
  for (const BlockVerdict& verdict : verdicts) {
    if (c.json) std::printf("%s\n", VerdictJson(verdict).c_str());
    else std::printf("block %u (tokens %zu to %zu): %s\n", verdict.depth, size_t{verdict.depth} * model.block_tokens,
                     size_t{verdict.depth + 1} * model.block_tokens - 1, Sentence(verdict, tokenizer).c_str());
  }
  const size_t rest = tokens.size() % model.block_tokens;
  if (!c.json) std::printf("%zu tokens: %zu full blocks%s\n", tokens.size(), verdicts.size(), rest == 0 ? "" : fmt::format(", and {} tokens that no block holds", rest).c_str());
  return OkStatus();
}

}  // namespace

void AddStoreExplainCommand(CLI::App& store, CommandContext& context) {
  auto command = std::make_shared<ExplainCommand>();
  ExplainCommand& c = *command;
  CLI::App* app = store.add_subcommand("explain", "for each block of a prompt: whether the folder holds it, or why not");
  app->add_option("--path", c.path, "folder of the store")->required();
  AddModelFlags(*app, c.model);
  app->add_option("--block-tokens", c.model.block_tokens, "tokens of a block")->check(CLI::Range(16, 1024))->capture_default_str();
  CLI::Option_group* prompt = app->add_option_group("prompt", "what to look for; one of");
  prompt->add_option("--prompt", c.prompt.text, "text; special tokens in it are recognised");
  prompt->add_option("--messages", c.prompt.messages_file, "JSON file: a list of chat messages, or a request with `messages`");
  prompt->add_option("--tokens", c.prompt.tokens_file, "JSON file: a list of token ids, or a request with `messages`");
  prompt->require_option(1);
  app->add_option("--tenant", c.tenant, "whose prompt; empty: of a server without keys");
  app->add_option("--tenant-secret", c.tenant_secret, "gateway.tenant_secret of the cluster, else its cluster.key");
  app->add_option("--cache-salt", c.cache_salt, "cache_salt of the request");
  app->add_flag("--json", c.json, "one JSON object a line");
  app->callback([command, &context] {
    LogConfig log;
    log.level = "warn";
    Status status = InitLogging(log);
    if (status.ok()) status = Explain(*command);
    context.exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace baton
