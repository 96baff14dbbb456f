#include "data/added_tokens.h"

#include <algorithm>

#include "data/unicode.h"

namespace automodel::data {
namespace {

size_t previous_character(std::string_view text, size_t pos) {
  do --pos;
  while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

bool touches_words(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word(code_point_at(text, previous_character(text, begin)))) return true;
  return end < text.size() && is_word(code_point_at(text, end));
}

size_t spaces_begin(std::string_view text, size_t end) {
  while (end > 0) {
    size_t last = previous_character(text, end);
    if (!is_white_space(code_point_at(text, last))) break;
    end = last;
  }
  return end;
}

size_t spaces_end(std::string_view text, size_t begin) {
  while (begin < text.size() && is_white_space(code_point_at(text, begin))) begin += utf8_length(text[begin]);
  return begin;
}

}  // namespace

void TextMatcher::add(std::string_view text, size_t value) {
  if (text.empty()) return;
  begins_[static_cast<unsigned char>(text[0])] = true;
  uint32_t node = 0;
  for (char c : text) {
    auto& children = nodes_[node].children;
    auto at = std::lower_bound(children.begin(), children.end(), c, [](const auto& a, char b) { return a.first < b; });
    if (at == children.end() || at->first != c) {
      auto created = static_cast<uint32_t>(nodes_.size());
      children.insert(at, {c, created});
      nodes_.emplace_back();
      node = created;
    } else {
      node = at->second;
    }
  }
  nodes_[node].value = value;
}

bool TextMatcher::find(std::string_view text, size_t from, size_t& begin, size_t& end, size_t& value) const {
  for (size_t start = from; start < text.size(); ++start) {
    if (!begins_[static_cast<unsigned char>(text[start])]) continue;
    bool found = false;
    uint32_t node = 0;
    for (size_t pos = start; pos < text.size(); ++pos) {
      const auto& children = nodes_[node].children;
      auto at = std::lower_bound(children.begin(), children.end(), text[pos],
                                 [](const auto& a, char b) { return a.first < b; });
      if (at == children.end() || at->first != text[pos]) break;
      node = at->second;
      if (!nodes_[node].value) continue;
      found = true;
      begin = start;
      end = pos + 1;
      value = *nodes_[node].value;
    }
    if (found) return true;
  }
  return false;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const std::function<std::string(std::string_view)>& normalize)
    : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    std::string text = token.normalized ? normalize(token.content) : token.content;
    by_content_[token.content] = i;
    text_by_id_[token.id] = text;
    if (token.special) special_.insert(token.content);
    (token.normalized ? normalized_ : raw_).add(text, i);
  }
}

void AddedTokens::split(std::string_view text, bool normalized, const Part& part) const {
  const TextMatcher& matcher = normalized ? normalized_ : raw_;
  size_t done = 0;
  size_t from = 0;
  size_t begin = 0;
  size_t end = 0;
  size_t index = 0;
  while (!matcher.empty() && matcher.find(text, from, begin, end, index)) {
    from = end;
    const AddedToken& token = tokens_[index];
    if (token.single_word && touches_words(text, begin, end)) continue;
    if (token.lstrip) begin = std::max(spaces_begin(text, begin), done);
    if (token.rstrip) end = spaces_end(text, end);
    if (begin > done) part(done, begin, nullptr);
    part(begin, end, &token);
    done = end;
  }
  if (done < text.size()) part(done, text.size(), nullptr);
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  auto it = by_content_.find(std::string(content));
  return it == by_content_.end() ? nullptr : &tokens_[it->second];
}

const std::string* AddedTokens::text_of(uint32_t id) const {
  auto it = text_by_id_.find(id);
  return it == text_by_id_.end() ? nullptr : &it->second;
}

}  // namespace automodel::data
