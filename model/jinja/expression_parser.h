// Jinja's expressions, from tokens. After the first error the parser stands at the end of the tokens, so every loop ends;
// what it returns then is thrown away. Thread: one at a time.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/jinja/ast.h"
#include "model/jinja/lexer.h"

namespace baton::jinja {

class ExpressionParser {
 public:
  static constexpr uint32_t kMaxDepth = 150;  // of nested expressions and statements; bounds every recursion over the tree

  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  /// An expression, or several with commas between them, which make a tuple. `conditions`: `a if b else c` is allowed.
  ExprPtr ParseTuple(bool conditions = true);
  ExprPtr ParseExpression();
  ExprPtr ParseOr();
  ExprPtr ParseUnary(bool filters = true);
  /// What may follow `base`: `| filter`, `is test`, a call of these.
  ExprPtr ParseFilters(ExprPtr base);
  /// A chain of filters without what they apply to: `upper | trim`.
  ExprPtr ParseFilterChain();
  /// A name or a tuple of names to assign to; with `attributes` also `namespace.name`.
  ExprPtr ParseTarget(bool attributes);

 protected:
  const Token& Current() const { return tokens_[at_]; }
  const Token& Ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool Is(Token::Kind kind) const { return Current().kind == kind; }
  bool IsName(std::string_view name) const { return Is(Token::Kind::kName) && Current().text == name; }
  bool IsOperator(std::string_view text) const { return Is(Token::Kind::kOperator) && Current().text == text; }
  void Next() { at_ = std::min(at_ + 1, tokens_.size() - 1); }
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view text);
  void ExpectOperator(std::string_view text);
  std::string ExpectName(std::string_view what);
  void Fail(const std::string& message) { FailAt(Current().line, message); }
  void FailAt(int line, const std::string& message);
  bool ok() const { return status_.ok(); }
  ExprPtr Make(Expr::Kind kind, std::string name = {}) const;
  void Add(Expr& parent, ExprPtr child);  // null children are allowed
  ExprPtr ParseCall(ExprPtr callee);
  /// Jinja refuses unknown filters and tests when it compiles, except below `if`. These two bracket such a place and one
  /// where they are final.
  size_t UnknownMark() const { return unknown_.size(); }
  void ForgiveUnknown(size_t mark) { unknown_.resize(std::min(mark, unknown_.size())); }
  void RefuseUnknown(size_t mark);

  struct Nested {  // one more level of recursion
    explicit Nested(ExpressionParser& p) : parser(p) {
      if (++parser.depth_ > kMaxDepth) parser.Fail("the template is nested too deep");
    }
    ~Nested() { --parser.depth_; }
    ExpressionParser& parser;
  };

  Status status_;
  std::set<std::string> specials_;  // which of caller, varargs and kwargs were named

 private:
  ExprPtr ParseConditional();
  ExprPtr ParseAnd();
  ExprPtr ParseNot();
  ExprPtr ParseCompare();
  ExprPtr ParseBinary(int level);
  ExprPtr ParseConcat();
  ExprPtr ParsePrimary();
  ExprPtr ParsePostfix(ExprPtr base);
  ExprPtr ParseAttribute(ExprPtr base);
  ExprPtr ParseItem(ExprPtr base);
  ExprPtr ParseSubscript();
  ExprPtr ParseFilter(ExprPtr base);
  ExprPtr ParseTest(ExprPtr base);
  ExprPtr ParseNumber();
  ExprPtr ParseList();
  ExprPtr ParseDict();
  ExprPtr ParseParentheses();
  void ParseArguments(Expr& call);
  bool AtTupleEnd() const;
  std::string Describe() const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  uint32_t depth_ = 0;
  std::vector<std::string> unknown_;
};

}  // namespace baton::jinja
