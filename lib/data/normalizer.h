// The "normalizer" of a tokenizer.json: what is done to a text before it is cut into words.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/json_fields.h"

namespace automodel::data {

class Normalizer {
 public:
  // No normalizer: texts stay as they are.
  Normalizer();
  // Supports Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend and Replace. Throws Error(kData)
  // naming any other type.
  explicit Normalizer(const JsonFields& json);
  Normalizer(Normalizer&&) noexcept;
  Normalizer& operator=(Normalizer&&) noexcept;
  ~Normalizer();

  std::string apply(std::string_view text) const;
  bool empty() const { return steps_.empty(); }

 private:
  class Step;
  void add(const JsonFields& json);

  std::vector<std::unique_ptr<Step>> steps_;
};

// "pattern": {"String": ...} or {"Regex": ...} of Replace and Split, as a regular expression.
class Regex;
Regex read_pattern(const JsonFields& json);

// `text` with every match replaced by `content`.
std::string replace_all(const Regex& regex, std::string_view text, std::string_view content);

}  // namespace automodel::data
