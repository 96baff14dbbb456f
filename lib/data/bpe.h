// Byte-pair encoding as Hugging Face's tokenizers define it (Sennrich et al., "Neural Machine Translation of Rare Words
// with Subword Units", ACL 2016): the characters of a word are merged, the lowest rank first, leftmost among equals.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/flat_tables.h"
#include "data/tokenizer_json.h"

namespace automodel::data {

struct BpeOptions {
  std::string unk_token;       // empty: unknown characters vanish
  bool fuse_unk = false;       // one unknown token for a run of unknown characters
  bool byte_fallback = false;  // unknown characters become <0xAB> tokens where the vocabulary has them
  bool ignore_merges = false;  // a word that is in the vocabulary is that token
};

class Bpe {
 public:
  // What encoding needs besides the model; one per thread.
  struct Scratch {
    struct Symbol {
      uint32_t id;
      int32_t previous;
      int32_t next;  // -1 at the end; -2 when merged away
    };
    WordCache cache;
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;
    std::vector<uint32_t> ids;
  };

  // Takes the vocabulary and the merges out of `json`. Throws Error(kData), naming `file`, when they contradict.
  Bpe(TokenizerJson& json, BpeOptions options, const std::string& file);

  // Appends the ids of one word (well-formed UTF-8) to `out`.
  void encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

  std::optional<uint32_t> id_of(std::string_view token) const { return table_.find(token); }
  // The token of an id; empty view with data() == nullptr when there is none.
  std::string_view token_of(uint32_t id) const;
  // One more than the largest id.
  uint32_t id_bound() const { return static_cast<uint32_t>(tokens_.size()); }
  // How many tokens there are.
  size_t size() const { return size_; }

 private:
  void read_vocab(TokenizerJson& json, const std::string& file);
  void read_merges(const TokenizerJson& json, const std::string& file);
  void encode_part(std::string_view part, Scratch& scratch, std::vector<int32_t>& out) const;
  void split_into_symbols(std::string_view part, Scratch& scratch) const;
  void merge(Scratch& scratch) const;
  std::optional<uint32_t> character_id(std::string_view character) const;
  bool append_byte_fallback(std::string_view character, std::vector<uint32_t>& ids) const;

  BpeOptions options_;
  StringTable table_;
  std::vector<std::string> tokens_;  // by id; "" where an id has no token
  std::vector<bool> exists_;
  size_t size_ = 0;
  MergeTable merges_;
  std::optional<uint32_t> unk_id_;
  std::array<int64_t, 256> byte_id_{};   // of <0xAB>; -1 where there is none
  std::array<int64_t, 0x250> low_id_{};  // of characters below U+0250; -1 where there is none
  bool parts_at_marker_ = false;         // no merge reaches across the border before a U+2581
};

}  // namespace automodel::data
