#include "config/schema.h"

#include <fmt/core.h>

#include <algorithm>

namespace automodel::config {
namespace {

bool same_ignoring_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == lower(y); });
}

// The part of a dotted name that identifies it wherever its package moved: the last component, or Class.method.
std::string_view tail_of(std::string_view name) {
  const size_t last = name.rfind('.');
  if (last == std::string_view::npos || last == 0) return name;
  const size_t before = name.rfind('.', last - 1);
  const size_t begin = before == std::string_view::npos ? 0 : before + 1;
  const bool method = name[begin] >= 'A' && name[begin] <= 'Z';
  return name.substr(method ? begin : last + 1);
}

std::string_view head_of(std::string_view name) {
  return name.substr(0, name.find('.'));
}

bool names(std::string_view text, std::string_view name) {
  if (text == name) return true;
  const std::string_view tail = tail_of(name);
  if (tail_of(text) != tail || name.find('.') == std::string_view::npos) return false;
  return text == tail ||
         (name.ends_with(text) && name.size() > text.size() && name[name.size() - text.size() - 1] == '.') ||
         head_of(text) == head_of(name);
}

}  // namespace

bool Bound::holds(double x) const {
  switch (kind) {
    case Kind::kAbove:
      return x > limit;
    case Kind::kAtLeast:
      return x >= limit;
    case Kind::kBelow:
      return x < limit;
    case Kind::kAtMost:
      break;
  }
  return x <= limit;
}

std::string Bound::text() const {
  constexpr const char* kWords[] = {"above", "at least", "below", "at most"};
  return fmt::format("{} {}", kWords[static_cast<int>(kind)], limit);
}

const EnumTable::Name* EnumTable::find(std::string_view text) const {
  for (const Name& name : names) {
    if (name.name == text || (ignore_case && same_ignoring_case(name.name, text))) return &name;
  }
  return nullptr;
}

const EnumTable::Name* EnumTable::of(int64_t value) const {
  for (const Name& name : names) {
    if (name.value == value) return &name;
  }
  return nullptr;
}

void EnumTable::add(std::string_view name, int64_t value, std::string_view doc) {
  names.push_back({std::string(name), value, std::string(doc)});
}

bool FieldSpec::matches(std::string_view key) const {
  if (key == name || std::find(aliases.begin(), aliases.end(), key) != aliases.end()) return true;
  if (!type && name.ends_with('*')) return key.starts_with(std::string_view(name).substr(0, name.size() - 1));
  if (!group || key.size() <= name.size() + 1 || !key.starts_with(name)) return false;
  const char joint = key[name.size()];
  return joint == '_' || joint == '-' || joint == '.';
}

const FieldSpec* Schema::find(std::string_view key) const {
  const FieldSpec* wide = nullptr;  // a group or wildcard counts only when no key has the name itself
  for (const FieldSpec& field : fields) {
    if (!field.matches(key)) continue;
    if (key == field.name || (!field.group && !field.name.ends_with('*'))) return &field;
    if (!wide) wide = &field;
  }
  return wide;
}

const TargetSpec* Schema::find_target(std::string_view text) const {
  for (const TargetSpec& target : targets) {
    if (std::find(target.names.begin(), target.names.end(), text) != target.names.end()) return &target;
  }
  for (const TargetSpec& target : targets) {
    for (const std::string& name : target.names) {
      if (names(text, name)) return &target;
    }
  }
  return nullptr;
}

bool is_off(const Node& node) {
  if (node.is_null() || (node.is_bool() && !node.as_bool())) return true;
  if (!node.is_map()) return false;
  if (node.entries().empty()) return true;
  for (const char* key : {"enabled", "enable"}) {
    const Node* enabled = node.find(key);
    if (enabled) return enabled->is_bool() && !enabled->as_bool();
  }
  return false;
}

std::function<bool(const Node&)> any_of(Words words) {
  return [scalars = std::vector<std::string>(words.begin(), words.end())](const Node& node) {
    if (!node.is_scalar()) return false;
    const std::string shown = node.is_string() ? node.as_string() : show(node);
    return std::any_of(scalars.begin(), scalars.end(), [&](const std::string& scalar) {
      return scalar == shown || scalar == node.text() || (node.is_null() && scalar == "none");
    });
  };
}

FieldSpec& Schema::add(std::string_view name, std::string_view doc, Type::Get type, size_t offset) {
  FieldSpec& spec = fields.emplace_back();
  spec.name = name;
  spec.doc = doc;
  spec.type = type;
  spec.offset = offset;
  return spec;
}

void Schema::add_target(std::initializer_list<std::string_view> names, std::function<void(void*)> preset) {
  targets.push_back({std::vector<std::string>(names.begin(), names.end()), std::move(preset)});
}

void Schema::add_check(std::function<void(const void*, Problems&)> run) {
  checks.push_back({0, std::move(run)});
}

void Schema::flatten(const Schema& other, size_t offset) {
  for (FieldSpec spec : other.fields) {
    spec.offset += offset;
    spec.null_is_default = spec.null_is_default || other.null_means_default;
    fields.push_back(std::move(spec));
  }
  for (CheckSpec check : other.checks) {
    check.offset += offset;
    checks.push_back(std::move(check));
  }
}

void FieldBuilder::add_bound(Bound::Kind kind, double limit) {
  spec_.bounds.push_back({kind, limit});
}
void FieldBuilder::add_choices(Words choices) {
  spec_.choices.assign(choices.begin(), choices.end());
}
void FieldBuilder::add_must(Holds holds, std::string_view sentence) {
  spec_.musts.emplace_back(std::move(holds), sentence);
}
void FieldBuilder::add_alias(std::string_view name) {
  spec_.aliases.emplace_back(name);
}
void FieldBuilder::add_none_word(std::string_view word) {
  spec_.none_words.emplace_back(word);
}
void FieldBuilder::set_refused(std::string_view sentence, Harmless harmless) {
  spec_.refused = sentence;
  spec_.harmless = std::move(harmless);
}
void FieldBuilder::set_refused(std::string_view sentence, Words harmless) {
  set_refused(sentence, any_of(harmless));
}
void FieldBuilder::set(std::string& text, std::string_view value) {
  text = value;
}

}  // namespace automodel::config
