// nlohmann-json's event parser fills the tree; its iterator counts lines, so that a value knows the line it is on.
#include "config/json_reader.h"

#include <fmt/core.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "config/dump.h"
#include "config/report.h"
#include "config/scalar.h"
#include "core/error.h"
#include "core/file.h"

namespace automodel::config {
namespace {

using Json = nlohmann::json;
constexpr size_t kDeepest = 100;
constexpr size_t kMostNodes = 2'000'000;

// Walks the text and counts the newlines that it has passed.
struct CountingIterator {
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at = nullptr;
  int* line = nullptr;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    if (*at == '\n') ++*line;
    ++at;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
  bool operator!=(const CountingIterator& other) const { return at != other.at; }
};

class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::shared_ptr<const Source> source, const int& line) : source_(std::move(source)), line_(line) {}
  Node take() { return std::move(root_); }

  bool null() override { return place(Node::null(), "null"); }
  bool boolean(bool value) override { return place(Node::boolean(value), value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return place(Node::integer(value), std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX)) {
      return place(Node::real(static_cast<double>(value)), std::to_string(value));
    }
    return place(Node::integer(static_cast<int64_t>(value)), std::to_string(value));
  }
  bool number_float(number_float_t value, const string_t& text) override { return place(Node::real(value), text); }
  bool string(string_t& value) override { return place(Node::string(value), value); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Node::map()); }
  bool key(string_t& value) override {
    frames_.back().key = value;
    frames_.back().key_origin = here();
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Node::list()); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    std::string message = error.what();
    const size_t end = message.find("] ");  // nlohmann's own prefix
    if (end != std::string::npos) message = message.substr(end + 2);
    throw Error(Fault::kConfig, format_problem({"", "not valid JSON: " + message, "", here()}));
  }

 private:
  struct Frame {
    Node node;
    std::string key;
    Origin key_origin;
    std::unordered_set<std::string> seen;
  };
  Origin here() const { return {source_, line_, 0}; }

  bool open(Node node) {
    if (frames_.size() >= kDeepest) {
      throw Error(Fault::kConfig,
                  format_problem({"", fmt::format("nested deeper than {} levels", kDeepest), "", here()}));
    }
    node.set_origin(here());
    frames_.emplace_back().node = std::move(node);
    return true;
  }
  bool close() {
    Node node = std::move(frames_.back().node);
    frames_.pop_back();
    return attach(std::move(node));
  }
  bool place(Node node, std::string text) {
    node.set_origin(here());
    node.set_text(std::move(text));
    return attach(std::move(node));
  }
  bool attach(Node node) {
    if (++nodes_ > kMostNodes) {
      throw Error(Fault::kConfig, format_problem({"", fmt::format("more than {} values", kMostNodes), "", here()}));
    }
    if (frames_.empty()) {
      root_ = std::move(node);
      return true;
    }
    Frame& frame = frames_.back();
    if (frame.node.is_list()) {
      frame.node.append(std::move(node));
    } else if (!frame.seen.insert(frame.key).second) {
      frame.node.add_defect({frame.key, "key given twice", "keep one of them", frame.key_origin});
    } else {
      frame.node.push_entry({frame.key, std::move(node), frame.key_origin});
    }
    return true;
  }

  std::shared_ptr<const Source> source_;
  const int& line_;
  Node root_;
  std::vector<Frame> frames_;
  size_t nodes_ = 0;
};

nlohmann::ordered_json to_json(const Node& node, bool secret) {
  secret = secret || node.secret();
  if (node.is_scalar() && !node.placeholder().empty()) return node.placeholder();
  if (secret && (node.is_string() || node.is_int() || node.is_float())) return "******";
  switch (node.kind()) {
    case Node::Kind::kNull:
      return nullptr;
    case Node::Kind::kBool:
      return node.as_bool();
    case Node::Kind::kInt:
      return node.as_int();
    case Node::Kind::kFloat:
      if (!std::isfinite(node.as_double())) return format_double(node.as_double());
      return node.as_double();
    case Node::Kind::kString:
      return node.as_string();
    case Node::Kind::kList: {
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      for (const Node& item : node.items()) list.push_back(to_json(item, secret));
      return list;
    }
    case Node::Kind::kMap:
      break;
  }
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (const Entry& entry : node.entries()) map[entry.key] = to_json(entry.value, secret || names_secret(entry.key));
  return map;
}

}  // namespace

Node parse_json(std::string_view text, std::string_view name) {
  int line = 1;
  Builder builder(make_source(text, name), line);
  const char* begin = text.data();
  Json::sax_parse(CountingIterator{begin, &line}, CountingIterator{begin + text.size(), &line}, &builder);
  return builder.take();
}

Node load_json(const std::string& path) {
  return parse_json(read_file(path), path);
}

std::string dump_json(const Node& node, int indent) {
  return to_json(node, false).dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace automodel::config
