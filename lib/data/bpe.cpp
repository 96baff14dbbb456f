// Merging keeps a linked list of symbols and a heap of candidate pairs: O(n log n) for a word of n characters. Most
// words repeat, so whole words are cached. SentencePiece-style tokenizers hand over whole texts as one word; those are
// cut before each U+2581 that follows another character when no merge can reach across such a border, which gives the
// same ids and lets the cache work.
#include "data/bpe.h"

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "data/unicode.h"

namespace automodel::data {
namespace {

constexpr std::string_view kMarker = "\xE2\x96\x81";  // U+2581, the space of SentencePiece
constexpr size_t kLongestCachedWord = 256;

// Whether a marker stands in `token` behind anything but markers.
bool crosses_marker_border(std::string_view token) {
  size_t pos = 0;
  while (token.substr(pos).starts_with(kMarker)) pos += kMarker.size();
  return token.find(kMarker, pos) != std::string_view::npos;
}

// The end of the part that begins at `begin`: the next border before a marker run, or the end of the word.
size_t part_end(std::string_view word, size_t begin) {
  size_t pos = begin;
  while (word.substr(pos).starts_with(kMarker)) pos += kMarker.size();
  return std::min(word.find(kMarker, pos), word.size());
}

}  // namespace

Bpe::Bpe(TokenizerJson& json, BpeOptions options, const std::string& file) : options_(std::move(options)) {
  read_vocab(json, file);
  read_merges(json, file);
  low_id_.fill(-1);
  std::string text;
  for (size_t c = 0; c < low_id_.size(); ++c) {
    text.clear();
    append_utf8(text, static_cast<char32_t>(c));
    if (auto id = table_.find(text)) low_id_[c] = *id;
  }
  byte_id_.fill(-1);
  for (size_t b = 0; b < byte_id_.size(); ++b)
    if (auto id = table_.find(fmt::format("<0x{:02X}>", b))) byte_id_[b] = *id;
  if (!options_.unk_token.empty()) unk_id_ = table_.find(options_.unk_token);
}

void Bpe::read_vocab(TokenizerJson& json, const std::string& file) {
  AM_CHECK(!json.vocab.empty(), Fault::kData, "{}: model.vocab is missing or empty", file);
  uint32_t largest = 0;
  for (const auto& [token, id] : json.vocab) largest = std::max(largest, id);
  // An id far beyond the number of tokens is damage; a table by id must not follow it.
  AM_CHECK(largest < 16 * json.vocab.size() + 65536, Fault::kData, "{}: model.vocab has {} tokens but an id of {}",
           file, json.vocab.size(), largest);
  table_ = StringTable(json.vocab.size());
  tokens_.resize(size_t{largest} + 1);
  exists_.resize(tokens_.size());
  for (auto& [token, id] : json.vocab) {
    AM_CHECK(table_.insert(token, id), Fault::kData, "{}: model.vocab has the token '{}' twice", file, token);
    AM_CHECK(!exists_[id], Fault::kData, "{}: model.vocab gives the id {} to '{}' and to '{}'", file, id, tokens_[id],
             token);
    tokens_[id] = std::move(token);
    exists_[id] = true;
  }
  size_ = json.vocab.size();
}

void Bpe::read_merges(const TokenizerJson& json, const std::string& file) {
  merges_ = MergeTable(json.merges.size());
  parts_at_marker_ = !options_.ignore_merges && table_.find(kMarker).has_value();
  std::string merged;
  for (size_t rank = 0; rank < json.merges.size(); ++rank) {
    const auto& [left, right] = json.merges[rank];
    merged.assign(left).append(right);
    auto left_id = table_.find(left);
    auto right_id = table_.find(right);
    auto merged_id = table_.find(merged);
    if (!left_id || !right_id || !merged_id)
      fail(Fault::kData, "{}: model.merges[{}] joins '{}' and '{}', but '{}' is not in model.vocab", file, rank, left,
           right,
           !left_id    ? left
           : !right_id ? right
                       : merged);
    merges_.insert(*left_id, *right_id, {static_cast<uint32_t>(rank), *merged_id});
    if (crosses_marker_border(merged)) parts_at_marker_ = false;
  }
}

std::string_view Bpe::token_of(uint32_t id) const {
  if (id >= tokens_.size() || !exists_[id]) return {};
  return tokens_[id];
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (options_.ignore_merges) {
    if (auto id = table_.find(word)) {
      out.push_back(static_cast<int32_t>(*id));
      return;
    }
  }
  if (!parts_at_marker_) {
    encode_part(word, scratch, out);
    return;
  }
  for (size_t begin = 0; begin < word.size();) {
    size_t end = part_end(word, begin);
    encode_part(word.substr(begin, end - begin), scratch, out);
    begin = end;
  }
}

void Bpe::encode_part(std::string_view part, Scratch& scratch, std::vector<int32_t>& out) const {
  uint32_t count = 0;
  if (const uint32_t* ids = scratch.cache.find(part, count)) {
    out.insert(out.end(), ids, ids + count);
    return;
  }
  split_into_symbols(part, scratch);
  merge(scratch);
  out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
  if (part.size() <= kLongestCachedWord) scratch.cache.insert(part, scratch.ids.data(), scratch.ids.size());
}

std::optional<uint32_t> Bpe::character_id(std::string_view character) const {
  if (character.size() > 2) return table_.find(character);
  char32_t c = code_point_at(character, 0);
  if (c >= low_id_.size()) return table_.find(character);
  if (low_id_[c] < 0) return std::nullopt;
  return static_cast<uint32_t>(low_id_[c]);
}

bool Bpe::append_byte_fallback(std::string_view character, std::vector<uint32_t>& ids) const {
  for (char c : character)
    if (byte_id_[static_cast<unsigned char>(c)] < 0) return false;
  for (char c : character) ids.push_back(static_cast<uint32_t>(byte_id_[static_cast<unsigned char>(c)]));
  return true;
}

void Bpe::split_into_symbols(std::string_view part, Scratch& scratch) const {
  auto& ids = scratch.ids;
  ids.clear();
  // An unknown token waits until the next known character, so that a run can fuse. Byte tokens do not end the wait:
  // that is how the reference implementation orders them.
  bool unknown = false;
  for (size_t pos = 0; pos < part.size();) {
    std::string_view character = part.substr(pos, utf8_length(part[pos]));
    pos += character.size();
    if (auto id = character_id(character)) {
      if (unknown) ids.push_back(*unk_id_);
      unknown = false;
      ids.push_back(*id);
    } else if (!(options_.byte_fallback && append_byte_fallback(character, ids)) && !options_.unk_token.empty()) {
      AM_CHECK(unk_id_.has_value(), Fault::kData, "the tokenizer's unknown token '{}' is not in its vocabulary",
               options_.unk_token);
      if (unknown && !options_.fuse_unk) ids.push_back(*unk_id_);
      unknown = true;
    }
  }
  if (unknown) ids.push_back(*unk_id_);
}

// Merges scratch.ids in place. The heap's entries are (rank, position); one whose pair has changed since is stale.
void Bpe::merge(Scratch& scratch) const {
  auto& ids = scratch.ids;
  auto& symbols = scratch.symbols;
  auto& queue = scratch.queue;
  auto count = static_cast<int32_t>(ids.size());
  if (count < 2) return;
  symbols.resize(ids.size());
  queue.clear();
  for (int32_t i = 0; i < count; ++i) {
    auto at = static_cast<size_t>(i);
    symbols[at] = {ids[at], i - 1, i + 1 < count ? i + 1 : -1};
    if (i + 1 == count) break;
    if (auto* found = merges_.find(ids[at], ids[at + 1])) queue.push_back((uint64_t{found->rank} << 32) | at);
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  auto offer = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    auto* found = merges_.find(symbols[static_cast<size_t>(left)].id, symbols[static_cast<size_t>(right)].id);
    if (found == nullptr) return;
    queue.push_back((uint64_t{found->rank} << 32) | static_cast<uint32_t>(left));
    std::push_heap(queue.begin(), queue.end(), std::greater<>());
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    uint64_t top = queue.back();
    queue.pop_back();
    auto position = static_cast<int32_t>(top & 0xFFFFFFFFu);
    auto& left = symbols[static_cast<size_t>(position)];
    if (left.next < 0) continue;
    auto& right = symbols[static_cast<size_t>(left.next)];
    auto* found = merges_.find(left.id, right.id);
    if (found == nullptr || found->rank != static_cast<uint32_t>(top >> 32)) continue;
    left.id = found->id;
    left.next = right.next;
    right.next = -2;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = position;
    offer(left.previous, position);
    offer(position, left.next);
  }
  ids.clear();
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    ids.push_back(symbols[static_cast<size_t>(i)].id);
}

}  // namespace automodel::data
