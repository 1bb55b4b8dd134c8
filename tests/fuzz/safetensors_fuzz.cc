// Any bytes as a safetensors file: reading it fails cleanly, or gives tensors that fill the file and, written again, read the
// same; and what passes as the weights of a small model computes a token.
#include <algorithm>

#include "base/check.h"
#include "model/safetensors.h"
#include "tests/fuzz/fuzz_model.h"
#include "tests/fuzz/hostile_files.h"

namespace baton {
namespace {

void CheckRoundTrip(const SafetensorsFile& file, const std::string& path) {
  const Status written = WriteSafetensors(path, file.tensors(), file.metadata());
  if (!written.ok()) return;  // a name that the format reserves
  const auto again = SafetensorsFile::Open(path);
  CHECK(again.ok());
  CHECK((*again)->tensors().size() == file.tensors().size() && (*again)->metadata() == file.metadata());
  for (const SafetensorsTensor& tensor : file.tensors()) {
    const SafetensorsTensor* same = (*again)->Find(tensor.name);
    CHECK(same != nullptr && same->type == tensor.type && same->shape == tensor.shape);
    CHECK(std::equal(same->data.begin(), same->data.end(), tensor.data.begin(), tensor.data.end()));
  }
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const baton::Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto file = baton::SafetensorsFile::Parse(bytes, "fuzz.safetensors");
  if (!file.ok()) {
    CHECK(file.status().code() == baton::StatusCode::kInvalid);
    return 0;
  }
  size_t filled = 0;
  for (const baton::SafetensorsTensor& tensor : (*file)->tensors()) {
    CHECK((*file)->Find(tensor.name) == &tensor);
    filled += tensor.data.size();
  }
  CHECK(filled <= size);
  static const baton::FuzzFolder model = [] {
    baton::FuzzFolder folder;
    folder.Write("config.json", baton::AsBytes(baton::kTinyConfigJson));
    return folder;
  }();
  static const baton::FuzzFolder scratch;
  baton::CheckRoundTrip(**file, scratch.path() + "/again.safetensors");
  model.Write("model.safetensors", bytes);
  baton::UseModel(model.path());
  return 0;
}
