#include "model/safetensors.h"

#include "base/random.h"
#include "tests/unit/model/format_support.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using namespace testing_formats;  // NOLINT(google-build-using-namespace)

std::string FileOf(const std::string& header, const std::string& data) {
  return RawString(header) + data;
}

Result<std::unique_ptr<SafetensorsFile>> ParseCopy(const std::string& text,
                                                   std::vector<std::byte>* copy) {
  const Bytes bytes = AsBytes(text);
  copy->assign(bytes.begin(), bytes.end());
  copy->shrink_to_fit();
  return SafetensorsFile::Parse(*copy, "test.safetensors");
}

std::string ErrorOf(const std::string& text) {
  std::vector<std::byte> copy;
  auto file = ParseCopy(text, &copy);
  if (file.ok()) return "no error";
  EXPECT_EQ(file.status().code(), StatusCode::kInvalid);
  EXPECT_THAT(file.status().message(), HasSubstr("test.safetensors"));
  return file.status().message();
}

const char kHeader[] =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},)"
    R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}})";

TEST(Safetensors, ReadsTensorsAndMetadata) {
  std::vector<std::byte> copy;
  auto parsed = ParseCopy(FileOf(kHeader, FloatData(3, 1)), &copy);
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  const SafetensorsFile& file = **parsed;
  EXPECT_THAT(file.metadata(), ElementsAre(testing::Pair("format", "pt")));
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_THAT(file.Find("a")->shape, ElementsAre(1, 2));
  EXPECT_EQ(AsText(file.Find("a")->data), FloatData(2, 1));
  EXPECT_EQ(file.Find("b")->type, SafetensorsType::kBF16);
  EXPECT_EQ(file.Find("b")->data.size(), 4u);
  EXPECT_EQ(file.Find("c"), nullptr);
}

TEST(Safetensors, AcceptsScalarsEmptyTensorsAndPadding) {
  std::vector<std::byte> copy;
  auto parsed = ParseCopy(
      FileOf(
          R"({"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"e":{"dtype":"F32","shape":[0,4],)"
          R"("data_offsets":[8,8]}}     )",
          std::string(8, '\1')),
      &copy);
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  EXPECT_TRUE((*parsed)->Find("s")->shape.empty());
  EXPECT_TRUE((*parsed)->Find("e")->data.empty());
  EXPECT_EQ(ErrorOf(FileOf("{}", "")), "no error");
}

TEST(Safetensors, RefusesBadLengths) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("too few"));
  EXPECT_THAT(ErrorOf("1234567"), HasSubstr("too few"));
  EXPECT_THAT(ErrorOf(Raw<uint64_t>(3) + "{}"), HasSubstr("claims 3 bytes and the file has 2"));
  EXPECT_THAT(ErrorOf(Raw<uint64_t>(100'000'001) + "{}"), HasSubstr("at most 100000000"));
  EXPECT_THAT(ErrorOf(Raw<uint64_t>(UINT64_MAX) + "{}"), HasSubstr("at most"));
  EXPECT_THAT(ErrorOf(Raw<uint64_t>(UINT64_MAX - 7) + "{}"), HasSubstr("at most"));
  EXPECT_THAT(ErrorOf(Raw<uint64_t>(0)), HasSubstr("begin with"));
  EXPECT_THAT(ErrorOf(FileOf(" {}", "")), HasSubstr("begin with"));
}

std::string One(const std::string& dtype, const std::string& shape, const std::string& offsets,
                size_t data) {
  return FileOf(
      R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
      std::string(data, 'x'));
}

