// `plan` shows what the reference makes of a section even where it would stumble later; training refuses such values.
#include "distributed/unchecked_values.h"

#include <fmt/core.h>

#include <algorithm>

#include "config/config.h"
#include "config/scalar.h"

namespace automodel::distributed {
namespace {

using Kind = config::Type::Kind;

bool fits(const config::Type& type, const config::Node& node, const config::FieldSpec& field) {
  const auto in_bounds = [&] {
    const double x = node.as_double();
    return std::all_of(field.bounds.begin(), field.bounds.end(), [&](const auto& bound) { return bound.holds(x); });
  };
  switch (type.kind) {
    case Kind::kBool:
      return node.is_bool();
    case Kind::kInt32:
    case Kind::kInt64:
      return node.is_int() && in_bounds();
    case Kind::kDouble:
      return (node.is_int() || node.is_float()) && in_bounds();
    case Kind::kString:
      return node.is_string();
    case Kind::kDType:
      return node.is_string();  // checked by name
    case Kind::kEnum:
      return node.is_string() && type.names().find(node.as_string());
    case Kind::kOptional:
      return node.is_null() || fits(type.element(), node, field);
    case Kind::kList:
      return node.is_list() && std::all_of(node.items().begin(), node.items().end(),
                                           [&](const config::Node& item) { return fits(type.element(), item, field); });
    case Kind::kMap:
      return node.is_map() &&
             std::all_of(node.entries().begin(), node.entries().end(),
                         [&](const config::Entry& entry) { return fits(type.element(), entry.value, field); });
    case Kind::kVariant:
      return std::any_of(type.alternatives.begin(), type.alternatives.end(),
                         [&](config::Type::Get alternative) { return fits(alternative(), node, field); });
    default:
      return true;
  }
}

const config::Type& without_optional(const config::Type& type) {
  return type.kind == Kind::kOptional ? type.element() : type;
}

class Keeper {
 public:
  Keeper(SectionRemarks& remarks, const std::string& key) : remarks_(remarks), key_(key) {}

  void visit(config::Node& map, const config::Schema& schema, const std::string& path) {
    std::vector<std::string> taken;
    for (const config::Entry& entry : map.entries()) {
      const config::FieldSpec* field = schema.find(entry.key);
      if (!field || !field->type || is_checked(path, entry)) continue;
      const std::string here = path.empty() ? entry.key : path + "." + entry.key;
      const config::Type& type = without_optional(field->type());
      config::Node& value = *map.find(entry.key);
      if (here == "moe.mp_policy" && value.is_map() && (!value.find("_target_") || value.find("_target_")->is_null())) {
        keep(here, value);  // the reference leaves a mapping without a target as it is
        taken.push_back(entry.key);
      } else if (type.kind == Kind::kStruct && value.is_map()) {
        visit(value, type.schema(), here);
      } else if (type.kind == Kind::kStruct ? !value.is_null() : !fits(field->type(), value, *field)) {
        keep(here, value, config::describe_type(field->type(), field));
        // A policy that is none has no element types.
        if (here == "mp_policy") {
          value = config::Node::map();
        } else {
          taken.push_back(entry.key);
        }
      } else if (here == "moe.lm_head_precision" && value.is_string() && !is_canonical(value.as_string())) {
        keep(here, config::Node::string(without_prefix(value.as_string())));
        taken.push_back(entry.key);
      }
    }
    for (const std::string& name : taken) map.erase(name);
  }

 private:
  static bool is_checked(const std::string& path, const config::Entry& entry) {
    if (!path.empty()) return false;
    const std::string& name = entry.key;
    if (name == "moe" || name == "pipeline") return !entry.value.is_map();
    const bool size = name.ends_with("_size");
    return size || name == "strategy" || name == "activation_checkpointing" || name == "multimodal" ||
           name == "activation_checkpointing_scope";
  }

  static std::string without_prefix(const std::string& text) {
    return text.starts_with("torch.") ? text.substr(6) : text;
  }

  static bool is_canonical(const std::string& text) {
    const std::optional<DType> dtype = parse_dtype(text);
    return dtype && without_prefix(text) == automodel::name_of(*dtype);
  }

  void keep(const std::string& path, config::Node value, const std::string& expected = "") {
    if (!expected.empty()) {
      remarks_.warnings.push_back(
          {key_ + "." + path, fmt::format("expected {}, got {}; it is shown as written", expected, config::show(value)),
           "training refuses it", value.origin()});
    }
    remarks_.as_written.emplace_back(path, std::move(value));
  }

  SectionRemarks& remarks_;
  const std::string& key_;
};

// What crosses stages has the type that the policy hands on, also where that was kept as written.
void settle_stage_dtype(const config::Node& section, SectionRemarks& remarks) {
  const config::Node* own = section.at_path("pipeline.dtype");
  const config::Node* pipeline = section.find("pipeline");
  if (!pipeline || !pipeline->is_map() || (own && !own->is_null()) || remarks.written("pipeline.dtype")) return;
  for (const char* name : {"mp_policy.output_dtype", "mp_policy.param_dtype"}) {
    if (const config::Node* odd = remarks.written(name)) {
      remarks.as_written.emplace_back("pipeline.dtype", config::Node(*odd));
      return;
    }
    const config::Node* typed = section.at_path(name);
    if (typed && !typed->is_null()) return;
  }
}

}  // namespace

void keep_unchecked(config::Node& section, const config::Schema& schema, SectionRemarks& remarks,
                    const std::string& key) {
  Keeper(remarks, key).visit(section, schema, "");
  settle_stage_dtype(section, remarks);
}

}  // namespace automodel::distributed
