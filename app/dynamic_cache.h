// Hugging Face's DynamicCache as a safetensors file, and the blocks of the store: both ways. The file has tensors
// layers.{i}.key and layers.{i}.value [1, kv_heads, tokens, head_dim], keys after RoPE in the half-split order, and
// metadata (format=hf_dynamic_cache, version=1, token_ids as JSON, …). A cache whose length is no multiple of the block
// ends in a block with fewer tokens, which only an export finds again.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/block_key.h"
#include "kvstore/block_store.h"
#include "kvstore/store_identity.h"
#include "model/kv_layout.h"
#include "model/safetensors.h"

namespace baton {

/// An opened file, checked.
struct DynamicCacheFile {
  std::unique_ptr<SafetensorsFile> file;
  KvLayout layout;  // block_tokens is the default
  uint32_t tokens = 0;
  std::vector<TokenId> token_ids;
};
/// Errors: kNotFound; kInvalid names the tensor or metadata that does not fit (batch above 1, RoPE not applied, shapes that
/// differ, ids that are not as many as positions).
Result<DynamicCacheFile> OpenDynamicCache(const std::string& path);

struct CacheBlock {
  BlockHeader header;
  std::vector<std::byte> bytes;
};
/// The file's cache as blocks of `layout` under the keys of `identity`; f32, f16 and bf16 are converted. Errors: kInvalid
/// when the file's dimensions are not the layout's, or the layout is int8.
Result<std::vector<CacheBlock>> SplitDynamicCache(const DynamicCacheFile& cache, const StoreIdentity& identity, const KvLayout& layout);

/// Writes a chain of blocks, first block first, as such a file. int8 blocks become f32. Errors: kInvalid, kUnavailable.
Status WriteDynamicCache(const std::string& path, std::span<const StoredBlock> chain, const KvLayout& layout, const std::string& model_name);

}  // namespace baton
