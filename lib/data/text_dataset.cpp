#include "data/text_dataset.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"

namespace automodel::data {
namespace {

class TextDataset : public Dataset {
 public:
  TextDataset(std::vector<int32_t> tokens, int64_t seq_len, std::string summary)
      : tokens_(std::move(tokens)), seq_len_(seq_len), summary_(std::move(summary)) {}

  int64_t size() const override { return (static_cast<int64_t>(tokens_.size()) - 1) / seq_len_; }

  Sample at(int64_t index) const override {
    auto begin = tokens_.begin() + index * seq_len_;
    return sample_of_window({begin, begin + seq_len_ + 1});
  }

  std::optional<int64_t> id_bound() const override { return *std::max_element(tokens_.begin(), tokens_.end()) + 1; }
  std::string summary() const override { return summary_; }

 private:
  std::vector<int32_t> tokens_;
  int64_t seq_len_;
  std::string summary_;
};

std::vector<int32_t> encode_files(const std::vector<std::string>& files, const Tokenizer& tokenizer) {
  std::vector<int32_t> stream;
  for (const auto& file : files) {
    MappedFile map(file);
    AM_CHECK(!map.bytes().empty(), Fault::kData, "{}: the file is empty", file);
    std::string_view text(reinterpret_cast<const char*>(map.bytes().data()), map.bytes().size());
    std::vector<int32_t> ids;
    try {
      ids = tokenizer.encode(text, true);
    } catch (const Error& error) {
      fail(error.fault(), "{}: {}", file, error.what());
    }
    if (stream.empty()) {
      stream = std::move(ids);
    } else {
      stream.insert(stream.end(), ids.begin(), ids.end());
    }
  }
  return stream;
}

}  // namespace

std::unique_ptr<Dataset> make_text_dataset(const TextConfig& config, const Tokenizer& tokenizer) {
  auto files = match_files(config.path);
  std::vector<int32_t> stream = encode_files(files, tokenizer);
  auto total = static_cast<int64_t>(stream.size());
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
  if (is_train) {
    stream.resize(static_cast<size_t>(train));
  } else {
    stream.erase(stream.begin(), stream.begin() + train);
  }
  stream.shrink_to_fit();
  std::string summary =
      fmt::format("text {}: {} tokens in the {} split, {} samples of {} tokens ({} tokenizer)", where, count,
                  is_train ? "train" : "validation", (count - 1) / config.seq_len, config.seq_len, tokenizer.name());
  return std::make_unique<TextDataset>(std::move(stream), config.seq_len, std::move(summary));
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
}

void describe(config::Names<Split>& n) {
  n("train", Split::kTrain, "the first part of the text")("validation", Split::kValidation, "the last part");
}

}  // namespace automodel::data
