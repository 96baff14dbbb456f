#include "config/overrides.h"

#include <fmt/core.h>

#include "config/environment.h"
#include "config/scalar.h"
#include "core/error.h"

namespace automodel::config {
namespace {

// The origin of everything that one flag says; `column` is where its value starts.
Origin flag_origin(const std::string& flag, std::string shown, size_t column) {
  auto source = std::make_shared<Source>();
  source->name = flag;
  source->lines = {std::move(shown)};
  source->flag = true;
  return {source, 1, static_cast<int>(column)};
}

void stamp(Node& node, const Origin& origin);

void stamp_children(Node& node, const Origin& origin) {
  Node stamped = node.is_list() ? Node::list() : Node::map();
  stamped.set_text(node.text());
  for (Problem defect : node.defects()) {
    defect.origin = origin;
    stamped.add_defect(std::move(defect));
  }
  for (Node item : node.items()) {
    stamp(item, origin);
    stamped.append(std::move(item));
  }
  for (Entry entry : node.entries()) {
    stamp(entry.value, origin);
    stamped.push_entry({entry.key, std::move(entry.value), origin});
  }
  node = std::move(stamped);
}

void stamp(Node& node, const Origin& origin) {
  if (!node.is_scalar()) stamp_children(node, origin);
  node.set_origin(origin);
}

// Quotes around each ${VAR} that is a whole element, because braces mean something else inside a list.
std::string with_quoted_variables(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t close = text.compare(i, 2, "${") == 0 ? text.find('}', i) : std::string::npos;
    if (close == std::string::npos) {
      out += text[i++];
      continue;
    }
    const size_t last = out.find_last_not_of(' ');
    const size_t next = text.find_first_not_of(' ', close + 1);
    const bool begins = last != std::string::npos && std::string_view("[{,:").find(out[last]) != std::string_view::npos;
    const bool ends = next != std::string::npos && std::string_view("]},").find(text[next]) != std::string_view::npos;
    const std::string token = text.substr(i, close + 1 - i);
    const bool whole = begins && ends && token.find('"') == std::string::npos;
    out += whole ? '"' + token + '"' : token;
    i = close + 1;
  }
  return out;
}

// [q_proj, v_proj] and {lr: 1e-5}: YAML's flow style, when the text is no Python literal.
std::optional<Node> flow_value(const std::string& text, const Environment& environment) {
  const bool list = text.size() > 1 && text.front() == '[' && text.back() == ']';
  const bool map = text.size() > 1 && text.front() == '{' && text.back() == '}' && text.find(':') != std::string::npos;
  if (!list && !map) return std::nullopt;
  try {
    Node node = parse_yaml(with_quoted_variables(text), "override", environment);
    if (node.is_scalar()) return std::nullopt;
    node.set_text(text);
    return node;
  } catch (const Error&) {
    return std::nullopt;  // brackets that are just text
  }
}

Node value_of(const std::string& text, const Origin& origin, const Environment& environment) {
  Node node = translate(text);
  if (text == "null" || text == "~") {
    node = Node::null();
    node.set_text(text);
  } else if (node.is_string() && node.as_string() == text) {
    if (std::optional<Node> flow = flow_value(text, environment)) node = std::move(*flow);
  }
  stamp(node, origin);
  interpolate(node, environment);
  return node;
}

bool valid_path(std::string_view key) {
  return !key.empty() && key.front() != '.' && key.back() != '.' && key.find("..") == std::string_view::npos &&
         key.find_first_of(" \t\n") == std::string_view::npos;
}

}  // namespace

Overrides parse_overrides(const std::vector<std::string>& tokens, Report& report, const Environment& environment) {
  Overrides overrides;
  const auto problem = [&](const std::string& token, std::string message, std::string hint) {
    report.add({"", std::move(message), std::move(hint), flag_origin(token, token, 1)});
  };
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string& token = tokens[i];
    const bool has_next = i + 1 < tokens.size();
    if (token == "--config" || token == "-c") {
      if (!has_next) {
        problem(token, "the path of the recipe is missing", fmt::format("{} recipe.yaml", token));
      } else {
        overrides.config_path = tokens[++i];
      }
      continue;
    }
    if (!token.starts_with("--")) {
      problem(token, "a stray word on the command line", "an override is --section.key VALUE or --section.key=VALUE");
      continue;
    }
    const size_t equals = token.find('=');
    const std::string name = token.substr(0, equals);
    const std::string key = name.substr(std::min(name.find_first_not_of('-'), name.size()));
    const std::string flag = "--" + key;
    if (!valid_path(key)) {
      problem(token, fmt::format("'{}' is not a path of keys", key), "write it like --optimizer.lr");
      continue;
    }
    if (key == "config" && equals != std::string::npos) {
      overrides.config_path = token.substr(equals + 1);
      continue;
    }
    if (equals != std::string::npos) {
      const Origin origin = flag_origin(flag, token, equals + 2);
      overrides.items.push_back({key, value_of(token.substr(equals + 1), origin, environment)});
    } else if (has_next && !tokens[i + 1].starts_with("--")) {
      const Origin origin = flag_origin(flag, token + " " + tokens[i + 1], token.size() + 2);
      overrides.items.push_back({key, value_of(tokens[++i], origin, environment)});
    } else {
      Node node = Node::boolean(true);
      node.set_origin(flag_origin(flag, token, 1));
      overrides.items.push_back({key, std::move(node)});
    }
  }
  return overrides;
}

void apply(Node& root, const Overrides& overrides) {
  for (const Override& override : overrides.items) {
    const Origin& origin = override.value.origin();
    Node* node = &root;
    std::string_view path = override.key;
    while (true) {
      const size_t dot = path.find('.');
      std::string key(path.substr(0, dot));
      if (dot == std::string_view::npos) {
        node->set(std::move(key), override.value, origin);
        break;
      }
      path.remove_prefix(dot + 1);
      Node* next = node->find(key);
      if (!next || !next->is_map()) {
        Node section = Node::map();
        section.set_origin(origin);
        next = &node->set(std::move(key), std::move(section), origin);
      }
      node = next;
    }
  }
}

}  // namespace automodel::config
