// Text <-> token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace automodel::data {

// What tokenizer_config.json says besides the vocabulary.
struct TokenizerSettings {
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::optional<int32_t> pad_id;
  std::optional<int32_t> unk_id;
  bool add_bos_token = false;  // encode(add_special) makes sure that bos_id stands first
  bool add_eos_token = false;  // and eos_id last
  std::string chat_template;   // text; empty when there is none
};

// A file of a tokenizer as it belongs beside a saved model.
struct TokenizerFile {
  std::string name;
  std::string content;
};

// All members may be called by several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // `add_special`: with the tokens that the tokenizer's own files put around a text. Tokens that are spelled out in the
  // text are recognised either way. Throws Error(kData) for text that is not UTF-8 where UTF-8 is needed.
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special) const = 0;

  // Valid UTF-8; bytes that form no character become U+FFFD, ids without a token nothing.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special) const = 0;

  // One more than the largest id.
  virtual int64_t vocab_size() const = 0;
  virtual std::optional<int32_t> id_of(std::string_view token) const = 0;
  virtual std::vector<TokenizerFile> files() const = 0;

  const TokenizerSettings& settings() const { return settings_; }
  // Where it came from, for messages: a path, or "byte".
  const std::string& name() const { return name_; }

 protected:
  std::string name_;
  TokenizerSettings settings_;
};

struct ByteTokenizerOptions {
  std::optional<std::string> bos_token{};  // gets id 256
  std::optional<std::string> eos_token{};  // gets the next id
  bool add_bos_token = false;
  bool add_eos_token = false;
};

// Token = byte: ids 0..255, then the special tokens asked for. Any bytes can be encoded. Its files are a Hugging Face
// tokenizer that encodes the same way.
std::unique_ptr<Tokenizer> make_byte_tokenizer(const ByteTokenizerOptions& options = {});

// What a recipe may say over a tokenizer's own files.
struct TokenizerOverrides {
  std::optional<bool> add_bos_token{};  // replaces whatever the files put in front of a text
  std::optional<bool> add_eos_token{};  // and behind it
  std::optional<std::string> bos_token{};
  std::optional<std::string> eos_token{};
};

// `path`: "byte"; or a Hugging Face tokenizer, that is a folder with a tokenizer.json or such a file, with
// tokenizer_config.json and special_tokens_map.json read beside it when they are there.
// BPE models only. Throws Error(kData) naming the file and what is missing, damaged or not supported.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path, const TokenizerOverrides& overrides = {});

// Throws Error(kData) when the tokenizer has an id that a model with `model_vocab_size` embeddings cannot take.
void check_fits(const Tokenizer& tokenizer, int64_t model_vocab_size);

// Decodes token by token. What push() and finish() return, joined, is what decode() gives for all ids at once, and
// every returned text is made of complete characters. Only where byte tokens of a SentencePiece-style tokenizer make
// ill-formed text may the two differ: decode() gives up on a whole run of them, the stream has returned its good
// characters already.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special) : tokenizer_(&tokenizer), skip_special_(skip_special) {}
  std::string push(int32_t id);
  std::string finish();

 private:
  std::string decode_window();

  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::vector<int32_t> window_;  // the ids of the last completed text, as context, and those since
  size_t context_ = 0;           // how many of them are context
  std::string returned_;         // what of decode(window_) was returned already
};

}  // namespace automodel::data
