// Any bytes as a GGUF file: reading it fails cleanly, or every value can be asked for in every type and every tensor lies in
// the file; and what passes as a whole model computes a token.
#include "base/check.h"
#include "model/gguf.h"
#include "tests/fuzz/fuzz_model.h"

namespace baton {
namespace {

void ReadAll(const GgufFile& file, Bytes bytes) {
  for (const std::string_view key : file.Keys()) {
    CHECK(file.Has(key));
    (void)file.GetString(key);
    (void)file.GetUint(key);
    (void)file.GetInt(key);
    (void)file.GetFloat(key);
    (void)file.GetBool(key);
    (void)file.GetStrings(key);
    (void)file.GetInts(key);
    (void)file.GetFloats(key);
    (void)file.GetCount(key);
  }
  for (const GgufTensor& tensor : file.tensors()) {
    CHECK(file.FindTensor(tensor.name) == &tensor);
    CHECK(tensor.data.data() >= bytes.data() && tensor.data.data() + tensor.data.size() <= bytes.data() + bytes.size());
  }
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const baton::Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto file = baton::GgufFile::Parse(bytes, "fuzz.gguf");
  if (!file.ok()) {
    CHECK(file.status().code() == baton::StatusCode::kInvalid);
    return 0;
  }
  baton::ReadAll(**file, bytes);
  static const baton::FuzzFolder folder;
  const std::string path = folder.Write("fuzz.gguf", bytes);
  baton::UseTokenizer(path);
  baton::UseModel(path);
  return 0;
}
