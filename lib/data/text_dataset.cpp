#include "data/text_dataset.h"

#include "core/error.h"
#include "data/token_cache.h"

namespace automodel::data {
namespace {

class TextDataset : public Dataset {
 public:
  // The tokens [begin, begin + count) of a text.
  TextDataset(TokenStream tokens, int64_t begin, int64_t count, int64_t seq_len, std::string summary)
      : tokens_(std::move(tokens)), begin_(begin), count_(count), seq_len_(seq_len), summary_(std::move(summary)) {}

  int64_t size() const override { return (count_ - 1) / seq_len_; }
  Sample at(int64_t index) const override {
    return sample_of_window(tokens_.part(begin_ + index * seq_len_, seq_len_ + 1));
  }
  std::optional<int64_t> id_bound() const override { return tokens_.largest() + 1; }
  std::string summary() const override { return summary_; }

 private:
  TokenStream tokens_;
  int64_t begin_, count_, seq_len_;
  std::string summary_;
};

TokenCache cache_of(const TextConfig& config) {
  if (!config.token_cache) return {};
  TokenCache cache = default_token_cache();
  if (*config.token_cache != "auto") cache.folder = *config.token_cache;
  return cache;
}

}  // namespace

std::unique_ptr<Dataset> make_text_dataset(const TextConfig& config, const Tokenizer& tokenizer) {
  auto files = match_files(config.path);
  TokenizedText text = tokenize(files, tokenizer, cache_of(config));
  int64_t total = text.tokens.size();
  auto train = static_cast<int64_t>(static_cast<double>(total) * (1.0 - config.validation_fraction));
  bool is_train = config.split == Split::kTrain;
  AM_CHECK(is_train || config.validation_fraction > 0, Fault::kData,
           "{}: split is validation, but validation_fraction is 0; set it to the part of the text to validate on",
           files[0]);
  std::string where = files.size() == 1 ? files[0] : fmt::format("{} and {} more files", files[0], files.size() - 1);
  int64_t count = is_train ? train : total - train;
  AM_CHECK(
      count >= config.seq_len + 1, Fault::kData,
      "{}: the {} split has {} tokens (of {}), but one sample needs {} (seq_len {} and one more); lower seq_len or "
      "give more text",
      where, is_train ? "train" : "validation", count, total, config.seq_len + 1, config.seq_len);
  std::string summary = fmt::format("text {}: {} tokens in the {} split, {} samples of {} tokens ({} tokenizer){}",
                                    where, count, is_train ? "train" : "validation", (count - 1) / config.seq_len,
                                    config.seq_len, tokenizer.name(), text.note.empty() ? "" : "; " + text.note);
  return std::make_unique<TextDataset>(std::move(text.tokens), is_train ? 0 : train, count, config.seq_len,
                                       std::move(summary));
}

void describe(config::Fields<TextConfig>& f) {
  f.doc("Plain text files as one stream of tokens, cut into windows.");
  f.target({"text"});
  f("path", &TextConfig::path, "Files, folders or globs; read in this order, each sorted.").one_or_list().required();
  f("seq_len", &TextConfig::seq_len, "Tokens per sample.").above(0).alias("seq_length");
  f("validation_fraction", &TextConfig::validation_fraction, "The part at the end that is for validation.")
      .at_least(0)
      .below(1);
  f("split", &TextConfig::split, "Which part this is.");
  f("tokenizer", &TextConfig::tokenizer, "Absent: the model's.");
  f("token_cache", &TextConfig::token_cache,
    "Where tokens are kept for later runs: a folder, auto (the user's cache) or none.");
}

void describe(config::Names<Split>& n) {
  n("train", Split::kTrain, "the first part of the text")("validation", Split::kValidation, "the last part");
}

}  // namespace automodel::data
