#include "data/normalizer.h"

#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/regex.h"
#include "data/unicode.h"

namespace automodel::data {
namespace {

std::string strip_accents(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    size_t length = utf8_length(text[pos]);
    if (!is_mark(code_point_at(text, pos))) out.append(text.substr(pos, length));
    pos += length;
  }
  return out;
}

std::string strip(std::string_view text, bool left, bool right) {
  size_t begin = 0;
  while (left && begin < text.size() && is_white_space(code_point_at(text, begin))) begin += utf8_length(text[begin]);
  size_t end = text.size();
  while (right && end > begin) {
    size_t last = end - 1;
    while ((static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
    if (!is_white_space(code_point_at(text, last))) break;
    end = last;
  }
  return std::string(text.substr(begin, end - begin));
}

}  // namespace

class Normalizer::Step {
 public:
  explicit Step(std::function<std::string(std::string_view)> apply) : apply_(std::move(apply)) {}
  std::string apply(std::string_view text) const { return apply_(text); }

 private:
  std::function<std::string(std::string_view)> apply_;
};

Normalizer::Normalizer() = default;
Normalizer::Normalizer(Normalizer&&) noexcept = default;
Normalizer& Normalizer::operator=(Normalizer&&) noexcept = default;
Normalizer::~Normalizer() = default;
Normalizer::Normalizer(const JsonFields& json) {
  add(json);
}

void Normalizer::add(const JsonFields& json) {
  std::string type = json.text("type");
  auto step = [&](std::function<std::string(std::string_view)> apply) {
    steps_.push_back(std::make_unique<Step>(std::move(apply)));
  };
  if (type == "Sequence") {
    auto list = json.at("normalizers");
    for (size_t i = 0; i < list.size(); ++i) add(list[i]);
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    NormalForm form = type == "NFC"    ? NormalForm::kNfc
                      : type == "NFD"  ? NormalForm::kNfd
                      : type == "NFKC" ? NormalForm::kNfkc
                                       : NormalForm::kNfkd;
    step([form](std::string_view text) { return normalize(text, form); });
  } else if (type == "Lowercase") {
    step([](std::string_view text) { return lowercase(text); });
  } else if (type == "StripAccents") {
    step([](std::string_view text) { return strip_accents(text); });
  } else if (type == "Strip") {
    bool left = json.flag_or("strip_left", true);
    bool right = json.flag_or("strip_right", true);
    step([left, right](std::string_view text) { return strip(text, left, right); });
  } else if (type == "Prepend") {
    std::string prefix = json.text("prepend");
    step([prefix](std::string_view text) { return text.empty() ? std::string() : prefix + std::string(text); });
  } else if (type == "Replace") {
    auto regex = std::make_shared<Regex>(read_pattern(json));
    std::string content = json.text("content");
    step([regex, content](std::string_view text) { return replace_all(*regex, text, content); });
  } else {
    fail(Fault::kData, "{}: the normalizer type '{}' is not supported", json.where(), type);
  }
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const auto& step : steps_) out = step->apply(out);
  return out;
}

Regex read_pattern(const JsonFields& json) {
  JsonFields pattern = json.at("pattern");
  if (pattern.value().is_string()) return Regex::literal(pattern.value().get<std::string>(), pattern.where());
  if (pattern.find("String")) return Regex::literal(pattern.text("String"), pattern.where());
  return Regex(pattern.text("Regex"), pattern.where());
}

std::string replace_all(const Regex& regex, std::string_view text, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  Regex::Matcher matcher(regex);
  for_each_piece(matcher, text, [&](size_t begin, size_t end, bool is_match) {
    out.append(is_match ? content : text.substr(begin, end - begin));
  });
  return out;
}

}  // namespace automodel::data
