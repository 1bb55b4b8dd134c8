// Block types against golden/quant, which holds bytes and values made by the reference
// implementation.
#include "model/quant.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/random.h"
#include "model/safetensors.h"
#include "model/weights.h"

namespace baton {
namespace {

using quant::Bf16ToFloat;
using quant::FloatToBf16;
using quant::FloatToHalf;
using quant::HalfToFloat;

constexpr std::array kAllTypes = {TensorType::kF32,  TensorType::kF16,  TensorType::kBF16,
                                  TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
                                  TensorType::kQ5_1, TensorType::kQ8_0, TensorType::kQ4_K,
                                  TensorType::kQ5_K, TensorType::kQ6_K, TensorType::kIQ4_NL};
constexpr std::array kBlockEncoders = {TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
                                       TensorType::kQ5_1, TensorType::kQ8_0};

const TensorTypeInfo& InfoOf(TensorType type) {
  return *FindTensorType(static_cast<uint32_t>(type));
}

std::vector<float> Floats(Bytes bytes) {
  std::vector<float> out(bytes.size() / sizeof(float));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

/// Equal bits, except that any NaN equals any NaN.
testing::AssertionResult SameBits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size())
    return testing::AssertionFailure() << a.size() << " against " << b.size() << " values";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return testing::AssertionFailure() << "element " << i << ": " << a[i] << " against " << b[i];
    }
  }
  return testing::AssertionSuccess();
}

class GoldenQuant : public testing::Test {
 protected:
  void SetUp() override {
    const std::string path = std::string(BATON_SHARED_DIR) + "/golden/quant/blocks.safetensors";
    if (!std::ifstream(path).good()) GTEST_SKIP() << "no " << path;
    auto file = SafetensorsFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    file_ = std::move(file).value();
  }
  Bytes Data(const std::string& name) {
    const SafetensorsTensor* tensor = file_->Find(name);
    EXPECT_NE(tensor, nullptr) << name;
    return tensor == nullptr ? Bytes{} : tensor->data;
  }
  std::unique_ptr<SafetensorsFile> file_;
};

TEST_F(GoldenQuant, DequantizeIsBitExact) {
  for (const TensorType type : kAllTypes) {
    if (type == TensorType::kF32) continue;
    const std::string name(InfoOf(type).name);
    const Bytes bytes = Data(name + ".bytes");
    const std::vector<float> want = Floats(Data(name + ".floats"));
    ASSERT_EQ(bytes.size() / InfoOf(type).block_bytes * InfoOf(type).block_elements, want.size())
        << name;
    std::vector<float> got(want.size());
    Dequantize(type, bytes.data(), got.size(), got.data());
    EXPECT_TRUE(SameBits(got, want)) << name;
  }
}

TEST_F(GoldenQuant, QuantizeIsBitExact) {
  const std::vector<float> input = Floats(Data("quantize_input"));
  for (const TensorType type :
       {TensorType::kF16, TensorType::kBF16, TensorType::kQ4_0, TensorType::kQ4_1,
        TensorType::kQ5_0, TensorType::kQ5_1, TensorType::kQ8_0}) {
    const std::string name(InfoOf(type).name);
    const Bytes want = Data("quantize_" + name);
    std::vector<std::byte> got(input.size() / InfoOf(type).block_elements *
                               InfoOf(type).block_bytes);
    ASSERT_EQ(got.size(), want.size()) << name;
    ASSERT_TRUE(Quantize(type, input.data(), input.size(), got.data()).ok()) << name;
    size_t different = 0;
    for (size_t i = 0; i < got.size(); ++i) different += got[i] != want[i];
    EXPECT_EQ(different, 0u) << name << ": first difference at byte "
                             << std::mismatch(got.begin(), got.end(), want.begin()).first -
                                    got.begin();
  }
}

TEST_F(GoldenQuant, BlockSizesMatchTheReference) {
  std::ifstream in(std::string(BATON_SHARED_DIR) + "/golden/quant/blocks.json");
  const nlohmann::json types = nlohmann::json::parse(in);
  for (const auto& [name, entry] : types.items()) {
    if (!entry.contains("ggml_type_id")) continue;
    const uint32_t id = entry["ggml_type_id"];
    EXPECT_EQ(TensorTypeName(id), name);
    if (const TensorTypeInfo* info = FindTensorType(id)) {
      EXPECT_EQ(info->block_elements, entry["block_elements"].get<uint32_t>()) << name;
      EXPECT_EQ(info->block_bytes, entry["block_bytes"].get<uint32_t>()) << name;
    }
  }
}

TEST(TensorTypes, KnownNamedAndUnknown) {
  for (const TensorType type : kAllTypes)
    EXPECT_NE(FindTensorType(static_cast<uint32_t>(type)), nullptr);
  int known = 0;
  for (uint32_t id = 0; id < 1000; ++id) known += FindTensorType(id) != nullptr;
  EXPECT_EQ(known, static_cast<int>(kAllTypes.size()));
  EXPECT_EQ(TensorTypeName(16), "IQ2_XXS");
  EXPECT_EQ(TensorTypeName(99), "type 99");
  EXPECT_EQ(TensorTypeName(UINT32_MAX), "type 4294967295");
  EXPECT_EQ(FindTensorType(UINT32_MAX), nullptr);
}

