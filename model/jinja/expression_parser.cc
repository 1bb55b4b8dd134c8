#include "model/jinja/expression_parser.h"

#include <algorithm>
#include <cstdlib>

#include "model/jinja/filters.h"
#include "model/jinja/tests.h"

namespace baton::jinja {

using Kind = Expr::Kind;

std::string ExpressionParser::Describe() const {
  switch (Current().kind) {
    case Token::Kind::kEnd: return "the end of the template";
    case Token::Kind::kBlockEnd: return "the end of the tag";
    case Token::Kind::kPrintEnd: return "the end of the expression";
    case Token::Kind::kText: return "text";
    case Token::Kind::kBlockBegin: return "'{%'";
    case Token::Kind::kPrintBegin: return "'{{'";
    default: return "'" + Current().text + "'";
  }
}

void ExpressionParser::FailAt(int line, const std::string& message) {
  if (status_.ok()) status_ = InvalidError("line {}: {}", line, message);
  at_ = tokens_.size() - 1;
}

bool ExpressionParser::SkipName(std::string_view name) {
  const bool is = IsName(name);
  if (is) Next();
  return is;
}

bool ExpressionParser::SkipOperator(std::string_view text) {
  const bool is = IsOperator(text);
  if (is) Next();
  return is;
}

void ExpressionParser::ExpectOperator(std::string_view text) {
  if (!SkipOperator(text)) Fail("expected '" + std::string(text) + "', got " + Describe());
}

std::string ExpressionParser::ExpectName(std::string_view what) {
  if (!Is(Token::Kind::kName)) {
    Fail("expected " + std::string(what) + ", got " + Describe());
    return "";
  }
  std::string name = Current().text;
  Next();
  return name;
}

void ExpressionParser::RefuseUnknown(size_t mark) {
  if (unknown_.size() > mark) Fail(unknown_[mark]);
}

ExprPtr ExpressionParser::Make(Kind kind, std::string name) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = Current().line;
  expr->name = std::move(name);
  return expr;
}

void ExpressionParser::Add(Expr& parent, ExprPtr child) {
  if (child != nullptr) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxDepth) Fail("the expression is nested too deep");
  }
  parent.children.push_back(std::move(child));
}

bool ExpressionParser::AtTupleEnd() const { return Is(Token::Kind::kPrintEnd) || Is(Token::Kind::kBlockEnd) || Is(Token::Kind::kEnd) || IsOperator(")"); }

ExprPtr ExpressionParser::ParseTuple(bool conditions) {
  ExprPtr tuple = Make(Kind::kTuple);
  bool comma = false;
  while (ok() && !AtTupleEnd() && !(comma && IsName("recursive"))) {
    Add(*tuple, conditions ? ParseExpression() : ParseOr());
    if (!SkipOperator(",")) break;
    comma = true;
  }
  if (tuple->children.empty()) Fail("expected an expression, got " + Describe());
  if (!comma && !tuple->children.empty()) return std::move(tuple->children[0]);
  return tuple;
}

ExprPtr ExpressionParser::ParseExpression() {
  const Nested nested(*this);
  return ParseConditional();
}

ExprPtr ExpressionParser::ParseConditional() {
  const size_t mark = UnknownMark();
  ExprPtr value = ParseOr();
  while (ok() && SkipName("if")) {
    ExprPtr conditional = Make(Kind::kConditional);
    Add(*conditional, ParseOr());
    Add(*conditional, std::move(value));
    Add(*conditional, SkipName("else") ? ParseExpression() : nullptr);
    value = std::move(conditional);
    ForgiveUnknown(mark);
  }
  return value;
}

ExprPtr ExpressionParser::ParseOr() {
  ExprPtr left = ParseAnd();
  while (ok() && SkipName("or")) {
    ExprPtr both = Make(Kind::kOr);
    Add(*both, std::move(left));
    Add(*both, ParseAnd());
    left = std::move(both);
  }
  return left;
}

ExprPtr ExpressionParser::ParseAnd() {
  ExprPtr left = ParseNot();
  while (ok() && SkipName("and")) {
    ExprPtr both = Make(Kind::kAnd);
    Add(*both, std::move(left));
    Add(*both, ParseNot());
    left = std::move(both);
  }
  return left;
}

