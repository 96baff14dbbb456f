// Whole values and sections: containers, structs, required and unknown keys. The other kinds are in read_scalar.cpp and
// read_variant.cpp.
#include "config/read.h"

#include <fmt/core.h>

#include <algorithm>

#include "config/dump.h"
#include "config/explain.h"
#include "config/scalar.h"
#include "config/text.h"
#include "config/walk.h"

namespace automodel::config {
namespace {

using Kind = Type::Kind;

char* shifted(void* base, size_t offset) {
  return static_cast<char*>(base) + offset;
}

bool means_null(const Type& element, const Node& node, const FieldSpec* field) {
  if (node.is_null()) return true;
  if (!node.is_string()) return false;
  const std::string& text = node.as_string();
  if (text == "none" || text == "None") return true;
  if (field && std::find(field->none_words.begin(), field->none_words.end(), text) != field->none_words.end()) {
    return true;
  }
  return element.kind != Kind::kString && element.kind != Kind::kEnum && (text == "null" || text == "~");
}

}  // namespace

std::string join_path(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

void Walk::defects(const Node& node, const std::string& path) {
  for (const Problem& defect : node.defects()) {
    Problem problem = defect;
    problem.key = problem.key.empty() ? path : join_path(path, problem.key);
    report_.add(std::move(problem));
  }
  for (size_t i = 0; i < node.items().size(); ++i) defects(node.items()[i], join_path(path, std::to_string(i)));
  for (const Entry& entry : node.entries()) defects(entry.value, join_path(path, entry.key));
}

bool Walk::value(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  const size_t before = damage_;
  if (!node.is_map() && !node.defects().empty()) {
    ++damage_;  // already reported
    return false;
  }
  switch (type.kind) {
    case Kind::kOptional:
      optional(type, node, out, path, field);
      break;
    case Kind::kList:
    case Kind::kArray:
      list(type, node, out, path, field);
      break;
    case Kind::kMap:
      map(type, node, out, path, field);
      break;
    case Kind::kStruct:
      structure(type, node, out, path, nullptr);
      break;
    case Kind::kVariant:
      variant(type, node, out, path, field);
      break;
    case Kind::kNode:
      *static_cast<Node*>(out) = node;
      break;
    default:
      scalar(type, node, out, path, field);
      break;
  }
  return damage_ == before;
}

void Walk::damage(const std::string& path, std::string message, std::string hint, const Origin& origin) {
  ++damage_;
  report_.add({path, std::move(message), std::move(hint), origin});
}

void Walk::expected(const Type& type, const Node& node, const std::string& path, const FieldSpec* field,
                    std::string hint) {
  if (hint.empty() && node.is_null()) hint = "leave the key out for its default";
  // An override without a value means true.
  const Source* source = node.origin().source.get();
  if (source && source->flag && source->lines.front() == source->name)
    hint = fmt::format("the value is missing: {} VALUE", source->name);
  const std::string what = describe_type(type, field);
  const char* joint = what.starts_with("one of") ? ";" : ",";
  damage(path, fmt::format("expected {}{} got {}", what, joint, show(node)), std::move(hint), node.origin());
}

void Walk::optional(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  const Type& element = type.element();
  const bool own_null = element.kind == Kind::kEnum && enum_name(element.names(), node);
  if (!own_null && means_null(element, node, field)) return type.clear(out);
  value(element, node, type.add(out, "", 0), path, field);
}

void Walk::list(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  std::vector<Node> single;
  const std::vector<Node>* items = &node.items();
  if (!node.is_list()) {
    // "0.9, 0.999" in quotes is a list of Python too.
    const Node literal = node.is_string() ? translate(node.as_string()) : Node();
    if (literal.is_list()) {
      single = literal.items();
      for (Node& item : single) item.set_origin(node.origin());
    } else if (field && field->one_or_list && !node.is_null()) {
      single = {node};
    } else {
      return expected(type, node, path, field, node.is_scalar() && !node.is_null() ? "write [a, b]" : "");
    }
    items = &single;
  }
  if (type.kind == Kind::kArray && items->size() != type.count) {
    return damage(path, fmt::format("expected {} values, got {}", type.count, items->size()), "", node.origin());
  }
  type.clear(out);
  for (size_t i = 0; i < items->size(); ++i) {
    value(type.element(), (*items)[i], type.add(out, "", i), join_path(path, std::to_string(i)), field);
  }
}

void Walk::map(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  if (!node.is_map() && !node.is_null()) return expected(type, node, path, field);
  type.clear(out);
  for (const Entry& entry : node.entries()) {
    value(type.element(), entry.value, type.add(out, entry.key, 0), join_path(path, entry.key), field);
  }
}

void Walk::structure(const Type& type, const Node& node, void* out, const std::string& path, const TargetSpec* target) {
  const Schema& schema = type.schema();
  if (!target && !schema.targets.empty() && !schema.find("_target_")) {
    const Node* named = node.is_map() ? node.find("_target_") : node.is_string() ? &node : nullptr;
    if (named && !named->is_null()) {
      target = find_target({&type}, *named, node.is_map() ? join_path(path, "_target_") : path).second;
      if (!target) return;
    }
  }
  if (!node.is_map() && !node.is_null() && !(target && node.is_string())) return expected(type, node, path, nullptr);
  if (target && target->preset) target->preset(out);
  if (target && schema.target_offset) {
    *reinterpret_cast<std::string*>(shifted(out, *schema.target_offset)) = target->names[0];
  }
  const size_t before = damage_;
  std::set<const FieldSpec*> given;
  if (schema.unknown_offset) *reinterpret_cast<Node*>(shifted(out, *schema.unknown_offset)) = Node::map();
  for (const Entry& entry : node.entries()) entry_of(schema, entry, out, path, given);
  for (const FieldSpec& field : schema.fields) {
    if (field.required && !given.contains(&field)) {
      damage(join_path(path, field.name), "missing; this key is required", field.doc, node.origin());
    }
  }
  if (damage_ == before) run_checks(schema, node, out, path);
}

void Walk::run_checks(const Schema& schema, const Node& node, void* out, const std::string& path) {
  const size_t before = report_.problems().size();
  Problems problems(report_, node, path);
  for (const CheckSpec& check : schema.checks) check.run(shifted(out, check.offset), problems);
  damage_ += report_.problems().size() - before;
}

void Walk::entry_of(const Schema& schema, const Entry& entry, void* out, const std::string& path,
                    std::set<const FieldSpec*>& given) {
  const std::string here = join_path(path, entry.key);
  const FieldSpec* field = schema.find(entry.key);
  if (!field) {
    if (entry.key == "_target_" && !schema.targets.empty()) return;
    if (!schema.allow_unknown) return unknown(schema, entry, here);
    if (schema.unknown_offset) {
      reinterpret_cast<Node*>(shifted(out, *schema.unknown_offset))->push_entry(entry);
    }
    return;
  }
  if (!given.insert(field).second && !field->group && !field->name.ends_with('*')) {
    return damage(here, fmt::format("'{}' is given under two names", field->name), "keep one of them",
                  entry.key_origin);
  }
  if (!field->renamed_to.empty()) {
    return damage(here, "this key has moved", fmt::format("it is now: {}", field->renamed_to), entry.key_origin);
  }
  if (!field->refused.empty() && refuse(schema, *field, entry, here)) return;
  if (!field->no_effect.empty()) {
    report_.note({here, "has no effect: " + field->no_effect, "", entry.key_origin});
  }
  if (!field->type) return;
  if (entry.value.is_null() && (field->null_is_default || schema.null_means_default || !field->refused.empty())) {
    if (field->required) damage(here, "missing; this key is required", field->doc, entry.value.origin());
    return;
  }
  member(*field, entry, shifted(out, field->offset), here);
}

void Walk::member(const FieldSpec& field, const Entry& entry, void* out, const std::string& here) {
  if (field.group) {
    const Type& type = field.type();
    std::string_view suffix = std::string_view(entry.key).substr(field.name.size());
    suffix.remove_prefix(std::min(suffix.find_first_not_of("_-."), suffix.size()));
    const std::string name(suffix.empty() ? "default" : suffix);
    value(type.element(), entry.value, type.add(out, name, 0), here, &field);
    return;
  }
  if (!value(field.type(), entry.value, out, here, &field)) return;
  for (const auto& [holds, sentence] : field.musts) {
    if (!holds(out)) damage(here, fmt::format("{}, got {}", sentence, show(entry.value)), "", entry.value.origin());
  }
}

// A refused key with a value that matters. A member's default is harmless however it is spelt.
bool Walk::refuse(const Schema& schema, const FieldSpec& field, const Entry& entry, const std::string& here) {
  if (entry.value.is_null() || (field.harmless && field.harmless(entry.value))) return false;
  if (field.type) {
    const Type& type = field.type();
    const std::shared_ptr<void> given = type.make();
    Report ignored;
    if (Walk(ignored, root_).value(type, entry.value, given.get(), here, nullptr)) {
      const Node canonical = write(type, given.get());
      const char* sample = static_cast<const char*>(schema.sample.get()) + field.offset;
      if (canonical == write(type, sample) || (field.harmless && field.harmless(canonical))) return false;
    }
  }
  damage(here, field.refused, "", entry.value.origin().source ? entry.value.origin() : entry.key_origin);
  return true;
}

void Walk::unknown(const Schema& schema, const Entry& entry, const std::string& here) {
  std::vector<std::string> known;
  for (const FieldSpec& field : schema.fields) {
    if (!field.name.ends_with('*')) known.push_back(field.name);
    known.insert(known.end(), field.aliases.begin(), field.aliases.end());
  }
  std::string hint;
  if (const std::string near = nearest(entry.key, known); !near.empty()) {
    hint = fmt::format("did you mean '{}'?", near);
  } else if (const std::string place = elsewhere(entry.key); !place.empty() && place != here) {
    hint = fmt::format("did you mean '{}'?", place);
  } else if (!known.empty() && known.size() <= 12) {
    hint = fmt::format("known keys: {}", joined(known, ", "));
  }
  report_.add(
      {here, "unknown key", std::move(hint), entry.key_origin.source ? entry.key_origin : entry.value.origin()});
}

// The path of a key of that name in any section, the shortest first.
std::string Walk::elsewhere(const std::string& key) const {
  std::vector<std::pair<const Type*, std::string>> level{{&root_, ""}};
  std::set<const Type*> seen{&root_};
  while (!level.empty()) {
    std::vector<std::pair<const Type*, std::string>> next;
    const auto add = [&](const Type& type, const std::string& path) {
      if (seen.insert(&type).second) next.emplace_back(&type, path);
    };
    for (const auto& [type, path] : level) {
      if (type->element && type->kind == Kind::kOptional) add(type->element(), path);
      for (const Type::Get& alternative : type->alternatives) add(alternative(), path);
      if (type->kind != Kind::kStruct) continue;
      for (const FieldSpec& field : type->schema().fields) {
        if (field.type && field.name == key) return join_path(path, key);
      }
      for (const FieldSpec& field : type->schema().fields) {
        if (field.type) add(field.group ? field.type().element() : field.type(), join_path(path, field.name));
      }
    }
    level = std::move(next);
  }
  return "";
}

void read_into(const Type& type, const Node& node, void* value, Report& report, const std::string& path) {
  Walk walk(report, type);
  walk.defects(node, path);
  walk.value(type, node, value, path, nullptr);
}

}  // namespace automodel::config