TEST(Safetensors, RefusesBadTensors) {
  EXPECT_EQ(ErrorOf(One(R"("F16")", "[2,3]", "[0,12]", 12)), "no error");
  EXPECT_THAT(ErrorOf(One(R"("F4")", "[8]", "[0,4]", 4)),
              HasSubstr("'t': the dtype 'F4' is unknown"));
  EXPECT_THAT(ErrorOf(One("7", "[8]", "[0,4]", 4)), HasSubstr("'t'"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[2,3]", "[0,10]", 10)),
              HasSubstr("needs 12 bytes and data_offsets give 10"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[2,3]", "[0,12]", 11)), HasSubstr("truncated"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[2,3]", "[0,12]", 13)), HasSubstr("1 bytes at the end"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[2,3]", "[4,16]", 16)), HasSubstr("gap or overlap"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[2,3]", "[12,0]", 12)), HasSubstr("not inside"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[4294967296,4294967296]", "[0,0]", 0)),
              HasSubstr("overflows 64 bits"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[9223372036854775808]", "[0,0]", 0)),
              HasSubstr("overflows 64 bits"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[99999999999999999999999]", "[0,0]", 0)),
              HasSubstr("64 bits"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[-1]", "[0,2]", 2)), HasSubstr("negative"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[1.5]", "[0,2]", 2)), HasSubstr("not an integer"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[[1]]", "[0,2]", 2)), HasSubstr("array is out of place"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "null", "[0,2]", 2)), HasSubstr("null"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[true]", "[0,2]", 2)), HasSubstr("boolean"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[1]", "[0]", 2)), HasSubstr("missing"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[1]", "[0,2,2]", 2)), HasSubstr("more than two"));
  EXPECT_THAT(ErrorOf(One(R"("F16")", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,2]", 2)),
              HasSubstr("16 dimensions"));
}

