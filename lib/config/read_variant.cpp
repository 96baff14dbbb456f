// Values that may be one of several types: structs chosen by `_target_`, scalars and lists chosen by what is written.
#include <fmt/core.h>

#include <algorithm>
#include <tuple>

#include "config/text.h"
#include "config/walk.h"

namespace automodel::config {
namespace {

using Kind = Type::Kind;

// By last component; a bare word also by whole name.
std::string nearest_target(const std::string& text, const std::vector<std::string>& known) {
  const auto last = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
  std::vector<std::string> lasts;
  for (const std::string& name : known) lasts.push_back(last(name));
  const std::string near = nearest(last(text), lasts);
  for (size_t i = 0; i < known.size(); ++i) {
    if (!near.empty() && lasts[i] == near) return known[i];
  }
  return text.find('.') == std::string::npos ? nearest(text, known) : "";
}

// Whether a node was written as the type itself, without any conversion.
bool exactly(const Type& type, const Node& node) {
  switch (type.kind) {
    case Kind::kBool:
      return node.is_bool();
    case Kind::kInt32:
    case Kind::kInt64:
      return node.is_int();
    case Kind::kDouble:
      return node.is_float();
    case Kind::kString:
      return node.is_string();
    case Kind::kEnum:
      return enum_name(type.names(), node) != nullptr;
    case Kind::kList:
    case Kind::kArray:
      return node.is_list();
    case Kind::kMap:
      return node.is_map();
    default:
      return false;
  }
}

size_t index_of(const Type& variant, const Type& alternative) {
  size_t index = 0;
  while (&variant.alternatives[index]() != &alternative) ++index;
  return index;
}

// The canonical names of all targets.
std::vector<std::string> targets_of(const std::vector<const Type*>& structs) {
  std::vector<std::string> names;
  for (const Type* type : structs) {
    for (const TargetSpec& target : type->schema().targets) names.push_back(target.names.front());
  }
  return names;
}

}  // namespace

// The struct and its target that a `_target_` text names; a problem and null pointers when there is none.
std::pair<const Type*, const TargetSpec*> Walk::find_target(const Structs& types, const Node& node,
                                                            const std::string& path) {
  if (!node.is_string()) {
    damage(path, fmt::format("expected the name of a target, got {}", show(node)), "", node.origin());
    return {nullptr, nullptr};
  }
  const std::string& text = node.as_string();
  std::vector<std::string> known;
  for (const Type* type : types) {
    const Schema& schema = type->schema();
    if (const TargetSpec* found = schema.find_target(text)) return {type, found};
    for (const TargetSpec& target : schema.targets) known.insert(known.end(), target.names.begin(), target.names.end());
  }
  std::string hint = fmt::format("known targets: {}", joined(targets_of(types), ", "));
  if (const std::string near = nearest_target(text, known); !near.empty()) {
    hint = fmt::format("did you mean '{}'?", near);
  } else if (text.find(".py:") != std::string::npos) {
    hint = fmt::format("Python code of a recipe is not run; {}", hint);
  }
  damage(path, fmt::format("unknown target '{}'", text), std::move(hint), node.origin());
  return {nullptr, nullptr};
}

void Walk::variant(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  Structs structs;
  for (const Type::Get& alternative : type.alternatives) {
    if (alternative().kind == Kind::kStruct) structs.push_back(&alternative());
  }
  if (node.is_map() && !structs.empty()) return tagged(type, structs, node, out, path, field);
  if (plain_alternative(type, node, out, path, field)) return;
  const bool targets =
      std::any_of(structs.begin(), structs.end(), [](const Type* type) { return !type->schema().targets.empty(); });
  if (!node.is_string() || !targets) return expected(type, node, path, field);
  const auto [chosen, target] = find_target(structs, node, path);
  if (chosen) structure(*chosen, node, type.add(out, "", index_of(type, *chosen)), path, target);
}

// A mapping where structs are possible.
void Walk::tagged(const Type& type, const Structs& structs, const Node& node, void* out, const std::string& path,
                  const FieldSpec* field) {
  const Type* chosen = structs.size() == 1 ? structs[0] : nullptr;
  const TargetSpec* target = nullptr;
  Node named = node.find("_target_") ? *node.find("_target_") : Node();
  const bool written = !named.is_null();
  if (!written && field && !field->default_target.empty()) named = Node::string(field->default_target);
  if (!named.is_null() && !(chosen && chosen->schema().find("_target_"))) {
    if (!named.origin().source) named.set_origin(node.origin());
    std::tie(chosen, target) = find_target(structs, named, written ? join_path(path, "_target_") : path);
    if (!chosen) return;
  }
  if (!chosen) return missing_target(structs, node, path);
  structure(*chosen, node, type.add(out, "", index_of(type, *chosen)), path, target);
}

void Walk::missing_target(const Structs& structs, const Node& node, const std::string& path) {
  damage(join_path(path, "_target_"), "missing; it chooses what this section is",
         fmt::format("one of: {}", joined(targets_of(structs), ", ")), node.origin());
}

// Alternatives that are no structs: the one of the node's own kind, else the first that accepts it.
bool Walk::plain_alternative(const Type& type, const Node& node, void* out, const std::string& path,
                             const FieldSpec* field) {
  for (const bool strict : {true, false}) {
    for (size_t i = 0; i < type.alternatives.size(); ++i) {
      const Type& alternative = type.alternatives[i]();
      if (alternative.kind == Kind::kStruct || (strict && !exactly(alternative, node))) continue;
      if (!strict) {
        Report ignored;
        if (!Walk(ignored, root_).value(alternative, node, alternative.make().get(), path, field)) continue;
      }
      value(alternative, node, type.add(out, "", i), path, field);
      return true;
    }
  }
  return false;
}

}  // namespace automodel::config
