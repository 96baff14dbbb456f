// A parsed configuration: a tree of typed values in which every value remembers where it was written. YAML files, JSON
// files, command-line overrides and described structs all become Nodes; config::read turns Nodes into structs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace automodel::config {

// A text that values come from: a file, or one command-line override.
struct Source {
  std::string name;  // the path as the user gave it, or the flag: "--optimizer.lr"
  std::vector<std::string> lines;
  bool flag = false;
};

std::shared_ptr<const Source> make_source(std::string_view text, std::string_view name);

// Where a value was written. Without a source it is a default of ours.
struct Origin {
  std::shared_ptr<const Source> source;
  int line = 0;    // from 1; 0: unknown
  int column = 0;  // from 1, in bytes; 0: unknown

  // "recipes/x.yaml:3:7", "--optimizer.lr" or "default".
  std::string text() const;
};

// One mistake. `key` is the dotted path: "optimizer.lr".
struct Problem {
  std::string key;
  std::string message;
  std::string hint;
  Origin origin;
};

class Node;
struct Entry;

// A value type; copies are deep. A map keeps the order in which it was written, and its keys are unique.
class Node {
 public:
  enum class Kind { kNull, kBool, kInt, kFloat, kString, kList, kMap };

  Node();
  ~Node();
  Node(const Node& other);
  Node(Node&& other) noexcept;
  Node& operator=(const Node& other);
  Node& operator=(Node&& other) noexcept;
  static Node null();
  static Node boolean(bool value);
  static Node integer(int64_t value);
  static Node real(double value);
  static Node string(std::string value);
  static Node list();
  static Node map();

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }
  bool is_bool() const { return kind_ == Kind::kBool; }
  bool is_int() const { return kind_ == Kind::kInt; }
  bool is_float() const { return kind_ == Kind::kFloat; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_list() const { return kind_ == Kind::kList; }
  bool is_map() const { return kind_ == Kind::kMap; }
  bool is_scalar() const { return !is_list() && !is_map(); }

  // Precondition: the kind fits (as_double also takes integers).
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;
  const std::string& as_string() const;

  // What was written where a scalar was: "0x10", "1e-5", "0.99, 0.01" (which is a list). Empty when nothing was.
  const std::string& text() const { return text_; }
  void set_text(std::string text) { text_ = std::move(text); }

  // Elements of a list; entries of a map. Empty for other kinds.
  const std::vector<Node>& items() const { return items_; }
  const std::vector<Entry>& entries() const { return entries_; }
  Node& append(Node value);

  // The value of a key of a map, or null pointer (also for other kinds).
  const Node* find(std::string_view key) const;
  Node* find(std::string_view key);
  // The value at a dotted path; list elements by number: "a.0.b". Null pointer when it is not there.
  const Node* at_path(std::string_view path) const;

  // Sets a key of a map (this node becomes an empty map when it is something else) and returns the value.
  Node& set(std::string key, Node value, Origin key_origin = {});
  // Adds an entry to a map without looking for the key: the caller knows that it is new.
  Node& push_entry(Entry entry);
  bool erase(std::string_view key);

  const Origin& origin() const { return origin_; }
  void set_origin(Origin origin) { origin_ = std::move(origin); }

  // The text with "${VAR}" in it when the value is a string that came from the environment; dumps print it instead.
  const std::string& placeholder() const { return placeholder_; }
  void set_placeholder(std::string text) { placeholder_ = std::move(text); }

  // Dumps print ****** instead of the value.
  bool secret() const { return secret_; }
  void set_secret(bool secret) { secret_ = secret; }

  // Mistakes found before the meaning was known (a key given twice, an unset variable). read() reports them; they
  // vanish with the node when an override replaces it.
  const std::vector<Problem>& defects() const { return defects_; }
  void add_defect(Problem problem) { defects_.push_back(std::move(problem)); }

  // Same kinds, values, keys and order; origins and texts are not compared. NaN equals NaN.
  bool operator==(const Node& other) const;

 private:
  Kind kind_ = Kind::kNull;
  bool secret_ = false;
  bool bool_ = false;
  int64_t int_ = 0;
  double double_ = 0;
  std::string string_;
  std::string text_;
  std::string placeholder_;
  std::vector<Node> items_;
  std::vector<Entry> entries_;
  std::vector<Problem> defects_;
  Origin origin_;
};

struct Entry {
  std::string key;
  Node value;
  Origin key_origin;
};

// "null", "true", "12", "1e-05", "'text'", "a list", "a mapping": a value inside a message.
std::string show(const Node& node);

}  // namespace automodel::config
