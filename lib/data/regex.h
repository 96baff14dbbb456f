// Regular expressions of tokenizer files, on PCRE2 (JIT, UTF, UCP). Those files are written for Oniguruma's Ruby
// syntax; what differs in PCRE2 is translated (\s \S \w \h, line anchors) and what cannot be is refused.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace automodel::data {

class Regex {
 public:
  // Throws Error(kData), beginning with `where`, when the pattern does not compile or cannot be translated.
  Regex(std::string_view pattern, std::string_view where);

  // A pattern that matches exactly this text.
  static Regex literal(std::string_view text, std::string_view where);

  // Finds matches one after the other. One thread at a time; the regex must outlive it.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    // The first match that begins at or after `from`: its borders. False when there is none.
    bool find(std::string_view text, size_t from, size_t& begin, size_t& end);

   private:
    struct Deleter {
      void operator()(void* data) const;
    };
    const Regex* regex_;
    std::unique_ptr<void, Deleter> match_;
  };

 private:
  struct Deleter {
    void operator()(void* code) const;
  };
  std::unique_ptr<void, Deleter> code_;
  std::string pattern_;
};

// The pattern as PCRE2 must see it. Exposed for its tests.
std::string translate_oniguruma(std::string_view pattern, std::string_view where);

// Calls piece(begin, end, is_match) for every stretch of `text`, matches and what lies between them, in order. An empty
// match parts its neighbours. No stretch is empty.
template <class Piece>
void for_each_piece(Regex::Matcher& matcher, std::string_view text, Piece&& piece) {
  size_t done = 0;
  size_t from = 0;
  size_t begin = 0;
  size_t end = 0;
  while (from <= text.size() && matcher.find(text, from, begin, end)) {
    if (begin > done) piece(done, begin, false);
    if (end > begin) piece(begin, end, true);
    done = end;
    from = end;
    if (end == begin) {
      do ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80);
    }
  }
  if (done < text.size()) piece(done, text.size(), false);
}

}  // namespace automodel::data
