#include "model/jinja/parser.h"

#include <algorithm>

#include "model/jinja/expression_parser.h"

namespace baton::jinja {
namespace {

constexpr size_t kMaxSourceBytes = 1 << 20;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Result<std::shared_ptr<const Template>> Run() {
    auto result = std::make_shared<Template>();
    result->body = ParseBlock({});
    RefuseUnknown(0);
    if (!ok()) return status_;
    return std::shared_ptr<const Template>(std::move(result));
  }

 private:
  using Ends = std::vector<std::string_view>;

  Statement NewStatement(Statement::Kind kind) const {
    Statement statement;
    statement.kind = kind;
    statement.line = Current().line;
    return statement;
  }
  void ExpectTagEnd() {
    if (!Is(Token::Kind::kBlockEnd)) return Fail("expected the end of the tag");
    Next();
  }

  // Statements up to a tag named in `ends`, whose name is the current token afterwards; none: up to the end.
  Block ParseBlock(const Ends& ends) {
    const Nested nested(*this);
    Block block;
    const int opened = Current().line;
    while (ok()) {
      if (Is(Token::Kind::kText)) {
        block.push_back(NewStatement(Statement::Kind::kText));
        block.back().text = Text(Current().text);
        Next();
      } else if (Is(Token::Kind::kPrintBegin)) {
        Next();
        block.push_back(ParseOutput());
        if (!Is(Token::Kind::kPrintEnd)) Fail("expected '}}'");
        Next();
      } else if (Is(Token::Kind::kBlockBegin)) {
        Next();
        if (Is(Token::Kind::kName) && std::find(ends.begin(), ends.end(), Current().text) != ends.end()) return block;
        ParseTag(block, ends);
      } else if (ends.empty()) {
        break;
      } else {
        FailAt(opened, "the tag here has no '" + std::string(ends.back()) + "'");
      }
    }
    return block;
  }
  Block ParseBody(const Ends& ends) {
    ExpectTagEnd();
    return ParseBlock(ends);
  }
  void SkipEnd() {  // the name of the end tag, and its end
    Next();
    ExpectTagEnd();
  }

  Statement ParseOutput() {
    Statement statement = NewStatement(Statement::Kind::kOutput);
    statement.expr = ParseTuple();
    return statement;
  }

  void ParseTag(Block& block, const Ends& ends) {
    const std::string tag = ExpectName("a tag's name");
    if (tag == "if") {
      block.push_back(ParseIf());
    } else if (tag == "for") {
      block.push_back(ParseFor());
    } else if (tag == "set") {
      block.push_back(ParseSet());
    } else if (tag == "macro") {
      block.push_back(ParseMacro());
    } else if (tag == "call") {
      block.push_back(ParseCallBlock());
    } else if (tag == "filter") {
      block.push_back(ParseFilterBlock());
    } else if (tag == "with") {
      block.push_back(ParseWith());
    } else if (tag == "generation" || tag == "block") {
      block.push_back(ParseScope(tag));
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) Fail("'" + tag + "' is outside of a loop");
      block.push_back(NewStatement(tag == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue));
      ExpectTagEnd();
    } else if (tag == "print") {
      do {
        block.push_back(NewStatement(Statement::Kind::kOutput));
        block.back().expr = ParseExpression();
      } while (ok() && SkipOperator(","));
      ExpectTagEnd();
    } else {
      Fail("unknown tag '" + tag + "'" + (ends.empty() ? "" : "; '" + std::string(ends.back()) + "' was expected"));
    }
  }

  Statement ParseIf() {
    Statement statement = NewStatement(Statement::Kind::kIf);
    const size_t mark = UnknownMark();
    bool more = true;
    while (ok() && more) {
      ExprPtr condition = ParseTuple(false);
      Block body = ParseBody({"elif", "else", "endif"});
      statement.branches.emplace_back(std::move(condition), std::move(body));
      more = SkipName("elif");
    }
    if (SkipName("else")) statement.else_body = ParseBody({"endif"});
    SkipEnd();
    ForgiveUnknown(mark);
    return statement;
  }

  static bool Names(const Expr& target, std::string_view name) {
    return target.name == name || std::any_of(target.children.begin(), target.children.end(), [&](const ExprPtr& child) { return Names(*child, name); });
  }

  Statement ParseFor() {
    Statement statement = NewStatement(Statement::Kind::kFor);
    statement.target = ParseTarget(false);
    if (Names(*statement.target, "loop")) Fail("'loop' cannot be a loop's own variable");
    if (!SkipName("in")) Fail("expected 'in'");
    statement.expr = ParseTuple(false);
    const size_t mark = UnknownMark();
    if (SkipName("if")) statement.condition = ParseExpression();
    statement.recursive = SkipName("recursive");
    ++loops_;
    statement.body = ParseBody({"else", "endfor"});
    --loops_;
    if (SkipName("else")) statement.else_body = ParseBody({"endfor"});
    SkipEnd();
    RefuseUnknown(mark);
    return statement;
  }

