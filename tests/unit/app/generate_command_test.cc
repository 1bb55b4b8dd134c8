// `baton generate` and `baton logits` as a user runs them.
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>

#include "model/safetensors.h"

namespace baton {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

const std::string kCheckpoint = BATON_SHARED_DIR "/golden/checkpoints/tiny-qwen2-f32";
const std::string kReference = BATON_SHARED_DIR "/golden/refs/tiny-qwen2-f32/";

struct Printed {
  int exit_code = -1;
  std::string out, err;
};

class GenerateCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kCheckpoint)) GTEST_SKIP() << "no reference data at " << kCheckpoint;
    std::string pattern = (std::filesystem::temp_directory_path() / "baton-generate-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    std::ifstream in(kReference + "short1.json");
    reference_ = Json::parse(in);
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  std::string File(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }
  std::string ReadFile(const std::string& name) {
    std::ifstream in(folder_ / name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  Printed Baton(const std::string& arguments) {
    const std::string command = "'" BATON_BINARY "' " + arguments + " >'" + (folder_ / "out").string() + "' 2>'" + (folder_ / "err").string() + "'";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadFile("out"), ReadFile("err")};
  }
  Json Generate(const std::string& arguments) {
    const Printed run = Baton("generate --model " + kCheckpoint + " --json --kv-dtype f32 " + arguments);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 1) << "one JSON object, nothing else";
    return Json::parse(run.out, nullptr, false);
  }
  std::string Ids() { return File("ids.json", reference_["input_ids"].dump()); }

  std::filesystem::path folder_;
  Json reference_;
};

TEST_F(GenerateCommandTest, GreedyIsTheReference) {
  for (const std::string& prompt : {"--tokens " + Ids(), "--prompt '" + reference_["text"].get<std::string>() + "'"}) {
    const Json answer = Generate(prompt + " --max-tokens 32 --ignore-eos");
    EXPECT_EQ(answer["prompt_tokens"], reference_["input_ids"]);
    EXPECT_EQ(answer["tokens"], reference_["greedy"]["ids"]);
    EXPECT_EQ(answer["finish_reason"], "length");
    ASSERT_EQ(answer["logprobs"].size(), 32u);
    for (const Json& logprob : answer["logprobs"]) EXPECT_LE(logprob.get<double>(), 0);
    EXPECT_GT(answer["timings"]["prefill_ms"].get<double>(), 0);
    EXPECT_GT(answer["timings"]["decode_ms"].get<double>(), 0);
  }
}

TEST_F(GenerateCommandTest, RepetitionPenaltyAndEosAsTheReference) {
  const Json& reference = reference_["greedy_repetition_penalty"];
  const Json answer = Generate("--tokens " + Ids() + " --max-tokens 32 --repetition-penalty " + reference["penalty"].dump());
  EXPECT_EQ(answer["tokens"], reference["generate_output_with_eos_stop"]);
  EXPECT_EQ(answer["finish_reason"], "stop");
}

TEST_F(GenerateCommandTest, ASeedRepeatsItsAnswerAndItsLogprobs) {
  const std::string sampled = "--tokens " + Ids() + " --max-tokens 20 --ignore-eos --temperature 1.5 --top-k 200 --top-p 0.95 --min-p 0.001";
  const Json first = Generate(sampled + " --seed 7"), again = Generate(sampled + " --seed 7 --threads 2"), other = Generate(sampled + " --seed 8");
  EXPECT_EQ(first["tokens"], again["tokens"]);
  EXPECT_EQ(first["logprobs"], again["logprobs"]);
  EXPECT_NE(first["tokens"], other["tokens"]);
  const Json unseeded = Generate(sampled);
  EXPECT_EQ(Generate(sampled + " --seed " + unseeded["seed"].dump())["tokens"], unseeded["tokens"]) << "the seed it names repeats it";
}

