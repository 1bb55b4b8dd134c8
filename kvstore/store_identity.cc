#include "kvstore/store_identity.h"

#include "base/block_key.h"

namespace baton {
namespace {
constexpr std::string_view kModel = "model=", kNumerics = " numerics=", kLayout = " kv=";
}  // namespace

std::string StoreIdentity::ToString() const {
  return fmt::format("{}{}{}{}{}{}", kModel, HexEncode(model_fingerprint), kNumerics, numerics, kLayout, kv_layout);
}

Result<StoreIdentity> ParseStoreIdentity(std::string_view line) {
  const size_t numerics = line.find(kNumerics), layout = line.find(kLayout);
  if (line.rfind(kModel, 0) != 0 || numerics == std::string_view::npos || layout == std::string_view::npos || layout < numerics) {
    return InvalidError("'{}' is not a store's identity (model=… numerics=… kv=…)", line);
  }
  StoreIdentity out;
  ASSIGN_OR_RETURN(const BlockKey model, ParseBlockKey(line.substr(kModel.size(), numerics - kModel.size())));
  out.model_fingerprint = model.bytes;
  out.numerics = line.substr(numerics + kNumerics.size(), layout - numerics - kNumerics.size());
  out.kv_layout = line.substr(layout + kLayout.size());
  return out;
}

}  // namespace baton
