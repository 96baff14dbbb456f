// UTF-8 and Unicode for tokenizers: validation, code points, properties, normal forms, and the byte alphabet of
// byte-level tokenizers (GPT-2: every byte has a printable code point of its own).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace automodel::data {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// Offset of the first byte that is not part of well-formed UTF-8; npos when all of it is.
size_t find_invalid_utf8(std::string_view text);

// Ill-formed parts become U+FFFD, one for each maximal subpart (Unicode 15, section 3.9, table 3-8).
std::string to_valid_utf8(std::string_view bytes);

// Bytes of the character that starts with this byte. Well-formed text only.
inline size_t utf8_length(char first) {
  auto c = static_cast<unsigned char>(first);
  return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

// The code point at `pos` of well-formed text.
char32_t code_point_at(std::string_view text, size_t pos);

void append_utf8(std::string& out, char32_t code_point);

bool is_white_space(char32_t code_point);  // the property White_Space
bool is_word(char32_t code_point);         // \w of Unicode regular expressions (UTS 18, annex C)
bool is_mark(char32_t code_point);         // general category M
bool is_numeric(char32_t code_point);      // general category N
bool is_punctuation(char32_t code_point);  // general category P or ASCII punctuation

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize(std::string_view text, NormalForm form);
std::string lowercase(std::string_view text);

struct ByteAlphabet {
  std::array<char32_t, 256> code_point{};  // of a byte
  std::array<int16_t, 0x180> byte{};       // of a code point; -1 where there is none
};
extern const ByteAlphabet kByteAlphabet;

// Every byte of `text` as a character of the byte alphabet, appended to `out`.
void append_byte_level(std::string& out, std::string_view text);

// Appends the bytes that `token` stands for; false, with nothing appended, when a character is not of the alphabet.
bool append_bytes_of_byte_level(std::string& out, std::string_view token);

}  // namespace automodel::data
