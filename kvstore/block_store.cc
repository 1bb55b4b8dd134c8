#include "kvstore/block_store.h"

#include "kvstore/local_store.h"

namespace baton {

Result<std::unique_ptr<BlockStore>> OpenBlockStore(const BlockStoreConfig& config) { return OpenBlockStore(config, {}); }

Result<std::unique_ptr<BlockStore>> OpenBlockStore(const BlockStoreConfig& config, const BlockStoreDeps& deps) {
  static const SystemClock system_clock;  // without state
  LocalStoreParts parts{config, deps.clock != nullptr ? deps.clock : &system_clock, nullptr, nullptr, nullptr, Codec::kNone, nullptr, nullptr};
  ASSIGN_OR_RETURN(parts.codec, ParseCodec(config.compression));
  ASSIGN_OR_RETURN(parts.memory_policy, MakeCachePolicy(config.policy));
  ASSIGN_OR_RETURN(parts.disk_policy, MakeCachePolicy(config.policy));
  if (config.path.empty()) {
    if (config.read_only) return InvalidError("a store in memory only cannot be read-only: there is nothing to read");
  } else {
    if (deps.files == nullptr) parts.files = MakeSystemFiles();
    if (!config.key_file.empty()) {
      ASSIGN_OR_RETURN(KeyRing keys, KeyRing::Read(config.key_file));
      parts.keys = std::make_unique<const KeyRing>(std::move(keys));
    }
    FileLayer& files = deps.files != nullptr ? *deps.files : *parts.files;
    ASSIGN_OR_RETURN(parts.folder, DiskFolder::Open({config.path, config.identity, config.disk_bytes, config.read_only, parts.keys.get()}, files));
  }
  FileLayer* files = deps.files != nullptr ? deps.files : parts.files.get();
  auto store = std::make_unique<LocalStore>(std::move(parts));
  if (files != nullptr) store->OpenBooks(*files);
  RETURN_IF_ERROR(store->Start());
  return std::unique_ptr<BlockStore>(std::move(store));
}

}  // namespace baton
