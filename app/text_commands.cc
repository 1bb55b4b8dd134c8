// `baton tokenize`, `baton detokenize` and `baton render`: JSON lines in, JSON lines out. A line that cannot be served
// gives {"error": …} in its place; the command goes on and is done (0) when every line has its answer.
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "gateway/json_text.h"
#include "kvstore/file_layer.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

struct TextCommand {
  std::string model, template_file;
  bool plain = false, add_special = false, skip_special = false, json = false;
};

/// Answers every line of stdin with one line.
int AnswerLines(const std::function<Result<Json>(const Json&)>& answer) {
  std::string line;
  while (std::getline(std::cin, line)) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const Result<Json> request = ParseJson(line);
    Result<Json> result = !request.ok() ? request.status() : request->is_object() ? answer(*request) : InvalidError("the line is a JSON {}, not an object", request->type_name());
    const Json out = result.ok() ? *result : Json{{"error", result.status().message()}};
    const std::string text = out.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) return 1;
  }
  return 0;
}

int RunTokenize(const TextCommand& c) {
  auto tokenizer = Tokenizer::Load(c.model);
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  return AnswerLines([&](const Json& request) -> Result<Json> {
    const auto text = request.find("text");
    if (text == request.end() || !text->is_string()) return InvalidError("'text' must be a string");
    return Json{{"ids", (*tokenizer)->Encode(text->get_ref<const std::string&>(), {.parse_special = !c.plain, .add_special = c.add_special})}};
  });
}

Result<std::vector<TokenId>> ReadIds(const Json& request) {
  const auto ids = request.find("ids");
  if (ids == request.end() || !ids->is_array()) return InvalidError("'ids' must be a list of token ids");
  std::vector<TokenId> out;
  for (const Json& id : *ids) {
    const bool fits = id.is_number_integer() && (id.is_number_unsigned() ? id.get<uint64_t>() <= INT32_MAX : id.get<int64_t>() >= INT32_MIN);
    if (!fits) return InvalidError("ids[{}] is not a token id", out.size());
    out.push_back(static_cast<TokenId>(id.get<int64_t>()));
  }
  return out;
}

int RunDetokenize(const TextCommand& c) {
  auto tokenizer = Tokenizer::Load(c.model);
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  return AnswerLines([&](const Json& request) -> Result<Json> {
    ASSIGN_OR_RETURN(const auto ids, ReadIds(request));
    return Json{{"text", (*tokenizer)->Decode(ids, c.skip_special)}};
  });
}

int RunRender(const TextCommand& c) {
  Json special_tokens = Json::object();
  std::string source;
  if (!c.template_file.empty()) {
    auto text = ReadTextFile(c.template_file);
    if (!text.ok()) return Fail(text.status());
    source = std::move(*text);
  } else {
    auto tokenizer = Tokenizer::Load(c.model);
    if (!tokenizer.ok()) return Fail(tokenizer.status());
    source = (*tokenizer)->chat_template();
    if (source.empty()) return Fail(InvalidError("{} has no chat template; give one with --template", c.model));
    special_tokens = (*tokenizer)->special_tokens();
  }
  const auto parsed = ChatTemplate::Parse(std::move(source));
  return AnswerLines([&](const Json& request) -> Result<Json> {
    if (!parsed.ok()) return parsed.status();
    Json input = request;
    if (!input.contains("special_tokens")) input["special_tokens"] = special_tokens;
    ASSIGN_OR_RETURN(const std::string text, parsed->Render(input));
    return Json{{"text", text}};
  });
}

}  // namespace

void AddTokenizeCommand(CLI::App& program, CommandContext& context) {
  auto c = std::make_shared<TextCommand>();
  CLI::App* app = program.add_subcommand("tokenize", R"(text to token ids: JSON lines {"text":…} on stdin, {"ids":[…]} on stdout)");
  app->add_option("--model", c->model, "GGUF file or folder with tokenizer.json")->required();
  app->add_flag("--plain", c->plain, "special tokens in the text are text");
  app->add_flag("--add-special", c->add_special, "add BOS and EOS as the tokenizer asks");
  app->add_flag("--json", c->json, "the output is JSON lines always; accepted for uniformity");
  app->callback([c, &context] { context.exit_code = RunTokenize(*c); });
}

void AddDetokenizeCommand(CLI::App& program, CommandContext& context) {
  auto c = std::make_shared<TextCommand>();
  CLI::App* app = program.add_subcommand("detokenize", R"(token ids to text: JSON lines {"ids":[…]} on stdin, {"text":…} on stdout)");
  app->add_option("--model", c->model, "GGUF file or folder with tokenizer.json")->required();
  app->add_flag("--skip-special", c->skip_special, "leave special tokens out of the text");
  app->add_flag("--json", c->json, "the output is JSON lines always; accepted for uniformity");
  app->callback([c, &context] { context.exit_code = RunDetokenize(*c); });
}

void AddRenderCommand(CLI::App& program, CommandContext& context) {
  auto c = std::make_shared<TextCommand>();
  CLI::App* app = program.add_subcommand("render", R"(chat requests to prompts: JSON lines with "messages" on stdin, {"text":…} or {"error":…} on stdout)");
  CLI::Option_group* source = app->add_option_group("source", "whose chat template");
  source->add_option("--model", c->model, "GGUF file or folder with tokenizer.json");
  source->add_option("--template", c->template_file, "file with a Jinja chat template");
  source->require_option(1);
  app->add_flag("--json", c->json, "the output is JSON lines always; accepted for uniformity");
  app->callback([c, &context] { context.exit_code = RunRender(*c); });
}

}  // namespace baton