TEST(TensorTypes, RowBytes) {
  EXPECT_EQ((Tensor{"t", TensorType::kF32, {3, 5}, {}}.RowBytes()), 20u);
  EXPECT_EQ((Tensor{"t", TensorType::kQ4_1, {7, 64}, {}}.RowBytes()), 40u);
  EXPECT_EQ((Tensor{"t", TensorType::kQ6_K, {512}, {}}.RowBytes()), 420u);
  const Tensor vector{"t", TensorType::kF16, {9}, {}};
  EXPECT_EQ(vector.rows(), 1u);
  EXPECT_EQ(vector.cols(), 9u);
  EXPECT_EQ(vector.RowBytes(), 18u);
}

TEST(Half, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_EQ(bits & 0x7c00, 0x7c00u);
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      ASSERT_EQ(FloatToHalf(value), bits);
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  // Halfway between each half and the next one up: the even mantissa wins; a hair to either side
  // decides otherwise.
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = HalfToFloat(static_cast<uint16_t>(bits)),
                high = HalfToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    ASSERT_EQ(FloatToHalf(middle), bits + (bits & 1));
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, low)), bits);
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, high)), bits + 1);
    ASSERT_EQ(FloatToHalf(-middle), 0x8000 | (bits + (bits & 1)));
  }
  EXPECT_EQ(FloatToHalf(65519.996f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e-30f), 0x8000);
}

TEST(Bf16, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(FloatToBf16(value), bits);
  }
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7f80);
  // A NaN whose payload is in the low half only must not turn into infinity.
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Quantize, ErrorIsWithinHalfAStep) {
  Random random(7);
  std::vector<float> input(32 * 50);
  for (float& x : input) x = static_cast<float>(random.Uniform() * 4 - 2);
  for (const TensorType type : kBlockEncoders) {
    std::vector<std::byte> bytes(input.size() / 32 * InfoOf(type).block_bytes);
    ASSERT_TRUE(Quantize(type, input.data(), input.size(), bytes.data()).ok());
    std::vector<float> back(input.size());
    Dequantize(type, bytes.data(), back.size(), back.data());
    // The range of a block is at most 4 (affine) or the magnitude 2 over half the levels; f16
    // scales add a little. The symmetric types clip the far end by up to a whole step.
    const float step = type == TensorType::kQ8_0                                ? 2.f / 127
                       : type == TensorType::kQ4_0 || type == TensorType::kQ4_1 ? 4.f / 15
                                                                                : 4.f / 31;
    for (size_t i = 0; i < input.size(); ++i)
      ASSERT_NEAR(back[i], input[i], step * 1.1f) << InfoOf(type).name;
  }
}

TEST(Quantize, DegenerateBlocks) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  for (const float fill : {0.0f, -0.0f, 1.0f, tiny, -tiny, 65504.0f, 3e38f}) {
    std::vector<float> input(32, fill);
    input[5] = -fill / 2;
    for (const TensorType type : kBlockEncoders) {
      std::vector<std::byte> bytes(InfoOf(type).block_bytes);
      EXPECT_TRUE(Quantize(type, input.data(), 32, bytes.data()).ok()) << fill;
    }
  }
}

TEST(Quantize, RefusesWhatItCannotWrite) {
  std::vector<float> input(256, 1.0f);
  std::vector<std::byte> out(1024);
  for (const TensorType type :
       {TensorType::kQ4_K, TensorType::kQ5_K, TensorType::kQ6_K, TensorType::kIQ4_NL}) {
    const Status status = Quantize(type, input.data(), 256, out.data());
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_THAT(status.message(), testing::HasSubstr(std::string(InfoOf(type).name)));
  }
  EXPECT_EQ(Quantize(TensorType::kQ4_0, input.data(), 33, out.data()).code(), StatusCode::kInvalid);
  input[17] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(Quantize(TensorType::kQ8_0, input.data(), 32, out.data()).message(),
              testing::HasSubstr("element 17"));
  EXPECT_TRUE(Quantize(TensorType::kF16, input.data(), 32, out.data()).ok());
}

TEST(Dequantize, AnyBytesAreSafe) {
  Random random(3);
  std::vector<std::byte> bytes(256 * 8);
  for (int round = 0; round < 200; ++round) {
    for (std::byte& b : bytes) b = static_cast<std::byte>(random.Below(256));
    for (const TensorType type : kAllTypes) {
      const uint64_t n = bytes.size() / InfoOf(type).block_bytes * InfoOf(type).block_elements;
      std::vector<float> out(n);
      Dequantize(type, bytes.data(), n, out.data());
    }
  }
  Dequantize(TensorType::kF32, nullptr, 0, nullptr);
}

}  // namespace
}  // namespace baton
