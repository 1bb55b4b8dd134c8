// A parsed template. Thread: immutable after parsing, so any.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/jinja/value.h"

namespace baton::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind {
    kLiteral,      // literal
    kName,         // name
    kList,         // children
    kTuple,        // children
    kDict,         // children: key, value, key, value, …
    kAttribute,    // children[0].name
    kItem,         // children[0][children[1]]
    kSlice,        // children: start, stop, step; null where left out
    kCall,         // children[0](children[1…], named)
    kFilter,       // children[0] | name(children[1…], named); children[0] is null in a filter block
    kTest,         // children[0] is name(children[1…], named)
    kUnary,        // name: "-", "+"
    kBinary,       // name: "+", "-", "*", "/", "//", "%", "**"
    kConcat,       // children, joined as text
    kCompare,      // children[0] operators[0] children[1] operators[1] …
    kAnd, kOr,     // children[0], children[1]
    kNot,          // children[0]
    kConditional,  // children[1] if children[0] else children[2] (may be null)
  };
  Kind kind;
  int line = 0;
  uint32_t depth = 1;
  std::string name;
  Value literal;
  std::vector<ExprPtr> children;
  std::vector<std::pair<std::string, ExprPtr>> named;  // keyword arguments
  ExprPtr star, double_star;                           // *args, **kwargs
  std::vector<std::string> operators;
};

struct Statement;
using Block = std::vector<Statement>;

/// The signature and body of a macro or of a call block.
struct MacroCode {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
  Block body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // expr
    kIf,        // branches: (condition, body)…, then else_body
    kFor,       // target, expr, condition, body, else_body, recursive
    kSet,       // target, expr
    kSetBlock,  // target, filter chain in expr (may be null), body
    kMacro,     // macro
    kCall,      // expr is the call; macro is the block
    kFilter,    // expr is the filter chain; body
    kWith,      // branches' conditions are the values of targets; body
    kScope,     // body, in its own scope: `generation` and `block`
    kBreak,
    kContinue,
  };
  Kind kind;
  int line = 0;
  Text text;
  ExprPtr target, expr, condition;
  std::vector<ExprPtr> targets, values;             // kWith
  std::vector<std::pair<ExprPtr, Block>> branches;  // kIf
  Block body, else_body;
  bool recursive = false;
  std::shared_ptr<const MacroCode> macro;
};

struct Template {
  Block body;
};

}  // namespace baton::jinja
