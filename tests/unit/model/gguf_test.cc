#include "model/gguf.h"

#include "base/hash.h"
#include "base/random.h"
#include "tests/unit/model/format_support.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using namespace testing_formats;  // NOLINT(google-build-using-namespace)

/// Parses a copy of exactly the right size, so that a sanitizer sees any read past the end.
Result<std::unique_ptr<GgufFile>> ParseCopy(const std::string& text, std::vector<std::byte>* copy) {
  const Bytes bytes = AsBytes(text);
  copy->assign(bytes.begin(), bytes.end());
  copy->shrink_to_fit();
  return GgufFile::Parse(*copy, "test.gguf");
}

std::string ErrorOf(const std::string& text) {
  std::vector<std::byte> copy;
  auto file = ParseCopy(text, &copy);
  if (file.ok()) return "no error";
  EXPECT_EQ(file.status().code(), StatusCode::kInvalid);
  EXPECT_THAT(file.status().message(), HasSubstr("test.gguf"));
  return file.status().message();
}

GgufBuilder Sample() {
  GgufBuilder b;
  b.String("name", "tiny")
      .U32("u32", 7)
      .F32("f32", 1.5f)
      .Value("i8", 1, Raw<int8_t>(-3))
      .Value("u64", 10, Raw<uint64_t>(UINT64_MAX));
  b.Value("f64", 12, Raw(2.25)).Value("yes", 7, Raw<uint8_t>(1)).Value("no", 7, Raw<uint8_t>(0));
  b.Strings("words", {"a", "", "long word"})
      .Array("ints", 3, 2, Raw<int16_t>(-5) + Raw<int16_t>(9));
  b.Array("floats", 6, 2, Raw(0.5f) + Raw(-2.f))
      .Array("doubles", 12, 1, Raw(0.25))
      .Array("none", 4, 0, "");
  b.Tensor("a", {2, 3}, 0, FloatData(6))
      .Tensor("b", {32}, 8, std::string(34, '\1'))
      .Tensor("c", {1}, 1, "xy");
  return b;
}

TEST(Gguf, ReadsValuesOfEveryType) {
  std::vector<std::byte> copy;
  auto parsed = ParseCopy(Sample().Build(), &copy);
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  const GgufFile& file = **parsed;
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(*file.GetString("name"), "tiny");
  EXPECT_EQ(*file.GetUint("u32"), 7u);
  EXPECT_EQ(*file.GetInt("u32"), 7);
  EXPECT_EQ(*file.GetInt("i8"), -3);
  EXPECT_EQ(*file.GetUint("u64"), UINT64_MAX);
  EXPECT_EQ(*file.GetFloat("f32"), 1.5);
  EXPECT_EQ(*file.GetFloat("f64"), 2.25);
  EXPECT_TRUE(*file.GetBool("yes"));
  EXPECT_FALSE(*file.GetBool("no"));
  EXPECT_THAT(*file.GetStrings("words"), ElementsAre("a", "", "long word"));
  EXPECT_THAT(*file.GetInts("ints"), ElementsAre(-5, 9));
  EXPECT_THAT(*file.GetFloats("floats"), ElementsAre(0.5f, -2.f));
  EXPECT_THAT(*file.GetFloats("doubles"), ElementsAre(0.25f));
  EXPECT_TRUE(file.GetInts("none")->empty());
  EXPECT_EQ(*file.GetCount("words"), 3u);
  EXPECT_TRUE(file.Has("none"));
  EXPECT_FALSE(file.Has("nowhere"));
  EXPECT_EQ(file.Keys().size(), 13u);
}

