// One recursive walk over a tree and a schema. A value that cannot be read keeps its default and the walk goes on, so
// that all mistakes come out in one run. `damage_` counts values that could not be read: checks of a struct run only
// when none of its values is damaged, because they would complain about defaults that the user never wrote.
#include "config/read.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "config/dump.h"
#include "config/explain.h"
#include "config/scalar.h"
#include "config/text.h"

namespace automodel::config {
namespace {

using Kind = Type::Kind;

std::string join(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

// The same value, however a number was written.
bool same_value(const Node& a, const Node& b) {
  const bool numbers = (a.is_int() || a.is_float()) && (b.is_int() || b.is_float());
  return numbers ? a.as_double() == b.as_double() : a == b;
}

char* shifted(void* base, size_t offset) {
  return static_cast<char*>(base) + offset;
}

// A quoted or command-line text where something else is expected: "123", "true", "none".
Node retyped(const Node& node, Kind wanted) {
  if (!node.is_string()) return node;
  const std::string& text = node.as_string();
  Node result = translate(text);
  if (wanted == Kind::kBool && result.is_string()) result = resolve_plain(text);
  result.set_origin(node.origin());
  result.set_placeholder(node.placeholder());
  return result.is_list() || result.is_map() ? node : result;
}

// The text of a scalar that was written without quotes but is wanted as text: 1e-5, 007, "0.99, 0.01".
const std::string* text_of(const Node& node) {
  if (node.is_string()) return &node.as_string();
  if (node.is_null() || node.is_bool() || node.text().empty()) return nullptr;
  return &node.text();
}

std::string enum_text(const Node& node) {
  if (node.is_null()) return "null";
  if (node.is_string()) return node.as_string();
  return node.is_scalar() ? show(node) : "";
}

const EnumTable::Name* enum_name(const EnumTable& table, const Node& node) {
  if (!node.is_scalar()) return nullptr;
  // What was written comes first: `off` may be a name although YAML reads it as a boolean.
  if (!node.text().empty()) {
    if (const EnumTable::Name* name = table.find(node.text())) return name;
  }
  if (const EnumTable::Name* name = table.find(enum_text(node))) return name;
  return node.is_null() ? table.find("none") : nullptr;
}

class Walk {
 public:
  Walk(Report& report, const Type& root) : report_(report), root_(root) {}

  void defects(const Node& node, const std::string& path) {
    for (const Problem& defect : node.defects()) {
      Problem problem = defect;
      problem.key = problem.key.empty() ? path : join(path, problem.key);
      report_.add(std::move(problem));
    }
    for (size_t i = 0; i < node.items().size(); ++i) defects(node.items()[i], join(path, std::to_string(i)));
    for (const Entry& entry : node.entries()) defects(entry.value, join(path, entry.key));
  }

  // Reads a value; false when it could not be read.
  bool value(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
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

 private:
  void damage(const std::string& path, std::string message, std::string hint, const Origin& origin) {
    ++damage_;
    report_.add({path, std::move(message), std::move(hint), origin});
  }

  void expected(const Type& type, const Node& node, const std::string& path, const FieldSpec* field,
                std::string hint = "") {
    if (hint.empty() && node.is_null()) hint = "leave the key out for its default";
    const std::string what = describe_type(type, field);
    const char* joint = what.starts_with("one of") ? ";" : ",";
    damage(path, fmt::format("expected {}{} got {}", what, joint, show(node)), std::move(hint), node.origin());
  }

  void scalar(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
    switch (type.kind) {
      case Kind::kBool: {
        const Node typed = retyped(node, Kind::kBool);
        if (!typed.is_bool()) return expected(type, node, path, field);
        *static_cast<bool*>(out) = typed.as_bool();
        return;
      }
      case Kind::kString:
        return text(type, node, out, path, field);
      case Kind::kDType: {
        const std::optional<DType> dtype = node.is_string() ? parse_dtype(node.as_string()) : std::nullopt;
        if (!dtype) return expected(type, node, path, field, "such as bfloat16, float32 or float16");
        *static_cast<DType*>(out) = *dtype;
        return;
      }
      case Kind::kEnum:
        return enumeration(type, node, out, path, field);
      default:
        return number(type, node, out, path, field);
    }
  }

  void text(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
    const std::string* text = text_of(node);
    if (!text) {
      const bool scalar = node.is_scalar() && !node.text().empty();
      return expected(type, node, path, field, scalar ? fmt::format("quote it: \"{}\"", node.text()) : "");
    }
    if (field && !field->choices.empty() &&
        std::find(field->choices.begin(), field->choices.end(), *text) == field->choices.end()) {
      const std::string near = nearest(*text, field->choices);
      return expected(type, node, path, field, near.empty() ? "" : fmt::format("did you mean '{}'?", near));
    }
    *static_cast<std::string*>(out) = *text;
  }

  void enumeration(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
    const EnumTable& table = type.names();
    if (const EnumTable::Name* name = enum_name(table, node)) return type.set(out, name->value);
    std::vector<std::string> known;
    for (const EnumTable::Name& name : table.names) known.push_back(name.name);
    const std::string near = nearest(enum_text(node), known);
    expected(type, node, path, field, near.empty() ? "" : fmt::format("did you mean '{}'?", near));
  }

  void number(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
    const Node typed = retyped(node, type.kind);
    if (!typed.is_int() && !typed.is_float()) return expected(type, node, path, field);
    const double real = typed.as_double();
    if (std::isnan(real)) return expected(type, node, path, field);
    if (type.kind == Kind::kDouble) {
      if (bounds(real, node, path, field)) *static_cast<double*>(out) = real;
      return;
    }
    constexpr double kExact = 9007199254740992.0;  // 2^53: whole floats below it are exact integers
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

  bool bounds(double x, const Node& node, const std::string& path, const FieldSpec* field) {
    if (!field) return true;
    for (const Bound& bound : field->bounds) {
      const double limit = bound.limit;
      const bool holds = bound.kind == Bound::Kind::kAbove     ? x > limit
                         : bound.kind == Bound::Kind::kAtLeast ? x >= limit
                         : bound.kind == Bound::Kind::kBelow   ? x < limit
                                                               : x <= limit;
      if (holds) continue;
      constexpr const char* kWords[] = {"above", "at least", "below", "at most"};
      damage(path, fmt::format("must be {} {}, got {}", kWords[static_cast<int>(bound.kind)], limit, show(node)), "",
             node.origin());
      return false;
    }
    return true;
  }

  static bool means_null(const Type& element, const Node& node, const FieldSpec* field) {
    if (node.is_null()) return true;
    if (!node.is_string()) return false;
    const std::string& text = node.as_string();
    if (text == "none" || text == "None") return true;
    if (field && std::find(field->none_words.begin(), field->none_words.end(), text) != field->none_words.end()) {
      return true;
    }
    return element.kind != Kind::kString && element.kind != Kind::kEnum && (text == "null" || text == "~");
  }

  void optional(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
    const Type& element = type.element();
    const bool own_null = element.kind == Kind::kEnum && enum_name(element.names(), node);
    if (!own_null && means_null(element, node, field)) return type.clear(out);
    value(element, node, type.add(out, "", 0), path, field);
  }

  void list(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
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
      value(type.element(), (*items)[i], type.add(out, "", i), join(path, std::to_string(i)), field);
    }
  }

  void map(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
    if (!node.is_map() && !node.is_null()) return expected(type, node, path, field);
    type.clear(out);
    for (const Entry& entry : node.entries()) {
      value(type.element(), entry.value, type.add(out, entry.key, 0), join(path, entry.key), field);
    }
  }

  // --- structs
  // --------------------------------------------------------------------------------------------------------

  void structure(const Type& type, const Node& node, void* out, const std::string& path, const TargetSpec* target) {
    const Schema& schema = type.schema();
    if (!target && !schema.targets.empty() && !schema.find("_target_")) {
      const Node* named = node.is_map() ? node.find("_target_") : node.is_string() ? &node : nullptr;
      if (named && !named->is_null()) {
        target = find_target({&type}, *named, node.is_map() ? join(path, "_target_") : path).second;
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
        damage(join(path, field.name), "missing; this key is required", field.doc, node.origin());
      }
    }
    if (damage_ == before) run_checks(schema, node, out, path);
  }

  void run_checks(const Schema& schema, const Node& node, void* out, const std::string& path) {
    const size_t before = report_.problems().size();
    Problems problems(report_, node, path);
    for (const CheckSpec& check : schema.checks) check.run(shifted(out, check.offset), problems);
    damage_ += report_.problems().size() - before;
  }

  void entry_of(const Schema& schema, const Entry& entry, void* out, const std::string& path,
                std::set<const FieldSpec*>& given) {
    const std::string here = join(path, entry.key);
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

  void member(const FieldSpec& field, const Entry& entry, void* out, const std::string& here) {
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

  // A refused key with a value that matters. A member's default is harmless.
  bool refuse(const Schema& schema, const FieldSpec& field, const Entry& entry, const std::string& here) {
    if (entry.value.is_null() || (field.harmless && field.harmless(entry.value))) return false;
    if (field.type) {
      const char* sample = static_cast<const char*>(schema.sample.get()) + field.offset;
      const Node harmless = write(field.type(), sample);
      if (same_value(entry.value, harmless)) return false;
    }
    damage(here, field.refused, "", entry.value.origin().source ? entry.value.origin() : entry.key_origin);
    return true;
  }

  // --- unknown keys
  // ---------------------------------------------------------------------------------------------------

  void unknown(const Schema& schema, const Entry& entry, const std::string& here) {
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
  std::string elsewhere(const std::string& key) {
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
          if (field.type && field.name == key) return join(path, key);
        }
        for (const FieldSpec& field : type->schema().fields) {
          if (field.type) add(field.group ? field.type().element() : field.type(), join(path, field.name));
        }
      }
      level = std::move(next);
    }
    return "";
  }

  // --- variants
  // -------------------------------------------------------------------------------------------------------

  // The struct (and its target) among `types` that a `_target_` text names; a problem and nulls when there is none.
  std::pair<const Type*, const TargetSpec*> find_target(const std::vector<const Type*>& types, const Node& node,
                                                        const std::string& path) {
    std::vector<std::string> known, shown;
    for (const Type* type : types) {
      const TargetSpec* found = node.is_string() ? type->schema().find_target(node.as_string()) : nullptr;
      if (found) return {type, found};
      for (const TargetSpec& target : type->schema().targets) {
        known.insert(known.end(), target.names.begin(), target.names.end());
        shown.push_back(target.names.front());
      }
    }
    if (!node.is_string()) {
      damage(path, fmt::format("expected the name of a target, got {}", show(node)), "", node.origin());
      return {nullptr, nullptr};
    }
    const std::string& text = node.as_string();
    std::string hint = fmt::format("known targets: {}", joined(shown, ", "));
    if (const std::string near = nearest_target(text, known); !near.empty()) {
      hint = fmt::format("did you mean '{}'?", near);
    } else if (text.find(".py:") != std::string::npos) {
      hint = fmt::format("Python code of a recipe is not run; {}", hint);
    }
    damage(path, fmt::format("unknown target '{}'", text), std::move(hint), node.origin());
    return {nullptr, nullptr};
  }

  // By whole name, then by last component.
  static std::string nearest_target(const std::string& text, const std::vector<std::string>& known) {
    const auto last = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
    std::vector<std::string> lasts;
    for (const std::string& name : known) lasts.push_back(last(name));
    const std::string near = nearest(last(text), lasts);
    for (size_t i = 0; i < known.size(); ++i) {
      if (!near.empty() && lasts[i] == near) return known[i];
    }
    return nearest(text, known);
  }

  void variant(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field) {
    std::vector<const Type*> structs;
    for (const Type::Get& alternative : type.alternatives) {
      if (alternative().kind == Kind::kStruct) structs.push_back(&alternative());
    }
    const auto index_of = [&](const Type* wanted) {
      size_t index = 0;
      while (&type.alternatives[index]() != wanted) ++index;
      return index;
    };
    if (node.is_map() && !structs.empty()) {
      const Type* chosen = structs.size() == 1 ? structs[0] : nullptr;
      const TargetSpec* target = nullptr;
      Node named = node.find("_target_") ? *node.find("_target_") : Node();
      const bool written = !named.is_null();
      if (!written && field && !field->default_target.empty()) named = Node::string(field->default_target);
      if (!named.is_null() && !(chosen && chosen->schema().find("_target_"))) {
        const std::string place = written ? join(path, "_target_") : path;
        if (!named.origin().source) named.set_origin(node.origin());
        std::tie(chosen, target) = find_target(structs, named, place);
        if (!chosen) return;
      }
      if (!chosen) return missing_target(structs, node, path);
      return structure(*chosen, node, type.add(out, "", index_of(chosen)), path, target);
    }
    if (plain_alternative(type, node, out, path, field)) return;
    if (node.is_string() && !structs.empty()) {
      const bool targets =
          std::any_of(structs.begin(), structs.end(), [](const Type* type) { return !type->schema().targets.empty(); });
      if (!targets) return expected(type, node, path, field);
      const auto [chosen, target] = find_target(structs, node, path);
      if (chosen) structure(*chosen, node, type.add(out, "", index_of(chosen)), path, target);
      return;
    }
    expected(type, node, path, field);
  }

  void missing_target(const std::vector<const Type*>& structs, const Node& node, const std::string& path) {
    std::vector<std::string> shown;
    for (const Type* type : structs) {
      for (const TargetSpec& target : type->schema().targets) shown.push_back(target.names.front());
    }
    damage(join(path, "_target_"), "missing; it chooses what this section is",
           fmt::format("one of: {}", joined(shown, ", ")), node.origin());
  }

  // Alternatives that are no structs: the one of the node's own kind, else the first that accepts it.
  bool plain_alternative(const Type& type, const Node& node, void* out, const std::string& path,
                         const FieldSpec* field) {
    const auto exact = [&](const Type& alternative) {
      switch (alternative.kind) {
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
          return enum_name(alternative.names(), node) != nullptr;
        case Kind::kList:
        case Kind::kArray:
          return node.is_list();
        case Kind::kMap:
          return node.is_map();
        default:
          return false;
      }
    };
    for (const bool strict : {true, false}) {
      for (size_t i = 0; i < type.alternatives.size(); ++i) {
        const Type& alternative = type.alternatives[i]();
        if (alternative.kind == Kind::kStruct || (strict && !exact(alternative))) continue;
        Report scratch;
        Walk trial(scratch, root_);
        if (!strict && !trial.value(alternative, node, type.add(out, "", i), path, field)) continue;
        value(alternative, node, type.add(out, "", i), path, field);
        return true;
      }
    }
    return false;
  }

  Report& report_;
  const Type& root_;
  size_t damage_ = 0;
};

}  // namespace

void read_into(const Type& type, const Node& node, void* value, Report& report, const std::string& path) {
  Walk walk(report, type);
  walk.defects(node, path);
  walk.value(type, node, value, path, nullptr);
}

}  // namespace automodel::config
