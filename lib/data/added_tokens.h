// The "added_tokens" of a tokenizer.json: tokens that are found in a text before anything else happens to it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace automodel::data {

struct AddedToken {
  std::string content;
  uint32_t id = 0;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // swallows white space on its left
  bool rstrip = false;       // and on its right
  bool normalized = true;    // looked for in the normalized text, itself normalized
  bool special = false;      // dropped when decoding skips special tokens
};

// Finds the longest of a set of texts at each place, the leftmost place first.
class TextMatcher {
 public:
  TextMatcher() : nodes_(1) {}
  void add(std::string_view text, size_t value);
  bool empty() const { return nodes_.size() == 1; }
  // The first match at or after `from`: its borders and its value.
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end, size_t& value) const;

 private:
  struct Node {
    std::vector<std::pair<char, uint32_t>> children;  // by byte
    std::optional<size_t> value;
  };
  std::vector<Node> nodes_;
  std::array<bool, 256> begins_{};
};

class AddedTokens {
 public:
  // `normalize` is applied to the tokens that are looked for in normalized text.
  AddedTokens(std::vector<AddedToken> tokens, const std::function<std::string(std::string_view)>& normalize);
  AddedTokens() = default;

  // Cuts `text` at the tokens of one kind and calls part(begin, end, token), with nullptr for what is no token.
  using Part = std::function<void(size_t begin, size_t end, const AddedToken* token)>;
  void split(std::string_view text, bool normalized, const Part& part) const;

  const AddedToken* find(std::string_view content) const;
  // What an id decodes to: the content, normalized for the tokens that are.
  const std::string* text_of(uint32_t id) const;
  bool is_special(std::string_view text) const { return special_.contains(std::string(text)); }
  const std::vector<AddedToken>& all() const { return tokens_; }

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, size_t> by_content_;
  std::unordered_map<uint32_t, std::string> text_by_id_;
  std::unordered_set<std::string> special_;
  TextMatcher raw_;
  TextMatcher normalized_;
};

}  // namespace automodel::data
