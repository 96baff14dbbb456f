// Open-addressing hash tables for the inner loop of a tokenizer: built once, then only read.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace automodel::data {

// Slots for `entries` entries at a load of at most one half; a power of two.
inline size_t table_slots(size_t entries) {
  return std::bit_ceil(entries * 2 + 2);
}

// Text -> id.
class StringTable {
 public:
  StringTable() : StringTable(0) {}
  explicit StringTable(size_t entries) : slots_(table_slots(entries)), mask_(slots_.size() - 1) {}

  // Adds a text; false, with nothing changed, when it is there already. At most as many as the constructor was told.
  bool insert(std::string_view text, uint32_t id) {
    size_t slot = std::hash<std::string_view>()(text) & mask_;
    for (; slots_[slot].used; slot = (slot + 1) & mask_)
      if (slots_[slot].text == text) return false;
    slots_[slot] = {std::string(text), id, true};
    return true;
  }

  std::optional<uint32_t> find(std::string_view text) const {
    for (size_t slot = std::hash<std::string_view>()(text) & mask_; slots_[slot].used; slot = (slot + 1) & mask_)
      if (slots_[slot].text == text) return slots_[slot].id;
    return std::nullopt;
  }

 private:
  struct Slot {
    std::string text;
    uint32_t id = 0;
    bool used = false;
  };
  std::vector<Slot> slots_;
  size_t mask_;
};

// (left id, right id) -> (rank, merged id).
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    uint32_t id;
  };

  MergeTable() : MergeTable(0) {}
  explicit MergeTable(size_t entries) : slots_(table_slots(entries)), mask_(slots_.size() - 1) {}

  // A pair that is there already gets the new merge.
  void insert(uint32_t left, uint32_t right, Merge merge) {
    uint64_t pair = key(left, right);
    size_t slot = first_slot(pair);
    while (slots_[slot].pair != kEmpty && slots_[slot].pair != pair) slot = (slot + 1) & mask_;
    slots_[slot] = {pair, merge};
  }

  const Merge* find(uint32_t left, uint32_t right) const {
    uint64_t pair = key(left, right);
    for (size_t slot = first_slot(pair); slots_[slot].pair != kEmpty; slot = (slot + 1) & mask_)
      if (slots_[slot].pair == pair) return &slots_[slot].merge;
    return nullptr;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // no pair: ids are below 2^31
  struct Slot {
    uint64_t pair = kEmpty;
    Merge merge{};
  };

  static uint64_t key(uint32_t left, uint32_t right) { return (uint64_t{left} << 32) | right; }
  size_t first_slot(uint64_t pair) const {
    uint64_t mixed = pair * 0x9E3779B97F4A7C15u;
    return static_cast<size_t>(mixed ^ (mixed >> 32)) & mask_;
  }

  std::vector<Slot> slots_;
  size_t mask_;
};

// Words and their ids, for one thread. Forgets everything when it has grown large.
class WordCache {
 public:
  WordCache() : slots_(kSlots) {}

  // The ids of `word`, or nothing. Valid until the next insert.
  const uint32_t* find(std::string_view word, uint32_t& count) const {
    uint64_t hash = std::hash<std::string_view>()(word) | 1;
    for (size_t slot = hash & (kSlots - 1); slots_[slot].hash != 0; slot = (slot + 1) & (kSlots - 1)) {
      const Slot& s = slots_[slot];
      if (s.hash != hash || std::string_view(texts_).substr(s.text, s.text_size) != word) continue;
      count = s.count;
      return ids_.data() + s.ids;
    }
    return nullptr;
  }

  void insert(std::string_view word, const uint32_t* ids, size_t count) {
    if (used_ == kSlots / 2 || texts_.size() > kMaxBytes) clear();
    uint64_t hash = std::hash<std::string_view>()(word) | 1;
    size_t slot = hash & (kSlots - 1);
    while (slots_[slot].hash != 0) slot = (slot + 1) & (kSlots - 1);
    slots_[slot] = {hash, static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(word.size()),
                    static_cast<uint32_t>(ids_.size()), static_cast<uint32_t>(count)};
    texts_.append(word);
    ids_.insert(ids_.end(), ids, ids + count);
    ++used_;
  }

 private:
  static constexpr size_t kSlots = size_t{1} << 16;
  static constexpr size_t kMaxBytes = size_t{8} << 20;
  struct Slot {
    uint64_t hash = 0;  // 0: free
    uint32_t text = 0;
    uint32_t text_size = 0;
    uint32_t ids = 0;
    uint32_t count = 0;
  };

  void clear() {
    slots_.assign(kSlots, {});
    texts_.clear();
    ids_.clear();
    used_ = 0;
  }

  std::vector<Slot> slots_;
  std::string texts_;
  std::vector<uint32_t> ids_;
  size_t used_ = 0;
};

}  // namespace automodel::data