TEST_F(GenerateCommandTest, AStopStringEndsTheTextBeforeIt) {
  const Json whole = Generate("--tokens " + Ids() + " --max-tokens 32 --ignore-eos");
  const std::string text = whole["text"], stop = text.substr(text.find(' ', 20), 3);
  const Json cut = Generate("--tokens " + Ids() + " --max-tokens 32 --ignore-eos --stop '" + stop + "'");
  EXPECT_EQ(cut["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(cut["finish_reason"], "stop");
  EXPECT_LT(cut["tokens"].size(), 32u);
  const Printed plain = Baton("generate --model " + kCheckpoint + " --kv-dtype f32 --tokens " + Ids() + " --max-tokens 32 --ignore-eos --stop '" + stop + "'");
  EXPECT_EQ(plain.out, cut["text"].get<std::string>() + "\n");
}

TEST_F(GenerateCommandTest, MessagesGoThroughTheChatTemplate) {
  std::ifstream in(kReference + "chat.json");
  const Json chat = Json::parse(in);
  const std::string list = File("messages.json", chat["messages"].dump()), request = File("request.json", Json{{"messages", chat["messages"]}}.dump());
  for (const std::string& prompt : {"--messages " + list, "--messages " + request, "--tokens " + request}) {
    const Json answer = Generate(prompt + " --max-tokens 32 --ignore-eos");
    EXPECT_EQ(answer["prompt_tokens"], chat["input_ids"]) << prompt;
    EXPECT_EQ(answer["tokens"], chat["greedy"]["ids"]) << prompt;
  }
}

TEST_F(GenerateCommandTest, LogitsCachesAndHiddenStatesAreTheReference) {
  const std::string out = (folder_ / "out.safetensors").string();
  const Printed run = Baton("logits --model " + kCheckpoint + " --kv-dtype f32 --tokens " + Ids() + " --out " + out + " --kv --hidden --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json printed = Json::parse(run.out, nullptr, false);
  const auto got = SafetensorsFile::Open(out), want = SafetensorsFile::Open(kReference + "short1.safetensors");
  ASSERT_TRUE(got.ok() && want.ok());
  const uint64_t n = reference_["input_ids"].size();
  const auto compare = [&](const std::string& name, const std::string& reference, std::vector<uint64_t> shape, float tolerance) {
    const auto* a = (*got)->Find(name);
    const auto* b = (*want)->Find(reference);
    ASSERT_TRUE(a != nullptr && b != nullptr) << name;
    EXPECT_EQ(a->shape, shape) << name;
    ASSERT_EQ(a->data.size(), b->data.size()) << name;
    for (size_t i = 0; i < a->data.size(); i += sizeof(float)) {
      float x, y;
      std::memcpy(&x, a->data.data() + i, sizeof x);
      std::memcpy(&y, b->data.data() + i, sizeof y);
      ASSERT_NEAR(x, y, tolerance) << name << " at " << i / sizeof(float);
    }
  };
  compare("logits", "logits", {n, printed["vocab"].get<uint64_t>()}, 2e-4f);
  compare("layers.0.key", "cache.layers.0.key", {2, n, 16}, 1e-4f);
  compare("layers.3.value", "cache.layers.3.value", {2, n, 16}, 1e-4f);
  const auto* embedding = (*want)->Find("bisect.embed");
  ASSERT_NE(embedding, nullptr);
  const uint64_t hidden = embedding->shape.back();
  compare("hidden.0", "bisect.embed", {n, hidden}, 1e-6f);
  compare("hidden.4", "bisect.final_norm", {n, hidden}, 1e-4f);
  EXPECT_EQ((*got)->Find("hidden.5"), nullptr);
  EXPECT_EQ(printed["tokens"], n);
  ASSERT_EQ(printed["argmax"].size(), n);
  EXPECT_EQ(printed["argmax"].back(), reference_["greedy"]["ids"][0]);
}

TEST_F(GenerateCommandTest, WrongUseIsSaidAndExitsWithTwo) {
  const std::string model = "generate --model " + kCheckpoint + " ";
  const auto error = [&](const std::string& arguments) {
    const Printed run = Baton(arguments);
    EXPECT_EQ(run.exit_code, 2) << arguments;
    EXPECT_EQ(run.out, "") << arguments;
    return run.err;
  };
  EXPECT_THAT(error(model), HasSubstr("--prompt"));
  EXPECT_THAT(error(model + "--prompt a --tokens b"), HasSubstr("--tokens"));
  EXPECT_THAT(error(model + "--prompt a --top-p 2"), HasSubstr("top_p is 2"));
  EXPECT_THAT(error(model + "--prompt a --temperature nan"), HasSubstr("temperature"));
  EXPECT_THAT(error(model + "--prompt a --max-tokens 0"), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(error(model + "--prompt a --max-tokens 100000"), HasSubstr("positions"));
  EXPECT_THAT(error(model + "--prompt a --stop ''"), HasSubstr("--stop"));
  EXPECT_THAT(error(model + "--tokens /nowhere/ids.json"), HasSubstr("/nowhere/ids.json"));
  EXPECT_THAT(error(model + "--tokens " + File("a.json", "[1, 2")), HasSubstr("not valid JSON"));
  EXPECT_THAT(error(model + "--tokens " + File("b.json", "[1, \"x\"]")), HasSubstr("entry 1"));
  EXPECT_THAT(error(model + "--tokens " + File("c.json", "[1, 99999]")), HasSubstr("prompt[1] is 99999"));
  EXPECT_THAT(error(model + "--tokens " + File("d.json", "[]")), HasSubstr("prompt is empty"));
  EXPECT_THAT(error(model + "--tokens " + File("e.json", "7")), HasSubstr("list of token ids"));
  EXPECT_THAT(error(model + "--messages " + File("f.json", "{\"prompt\": 1}")), HasSubstr("messages"));
  EXPECT_THAT(error("generate --model /nowhere --prompt a"), HasSubstr("/nowhere"));
  EXPECT_THAT(error("logits --model " + kCheckpoint + " --out x --tokens " + File("g.json", "[]")), HasSubstr("no tokens"));
}

}  // namespace
}  // namespace baton