TEST(Gguf, GettersRefuseOtherTypes) {
  std::vector<std::byte> copy;
  auto parsed = ParseCopy(Sample().Build(), &copy);
  ASSERT_TRUE(parsed.ok());
  const GgufFile& file = **parsed;
  EXPECT_EQ(file.GetString("nowhere").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(file.GetString("u32").status().message(), "test.gguf: key 'u32' is u32, not a string");
  EXPECT_EQ(file.GetInts("words").status().message(),
            "test.gguf: key 'words' is an array of string, not an array of integers");
  EXPECT_EQ(file.GetUint("i8").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(file.GetInt("u64").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(file.GetUint("f32").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(file.GetFloat("u32").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(file.GetBool("u32").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(file.GetStrings("name").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(file.GetStrings("ints").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(file.GetFloats("ints").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(file.GetCount("name").status().code(), StatusCode::kInvalid);
}

TEST(Gguf, TensorsHaveReversedShapesAndTheirBytes) {
  std::vector<std::byte> copy;
  auto parsed = ParseCopy(Sample().Build(), &copy);
  ASSERT_TRUE(parsed.ok());
  const GgufTensor* a = (*parsed)->FindTensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_THAT(a->shape, ElementsAre(3, 2));
  EXPECT_EQ(AsText(a->data), FloatData(6));
  EXPECT_EQ((*parsed)->FindTensor("b")->type, TensorType::kQ8_0);
  EXPECT_EQ(AsText((*parsed)->FindTensor("b")->data), std::string(34, '\1'));
  EXPECT_EQ(AsText((*parsed)->FindTensor("c")->data), "xy");
  EXPECT_EQ((*parsed)->FindTensor("d"), nullptr);
}

TEST(Gguf, AlignmentAndVersionTwo) {
  GgufBuilder b;
  b.version = 2;
  b.alignment = 128;
  b.U32("general.alignment", 128).Tensor("a", {1}, 0, Raw(1.f)).Tensor("b", {1}, 0, Raw(2.f));
  std::vector<std::byte> copy;
  auto parsed = ParseCopy(b.Build(), &copy);
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  EXPECT_EQ((*parsed)->alignment(), 128u);
  EXPECT_EQ(AsText((*parsed)->FindTensor("b")->data), Raw(2.f));
  for (const uint32_t bad : {0u, 3u, 48u}) {
    EXPECT_THAT(ErrorOf(GgufBuilder().U32("general.alignment", bad).Build()),
                HasSubstr("power of two"));
  }
  EXPECT_THAT(ErrorOf(GgufBuilder().String("general.alignment", "32").Build()),
              HasSubstr("not an integer"));
  // A legal alignment far larger than the file.
  EXPECT_THAT(
      ErrorOf(GgufBuilder().U32("general.alignment", 1u << 31).RawTensor("a", {1}, 0, 0).Build()),
      HasSubstr("truncated"));
}

TEST(Gguf, RefusesForeignHeaders) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("not a GGUF file"));
  EXPECT_THAT(ErrorOf("GGU"), HasSubstr("not a GGUF file"));
  EXPECT_THAT(ErrorOf("ggjt1234567890123456789012"), HasSubstr("not a GGUF file"));
  GgufBuilder b;
  b.version = 1;
  EXPECT_THAT(ErrorOf(b.Build()), HasSubstr("version 1 is not supported; versions 2 and 3 are"));
  b.version = 4;
  EXPECT_THAT(ErrorOf(b.Build()), HasSubstr("version 4"));
  b.version = 0x03000000;
  EXPECT_THAT(ErrorOf(b.Build()), HasSubstr("big-endian"));
}

TEST(Gguf, RefusesAbsurdCounts) {
  for (const uint64_t count : {uint64_t{1000}, uint64_t{1} << 32, uint64_t{1} << 60, UINT64_MAX}) {
    GgufBuilder b;
    b.value_count = count;
    EXPECT_THAT(ErrorOf(b.Build()),
                testing::AnyOf(HasSubstr("cannot fit"), HasSubstr("past the end")));
    GgufBuilder c;
    c.tensor_count = count;
    EXPECT_THAT(ErrorOf(c.Build()),
                testing::AnyOf(HasSubstr("cannot fit"), HasSubstr("past the end")));
    for (const uint32_t type : {0u, 5u, 8u, 11u}) {
      EXPECT_THAT(ErrorOf(GgufBuilder().Array("many", type, count, "").Build()),
                  HasSubstr("'many' runs past the end"))
          << type;
    }
    EXPECT_THAT(ErrorOf(GgufBuilder().Value("text", 8, Raw(count)).Build()),
                HasSubstr("'text' runs past the end"));
    std::string key = GgufBuilder().Build().substr(0, 24);
    key[16] = 1;
    EXPECT_THAT(ErrorOf(key + Raw(count) + std::string(8, 'k')),
                testing::AnyOf(HasSubstr("past the end"), HasSubstr("type")));
  }
}

TEST(Gguf, RefusesBadValues) {
  EXPECT_THAT(ErrorOf(GgufBuilder().U32("twice", 1).F32("twice", 1).Build()),
              HasSubstr("key 'twice' occurs twice"));
  EXPECT_THAT(ErrorOf(GgufBuilder().U32("", 1).Build()), HasSubstr("0 bytes"));
  EXPECT_THAT(ErrorOf(GgufBuilder().U32(std::string(65536, 'k'), 1).Build()),
              HasSubstr("65536 bytes"));
  EXPECT_THAT(ErrorOf(GgufBuilder().Value("odd", 13, Raw(1)).Build()),
              HasSubstr("key 'odd' has the unknown value type 13"));
  EXPECT_THAT(ErrorOf(GgufBuilder().Array("odd", UINT32_MAX, 1, Raw(1)).Build()),
              HasSubstr("unknown value type"));
  EXPECT_THAT(
      ErrorOf(GgufBuilder().Array("nested", 9, 1, Raw(4) + Raw<uint64_t>(1) + Raw(1)).Build()),
      HasSubstr("array of arrays"));
  EXPECT_THAT(ErrorOf(GgufBuilder().Value("bool", 7, Raw<uint8_t>(2)).Build()),
              HasSubstr("neither 0 nor 1"));
  EXPECT_THAT(ErrorOf(GgufBuilder().Array("bools", 7, 2, "\1\xff").Build()),
              HasSubstr("neither 0 nor 1"));
}

TEST(Gguf, MessagesNeverCarryRawBytes) {
  const std::string message =
      ErrorOf(GgufBuilder().U32("a\n\x1b[2J\\", 1).U32("a\n\x1b[2J\\", 1).Build());
  EXPECT_THAT(message, HasSubstr("'a\\x0a\\x1b[2J\\x5c'"));
  EXPECT_EQ(Printable(std::string(1000, 'x')), std::string(80, 'x') + "...");
}

TEST(Gguf, RefusesBadTensors) {
  const auto one = [](std::vector<uint64_t> dims, uint32_t type, uint64_t offset,
                      size_t data = 256) {
    GgufBuilder b;
    b.RawTensor("t", dims, type, offset);
    return b.Build() + std::string(data, '\0');
  };
  EXPECT_EQ(ErrorOf(one({64}, 0, 0)), "no error");
  EXPECT_THAT(ErrorOf(one({}, 0, 0)), HasSubstr("'t' has 0 dimensions"));
  EXPECT_THAT(ErrorOf(one({1, 1, 1, 1, 1}, 0, 0)), HasSubstr("5 dimensions"));
  EXPECT_THAT(ErrorOf(one({64, 0}, 0, 0)), HasSubstr("empty dimension"));
  EXPECT_THAT(ErrorOf(one({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0)), HasSubstr("63 bits"));
  EXPECT_THAT(ErrorOf(one({uint64_t{1} << 31, uint64_t{1} << 31, 4}, 0, 0)), HasSubstr("63 bits"));
  EXPECT_THAT(ErrorOf(one({uint64_t{1} << 62}, 0, 0)), HasSubstr("64 bits"));
  EXPECT_THAT(ErrorOf(one({UINT64_MAX}, 0, 0)), HasSubstr("63 bits"));
  EXPECT_THAT(ErrorOf(one({33}, 8, 0)), HasSubstr("no multiple of Q8_0's block of 32"));
  EXPECT_THAT(ErrorOf(one({128, 2}, 12, 0)), HasSubstr("no multiple of Q4_K's block of 256"));
  EXPECT_THAT(ErrorOf(one({256}, 16, 0)), HasSubstr("'t' has the unsupported type IQ2_XXS"));
  EXPECT_THAT(ErrorOf(one({64}, 99, 0)), HasSubstr("type 99"));
  EXPECT_THAT(ErrorOf(one({65}, 0, 0)), HasSubstr("runs past the 256 bytes"));
  EXPECT_THAT(ErrorOf(one({8}, 0, 16)), HasSubstr("alignment 32"));
  EXPECT_THAT(ErrorOf(one({8}, 0, 256)), HasSubstr("runs past"));
  EXPECT_THAT(ErrorOf(one({8}, 0, UINT64_MAX - 31)), HasSubstr("runs past"));
  EXPECT_THAT(
      ErrorOf(GgufBuilder().Tensor("t", {1}, 0, Raw(1.f)).Tensor("t", {1}, 0, Raw(1.f)).Build()),
      HasSubstr("'t' occurs twice"));
  EXPECT_THAT(ErrorOf(GgufBuilder().Tensor("", {1}, 0, Raw(1.f)).Build()), HasSubstr("0 bytes"));
  EXPECT_THAT(ErrorOf(GgufBuilder().Tensor(std::string(256, 'n'), {1}, 0, Raw(1.f)).Build()),
              HasSubstr("256 bytes"));
  EXPECT_THAT(
      ErrorOf(GgufBuilder().Tensor("a", {16}, 0, FloatData(16)).RawTensor("b", {8}, 0, 32).Build()),
      HasSubstr("tensors 'a' and 'b' overlap"));
  EXPECT_THAT(
      ErrorOf(GgufBuilder().Tensor("a", {8}, 0, FloatData(8)).RawTensor("b", {8}, 0, 0).Build()),
      HasSubstr("overlap"));
}

TEST(Gguf, EveryTruncationIsAnError) {
  const std::string whole = Sample().Build();
  EXPECT_EQ(ErrorOf(whole), "no error");
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_NE(ErrorOf(whole.substr(0, length)), "no error") << length;
}

TEST(Gguf, FlippedBytesNeverCrash) {
  const std::string whole = Sample().Build();
  Random random(20);
  int refused = 0;
  constexpr int kRounds = 5000;
  for (int round = 0; round < kRounds; ++round) {
    std::string text = whole;
    for (uint64_t flips = 1 + random.Below(4); flips > 0; --flips)
      text[random.Below(text.size())] = static_cast<char>(random.Below(256));
    std::vector<std::byte> copy;
    auto file = ParseCopy(text, &copy);
    refused += !file.ok();
    if (!file.ok()) continue;
    for (const std::string_view key : (*file)->Keys()) {  // whatever was accepted must be readable
      (void)(*file)->GetString(key);
      (void)(*file)->GetUint(key);
      (void)(*file)->GetFloat(key);
      (void)(*file)->GetStrings(key);
      (void)(*file)->GetInts(key);
      (void)(*file)->GetFloats(key);
    }
    for (const GgufTensor& tensor : (*file)->tensors()) (void)Xxh3_64(tensor.data);
  }
  EXPECT_GT(refused, kRounds / 4);
}

TEST(Gguf, OpenReportsTheFile) {
  const TempDir dir;
  EXPECT_EQ(GgufFile::Open(dir.File("missing.gguf")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(GgufFile::Open(dir.path().string()).status().code(), StatusCode::kInvalid);
  EXPECT_EQ(GgufFile::Open(dir.Write("empty.gguf", "")).status().code(), StatusCode::kInvalid);
  auto file = GgufFile::Open(dir.Write("ok.gguf", Sample().Build()));
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ(*(*file)->GetString("name"), "tiny");
}

TEST(GoldenGguf, TruncatedAndFlippedHeaders) {
  const std::string whole = ReadAll(Golden("gguf/tiny-llama-spm-q5_1.gguf"));
  if (whole.empty()) GTEST_SKIP() << "no golden data";
  EXPECT_EQ(ErrorOf(whole), "no error");
  for (size_t length = 0; length < whole.size(); length += 997)
    EXPECT_NE(ErrorOf(whole.substr(0, length)), "no error");
  Random random(21);
  std::vector<std::byte> copy;
  for (int round = 0; round < 300; ++round) {
    std::string text = whole;
    text[random.Below(text.size() / 8)] = static_cast<char>(random.Below(256));
    (void)ParseCopy(text, &copy).ok();
  }
}

}  // namespace
}  // namespace baton