ExprPtr ExpressionParser::ParseNot() {
  if (!IsName("not")) return ParseCompare();
  const Nested nested(*this);
  Next();
  ExprPtr expr = Make(Kind::kNot);
  Add(*expr, ParseNot());
  return expr;
}

ExprPtr ExpressionParser::ParseCompare() {
  ExprPtr first = ParseBinary(0);
  ExprPtr compare;
  while (ok()) {
    std::string op;
    for (const std::string_view text : {"==", "!=", "<", "<=", ">", ">="}) {
      if (IsOperator(text)) op = text;
    }
    if (IsName("in")) op = "in";
    if (IsName("not") && Ahead().kind == Token::Kind::kName && Ahead().text == "in") {
      op = "not in";
      Next();
    }
    if (op.empty()) break;
    Next();
    if (compare == nullptr) {
      compare = Make(Kind::kCompare);
      Add(*compare, std::move(first));
    }
    compare->operators.push_back(op);
    Add(*compare, ParseBinary(0));
  }
  return compare == nullptr ? std::move(first) : std::move(compare);
}

// Levels: 0 "+ -", 1 "~", 2 "* / // %", 3 "**"; all of them bind to the left, "**" too.
ExprPtr ExpressionParser::ParseBinary(int level) {
  if (level == 1) return ParseConcat();
  const auto operand = [&] { return level == 3 ? ParseUnary() : ParseBinary(level + 1); };
  ExprPtr left = operand();
  while (ok() && Is(Token::Kind::kOperator)) {
    const std::string op = Current().text;
    const bool known = level == 0 ? op == "+" || op == "-" : level == 2 ? op == "*" || op == "/" || op == "//" || op == "%" : op == "**";
    if (!known) break;
    Next();
    ExprPtr binary = Make(Kind::kBinary, op);
    Add(*binary, std::move(left));
    Add(*binary, operand());
    left = std::move(binary);
  }
  return left;
}

ExprPtr ExpressionParser::ParseConcat() {
  ExprPtr first = ParseBinary(2);
  if (!IsOperator("~")) return first;
  ExprPtr concat = Make(Kind::kConcat);
  Add(*concat, std::move(first));
  while (ok() && SkipOperator("~")) Add(*concat, ParseBinary(2));
  return concat;
}

ExprPtr ExpressionParser::ParseUnary(bool filters) {
  const Nested nested(*this);
  ExprPtr expr;
  if (IsOperator("-") || IsOperator("+")) {
    expr = Make(Kind::kUnary, Current().text);
    Next();
    Add(*expr, ParseUnary(false));
  } else {
    expr = ParsePrimary();
  }
  expr = ParsePostfix(std::move(expr));
  return filters ? ParseFilters(std::move(expr)) : std::move(expr);
}

ExprPtr ExpressionParser::ParsePrimary() {
  ExprPtr expr = Make(Kind::kLiteral);
  if (Is(Token::Kind::kName)) {
    const std::string name = ExpectName("a name");
    if (name == "true" || name == "True") {
      expr->literal = Value::Bool(true);
    } else if (name == "false" || name == "False") {
      expr->literal = Value::Bool(false);
    } else if (name == "none" || name == "None") {
      expr->literal = Value::None();
    } else {
      if (name == "caller" || name == "varargs" || name == "kwargs") specials_.insert(name);
      expr->kind = Kind::kName;
      expr->name = name;
    }
  } else if (Is(Token::Kind::kString)) {
    std::string text;
    for (; Is(Token::Kind::kString); Next()) text += Current().text;
    expr->literal = Value::String(text);
  } else if (Is(Token::Kind::kInteger) || Is(Token::Kind::kFloat)) {
    return ParseNumber();
  } else if (SkipOperator("(")) {
    return ParseParentheses();
  } else if (SkipOperator("[")) {
    return ParseList();
  } else if (SkipOperator("{")) {
    return ParseDict();
  } else {
    Fail("unexpected " + Describe());
  }
  return expr;
}