TEST(Safetensors, RefusesBadHeaders) {
  const auto tensor = [](const std::string& body) {
    return FileOf("{" + body + "}", std::string(4, 'x'));
  };
  const std::string a = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_EQ(ErrorOf(tensor(a)), "no error");
  EXPECT_THAT(ErrorOf(tensor(a + "," + a)), HasSubstr("'a': the name occurs twice"));
  EXPECT_THAT(ErrorOf(tensor(R"("__metadata__":{},"__metadata__":{},)" + a)),
              HasSubstr("occurs twice"));
  EXPECT_THAT(ErrorOf(tensor(R"("__metadata__":{"k":"1","k":"2"},)" + a)),
              HasSubstr("key 'k' occurs twice"));
  EXPECT_THAT(ErrorOf(tensor(R"("__metadata__":{"k":1},)" + a)), HasSubstr("out of place"));
  EXPECT_THAT(ErrorOf(tensor(R"("__metadata__":{"k":{}},)" + a)), HasSubstr("out of place"));
  EXPECT_THAT(
      ErrorOf(tensor(R"("a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})")),
      HasSubstr("occurs twice"));
  EXPECT_THAT(ErrorOf(tensor(R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1})")),
              HasSubstr("'x' is unknown"));
  EXPECT_THAT(ErrorOf(tensor(R"("a":{"dtype":"F32","data_offsets":[0,4]})")), HasSubstr("missing"));
  EXPECT_THAT(ErrorOf(tensor(R"("a":[1])")), HasSubstr("array is out of place"));
  EXPECT_THAT(ErrorOf(tensor(R"("a":"text")")), HasSubstr("string is out of place"));
  EXPECT_THAT(ErrorOf(tensor(a + ",")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(FileOf("{" + a + "}{}", "1234")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(tensor("\"a\xff\":{}")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(FileOf("{\"a\":" + std::string(100000, '['), "")), HasSubstr("out of place"));
  EXPECT_THAT(ErrorOf(tensor(a + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})")),
              HasSubstr("gap or overlap"));
}

TEST(Safetensors, EveryTruncationIsAnErrorAndFlipsNeverCrash) {
  const std::string whole = FileOf(kHeader, FloatData(3));
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_NE(ErrorOf(whole.substr(0, length)), "no error") << length;
  Random random(22);
  for (int round = 0; round < 5000; ++round) {
    std::string text = whole;
    for (uint64_t flips = 1 + random.Below(3); flips > 0; --flips)
      text[random.Below(text.size())] = static_cast<char>(random.Below(256));
    std::vector<std::byte> copy;
    auto file = ParseCopy(text, &copy);
    if (!file.ok()) continue;
    for (const SafetensorsTensor& tensor : (*file)->tensors())
      EXPECT_LE(tensor.data.size(), copy.size());
  }
}

TEST(WriteSafetensors, RoundTripsThroughAFile) {
  const TempDir dir;
  const std::string path = dir.File("out.safetensors"), floats = FloatData(6), bytes = "abc";
  const std::vector<SafetensorsTensor> tensors = {
      {"bytes", SafetensorsType::kU8, {3}, AsBytes(bytes)},
      {"weird \"name\" \xc3\xa9", SafetensorsType::kF32, {2, 3}, AsBytes(floats)},
      {"empty", SafetensorsType::kF16, {0}, {}},
      {"scalar", SafetensorsType::kF32, {}, AsBytes(floats).first(4)}};
  ASSERT_TRUE(WriteSafetensors(path, tensors, {{"model", "tiny"}, {"quote", "\"\n"}}).ok());
  auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ((*file)->metadata().at("quote"), "\"\n");
  ASSERT_EQ((*file)->tensors().size(), tensors.size());
  for (const SafetensorsTensor& want : tensors) {
    const SafetensorsTensor* got = (*file)->Find(want.name);
    ASSERT_NE(got, nullptr) << want.name;
    EXPECT_EQ(got->type, want.type);
    EXPECT_EQ(got->shape, want.shape);
    EXPECT_EQ(AsText(got->data), AsText(want.data));
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1)
      << "a temporary file stayed";
  // The data section begins at a multiple of 8.
  EXPECT_EQ(*reinterpret_cast<const uint64_t*>(ReadAll(path).data()) % 8, 0u);
}

TEST(WriteSafetensors, ReplacesAndRefuses) {
  const TempDir dir;
  const std::string path = dir.File("out.safetensors"), floats = FloatData(2);
  const std::vector<SafetensorsTensor> good = {{"a", SafetensorsType::kF32, {2}, AsBytes(floats)}};
  ASSERT_TRUE(WriteSafetensors(path, good).ok());
  const std::string before = ReadAll(path);
  const auto refuse = [&](std::vector<SafetensorsTensor> tensors, const std::string& reason) {
    const Status status = WriteSafetensors(path, tensors);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_THAT(status.message(), HasSubstr(reason));
    EXPECT_EQ(ReadAll(path), before) << "a refused write changed the file";
  };
  refuse({good[0], good[0]}, "occurs twice");
  refuse({{"__metadata__", SafetensorsType::kF32, {2}, AsBytes(floats)}}, "reserved");
  refuse({{"a", SafetensorsType::kF32, {3}, AsBytes(floats)}}, "needs 12 bytes and the data has 8");
  refuse({{"a", SafetensorsType::kF32, {uint64_t{1} << 62, 16}, AsBytes(floats)}}, "overflows");
  refuse({{"a\xff", SafetensorsType::kF32, {2}, AsBytes(floats)}}, "not UTF-8");
  EXPECT_TRUE(WriteSafetensors(path, {}).ok());
  EXPECT_NE(ReadAll(path), before);
  EXPECT_EQ(WriteSafetensors(dir.File("no/such/folder.safetensors"), good).code(),
            StatusCode::kUnavailable);
  std::filesystem::create_directory(dir.path() / "folder");
  EXPECT_EQ(WriteSafetensors(dir.File("folder"), good).code(), StatusCode::kUnavailable);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2)
      << "a temporary file stayed";
}

TEST(GoldenSafetensors, EveryFileOpens) {
  if (!std::filesystem::exists(Golden("refs"))) GTEST_SKIP() << "no golden data";
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(Golden(""))) {
    if (entry.path().extension() != ".safetensors") continue;
    auto file = SafetensorsFile::Open(entry.path().string());
    EXPECT_TRUE(file.ok()) << file.status().ToString();
    ++count;
  }
  EXPECT_GT(count, 30);
}

}  // namespace
}  // namespace baton
