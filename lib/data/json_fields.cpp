#include "data/json_fields.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"

namespace automodel::data {

using nlohmann::json;

void JsonFields::wrong(std::string_view key, const char* expected, const json& got) const {
  fail(Fault::kData, "{}: '{}' must be {}, but is {}", where_, key, expected, got.type_name());
}

std::optional<JsonFields> JsonFields::find(std::string_view key) const {
  AM_CHECK(value_->is_object(), Fault::kData, "{}: must be an object, but is {}", where_, value_->type_name());
  auto it = value_->find(std::string(key));
  if (it == value_->end() || it->is_null()) return std::nullopt;
  char last = where_.empty() ? ' ' : where_.back();
  std::string separator = last == ':' ? " " : last == ' ' ? "" : where_.find(": ") == std::string::npos ? ": " : ".";
  return JsonFields(*it, where_ + separator + std::string(key));
}

JsonFields JsonFields::at(std::string_view key) const {
  auto field = find(key);
  AM_CHECK(field.has_value(), Fault::kData, "{}: '{}' is missing", where_, key);
  return *field;
}

std::string JsonFields::text(std::string_view key) const {
  auto field = at(key);
  if (!field.value().is_string()) wrong(key, "a string", field.value());
  return field.value().get<std::string>();
}

std::string JsonFields::text_or(std::string_view key, std::string_view fallback) const {
  return find(key) ? text(key) : std::string(fallback);
}

bool JsonFields::flag_or(std::string_view key, bool fallback) const {
  auto field = find(key);
  if (!field) return fallback;
  if (!field->value().is_boolean()) wrong(key, "true or false", field->value());
  return field->value().get<bool>();
}

int64_t JsonFields::integer(std::string_view key) const {
  auto field = at(key);
  if (!field.value().is_number_integer()) wrong(key, "an integer", field.value());
  return field.value().get<int64_t>();
}

size_t JsonFields::size() const {
  AM_CHECK(value_->is_array(), Fault::kData, "{}: must be a list, but is {}", where_, value_->type_name());
  return value_->size();
}

JsonFields JsonFields::operator[](size_t index) const {
  return JsonFields(value_->at(index), where_ + "[" + std::to_string(index) + "]");
}

json read_json(const std::string& path) {
  std::string content = read_file(path);
  try {
    return json::parse(content);
  } catch (const json::parse_error& error) {
    std::string_view what = error.what();
    fail(Fault::kData, "{}: not valid JSON: {}", path, what.substr(what.find("] ") + 2));
  }
}

}  // namespace automodel::data
