// The only user of yaml-cpp, and only of its event parser: the tree, its limits, anchors, merge keys and duplicate keys
// are ours. yaml-cpp's own tree keeps duplicate keys silently and types scalars in its own way.
#include "config/yaml_reader.h"

#include <fmt/core.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <map>
#include <sstream>
#include <unordered_map>

#include "config/environment.h"
#include "config/report.h"
#include "config/scalar.h"
#include "core/error.h"
#include "core/file.h"

namespace automodel::config {
namespace {

constexpr size_t kDeepest = 100;
constexpr size_t kMostNodes = 200'000;
constexpr size_t kMostBytes = 16 << 20;

[[noreturn]] void fail_at(const Origin& origin, std::string message, std::string hint = "") {
  throw Error(Fault::kConfig, format_problem({"", std::move(message), std::move(hint), origin}));
}

size_t count_nodes(const Node& node) {
  size_t count = 1;
  for (const Node& item : node.items()) count += count_nodes(item);
  for (const Entry& entry : node.entries()) count += count_nodes(entry.value);
  return count;
}

size_t depth_of(const Node& node) {
  size_t deepest = 0;
  for (const Node& item : node.items()) deepest = std::max(deepest, depth_of(item));
  for (const Entry& entry : node.entries()) deepest = std::max(deepest, depth_of(entry.value));
  return deepest + 1;
}

// Builds the tree from the parser's events.
class Builder : public YAML::EventHandler {
 public:
  Builder(std::shared_ptr<const Source> source, const Environment& environment)
      : source_(std::move(source)), environment_(environment) {}

  Node take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0)
      fail_at(at(mark), "a second YAML document", "keep one document per file; check the indentation of this line");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    // Only an empty value comes without text; ~ and null come here too, and mean the same.
    finish(mark, Node::null(), anchor, true);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      fail_at(at(mark), "an alias stands inside the value that it names", "write the value out");
    }
    if (wants_key()) {
      // An alias as a key is its text.
      if (!found->second.node.is_scalar()) fail_at(at(mark), "a key must be text");
      take_key(at(mark), found->second.node.text(), false);
      return;
    }
    grow(mark, found->second.nodes);
    if (frames_.size() + found->second.depth > kDeepest) too_deep(mark);
    place(found->second.node);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    const bool plain = tag == "?";
    if (wants_key()) {
      if (anchor) anchors_[anchor] = {with_text(Node::string(value), value), 1, 1};
      take_key(at(mark), value, plain);
      return;
    }
    finish(mark, typed(mark, tag, value), anchor, false);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, Node::list(), anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, Node::map(), anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    Node node;
    YAML::anchor_t anchor = 0;
    std::string key;
    Origin key_origin;
    bool has_key = false;
    bool merge = false;                            // the pending key is <<
    std::unordered_map<std::string, size_t> seen;  // position of each key among the entries
    std::vector<Node> merged;                      // the mappings of <<
  };
  struct Anchor {
    Node node;
    size_t nodes = 1;
    size_t depth = 1;
  };

  Origin at(const YAML::Mark& mark) const {
    if (mark.is_null()) return {source_, 1, 1};
    return {source_, mark.line + 1, mark.column + 1};
  }
  [[noreturn]] void too_deep(const YAML::Mark& mark) const {
    fail_at(at(mark), fmt::format("nested deeper than {} levels", kDeepest));
  }
  void grow(const YAML::Mark& mark, size_t nodes) {
    nodes_ += nodes;
    if (nodes_ > kMostNodes) fail_at(at(mark), fmt::format("more than {} values (aliases are expanded)", kMostNodes));
  }
  static Node with_text(Node node, std::string text) {
    node.set_text(std::move(text));
    return node;
  }

  // A tag of the user's (!!str 12, !!int "3", !!float 1) decides the type; other tags name classes and are refused.
  Node typed(const YAML::Mark& mark, const std::string& tag, const std::string& value) const {
    if (tag == "?") return resolve_plain(value);
    if (tag == "!" || tag == "tag:yaml.org,2002:str") return with_text(Node::string(value), value);
    const Node node = resolve_plain(value);
    if (tag == "tag:yaml.org,2002:int" && node.is_int()) return node;
    if (tag == "tag:yaml.org,2002:bool" && node.is_bool()) return node;
    if (tag == "tag:yaml.org,2002:null" && node.is_null()) return node;
    if (tag == "tag:yaml.org,2002:float" && (node.is_int() || node.is_float())) {
      return with_text(Node::real(node.as_double()), value);
    }
    fail_at(at(mark), fmt::format("'{}' cannot be read with the tag {}", value, tag), "leave the tag out");
  }

  bool wants_key() const { return !frames_.empty() && frames_.back().node.is_map() && !frames_.back().has_key; }

  void take_key(Origin origin, const std::string& key, bool plain) {
    Frame& frame = frames_.back();
    frame.key = key;
    frame.key_origin = std::move(origin);
    frame.has_key = true;
    frame.merge = plain && key == "<<";
  }

  void finish(const YAML::Mark& mark, Node node, YAML::anchor_t anchor, bool is_null) {
    if (wants_key()) {
      if (is_null) fail_at(at(mark), "a key is missing", "write 'key: value'; quote a key that is 'null' or '~'");
      fail_at(at(mark), "a key must be text");
    }
    grow(mark, 1);
    node.set_origin(at(mark));
    interpolate(node, environment_);
    if (anchor) anchors_[anchor] = {node, 1, 1};
    place(std::move(node));
  }

  void open(const YAML::Mark& mark, Node node, YAML::anchor_t anchor) {
    if (wants_key())
      fail_at(at(mark), "a key must be text, not a list or a mapping", "close its bracket, or quote it if it is text");
    if (frames_.size() >= kDeepest) too_deep(mark);
    grow(mark, 1);
    node.set_origin(at(mark));
    Frame& frame = frames_.emplace_back();
    frame.node = std::move(node);
    frame.anchor = anchor;
  }

  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    merge(frame);
    if (frame.anchor) anchors_[frame.anchor] = {frame.node, count_nodes(frame.node), depth_of(frame.node)};
    place(std::move(frame.node));
  }

  // Keys of << that are not written out; the first mapping that has a key gives it.
  void merge(Frame& frame) {
    for (const Node& from : frame.merged) {
      for (const Entry& entry : from.entries()) {
        if (frame.seen.emplace(entry.key, 0).second) frame.node.push_entry(entry);
      }
    }
  }

  void place(Node node) {
    if (frames_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& frame = frames_.back();
    if (frame.node.is_list()) {
      frame.node.append(std::move(node));
      return;
    }
    frame.has_key = false;
    if (frame.merge) {
      add_merged(frame, std::move(node));
    } else if (!frame.seen.emplace(frame.key, 0).second) {
      frame.node.add_defect({frame.key, "key given twice", "keep one of them", frame.key_origin});
    } else {
      frame.node.push_entry({frame.key, std::move(node), frame.key_origin});
    }
  }

  static void add_merged(Frame& frame, Node node) {
    if (node.is_map()) {
      frame.merged.push_back(std::move(node));
      return;
    }
    bool all_maps = node.is_list();
    for (const Node& item : node.items()) all_maps = all_maps && item.is_map();
    if (!all_maps) {
      frame.node.add_defect({"<<", "expected a mapping or a list of mappings to merge, got " + show(node),
                             "write '<<: *anchor'", frame.key_origin});
      return;
    }
    for (const Node& item : node.items()) frame.merged.push_back(item);
  }

  std::shared_ptr<const Source> source_;
  const Environment& environment_;
  Node root_;
  std::vector<Frame> frames_;
  std::map<YAML::anchor_t, Anchor> anchors_;
  size_t nodes_ = 0;
  int documents_ = 0;
};

