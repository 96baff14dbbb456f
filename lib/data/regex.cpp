#include "data/regex.h"

#include "core/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace automodel::data {
namespace {

constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
constexpr std::string_view kHexDigit = "0-9A-Fa-f";

std::string message_of(int error) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(error, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

// The translation of the escape \c; empty when PCRE2 reads it as Oniguruma does.
std::string translate_escape(char c, bool in_class, std::string_view pattern, std::string_view where) {
  switch (c) {
    case 's':
      return "\\p{White_Space}";
    case 'S':
      return "\\P{White_Space}";
    case 'w':
      return in_class ? std::string(kWord) : fmt::format("[{}]", kWord);
    case 'h':
      return in_class ? std::string(kHexDigit) : fmt::format("[{}]", kHexDigit);
    case 'W':
    case 'H':
      AM_CHECK(!in_class, Fault::kData, "{}: the regex '{}' has \\{} inside a character class, which is not supported",
               where, pattern, c);
      return fmt::format("[^{}]", c == 'W' ? kWord : kHexDigit);
    default:
      return "";
  }
}

}  // namespace

std::string translate_oniguruma(std::string_view pattern, std::string_view where) {
  std::string out;
  bool in_class = false;
  size_t class_begin = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      std::string replaced = translate_escape(pattern[i + 1], in_class, pattern, where);
      out += replaced.empty() ? std::string(pattern.substr(i, 2)) : replaced;
      ++i;
      continue;
    }
    if (!in_class && c == '[') {
      in_class = true;
      class_begin = i + (pattern.substr(i + 1, 1) == "^" ? 2 : 1);
    } else if (in_class && c == ']' && i > class_begin) {
      in_class = false;
    } else if (in_class && c == '[' && pattern.substr(i + 1, 1) != ":") {
      fail(Fault::kData, "{}: the regex '{}' nests character classes, which is not supported", where, pattern);
    } else if (in_class && pattern.substr(i, 2) == "&&") {
      fail(Fault::kData, "{}: the regex '{}' intersects character classes (&&), which is not supported", where,
           pattern);
    } else if (in_class && pattern.substr(i, 2) == "[:") {
      size_t end = pattern.find(":]", i);
      if (end == std::string_view::npos) continue;
      out += pattern.substr(i, end + 2 - i);
      i = end + 1;
      continue;
    }
    out.push_back(c);
  }
  return out;
}

void Regex::Deleter::operator()(void* code) const {
  pcre2_code_free(static_cast<pcre2_code*>(code));
}
void Regex::Matcher::Deleter::operator()(void* data) const {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(data));
}

Regex::Regex(std::string_view pattern, std::string_view where) : pattern_(pattern) {
  std::string translated = translate_oniguruma(pattern, where);
  std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context.get()));
  AM_CHECK(code_ != nullptr, Fault::kData, "{}: the regex '{}' does not compile: {}", where, pattern,
           message_of(error));
  // Without JIT support in the library the interpreter runs instead.
  pcre2_jit_compile(static_cast<pcre2_code*>(code_.get()), PCRE2_JIT_COMPLETE);
}

Regex Regex::literal(std::string_view text, std::string_view where) {
  std::string escaped;
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c))) escaped.push_back('\\');
    escaped.push_back(c);
  }
  return Regex(escaped, where);
}

Regex::Matcher::Matcher(const Regex& regex)
    : regex_(&regex),
      match_(pcre2_match_data_create_from_pattern(static_cast<pcre2_code*>(regex.code_.get()), nullptr)) {}

bool Regex::Matcher::find(std::string_view text, size_t from, size_t& begin, size_t& end) {
  auto* code = static_cast<pcre2_code*>(regex_->code_.get());
  auto* match = static_cast<pcre2_match_data*>(match_.get());
  auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, match, nullptr);
  // The interpreter keeps its state on the heap, where long texts fit.
  if (found == PCRE2_ERROR_JIT_STACKLIMIT)
    found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, nullptr);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  AM_CHECK(found >= 0, Fault::kData, "the regex '{}' fails at byte {} of a text of {}: {}", regex_->pattern_, from,
           text.size(), message_of(found));
  const PCRE2_SIZE* borders = pcre2_get_ovector_pointer(match);
  begin = borders[0];
  end = borders[1];
  return true;
}

}  // namespace automodel::data
