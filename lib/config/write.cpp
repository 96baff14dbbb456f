// Struct to tree: the inverse of read.cpp. With the tree that the struct was read from, values keep where they were
// written, and strings of the environment keep their placeholder.
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "config/dump.h"
#include "core/error.h"

namespace automodel::config {
namespace {

using Kind = Type::Kind;

const char* shifted(const void* base, size_t offset) {
  return static_cast<const char*>(base) + offset;
}

Node write_value(const Type& type, const void* value, const Node* from, const FieldSpec* field);

// The entry of the old tree that a field was read from.
const Entry* entry_for(const FieldSpec& field, const Node* from) {
  if (!from || !from->is_map()) return nullptr;
  for (const Entry& entry : from->entries()) {
    if (field.matches(entry.key)) return &entry;
  }
  return nullptr;
}

void write_group(const FieldSpec& field, const void* value, const Node* from, Node& map) {
  const Type& type = field.type();
  type.each(shifted(value, field.offset), [&](const std::string& key, const void* element) {
    std::string name = key == "default" ? field.name : fmt::format("{}_{}", field.name, key);
    const Node* old = from ? from->find(name) : nullptr;
    Node node = write_value(type.element(), element, old, &field);
    map.set(std::move(name), std::move(node), old ? old->origin() : Origin());
  });
}

// `_target_` where it chooses the struct or was written: as it was written when it still names this struct, else the
// canonical name.
void write_target(const Schema& schema, const void* value, const Node* from, bool tagged, Node& map) {
  if (schema.targets.empty() || schema.find("_target_")) return;
  std::string name = schema.targets[0].names[0];
  if (schema.target_offset) {
    const auto& kept = *reinterpret_cast<const std::string*>(shifted(value, *schema.target_offset));
    if (!kept.empty()) name = kept;
  }
  Origin origin;
  const Node* old = from && from->is_map() ? from->find("_target_") : from;
  const TargetSpec* written = old && old->is_string() ? schema.find_target(old->as_string()) : nullptr;
  if (!written && !tagged) return;
  if (written && (!schema.target_offset || written == schema.find_target(name))) {
    name = old->as_string();
    origin = old->origin();
  }
  Node node = Node::string(std::move(name));
  node.set_origin(origin);
  map.push_entry({"_target_", std::move(node), origin});
}

Node write_struct(const Schema& schema, const void* value, const Node* from, bool tagged) {
  Node map = Node::map();
  if (from) map.set_origin(from->origin());
  write_target(schema, value, from, tagged, map);
  for (const FieldSpec& field : schema.fields) {
    if (!field.renamed_to.empty()) continue;
    if (field.group) {
      write_group(field, value, from, map);
      continue;
    }
    const Entry* old = entry_for(field, from);
    if (field.type) {
      Node node = write_value(field.type(), shifted(value, field.offset), old ? &old->value : nullptr, &field);
      node.set_secret(field.secret || names_secret(field.name));
      map.set(field.name, std::move(node), old ? old->key_origin : Origin());
    } else if (from && from->is_map()) {
      for (const Entry& entry : from->entries()) {  // accepted keys without a member stay as they were written
        if (schema.find(entry.key) == &field) map.set(entry.key, entry.value, entry.key_origin);
      }
    }
  }
  if (schema.unknown_offset) {
    const Node& surplus = *reinterpret_cast<const Node*>(shifted(value, *schema.unknown_offset));
    for (const Entry& entry : surplus.entries()) {
      if (!map.find(entry.key)) map.push_entry(entry);
    }
  }
  return map;
}

Node write_container(const Type& type, const void* value, const Node* from, const FieldSpec* field) {
  Node node = type.kind == Kind::kMap ? Node::map() : Node::list();
  size_t index = 0;
  type.each(value, [&](const std::string& key, const void* element) {
    const Node* old = nullptr;
    if (from && type.kind == Kind::kMap) old = from->find(key);
    if (from && from->is_list() && index < from->items().size()) old = &from->items()[index];
    if (from && from->is_scalar()) old = from;
    Node child = write_value(type.element(), element, old, field);
    if (type.kind == Kind::kMap) {
      child.set_secret(names_secret(key));
      const Origin origin = child.origin();
      node.set(key, std::move(child), origin);
    } else {
      node.append(std::move(child));
    }
    ++index;
  });
  return node;
}

Node write_scalar(const Type& type, const void* value) {
  switch (type.kind) {
    case Kind::kBool:
      return Node::boolean(*static_cast<const bool*>(value));
    case Kind::kInt32:
      return Node::integer(*static_cast<const int*>(value));
    case Kind::kInt64:
      return Node::integer(*static_cast<const int64_t*>(value));
    case Kind::kDouble:
      return Node::real(*static_cast<const double*>(value));
    case Kind::kString:
      return Node::string(*static_cast<const std::string*>(value));
    case Kind::kDType:
      return Node::string(name_of(*static_cast<const DType*>(value)));
    default:
      break;
  }
  const EnumTable::Name* name = type.names().of(type.get(value));
  AM_CHECK(name, Fault::kBug, "an enum value {} has no name", type.get(value));
  if (name->name == "true" || name->name == "false") return Node::boolean(name->name == "true");
  if (name->name == "null" || name->name == "none") return Node::null();
  return Node::string(name->name);
}

Node write_value(const Type& type, const void* value, const Node* from, const FieldSpec* field) {
  Node node;
  switch (type.kind) {
    case Kind::kNode:
      return *static_cast<const Node*>(value);
    case Kind::kStruct:
      return write_struct(type.schema(), value, from, false);
    case Kind::kOptional:
    case Kind::kVariant: {
      const Type& inner = type.kind == Kind::kOptional ? type.element() : type.alternatives[type.index(value)]();
      const bool tagged = type.kind == Kind::kVariant && inner.kind == Kind::kStruct;
      type.each(value, [&](const std::string&, const void* held) {
        node = tagged ? write_struct(inner.schema(), held, from, true) : write_value(inner, held, from, field);
      });
      break;
    }
    case Kind::kList:
    case Kind::kArray:
    case Kind::kMap:
      node = write_container(type, value, from, field);
      break;
    default:
      node = write_scalar(type, value);
      break;
  }
  if (from) {
    node.set_origin(from->origin());
    const bool same = node.is_string() && from->is_string() && node.as_string() == from->as_string();
    if (same) node.set_placeholder(from->placeholder());
  }
  return node;
}

}  // namespace

Node write(const Type& type, const void* value, const Node* read_from) {
  return write_value(type, value, read_from, nullptr);
}

}  // namespace automodel::config