class Ignore : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

std::string syntax_hint(const Origin& at) {
  for (int line = std::max(1, at.line - 1); line <= std::min<int>(at.line, static_cast<int>(at.source->lines.size()));
       ++line) {
    const std::string& text = at.source->lines[static_cast<size_t>(line - 1)];
    if (text.substr(0, text.find_first_not_of(" \t")).find('\t') != std::string::npos)
      return fmt::format("line {} is indented with a tab; YAML wants spaces", line);
  }
  return "check the indentation, colons, quotes and brackets around here";
}

void parse(std::string_view text, YAML::EventHandler& handler) {
  std::istringstream stream{std::string(text)};
  YAML::Parser parser(stream);
  while (parser.HandleNextDocument(handler)) {
  }
}

}  // namespace

Node parse_yaml(std::string_view text, std::string_view name, const Environment& environment) {
  const std::shared_ptr<const Source> source = make_source(text, name);
  AM_CHECK(text.size() <= kMostBytes, Fault::kConfig, "{}: {} bytes; a configuration may have {}", name, text.size(),
           kMostBytes);
  Builder builder(source, environment);
  try {
    parse(text, builder);
    // yaml-cpp closes a quoted text that the end of the file leaves open, unless the last line has no newline.
    Ignore ignore;
    parse(text.substr(0, text.find_last_not_of("\r\n") + 1), ignore);
  } catch (const YAML::Exception& error) {
    Origin origin{source, 1, 1};
    if (!error.mark.is_null()) origin = {source, error.mark.line + 1, error.mark.column + 1};
    fail_at(origin, "not valid YAML: " + error.msg, syntax_hint(origin));
  }
  Node root = builder.take();
  if (!root.origin().source) root.set_origin({source, 1, 1});
  return root;
}

Node load_yaml(const std::string& path, const Environment& environment) {
  return parse_yaml(read_file(path), path, environment);
}

}  // namespace automodel::config
