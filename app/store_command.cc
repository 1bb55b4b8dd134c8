// `baton store …`: a look at a store's folder and its administration. What changes the folder needs it for itself; ls,
// stat, verify and export also work while a cluster serves it.
#include "app/cli.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "app/dynamic_cache.h"
#include "app/json_input.h"
#include "base/log.h"
#include "kvstore/block_store.h"
#include "model/model.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

struct StoreCommand {
  std::string path, model, kv_dtype, numerics, output, tokens_file, key_file, compression = "none";
  std::vector<std::string> files, keys;
  uint64_t disk_bytes = 0, bytes_per_s = 0;
  uint32_t block_tokens = 64;
  double ttl_s = 0;
  bool json = false, all = false;
};

void Print(const StoreCommand& c, const Json& row) {
  if (c.json) {
    std::printf("%s\n", row.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    return;
  }
  const char* separator = "";
  for (const auto& [name, value] : row.items()) {
    std::printf("%s%s=%s", separator, name.c_str(), value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
    separator = "  ";
  }
  std::printf("\n");
}

Result<std::unique_ptr<BlockStore>> Open(const StoreCommand& c, bool read_only, const std::string& identity = "") {
  BlockStoreConfig config;
  config.path = c.path;
  config.read_only = read_only;
  config.identity = identity;
  config.compression = c.compression;
  config.ttl_s = c.ttl_s;
  config.key_file = c.key_file;
  config.memory_bytes = 64_MiB;
  config.disk_bytes = c.disk_bytes == 0 ? 1ull << 44 : c.disk_bytes;  // not given: whatever is there stays
  return OpenBlockStore(config);
}
/// For commands that only make sense on a folder that is there.
Result<std::unique_ptr<BlockStore>> OpenExisting(const StoreCommand& c) {
  RETURN_IF_ERROR(Open(c, true).status());
  return Open(c, false);
}

Status ListBlocks(const StoreCommand& c) {
  ASSIGN_OR_RETURN(const auto store, Open(c, true));
  std::vector<BlockListing> rows = store->List();
  std::sort(rows.begin(), rows.end(), [](const BlockListing& a, const BlockListing& b) {
    return std::tie(a.stored_at_s, a.depth, a.key) < std::tie(b.stored_at_s, b.depth, b.key);
  });
  for (const BlockListing& row : rows) {
    Print(c, {{"key", row.key.ToHex()}, {"parent", row.parent.ToHex()}, {"depth", row.depth}, {"tokens", row.tokens}, {"bytes", row.bytes},
              {"disk_bytes", row.disk_bytes}, {"stored_at", row.stored_at_s}});
  }
  return OkStatus();
}

/// The blocks that are nobody's parent: the ends of the chains.
std::vector<BlockListing> ChainEnds(const std::vector<BlockListing>& rows) {
  std::unordered_set<BlockKey> parents;
  for (const BlockListing& row : rows) parents.insert(row.parent);
  std::vector<BlockListing> out;
  for (const BlockListing& row : rows) {
    if (!parents.contains(row.key)) out.push_back(row);
  }
  return out;
}

uint64_t CountFiles(const std::string& folder) {
  std::error_code error;
  uint64_t files = 0;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) ++files;
  return files;
}

Status Statistics(const StoreCommand& c) {
  ASSIGN_OR_RETURN(const auto store, Open(c, true));
  const auto rows = store->List();
  uint64_t bytes = 0, disk_bytes = 0, tokens = 0;
  for (const BlockListing& row : rows) {
    bytes += row.bytes;
    disk_bytes += row.disk_bytes;
    tokens += row.tokens;
  }
  Print(c, {{"path", c.path}, {"identity", store->identity()}, {"blocks", rows.size()}, {"chains", ChainEnds(rows).size()}, {"tokens", tokens},
            {"bytes", bytes}, {"disk_bytes", disk_bytes}, {"quarantined", CountFiles(c.path + "/quarantine")}});
  return OkStatus();
}

/// Reads and checks everything; `drop` also removes what is bad. An error when verifying found something.
Status Check(const StoreCommand& c, bool drop) {
  ASSIGN_OR_RETURN(const auto store, drop ? OpenExisting(c) : Open(c, true));
  ASSIGN_OR_RETURN(const ScrubReport report, store->Scrub(c.bytes_per_s, {}));
  for (const BlockKey& key : report.corrupt_keys) Print(c, {{"key", key.ToHex()}, {"ok", false}});
  const uint64_t at_start = drop ? store->stats().corrupt - report.corrupt : 0;
  Print(c, {{"checked", report.checked}, {"bytes", report.bytes}, {"corrupt", report.corrupt + at_start}, {"locked", report.locked}});
  if (drop || report.corrupt == 0) return OkStatus();
  return DataLossError("{} of {} blocks do not verify; `baton store scrub --path {}` moves them aside", report.corrupt, report.checked, c.path);
}

Status CollectGarbage(const StoreCommand& c) {
  ASSIGN_OR_RETURN(const auto store, OpenExisting(c));
  ASSIGN_OR_RETURN(const GcReport report, store->Gc());
  Print(c, {{"expired", report.expired}, {"freed_bytes", report.freed_bytes}});
  return OkStatus();
}

Status RemoveBlocks(const StoreCommand& c) {
  if (c.keys.empty() != c.all) return InvalidError("give --key once or more, or --all");
  ASSIGN_OR_RETURN(const auto store, OpenExisting(c));
  std::vector<BlockListing> rows = store->List();
  std::unordered_set<BlockKey> doomed;
  for (const std::string& text : c.keys) {
    ASSIGN_OR_RETURN(const BlockKey key, ParseBlockKey(text));
    if (std::none_of(rows.begin(), rows.end(), [&](const BlockListing& row) { return row.key == key; })) {
      return NotFoundError("block {} is not in {}", text, c.path);
    }
    doomed.insert(key);
  }
  // Parents first, so that what follows a doomed block is doomed: nothing could reach it any more.
  std::sort(rows.begin(), rows.end(), [](const BlockListing& a, const BlockListing& b) { return a.depth < b.depth; });
  uint64_t removed = 0;
  for (const BlockListing& row : rows) {
    if (!c.all && !doomed.contains(row.key) && !doomed.contains(row.parent)) continue;
    doomed.insert(row.key);
    RETURN_IF_ERROR(store->Remove(row.key));
    ++removed;
  }
  Print(c, {{"removed", removed}});
  return OkStatus();
}

/// Stands in for a fingerprint where no model was given: the file's model name, marked by leading zeros.
Digest256 NamePrint(const DynamicCacheFile& cache) {
  const auto name = cache.file->metadata().find("model");
  Digest256 print = Sha256(AsBytes(name != cache.file->metadata().end() ? name->second : ""));
  std::fill_n(print.begin(), 16, std::byte{0});
  return print;
}
bool IsNamePrint(const Digest256& print) {
  return std::all_of(print.begin(), print.begin() + 16, [](std::byte b) { return b == std::byte{0}; });
}

/// What a new folder is bound to: the model's identity, or the file's own model name where no model is given.
Result<StoreIdentity> NewIdentity(const StoreCommand& c, const DynamicCacheFile& cache) {
  StoreIdentity identity;
  if (!c.model.empty()) {
    LoadOptions options;
    options.path = c.model;
    options.numerics = c.numerics;
    options.block_tokens = c.block_tokens;
    if (!c.kv_dtype.empty()) options.kv_dtype = c.kv_dtype;
    ASSIGN_OR_RETURN(const ModelDescription model, DescribeModel(options));
    return StoreIdentity{model.info.fingerprint, std::string(NumericsName(model.numerics)), model.layout.ToString()};
  }
  KvLayout layout = cache.layout;
  layout.block_tokens = c.block_tokens;
  if (!c.kv_dtype.empty()) {
    ASSIGN_OR_RETURN(layout.dtype, ParseKvDtype(c.kv_dtype));
  }
  Numerics numerics = Numerics::kF32;
  if (!c.numerics.empty()) {
    ASSIGN_OR_RETURN(numerics, ParseNumerics(c.numerics));
  }
  LOG_WARN("no --model given: {} is bound to the model's name in {}, which serves import and export but no worker", c.path, cache.file->path());
  return StoreIdentity{NamePrint(cache), std::string(NumericsName(numerics)), layout.ToString()};
}

/// A file that Baton exported says by its fingerprint whose cache it is. Of another file --model says it: the shapes of two models may
/// agree.
Status CheckSameModel(const StoreCommand& c, const DynamicCacheFile& cache, const StoreIdentity& identity) {
  const std::string path = cache.file->path();
  if (IsNamePrint(identity.model_fingerprint)) {
    if (identity.model_fingerprint == NamePrint(cache)) return OkStatus();
    return InvalidError("{} holds the cache of a model of another name than {}; import it into its own folder", c.path, path);
  }
  const auto name = cache.file->metadata().find("model");
  if (name != cache.file->metadata().end()) {
    if (name->second == HexEncode(identity.model_fingerprint)) return OkStatus();
    const auto print = ParseBlockKey(name->second);
    if (print.ok() && !IsNamePrint(print->bytes)) {
      return InvalidError("{} is the cache of another model (fingerprint {}) than that of {}", path, name->second, c.path);
    }
  }
  if (!c.model.empty()) return OkStatus();
  return InvalidError("{} holds blocks of one model and {} does not say that it is that model's cache; give --model to say so", c.path, path);
}

Status ImportCaches(const StoreCommand& c) {
  std::unique_ptr<BlockStore> store;
  StoreIdentity identity;
  for (const std::string& path : c.files) {
    ASSIGN_OR_RETURN(const DynamicCacheFile cache, OpenDynamicCache(path));
    const bool first = store == nullptr;
    if (first) {
      std::string bound;
      if (c.model.empty()) {
        auto existing = Open(c, true);
        if (existing.ok()) bound = (*existing)->identity();
        if (!existing.ok() && existing.status().code() != StatusCode::kNotFound) return existing.status();
      }
      ASSIGN_OR_RETURN(identity, bound.empty() ? NewIdentity(c, cache) : ParseStoreIdentity(bound));
    }
    RETURN_IF_ERROR(CheckSameModel(c, cache, identity));
    ASSIGN_OR_RETURN(const KvLayout layout, ParseKvLayout(identity.kv_layout));
    ASSIGN_OR_RETURN(const auto blocks, SplitDynamicCache(cache, identity, layout));
    if (first) {  // a file that is refused leaves no folder behind
      ASSIGN_OR_RETURN(store, Open(c, false, identity.ToString()));
    }
    for (const CacheBlock& block : blocks) RETURN_IF_ERROR(store->Put(block.header, block.bytes));
    RETURN_IF_ERROR(store->Flush());
    Print(c, {{"file", path}, {"blocks", blocks.size()}, {"tokens", cache.tokens}, {"key", blocks.back().header.key.ToHex()}});
  }
  return OkStatus();
}

/// The key of the last block to export.
Result<BlockKey> ChooseChain(const StoreCommand& c, const std::vector<BlockListing>& rows, const StoreIdentity& identity, const KvLayout& layout) {
  if (!c.keys.empty()) return ParseBlockKey(c.keys.front());
  if (c.tokens_file.empty()) {
    const auto ends = ChainEnds(rows);
    if (ends.size() == 1) return ends.front().key;
    return InvalidError("{} holds {} chains; name one by --key of its last block (`baton store ls`) or by --tokens", c.path, ends.size());
  }
  ASSIGN_OR_RETURN(const Json list, ReadJsonFile(c.tokens_file));
  const auto read = TokenIdsOf(list);
  if (!read.ok()) return read.status().WithContext(c.tokens_file);
  const std::vector<TokenId>& ids = *read;
  if (ids.empty()) return InvalidError("{} is an empty list: give the token ids of a prompt", c.tokens_file);
  std::unordered_set<BlockKey> held;
  for (const BlockListing& row : rows) held.insert(row.key);
  BlockKey found = RootKey({identity.model_fingerprint, identity.kv_layout, identity.numerics, ""});
  const BlockKey root = found;
  for (size_t begin = 0; begin < ids.size(); begin += layout.block_tokens) {  // a block that is not full stands at the end only
    const auto part = std::span(ids).subspan(begin, std::min<size_t>(layout.block_tokens, ids.size() - begin));
    const BlockKey next = NextKey(found, part);
    if (!held.contains(next)) break;
    found = next;
  }
  if (found == root) return NotFoundError("{} holds no block of these tokens", c.path);
  return found;
}

Status ExportCache(const StoreCommand& c) {
  ASSIGN_OR_RETURN(const auto store, Open(c, true));
  ASSIGN_OR_RETURN(const StoreIdentity identity, ParseStoreIdentity(store->identity()));
  ASSIGN_OR_RETURN(const KvLayout layout, ParseKvLayout(identity.kv_layout));
  const auto rows = store->List();
  std::unordered_map<BlockKey, BlockListing> by_key;
  for (const BlockListing& row : rows) by_key[row.key] = row;
  ASSIGN_OR_RETURN(BlockKey key, ChooseChain(c, rows, identity, layout));
  std::vector<StoredBlock> chain;
  while (true) {
    ASSIGN_OR_RETURN(StoredBlock block, store->Read(key));
    key = block.header.parent;
    chain.push_back(std::move(block));
    if (chain.back().header.depth == 0) break;
  }
  std::reverse(chain.begin(), chain.end());
  RETURN_IF_ERROR(WriteDynamicCache(c.output, chain, layout, HexEncode(identity.model_fingerprint)));
  uint64_t tokens = 0;
  for (const StoredBlock& block : chain) tokens += block.header.tokens;
  Print(c, {{"file", c.output}, {"blocks", chain.size()}, {"tokens", tokens}, {"key", chain.back().header.key.ToHex()}});
  return OkStatus();
}

using StoreAction = std::function<Status(const StoreCommand&)>;

CLI::App* AddAction(CLI::App& store, const std::shared_ptr<StoreCommand>& command, CommandContext& context, const char* name,
                    const char* help, StoreAction action) {
  CLI::App* app = store.add_subcommand(name, help);
  app->add_option("--path", command->path, "folder of the store")->required();
  app->add_option("--key-file", command->key_file, "keys of a folder whose blocks are sealed (store.key_file)");
  app->add_flag("--json", command->json, "one JSON object a line");
  app->callback([command, &context, action = std::move(action)] {
    LogConfig log;
    log.level = "warn";
    Status status = InitLogging(log);
    if (status.ok()) status = action(*command);
    context.exit_code = status.ok() ? 0 : Fail(status);
  });
  return app;
}

}  // namespace

void AddStoreCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<StoreCommand>();
  StoreCommand& c = *command;
  CLI::App* store = program.add_subcommand("store", "what a store's folder holds, and its administration");
  store->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, StoreAction action) { return AddAction(*store, command, context, name, help, std::move(action)); };

  add("ls", "one row a block", ListBlocks);
  add("stat", "blocks, chains, bytes and the model the folder is bound to", Statistics);
  add("verify", "reads and checks every block; exit code 1 when one does not verify", [](const StoreCommand& c) { return Check(c, false); })
      ->add_option("--bytes-per-s", c.bytes_per_s, "rate limit; 0: none");
  add("scrub", "like verify, and moves what does not verify aside (quarantine/)", [](const StoreCommand& c) { return Check(c, true); })
      ->add_option("--bytes-per-s", c.bytes_per_s, "rate limit; 0: none");
  CLI::App* gc = add("gc", "drops what is too old or beyond a quota, compacts the index, gives free space back", CollectGarbage);
  gc->add_option("--ttl-s", c.ttl_s, "age in seconds above which blocks go; 0: none")->check(CLI::NonNegativeNumber);
  gc->add_option("--disk-bytes", c.disk_bytes, "quota to shrink to; 0: none");
  CLI::App* rm = add("rm", "removes blocks, and what follows them in their chains, for good", RemoveBlocks);
  rm->add_option("--key", c.keys, "key of a block, 64 hex digits");
  rm->add_flag("--all", c.all, "every block");

  CLI::App* import = add("import", "takes in a DynamicCache written as safetensors", ImportCaches);
  import->add_option("files,--input", c.files, "safetensors files")->required();
  import->add_option("--model", c.model, "the model it belongs to, for a folder that is new");
  import->add_option("--numerics", c.numerics, "arithmetic a new folder is bound to; empty: the model's own");
  import->add_option("--kv-dtype", c.kv_dtype, "element type of a new folder; empty: f16 with --model, else the file's");
  import->add_option("--block-tokens", c.block_tokens, "tokens of a block of a new folder")->check(CLI::Range(1, 1024));
  import->add_option("--compression", c.compression, "none, zstd, lz4 or planes");

  CLI::App* out = add("export", "writes a chain as a DynamicCache in safetensors", ExportCache);
  out->add_option("output,--output", c.output, "file to write")->required();
  out->add_option("--key", c.keys, "key of the chain's last block")->expected(1);
  out->add_option("--tokens", c.tokens_file, "JSON list of token ids: exports the longest prefix of them that is held");
  AddStoreExplainCommand(*store, context);
}

}  // namespace baton
