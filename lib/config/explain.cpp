#include "config/explain.h"

#include <fmt/core.h>

#include <algorithm>

#include "config/dump.h"
#include "config/text.h"
#include "core/error.h"

namespace automodel::config {
namespace {

using Kind = Type::Kind;

std::string bounds_text(const FieldSpec& field) {
  std::string out;
  for (const Bound& bound : field.bounds) out += (out.empty() ? " " : " and ") + bound.text();
  return out;
}

std::string enum_text(const EnumTable& table) {
  std::vector<std::string> names;
  for (const EnumTable::Name& name : table.names) {
    if (table.of(name.value) == &name) names.push_back(name.name);
  }
  return fmt::format("one of: {}", joined(names, " | "));
}

// A struct that a path led to, or a field of it.
struct Found {
  const Type* type = nullptr;
  const Schema* owner = nullptr;  // of the field
  const FieldSpec* field = nullptr;
};

// The structs inside a type that keys may belong to.
void structs_of(const Type& type, std::vector<const Type*>& out) {
  switch (type.kind) {
    case Kind::kStruct:
      out.push_back(&type);
      break;
    case Kind::kOptional:
      structs_of(type.element(), out);
      break;
    case Kind::kVariant:
      for (const Type::Get& alternative : type.alternatives) structs_of(alternative(), out);
      break;
    default:
      break;
  }
}

const Type& without_optional(const Type& type) {
  return type.kind == Kind::kOptional ? without_optional(type.element()) : type;
}

void search(const Found& here, std::string_view path, std::vector<Found>& out) {
  if (path.empty()) {
    out.push_back(here);
    return;
  }
  const size_t dot = path.find('.');
  const std::string_view key = path.substr(0, dot);
  const std::string_view rest = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
  const Type& type = without_optional(*here.type);
  if (type.kind == Kind::kMap) return search({&type.element(), here.owner, here.field}, rest, out);
  if (type.kind == Kind::kList || type.kind == Kind::kArray) {
    const bool index = !key.empty() && key.find_first_not_of("0123456789") == std::string_view::npos;
    return search({&type.element(), here.owner, here.field}, index ? rest : path, out);
  }
  std::vector<const Type*> structs;
  structs_of(type, structs);
  for (const Type* candidate : structs) {
    const FieldSpec* field = candidate->schema().find(key);
    if (!field) continue;
    if (!field->type) {
      if (rest.empty()) out.push_back({nullptr, &candidate->schema(), field});
    } else {
      search({field->group ? &field->type().element() : &field->type(), &candidate->schema(), field}, rest, out);
    }
  }
}

std::string targets_text(const Schema& schema) {
  std::vector<std::string> names;
  for (const TargetSpec& target : schema.targets) names.insert(names.end(), target.names.begin(), target.names.end());
  return joined(names, ", ");
}

std::string default_text(const Found& found) {
  const FieldSpec& field = *found.field;
  if (!field.type || field.required || found.type != &field.type()) return "";
  const char* sample = static_cast<const char*>(found.owner->sample.get()) + field.offset;
  const Node node = write(field.type(), sample);
  if (node.is_map() && !node.entries().empty()) return "";
  std::string text = dump(node);
  text.pop_back();
  return text;
}

std::string first_sentence(const std::string& text) {
  const size_t end = text.find(". ");
  return end == std::string::npos ? text : text.substr(0, end + 1);
}

std::string section_text(const Schema& schema) {
  std::string out;
  if (!schema.doc.empty()) out += fmt::format("  {}\n", schema.doc);
  if (!schema.targets.empty()) out += fmt::format("  _target_: {}\n", targets_text(schema));
  size_t width = 0;
  for (const FieldSpec& field : schema.fields) width = std::max(width, field.name.size());
  for (const FieldSpec& field : schema.fields) {
    if (!field.renamed_to.empty()) continue;
    std::string note = first_sentence(field.doc);
    if (!field.no_effect.empty()) note += fmt::format("{}(no effect: {})", note.empty() ? "" : " ", field.no_effect);
    if (!field.refused.empty()) note += fmt::format("{}({})", note.empty() ? "" : " ", field.refused);
    out += "  " + field.name + std::string(width - field.name.size(), ' ') + "  " + note + "\n";
  }
  if (schema.allow_unknown) out += "  Other keys are accepted too.\n";
  return out;
}

std::string field_text(const Found& found, std::string_view path) {
  const FieldSpec& field = *found.field;
  std::string out = fmt::format("{}", path);
  if (found.type) out += fmt::format(": {}", describe_type(*found.type, &field));
  if (field.required) out += "; required";
  const std::string value = default_text(found);
  if (!value.empty()) out += fmt::format("; default {}", value);
  out += '\n';
  if (!field.doc.empty()) out += fmt::format("  {}\n", field.doc);
  if (!field.aliases.empty()) out += fmt::format("  Also called: {}\n", joined(field.aliases, ", "));
  if (!field.renamed_to.empty()) out += fmt::format("  Moved to {}\n", field.renamed_to);
  if (!field.no_effect.empty()) out += fmt::format("  Accepted, without effect: {}\n", field.no_effect);
  if (!field.refused.empty()) out += fmt::format("  Refused: {}\n", field.refused);
  for (const auto& [holds, sentence] : field.musts) out += fmt::format("  It {}\n", sentence);
  if (!field.default_target.empty()) out += fmt::format("  Without _target_: {}\n", field.default_target);
  if (found.type && without_optional(*found.type).kind == Kind::kEnum) {
    for (const EnumTable::Name& name : without_optional(*found.type).names().names) {
      if (!name.doc.empty()) out += fmt::format("  {}: {}\n", name.name, name.doc);
    }
  }
  if (!found.owner->targets.empty()) out += fmt::format("  Of: {}\n", targets_text(*found.owner));
  return out;
}

std::vector<std::string> keys_at(const Type& root, std::string_view path) {
  const size_t dot = path.rfind('.');
  const std::string prefix(dot == std::string_view::npos ? "" : path.substr(0, dot));
  std::vector<Found> parents;
  search({&root, nullptr, nullptr}, prefix, parents);
  std::vector<std::string> keys;
  for (const Found& parent : parents) {
    std::vector<const Type*> structs;
    if (parent.type) structs_of(*parent.type, structs);
    for (const Type* type : structs) {
      for (const FieldSpec& field : type->schema().fields) {
        keys.push_back(prefix.empty() ? field.name : fmt::format("{}.{}", prefix, field.name));
      }
    }
  }
  return keys;
}

// The path with every part that leads nowhere replaced by the nearest key; empty when a part has none.
std::string nearest_path(const Type& root, std::string_view path) {
  std::string fixed;
  while (!path.empty()) {
    const size_t dot = path.find('.');
    const std::string tried =
        fixed.empty() ? std::string(path.substr(0, dot)) : fmt::format("{}.{}", fixed, path.substr(0, dot));
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
    std::vector<Found> found;
    search({&root, nullptr, nullptr}, tried, found);
    fixed = found.empty() ? nearest(tried, keys_at(root, tried)) : tried;
    if (fixed.empty()) return "";
  }
  return fixed;
}

}  // namespace

std::string describe_type(const Type& type, const FieldSpec* field) {
  const std::string bounds = field ? bounds_text(*field) : "";
  switch (type.kind) {
    case Kind::kBool:
      return "true or false";
    case Kind::kInt32:
    case Kind::kInt64:
      return "a whole number" + bounds;
    case Kind::kDouble:
      return "a number" + bounds;
    case Kind::kString:
      if (field && !field->choices.empty()) return fmt::format("one of: {}", joined(field->choices, " | "));
      return "text";
    case Kind::kDType:
      return "a number type (bfloat16, float32, ...)";
    case Kind::kEnum:
      return enum_text(type.names());
    case Kind::kNode:
      return "any value";
    case Kind::kOptional:
      return describe_type(type.element(), field) + " or null";
    case Kind::kList:
      return "a list of " + describe_type(type.element(), field);
    case Kind::kArray:
      return fmt::format("a list of {}, each {}", type.count, describe_type(type.element(), field));
    case Kind::kMap:
      return "a mapping of names to " + describe_type(type.element(), field);
    case Kind::kStruct:
      return "a mapping";
    case Kind::kVariant:
      break;
  }
  std::vector<std::string> parts;
  for (const Type::Get& alternative : type.alternatives) {
    std::string part = describe_type(alternative(), field);
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(std::move(part));
  }
  return joined(parts, ", or ");
}

std::string explain(const Type& root, std::string_view path) {
  std::vector<Found> found;
  search({&root, nullptr, nullptr}, path, found);
  if (found.empty()) {
    const std::string near = nearest_path(root, path);
    const std::string hint = near.empty() ? "--explain without a path below a section lists its keys"
                                          : fmt::format("did you mean '{}'?", near);
    fail(Fault::kUsage, "there is no key '{}'; {}", path, hint);
  }
  std::string out;
  for (const Found& place : found) {
    if (!out.empty()) out += '\n';
    if (place.field) out += field_text(place, path);
    std::vector<const Type*> structs;
    if (place.type) structs_of(*place.type, structs);
    for (const Type* type : structs) {
      if (structs.size() > 1) out += '\n';
      out += section_text(type->schema());
    }
  }
  return out;
}

}  // namespace automodel::config
