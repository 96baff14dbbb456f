#include "data/unicode.h"

#include <doctest/doctest.h>

#include "data/regex.h"
#include "support.h"

using namespace automodel;
using namespace automodel::data;

TEST_CASE("ill-formed UTF-8 is found at its first byte") {
  CHECK(find_invalid_utf8("plain text, long enough for whole words") == std::string_view::npos);
  CHECK(find_invalid_utf8("é水🤗") == std::string_view::npos);
  CHECK(find_invalid_utf8("12345678\xC0\xAF") == 8);  // overlong
  CHECK(find_invalid_utf8("a\xED\xA0\x80") == 1);     // a surrogate
  CHECK(find_invalid_utf8("\xF4\x90\x80\x80") == 0);  // beyond U+10FFFF
  CHECK(find_invalid_utf8("é\xE6\xB0") == 2);         // cut off
  CHECK(find_invalid_utf8("\x80") == 0);
}

TEST_CASE("each maximal ill-formed part becomes one replacement character") {
  const std::string r(kReplacementCharacter);
  CHECK(to_valid_utf8("a\xE6\xB0"
                      "b") == "a" + r + "b");
  CHECK(to_valid_utf8("\xED\xA0\x80") == r + r + r);
  CHECK(to_valid_utf8("\xF0\x9F\xA4\x97\xF0\x9F") == "🤗" + r);
  CHECK(to_valid_utf8("\xC0\xAF") == r + r);
}

TEST_CASE("texts take their normal forms") {
  CHECK(normalize("e\u0301 \u212B", NormalForm::kNfc) == "\u00E9 \u00C5");
  CHECK(normalize("\u00E9", NormalForm::kNfd) == "e\u0301");
  CHECK(normalize("\uFB01\u00B2", NormalForm::kNfkc) == "fi2");
  CHECK(normalize("\u1E9B\u0323", NormalForm::kNfkd) == "s\u0323\u0307");
  std::string nul("a\0e\u0301", 5);
  CHECK(normalize(nul, NormalForm::kNfc) == std::string("a\0\u00E9", 4));
  CHECK(lowercase("ÄΣİK") == "äσi\u0307k");
}

TEST_CASE("the byte alphabet has a printable character for every byte") {
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  std::string mapped;
  append_byte_level(mapped, all);
  CHECK(mapped.substr(0, 2) == "\u0100");
  CHECK(contains(mapped, "\u0120"));  // the space
  std::string back;
  CHECK(append_bytes_of_byte_level(back, mapped));
  CHECK(back == all);
  CHECK(!append_bytes_of_byte_level(back, "a b"));
  CHECK(back == all);
}

TEST_CASE("regular expressions mean what they mean in the files' own dialect") {
  auto pieces = [](const char* pattern, std::string_view text) {
    Regex regex(pattern, "here");
    Regex::Matcher matcher(regex);
    std::string out;
    for_each_piece(matcher, text, [&](size_t begin, size_t end, bool match) {
      out.push_back(match ? '[' : '(');
      out.append(text.substr(begin, end - begin));
      out.push_back(match ? ']' : ')');
    });
    return out;
  };
  CHECK(pieces(R"(\s+)", "a \u00A0b\u180Ec") == "(a)[ \u00A0](b\u180Ec)");  // U+180E is no white space
  CHECK(pieces(R"([^\s\p{L}]+)", "ab, c!") == "(ab)[,]( c)[!]");
  CHECK(pieces(R"(\w+)", "na\u00EFve e\u0301-x") == "[na\u00EFve]( )[e\u0301](-)[x]");
  CHECK(pieces(R"(\h+)", "xCAFE1g") == "(x)[CAFE1](g)");
  CHECK(pieces(R"((?=[A-Z]))", "abCdE") == "(ab)(Cd)(E)");
  CHECK(pieces(R"([\]a[:digit:]]+)", "]a1b") == "[]a1](b)");
  CHECK(pieces(R"((?i:'s))", "it'\u017F") == "(it)['\u017F]");
  CHECK(contains(error_of(Fault::kData, [] { Regex("[^\\W]", "tokenizer.json: x"); }), "tokenizer.json: x"));
  CHECK(contains(error_of(Fault::kData, [] { Regex("[a[b]]", "here"); }), "nests"));
}
