// A Hugging Face tokenizer.json with a BPE model.
#pragma once

#include <memory>
#include <mutex>

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/normalizer.h"
#include "data/pre_tokenizer.h"
#include "data/token_decoder.h"
#include "data/tokenizer.h"

namespace automodel::data {

class HfTokenizer : public Tokenizer {
 public:
  // `files` are the tokenizer's files; one of them is tokenizer.json. `folder` is where they come from, for messages.
  HfTokenizer(std::vector<TokenizerFile> files, const std::string& folder, const TokenizerOverrides& overrides);

  std::vector<int32_t> encode(std::string_view text, bool add_special) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special) const override;
  int64_t vocab_size() const override { return id_bound_; }
  std::optional<int32_t> id_of(std::string_view token) const override;
  std::vector<TokenizerFile> files() const override { return files_; }

 private:
  // What one call of encode works with; kept for the next call.
  struct Scratch {
    std::vector<std::unique_ptr<PreTokenizer::Worker>> workers;
    Bpe::Scratch bpe;
  };

  void read(TokenizerJson& json, const std::string& file);
  void read_added_tokens(const JsonFields& json);
  int32_t read_id(const JsonFields& json);  // an id that encoding can yield
  void read_post_processor(const JsonFields& json);
  void read_template(const JsonFields& json);
  void read_settings(const std::string& folder);
  void apply(const TokenizerOverrides& overrides);
  std::unique_ptr<Scratch> take_scratch() const;
  void encode_section(std::string_view section, bool first, Scratch& scratch, std::vector<int32_t>& out) const;

  std::vector<TokenizerFile> files_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::unique_ptr<Bpe> bpe_;
  AddedTokens added_;
  TokenDecoder decoder_;
  std::vector<int32_t> before_;  // the post-processor's tokens around a text
  std::vector<int32_t> after_;
  int64_t id_bound_ = 0;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_scratches_;
};

}  // namespace automodel::data