ExprPtr ExpressionParser::ParseNumber() {
  ExprPtr expr = Make(Kind::kLiteral);
  const std::string text = Current().text;
  if (Is(Token::Kind::kFloat)) {
    expr->literal = Value::Float(std::strtod(text.c_str(), nullptr));
    Next();
    return expr;
  }
  const char base_mark = text.size() > 2 ? static_cast<char>(text[1] | 0x20) : '0';
  const int base = base_mark == 'x' ? 16 : base_mark == 'o' ? 8 : base_mark == 'b' ? 2 : 10;
  Int value = 0;
  for (size_t i = base == 10 ? 0 : 2; i < text.size(); ++i) {
    const int digit = text[i] <= '9' ? text[i] - '0' : (text[i] | 0x20) - 'a' + 10;
    if (__builtin_mul_overflow(value, Int{base}, &value) || __builtin_add_overflow(value, Int{digit}, &value)) {
      Fail("the number " + text.substr(0, 50) + " is too large");
      return expr;
    }
  }
  expr->literal = Value::Integer(value);
  Next();
  return expr;
}

ExprPtr ExpressionParser::ParseParentheses() {
  const Nested nested(*this);
  if (SkipOperator(")")) return Make(Kind::kTuple);
  ExprPtr inside = ParseTuple();
  ExpectOperator(")");
  return inside;
}

ExprPtr ExpressionParser::ParseList() {
  ExprPtr list = Make(Kind::kList);
  while (ok() && !IsOperator("]")) {
    Add(*list, ParseExpression());
    if (!IsOperator("]")) ExpectOperator(",");
  }
  ExpectOperator("]");
  return list;
}

ExprPtr ExpressionParser::ParseDict() {
  ExprPtr dict = Make(Kind::kDict);
  while (ok() && !IsOperator("}")) {
    Add(*dict, ParseExpression());
    ExpectOperator(":");
    Add(*dict, ParseExpression());
    if (!IsOperator("}")) ExpectOperator(",");
  }
  ExpectOperator("}");
  return dict;
}

ExprPtr ExpressionParser::ParsePostfix(ExprPtr base) {
  while (ok()) {
    if (SkipOperator(".")) {
      base = ParseAttribute(std::move(base));
    } else if (SkipOperator("[")) {
      base = ParseItem(std::move(base));
    } else if (IsOperator("(")) {
      base = ParseCall(std::move(base));
    } else {
      break;
    }
  }
  return base;
}

ExprPtr ExpressionParser::ParseAttribute(ExprPtr base) {
  if (Is(Token::Kind::kInteger)) {
    ExprPtr item = Make(Kind::kItem);
    Add(*item, std::move(base));
    Add(*item, ParseNumber());
    return item;
  }
  ExprPtr attribute = Make(Kind::kAttribute);
  attribute->name = ExpectName("a name or a number after '.'");
  Add(*attribute, std::move(base));
  return attribute;
}

ExprPtr ExpressionParser::ParseItem(ExprPtr base) {
  ExprPtr item = Make(Kind::kItem);
  Add(*item, std::move(base));
  ExprPtr keys = Make(Kind::kTuple);
  while (ok() && !IsOperator("]")) {
    Add(*keys, ParseSubscript());
    if (!IsOperator("]")) ExpectOperator(",");
  }
  ExpectOperator("]");
  if (keys->children.empty()) Fail("a subscript is empty");
  Add(*item, keys->children.size() == 1 ? std::move(keys->children[0]) : std::move(keys));
  return item;
}

ExprPtr ExpressionParser::ParseSubscript() {
  ExprPtr slice = Make(Kind::kSlice);
  ExprPtr first = IsOperator(":") ? nullptr : ParseExpression();
  if (!IsOperator(":")) return first;
  Add(*slice, std::move(first));
  while (ok() && slice->children.size() < 3 && SkipOperator(":")) {
    const bool none = IsOperator(":") || IsOperator("]") || IsOperator(",");
    Add(*slice, none ? nullptr : ParseExpression());
  }
  slice->children.resize(3);
  return slice;
}

void ExpressionParser::ParseArguments(Expr& call) {
  const Nested nested(*this);
  const auto adopt = [&](ExprPtr child) {
    call.depth = std::max(call.depth, child->depth + 1);
    return child;
  };
  ExpectOperator("(");
  while (ok() && !IsOperator(")")) {
    if (SkipOperator("**")) {
      if (call.double_star != nullptr) Fail("a call has two '**' arguments");
      call.double_star = adopt(ParseExpression());
    } else if (SkipOperator("*")) {
      if (call.star != nullptr || call.double_star != nullptr) Fail("a call has its '*' argument in a wrong place");
      call.star = adopt(ParseExpression());
    } else if (Is(Token::Kind::kName) && Ahead().kind == Token::Kind::kOperator && Ahead().text == "=") {
      std::string name = ExpectName("a name");
      Next();
      if (call.double_star != nullptr) Fail("a call has an argument after its '**' argument");
      call.named.emplace_back(std::move(name), adopt(ParseExpression()));
    } else {
      if (call.star != nullptr || call.double_star != nullptr || !call.named.empty()) Fail("a positional argument follows a named one");
      Add(call, ParseExpression());
    }
    if (!IsOperator(")")) ExpectOperator(",");
  }
  ExpectOperator(")");
  if (call.depth > kMaxDepth) Fail("the expression is nested too deep");
}

