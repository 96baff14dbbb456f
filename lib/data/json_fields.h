// Reading a JSON object field by field with errors that name the file and the place.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace automodel::data {

// A JSON value and where it stands, e.g. {value, "/m/tokenizer.json: pre_tokenizer"}. Does not own the value.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& value, std::string where) : value_(&value), where_(std::move(where)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& where() const { return where_; }

  // The field, or nothing when it is absent or null.
  std::optional<JsonFields> find(std::string_view key) const;
  // Each of these throws Error(kData) when the field has another type; `at` and the first forms also when it is
  // missing.
  JsonFields at(std::string_view key) const;
  std::string text(std::string_view key) const;
  std::string text_or(std::string_view key, std::string_view fallback) const;
  bool flag_or(std::string_view key, bool fallback) const;
  int64_t integer(std::string_view key) const;
  // The elements of a list that this value must be.
  size_t size() const;
  JsonFields operator[](size_t index) const;

 private:
  [[noreturn]] void wrong(std::string_view key, const char* expected, const nlohmann::json& got) const;

  const nlohmann::json* value_;
  std::string where_;
};

// The whole file as JSON; Error(kData) naming the file and the position when it is not JSON.
nlohmann::json read_json(const std::string& path);

}  // namespace automodel::data