  // A body that is a function of its own in Jinja: loops outside cannot be left from inside.
  Block ParseOwnBody(const Ends& ends) {
    const size_t mark = UnknownMark();
    const int loops = std::exchange(loops_, 0);
    Block body = ParseBody(ends);
    loops_ = loops;
    RefuseUnknown(mark);
    return body;
  }

  Statement ParseSet() {
    Statement statement = NewStatement(Statement::Kind::kSet);
    statement.target = ParseTarget(true);
    if (SkipOperator("=")) {
      statement.expr = ParseTuple();
      ExpectTagEnd();
      return statement;
    }
    statement.kind = Statement::Kind::kSetBlock;
    if (SkipOperator("|")) statement.expr = ParseFilterChain();
    const size_t mark = UnknownMark();
    statement.body = ParseBody({"endset"});
    RefuseUnknown(mark);
    SkipEnd();
    return statement;
  }

  void ParseSignature(MacroCode& macro) {
    ExpectOperator("(");
    while (ok() && !IsOperator(")")) {
      macro.parameters.push_back(ExpectName("a parameter's name"));
      if (SkipOperator("=")) {
        macro.defaults.push_back(ParseExpression());
      } else if (!macro.defaults.empty()) {
        Fail("a parameter without a default follows one with a default");
      }
      if (!IsOperator(")")) ExpectOperator(",");
    }
    ExpectOperator(")");
  }

  void ParseMacroBody(MacroCode& macro, std::string_view end) {
    std::set<std::string> outside = std::exchange(specials_, {});
    macro.body = ParseOwnBody({end});
    macro.uses_caller = specials_.count("caller") != 0;
    macro.uses_varargs = specials_.count("varargs") != 0;
    macro.uses_kwargs = specials_.count("kwargs") != 0;
    specials_.merge(outside);
    SkipEnd();
  }

  Statement ParseMacro() {
    Statement statement = NewStatement(Statement::Kind::kMacro);
    auto macro = std::make_shared<MacroCode>();
    macro->name = ExpectName("a macro's name");
    ParseSignature(*macro);
    ParseMacroBody(*macro, "endmacro");
    statement.macro = std::move(macro);
    return statement;
  }

  Statement ParseCallBlock() {
    Statement statement = NewStatement(Statement::Kind::kCall);
    auto macro = std::make_shared<MacroCode>();
    macro->name = "caller";
    if (IsOperator("(")) ParseSignature(*macro);
    statement.expr = ParseExpression();
    if (ok() && statement.expr->kind != Expr::Kind::kCall) Fail("expected a call");
    ParseMacroBody(*macro, "endcall");
    statement.macro = std::move(macro);
    return statement;
  }

  Statement ParseFilterBlock() {
    Statement statement = NewStatement(Statement::Kind::kFilter);
    statement.expr = ParseFilterChain();
    const size_t mark = UnknownMark();
    statement.body = ParseBody({"endfilter"});
    RefuseUnknown(mark);
    SkipEnd();
    return statement;
  }

  Statement ParseWith() {
    Statement statement = NewStatement(Statement::Kind::kWith);
    while (ok() && !Is(Token::Kind::kBlockEnd)) {
      if (!statement.targets.empty()) ExpectOperator(",");
      const std::string name = ExpectName("a name");
      statement.targets.push_back(Make(Expr::Kind::kName, name));
      ExpectOperator("=");
      statement.values.push_back(ParseExpression());
    }
    const size_t mark = UnknownMark();
    statement.body = ParseBody({"endwith"});
    RefuseUnknown(mark);
    SkipEnd();
    return statement;
  }

  Statement ParseScope(const std::string& tag) {
    Statement statement = NewStatement(Statement::Kind::kScope);
    if (tag == "block") ExpectName("a block's name");
    const std::string end = "end" + tag;
    statement.body = ParseOwnBody({end});
    Next();
    if (tag == "block" && Is(Token::Kind::kName)) Next();
    ExpectTagEnd();
    return statement;
  }

  int loops_ = 0;  // around the current place
};

}  // namespace

Result<std::shared_ptr<const Template>> ParseTemplate(std::string_view source) {
  if (source.size() > kMaxSourceBytes) return InvalidError("the chat template has {} bytes, at most {} are allowed", source.size(), kMaxSourceBytes);
  ASSIGN_OR_RETURN(auto tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace baton::jinja
