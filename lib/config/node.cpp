#include "config/node.h"

#include <fmt/core.h>

#include <charconv>
#include <cmath>

#include "config/scalar.h"
#include "core/error.h"

namespace automodel::config {

std::shared_ptr<const Source> make_source(std::string_view text, std::string_view name) {
  auto source = std::make_shared<Source>();
  source->name = name;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    source->lines.emplace_back(line);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  return source;
}

std::string Origin::text() const {
  if (!source) return "default";
  if (source->flag || line == 0) return source->name;
  if (column == 0) return fmt::format("{}:{}", source->name, line);
  return fmt::format("{}:{}:{}", source->name, line, column);
}

// Here, where Entry is complete.
Node::Node() = default;
Node::~Node() = default;
Node::Node(const Node& other) = default;
Node::Node(Node&& other) noexcept = default;
Node& Node::operator=(const Node& other) = default;
Node& Node::operator=(Node&& other) noexcept = default;

Node Node::null() {
  return {};
}

Node Node::boolean(bool value) {
  Node node;
  node.kind_ = Kind::kBool;
  node.bool_ = value;
  return node;
}

Node Node::integer(int64_t value) {
  Node node;
  node.kind_ = Kind::kInt;
  node.int_ = value;
  return node;
}

Node Node::real(double value) {
  Node node;
  node.kind_ = Kind::kFloat;
  node.double_ = value;
  return node;
}

Node Node::string(std::string value) {
  Node node;
  node.kind_ = Kind::kString;
  node.string_ = std::move(value);
  return node;
}

Node Node::list() {
  Node node;
  node.kind_ = Kind::kList;
  return node;
}

Node Node::map() {
  Node node;
  node.kind_ = Kind::kMap;
  return node;
}

bool Node::as_bool() const {
  AM_CHECK(is_bool(), Fault::kBug, "{}: expected a boolean node, got {}", origin_.text(), show(*this));
  return bool_;
}

int64_t Node::as_int() const {
  AM_CHECK(is_int(), Fault::kBug, "{}: expected an integer node, got {}", origin_.text(), show(*this));
  return int_;
}

double Node::as_double() const {
  AM_CHECK(is_int() || is_float(), Fault::kBug, "{}: expected a number node, got {}", origin_.text(), show(*this));
  return is_int() ? static_cast<double>(int_) : double_;
}

const std::string& Node::as_string() const {
  AM_CHECK(is_string(), Fault::kBug, "{}: expected a string node, got {}", origin_.text(), show(*this));
  return string_;
}

Node& Node::append(Node value) {
  AM_CHECK(is_list(), Fault::kBug, "append to {}", show(*this));
  return items_.emplace_back(std::move(value));
}

const Node* Node::find(std::string_view key) const {
  for (const Entry& entry : entries_) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

Node* Node::find(std::string_view key) {
  for (Entry& entry : entries_) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

const Node* Node::at_path(std::string_view path) const {
  const Node* node = this;
  while (node && !path.empty()) {
    // A key may have dots of its own.
    if (const Node* whole = node->is_map() ? node->find(path) : nullptr) return whole;
    const size_t dot = path.find('.');
    const std::string_view key = path.substr(0, dot);
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
    if (node->is_list()) {
      size_t index = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
      const bool number = error == std::errc() && end == key.data() + key.size();
      node = number && index < node->items_.size() ? &node->items_[index] : nullptr;
    } else {
      node = node->find(key);
    }
  }
  return node;
}

Node& Node::set(std::string key, Node value, Origin key_origin) {
  if (!is_map()) {
    Node empty = map();
    empty.origin_ = key_origin.source ? key_origin : origin_;
    *this = std::move(empty);
  }
  for (Entry& entry : entries_) {
    if (entry.key != key) continue;
    entry.value = std::move(value);
    entry.key_origin = std::move(key_origin);
    return entry.value;
  }
  return entries_.emplace_back(Entry{std::move(key), std::move(value), std::move(key_origin)}).value;
}

Node& Node::push_entry(Entry entry) {
  AM_CHECK(is_map(), Fault::kBug, "a key of {}", show(*this));
  return entries_.emplace_back(std::move(entry)).value;
}

bool Node::erase(std::string_view key) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].key != key) continue;
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(i));
    return true;
  }
  return false;
}

bool Node::operator==(const Node& other) const {
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case Kind::kNull:
      return true;
    case Kind::kBool:
      return bool_ == other.bool_;
    case Kind::kInt:
      return int_ == other.int_;
    case Kind::kFloat:
      return double_ == other.double_ || (std::isnan(double_) && std::isnan(other.double_));
    case Kind::kString:
      return string_ == other.string_;
    case Kind::kList:
      return items_ == other.items_;
    case Kind::kMap:
      break;
  }
  if (entries_.size() != other.entries_.size()) return false;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].key != other.entries_[i].key || !(entries_[i].value == other.entries_[i].value)) return false;
  }
  return true;
}

std::string show(const Node& node) {
  switch (node.kind()) {
    case Node::Kind::kNull:
      return "null";
    case Node::Kind::kBool:
      return node.as_bool() ? "true" : "false";
    case Node::Kind::kInt:
      return std::to_string(node.as_int());
    case Node::Kind::kFloat:
      return node.text().empty() ? format_double(node.as_double()) : node.text();
    case Node::Kind::kList:
      return node.text().empty() ? "a list" : fmt::format("a list ({})", node.text());
    case Node::Kind::kMap:
      return "a mapping";
    case Node::Kind::kString:
      break;
  }
  // A value of the environment is not shown: it may be a secret.
  if (!node.placeholder().empty()) return fmt::format("the value of {}", node.placeholder());
  const std::string& text = node.as_string();
  constexpr size_t kLongest = 80;
  return text.size() <= kLongest ? fmt::format("'{}'", text) : fmt::format("'{}...'", text.substr(0, kLongest));
}

}  // namespace automodel::config