ExprPtr ExpressionParser::ParseCall(ExprPtr callee) {
  ExprPtr call = Make(Kind::kCall);
  Add(*call, std::move(callee));
  ParseArguments(*call);
  return call;
}

ExprPtr ExpressionParser::ParseFilters(ExprPtr base) {
  while (ok()) {
    if (SkipOperator("|")) {
      base = ParseFilter(std::move(base));
    } else if (SkipName("is")) {
      base = ParseTest(std::move(base));
    } else if (IsOperator("(")) {
      base = ParseCall(std::move(base));
    } else {
      break;
    }
  }
  return base;
}

ExprPtr ExpressionParser::ParseFilterChain() {
  ExprPtr chain = ParseFilter(nullptr);
  while (ok() && SkipOperator("|")) chain = ParseFilter(std::move(chain));
  return chain;
}

ExprPtr ExpressionParser::ParseFilter(ExprPtr base) {
  ExprPtr filter = Make(Kind::kFilter);
  filter->name = ExpectName("a filter's name");
  while (ok() && SkipOperator(".")) filter->name += "." + ExpectName("a filter's name");
  Add(*filter, std::move(base));
  if (FindFilter(filter->name) == nullptr) unknown_.push_back("there is no filter '" + filter->name + "'");
  if (IsOperator("(")) ParseArguments(*filter);
  return filter;
}

ExprPtr ExpressionParser::ParseTest(ExprPtr base) {
  const bool negated = SkipName("not");
  ExprPtr test = Make(Kind::kTest);
  test->name = ExpectName("a test's name");
  while (ok() && SkipOperator(".")) test->name += "." + ExpectName("a test's name");
  Add(*test, std::move(base));
  if (FindTest(test->name) == nullptr) unknown_.push_back("there is no test '" + test->name + "'");
  const bool value = Is(Token::Kind::kString) || Is(Token::Kind::kInteger) || Is(Token::Kind::kFloat) || IsOperator("[") || IsOperator("{") ||
                     (Is(Token::Kind::kName) && !IsName("else") && !IsName("or") && !IsName("and"));
  if (IsOperator("(")) {
    ParseArguments(*test);
  } else if (value) {
    if (IsName("is")) Fail("tests cannot be chained with 'is'");
    const Nested nested(*this);
    Add(*test, ParsePostfix(ParsePrimary()));
  }
  if (!negated) return test;
  ExprPtr expr = Make(Kind::kNot);
  Add(*expr, std::move(test));
  return expr;
}

ExprPtr ExpressionParser::ParseTarget(bool attributes) {
  const Nested nested(*this);
  ExprPtr tuple = Make(Kind::kTuple);
  bool comma = false;
  while (ok()) {
    if (comma && (IsName("in") || IsOperator("=") || AtTupleEnd())) break;
    if (SkipOperator("(")) {
      Add(*tuple, ParseTarget(attributes));
      ExpectOperator(")");
    } else {
      const std::string name = ExpectName("a name to assign to");
      if (name == "true" || name == "false" || name == "none" || name == "True" || name == "False" || name == "None") Fail("'" + name + "' cannot be assigned to");
      ExprPtr target = Make(Kind::kName, name);
      if (attributes && SkipOperator(".")) {
        ExprPtr attribute = Make(Kind::kAttribute, ExpectName("an attribute's name"));
        Add(*attribute, std::move(target));
        target = std::move(attribute);
      }
      Add(*tuple, std::move(target));
    }
    if (!SkipOperator(",")) break;
    comma = true;
  }
  if (!comma && !tuple->children.empty()) return std::move(tuple->children[0]);
  return tuple;
}

}  // namespace baton::jinja
