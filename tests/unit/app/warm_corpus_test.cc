#include "app/warm_corpus.h"

#include <sstream>

#include "app/warm_job.h"
#include "tests/support/test_pch.h"
#include "tests/unit/gateway/fake_support.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr PromptLimits kLimits = {.vocab = 400, .max_positions = 32};

std::vector<TokenId> Bytes(std::string_view text) { return {text.begin(), text.end()}; }

TEST(WarmCorpus, ReadsTheThreeForms) {
  const FakeCodec codec;
  const auto text = ReadWarmPrompt(R"({"prompt": "ab", "tenant": "t1", "unknown": 1})", codec, kLimits);
  ASSERT_TRUE(text.ok()) << text.status().ToString();
  EXPECT_EQ(text->tokens, Bytes("ab"));
  EXPECT_EQ(text->tenant, "t1");
  const auto chat = ReadWarmPrompt(R"({"messages": [{"role": "user", "content": "hi"}]})", codec, kLimits);
  ASSERT_TRUE(chat.ok()) << chat.status().ToString();
  EXPECT_EQ(chat->tokens, Bytes("user:hi\nassistant:"));
  EXPECT_EQ(chat->tenant, "");
  const auto ids = ReadWarmPrompt(R"({"tokens": [0, 399]})", codec, kLimits);
  ASSERT_TRUE(ids.ok()) << ids.status().ToString();
  EXPECT_THAT(ids->tokens, ElementsAre(0, 399));
}

TEST(WarmCorpus, SpecialTokensAreReadAsTheGatewayReadsThem) {
  const FakeCodec codec;
  EXPECT_THAT(ReadWarmPrompt(R"({"prompt": "<|end|>"})", codec, kLimits)->tokens, ElementsAre(TokenId{FakeCodec::kEnd}));
  EXPECT_EQ(ReadWarmPrompt(R"({"messages": [{"role": "u", "content": "<|end|>"}]})", codec, kLimits)->tokens, Bytes("u:<|end|>\nassistant:"));
}

TEST(WarmCorpus, BadLinesSayWhatIsWrong) {
  const FakeCodec codec;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{", "not valid JSON"},
      {"[1, 2]", "not a JSON object"},
      {"\"text\"", "not a JSON object"},
      {"{\"prompt\": \"\xff\"}", "UTF-8"},
      {"{}", "one of prompt, messages and tokens"},
      {R"({"prompt": "a", "tokens": [1]})", "one of prompt, messages and tokens"},
      {R"({"prompt": 7})", "must be a string"},
      {R"({"prompt": null})", "must be a string"},
      {R"({"prompt": ""})", "empty"},
      {R"({"tokens": []})", "empty"},
      {R"({"tokens": "1"})", "tokens: not a list"},
      {R"({"tokens": [1, -1]})", "tokens: entry 1 is -1"},
      {R"({"tokens": [400]})", "from 0 to 399"},
      {R"({"tokens": [18446744073709551616]})", "entry 0"},
      {R"({"tokens": [1.5]})", "entry 0 is 1.5"},
      {R"({"tokens": [true]})", "entry 0 is true"},
      {R"({"prompt": "a", "tenant": 1})", "tenant must be a string"},
      {R"({"messages": [{"role": "refused"}]})", "refuses this role"},
      {R"({"prompt": "123456789012345678901234567890123"})", "33 tokens are more than the model's 32"},
  };
  for (const auto& [line, words] : cases) {
    const auto prompt = ReadWarmPrompt(line, codec, kLimits);
    EXPECT_EQ(prompt.status().code(), StatusCode::kInvalid) << line;
    EXPECT_THAT(prompt.status().message(), HasSubstr(words)) << line;
  }
}

struct Read {
  CorpusCount count;
  std::vector<std::string> prompts;
  std::vector<uint64_t> bad;
};
Read ReadAll(const std::string& text) {
  Read read;
  const FakeCodec codec;
  std::istringstream in(text);
  read.count = ReadCorpus(
      in, codec, kLimits, [&](const WarmPrompt& p) { read.prompts.emplace_back(p.tokens.begin(), p.tokens.end()); },
      [&](uint64_t line, const Status& reason) {
        EXPECT_FALSE(reason.ok());
        read.bad.push_back(line);
      });
  return read;
}

TEST(WarmCorpus, BadLinesAreNumberedAndTheRestIsRead) {
  const Read read = ReadAll("{\"prompt\": \"a\"}\n\n  \r\nnonsense\n{\"prompt\": \"b\"}\r\n{}\n{\"prompt\": \"c\"}");
  EXPECT_THAT(read.prompts, ElementsAre("a", "b", "c"));
  EXPECT_THAT(read.bad, ElementsAre(4u, 6u));
  EXPECT_EQ(read.count.lines, 5u);
  EXPECT_EQ(read.count.bad_lines, 2u);
}

TEST(WarmCorpus, EmptyFiles) {
  for (const char* text : {"", "\n", " \n\r\n"}) {
    const Read read = ReadAll(text);
    EXPECT_THAT(read.prompts, IsEmpty());
    EXPECT_EQ(read.count.lines, 0u);
  }
}

TEST(WarmCorpus, AnEndlessLineIsBadAndSkipped) {
  std::string text((64 << 20) + 1, 'x');
  text += "\n{\"prompt\": \"a\"}\n";
  const Read read = ReadAll(text);
  EXPECT_THAT(read.bad, ElementsAre(1u));
  EXPECT_THAT(read.prompts, ElementsAre("a"));
}

TEST(WarmProgressLine, ShowsShareSpeedAndTimeLeft) {
  WarmProgress progress;
  progress.to_do = 200;
  progress.blocks = 40;
  progress.failed = 10;
  const std::string line = ProgressLine(progress, 10);
  EXPECT_THAT(line, HasSubstr("[#######......................."));
  EXPECT_THAT(line, HasSubstr(" 25 %  50/200 blocks  5.0 blocks/s  0:30 left"));
}

TEST(WarmProgressLine, NothingToDoIsDone) {
  EXPECT_THAT(ProgressLine({}, 0), HasSubstr("100 %  0/0 blocks"));
  WarmProgress begun;
  begun.to_do = 10;
  EXPECT_THAT(ProgressLine(begun, 3), HasSubstr("  0 %  0/10 blocks")) << "no speed is known yet";
}

}  // namespace
}  // namespace baton
