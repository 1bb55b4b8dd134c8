// The values of a chat template: Python's, as far as templates can see them. Lists and dicts never change once made
// (the sandbox forbids it), so they are shared; what does change (namespaces, loops, macros) is an Object that the
// rendering owns. Thread: immutable values any, Objects the rendering's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"

namespace baton::jinja {

using Int = __int128;  // Python's integers have no end; past this one a template fails

/// A string, valid UTF-8, and who wrote each byte of it.
struct Text {
  std::string bytes;
  std::string user;     // empty: the template wrote everything; else one byte a byte, 1 = it came from the input
  bool markup = false;  // escaped already (filters `safe` and `escape`)

  Text() = default;
  explicit Text(std::string_view text, bool from_user = false) { Append(text, from_user); }
  void Append(std::string_view text, bool from_user = false);
  void Append(const Text& other, size_t begin = 0, size_t length = std::string::npos);
  Text Sub(size_t begin, size_t length = std::string::npos) const;
  bool UserAt(size_t byte) const { return !user.empty() && user[byte] != 0; }
};

class Object;
struct List;
struct Dict;
struct Method;

class Value {
 public:
  enum class Kind : uint8_t { kUndefined, kNone, kBool, kInt, kFloat, kText, kList, kDict, kMethod, kObject };

  Value() = default;  // undefined
  /// `message` is what using it fails with.
  static Value Undefined(std::string message);
  static Value None() { return Value(Storage(std::in_place_index<1>)); }
  static Value Bool(bool v, bool from_user = false) { return Value(Storage(std::in_place_index<2>, v), from_user); }
  static Value Integer(Int v, bool from_user = false) { return Value(Storage(std::in_place_index<3>, v), from_user); }
  static Value Float(double v, bool from_user = false) { return Value(Storage(std::in_place_index<4>, v), from_user); }
  static Value String(Text text) { return Value(Storage(std::in_place_index<5>, std::make_shared<const Text>(std::move(text)))); }
  static Value String(std::string_view text) { return String(Text(text)); }
  static Value Of(List list);
  static Value Of(Dict dict);
  static Value Of(Method method);
  static Value Of(Object* object) { return Value(Storage(std::in_place_index<9>, object)); }

  Kind kind() const { return static_cast<Kind>(storage_.index()); }
  bool IsUndefined() const { return kind() == Kind::kUndefined; }
  bool IsNone() const { return kind() == Kind::kNone; }
  bool IsText() const { return kind() == Kind::kText; }
  bool IsList() const { return kind() == Kind::kList; }
  bool IsDict() const { return kind() == Kind::kDict; }
  /// Python's int includes bool.
  bool IsInteger() const { return kind() == Kind::kInt || kind() == Kind::kBool; }
  bool IsNumber() const { return IsInteger() || kind() == Kind::kFloat; }
  /// Each of these only for a value of that kind.
  const std::string& message() const { return std::get<0>(storage_).message ? *std::get<0>(storage_).message : kNoMessage; }
  bool boolean() const { return std::get<2>(storage_); }
  Int integer() const { return kind() == Kind::kBool ? Int{boolean()} : std::get<3>(storage_); }
  double number() const { return kind() == Kind::kFloat ? std::get<4>(storage_) : static_cast<double>(integer()); }
  const Text& text() const { return *std::get<5>(storage_); }
  const List& list() const { return *std::get<6>(storage_); }
  const Dict& dict() const { return *std::get<7>(storage_); }
  const Method& method() const { return *std::get<8>(storage_); }
  Object* object() const { return std::get<9>(storage_); }
  /// A scalar that came from the input.
  bool from_user() const { return from_user_; }
  /// The same object, in the sense of Python's `is`.
  bool SameAs(const Value& other) const;

 private:
  struct Missing {
    std::shared_ptr<const std::string> message;
  };
  struct Nothing {};
  using Storage = std::variant<Missing, Nothing, bool, Int, double, std::shared_ptr<const Text>, std::shared_ptr<const List>,
                               std::shared_ptr<const Dict>, std::shared_ptr<const Method>, Object*>;
  explicit Value(Storage storage, bool from_user = false) : storage_(std::move(storage)), from_user_(from_user) {}
  static const std::string kNoMessage;

  Storage storage_;
  bool from_user_ = false;
};

struct List {
  enum class Kind : uint8_t { kList, kTuple, kGenerator, kRange, kDictKeys, kDictValues, kDictItems };
  Kind kind = Kind::kList;
  bool from_user = false;         // its brackets and commas too
  uint32_t depth = 1;             // of nesting; bounds every recursion over values
  std::vector<Value> items;
  bool group = false;             // a pair of `groupby`, whose items are also .grouper and .list
  std::string range;              // kRange: how it prints
  Status failure;                 // kGenerator: what the first pass over it fails with
  mutable size_t consumed = 0;    // kGenerator: a second pass starts where the first stopped
};

/// In the order of insertion.
struct Dict {
  bool from_user = false;
  uint32_t depth = 1;
  std::vector<std::pair<Value, Value>> items;

  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  /// False where Python could not hash the key.
  bool Set(const Value& key, Value value);

 private:
  std::map<std::string, size_t, std::less<>> index_;  // by HashKey
};

/// A method taken off its object, such as `text.upper`.
struct Method {
  Value self;
  std::string name;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Run;

/// What a rendering makes and may change; it lives until the rendering ends.
class Object {
 public:
  virtual ~Object() = default;
  /// As Python names the type.
  virtual std::string_view type_name() const = 0;
  virtual std::optional<Value> Attribute(std::string_view) const { return std::nullopt; }
  virtual bool callable() const { return false; }
  virtual Value Call(Run& run, const Arguments& arguments);
};

/// One text for all keys that are equal in Python (1, 1.0 and true are); nullopt for what cannot be a key.
std::optional<std::string> HashKey(const Value& key);
uint32_t Depth(const Value& value);
/// "str", "NoneType", "dict_items", …
std::string_view TypeName(const Value& value);
/// As Jinja names the type in messages: "dict object", "None".
std::string TypeForMessage(const Value& value);

}  // namespace baton::jinja
