// Numbers, booleans, text, number types and enums.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "config/explain.h"
#include "config/scalar.h"
#include "config/text.h"
#include "config/walk.h"

namespace automodel::config {
namespace {

using Kind = Type::Kind;

// A quoted or command-line text where something else is expected: "123", "true", "none".
Node retyped(const Node& node, Kind wanted) {
  if (!node.is_string()) return node;
  const std::string& text = node.as_string();
  Node result = translate(text);
  if (wanted == Kind::kBool && result.is_string()) result = resolve_plain(text);
  return result.is_scalar() ? result : node;
}

// The text of a scalar that was written without quotes but is wanted as text: 1e-5, 007, "0.99, 0.01".
const std::string* text_of(const Node& node) {
  if (node.is_string()) return &node.as_string();
  if (node.is_null() || node.is_bool() || node.text().empty()) return nullptr;
  return &node.text();
}

std::string enum_text(const Node& node) {
  if (node.is_string()) return node.as_string();
  return node.is_scalar() ? show(node) : "";
}

std::string did_you_mean(const std::string& text, const std::vector<std::string>& known) {
  const std::string near = nearest(text, known);
  return near.empty() ? "" : fmt::format("did you mean '{}'?", near);
}

}  // namespace

const EnumTable::Name* enum_name(const EnumTable& table, const Node& node) {
  if (!node.is_scalar()) return nullptr;
  if (!node.text().empty()) {
    if (const EnumTable::Name* name = table.find(node.text())) return name;
  }
  if (const EnumTable::Name* name = table.find(enum_text(node))) return name;
  return node.is_null() ? table.find("none") : nullptr;
}

void Walk::scalar(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  switch (type.kind) {
    case Kind::kBool: {
      const Node typed = retyped(node, Kind::kBool);
      if (!typed.is_bool()) return expected(type, node, path, field);
      *static_cast<bool*>(out) = typed.as_bool();
      return;
    }
    case Kind::kDType: {
      const std::optional<DType> dtype = node.is_string() ? parse_dtype(node.as_string()) : std::nullopt;
      if (!dtype) return expected(type, node, path, field, "such as bfloat16, float32 or float16");
      *static_cast<DType*>(out) = *dtype;
      return;
    }
    case Kind::kString:
      return text(type, node, out, path, field);
    case Kind::kEnum:
      return enumeration(type, node, out, path, field);
    default:
      return number(type, node, out, path, field);
  }
}

void Walk::text(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  const std::string* text = text_of(node);
  if (!text) {
    const bool written = node.is_scalar() && !node.text().empty();
    return expected(type, node, path, field, written ? fmt::format("quote it: \"{}\"", node.text()) : "");
  }
  if (field && !field->choices.empty() &&
      std::find(field->choices.begin(), field->choices.end(), *text) == field->choices.end()) {
    return expected(type, node, path, field, did_you_mean(*text, field->choices));
  }
  *static_cast<std::string*>(out) = *text;
}

void Walk::enumeration(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  const EnumTable& table = type.names();
  if (const EnumTable::Name* name = enum_name(table, node)) return type.set(out, name->value);
  std::vector<std::string> known;
  for (const EnumTable::Name& name : table.names) known.push_back(name.name);
  expected(type, node, path, field, did_you_mean(enum_text(node), known));
}

void Walk::number(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
  const Node typed = retyped(node, type.kind);
  if (!typed.is_int() && !typed.is_float()) return expected(type, node, path, field);
  const double real = typed.as_double();
  if (std::isnan(real)) return expected(type, node, path, field);
  if (type.kind == Kind::kDouble) {
    if (bounds(real, node, path, field)) *static_cast<double*>(out) = real;
    return;
  }
  constexpr double kExact = 9007199254740992.0;  // 2^53: whole floats up to it are exact integers
  if (typed.is_float() && (real != std::floor(real) || std::abs(real) > kExact)) {
    return expected(type, node, path, field);
  }
  const int64_t whole = typed.is_int() ? typed.as_int() : static_cast<int64_t>(real);
  if (type.kind == Kind::kInt32 && (whole > INT32_MAX || whole < INT32_MIN)) {
    return damage(path, fmt::format("{} does not fit 32 bits", whole), "", node.origin());
  }
  if (!bounds(real, node, path, field)) return;
  if (type.kind == Kind::kInt32) {
    *static_cast<int*>(out) = static_cast<int>(whole);
  } else {
    *static_cast<int64_t*>(out) = whole;
  }
}

bool Walk::bounds(double x, const Node& node, const std::string& path, const FieldSpec* field) {
  if (!field) return true;
  for (const Bound& bound : field->bounds) {
    if (bound.holds(x)) continue;
    damage(path, fmt::format("must be {}, got {}", bound.text(), show(node)), "", node.origin());
    return false;
  }
  return true;
}

}  // namespace automodel::config
