#include "data/mock_dataset.h"

#include <algorithm>

#include "core/error.h"
#include "core/rng.h"

namespace automodel::data {
namespace {

constexpr int32_t kEndToken = 1;
constexpr int64_t kFirstWord = 2;

// Next-token labels within one document; its last token has none.
void append_shifted(const std::vector<int32_t>& document, std::vector<int32_t>& labels) {
  labels.insert(labels.end(), document.begin() + 1, document.end());
  labels.push_back(kIgnoredLabel);
}

class MockDataset : public Dataset {
 public:
  MockDataset(const MockConfig& config, uint64_t seed) : config_(config), random_(seed, "mock") {}

  int64_t size() const override { return config_.num_samples * config_.batch_size; }

  Sample at(int64_t index) const override {
    Sample sample;
    auto length = static_cast<uint64_t>(config_.seq_len);
    sample.input_ids.resize(length);
    auto bound = static_cast<uint64_t>(config_.vocab_size);
    for (uint64_t t = 0; t < length; ++t)
      sample.input_ids[t] = static_cast<int32_t>(random_.below(bound, static_cast<uint64_t>(index) * length + t));
    append_shifted(sample.input_ids, sample.labels);
    return sample;
  }

  std::optional<int64_t> id_bound() const override { return config_.vocab_size; }
  std::string summary() const override {
    return fmt::format("mock: {} random samples of {} tokens, vocabulary {}", size(), config_.seq_len,
                       config_.vocab_size);
  }

 private:
  MockConfig config_;
  Random random_;
};

// Sentence `index`, its end token included.
std::vector<int32_t> make_sentence(const MockSentences& config, uint64_t index) {
  auto seed = static_cast<uint64_t>(config.seed);
  double drawn = config.mean_len + config.std_len * static_cast<double>(Random(seed, "mock lengths").normal(index));
  auto length = static_cast<uint64_t>(std::clamp(drawn, 1.0, static_cast<double>(config.max_sentence_len)));
  Random words(seed, "mock words");
  auto bound = static_cast<uint64_t>(config.vocab_size - kFirstWord);
  std::vector<int32_t> sentence;
  for (uint64_t t = 0; t < length; ++t)
    sentence.push_back(static_cast<int32_t>(
        kFirstWord +
        static_cast<int64_t>(words.below(bound, index * static_cast<uint64_t>(config.max_sentence_len) + t))));
  sentence.push_back(kEndToken);
  return sentence;
}

class MockUnpackedDataset : public Dataset {
 public:
  explicit MockUnpackedDataset(const MockUnpackedConfig& config) : config_(config) {}

  int64_t size() const override { return config_.num_sentences; }
  Sample at(int64_t index) const override {
    Sample sample;
    sample.input_ids = make_sentence(config_.sentences, static_cast<uint64_t>(index));
    append_shifted(sample.input_ids, sample.labels);
    return sample;
  }
  std::optional<int64_t> id_bound() const override { return config_.sentences.vocab_size; }
  std::string summary() const override { return fmt::format("mock: {} sentences", config_.num_sentences); }

 private:
  MockUnpackedConfig config_;
};

class MockPackedDataset : public Dataset {
 public:
  explicit MockPackedDataset(const MockPackedConfig& config) : config_(config) {}

  int64_t size() const override { return config_.num_blocks; }
  Sample at(int64_t index) const override {
    Sample sample;
    auto room = static_cast<size_t>(config_.block_size);
    // A block never needs more sentences than it has tokens, so blocks share none.
    for (uint64_t k = static_cast<uint64_t>(index) * room; room > 0; ++k) {
      auto document = make_sentence(config_.sentences, k);
      document.resize(std::min(document.size(), room));
      room -= document.size();
      sample.input_ids.insert(sample.input_ids.end(), document.begin(), document.end());
      append_shifted(document, sample.labels);
      sample.document_lengths.push_back(static_cast<int32_t>(document.size()));
    }
    return sample;
  }
  std::optional<int64_t> id_bound() const override { return config_.sentences.vocab_size; }
  std::string summary() const override {
    return fmt::format("mock: {} packed blocks of {} tokens", config_.num_blocks, config_.block_size);
  }

 private:
  MockPackedConfig config_;
};

}  // namespace

void describe(config::Fields<MockConfig>& f) {
  f.doc("Uniform random tokens, for benchmarks.");
  f.target({"nemo_automodel.components.datasets.llm.mock_iterable_dataset.MockIterableDataset", "mock"});
  f("vocab_size", &MockConfig::vocab_size, "Ids are below it.").above(0).at_most(2147483647);
  f("seq_len", &MockConfig::seq_len, "Tokens per sample.").above(0).alias("seq_length");
  f("num_samples", &MockConfig::num_samples, "Batches in an epoch.").above(0);
  f("batch_size", &MockConfig::batch_size, "Rows per batch: an epoch has num_samples * batch_size rows.").above(0);
  f("tokenizer", &MockConfig::tokenizer, "Not used by the data; saved with the model.");
}

void describe(config::Fields<MockSentences>& f) {
  f.doc("Random sentences of words 2 .. vocab_size-1 and an end token 1.");
  f("mean_len", &MockSentences::mean_len, "Mean length in words.").above(0);
  f("std_len", &MockSentences::std_len, "Standard deviation of the length.").at_least(0);
  f("vocab_size", &MockSentences::vocab_size, "Ids are below it.").above(2).at_most(2147483647);
  f("max_sentence_len", &MockSentences::max_sentence_len, "Longest sentence in words.").above(0);
  f("seed", &MockSentences::seed, "Of the sentences.");
}

void describe(config::Fields<MockUnpackedConfig>& f) {
  f.doc("Random sentences, each a sample.");
  f.target({"nemo_automodel.components.datasets.llm.mock.build_unpacked_dataset", "mock_unpacked"});
  f("num_sentences", &MockUnpackedConfig::num_sentences, "Samples.").above(0);
  f.flatten(&MockUnpackedConfig::sentences);
  f("tokenizer", &MockUnpackedConfig::tokenizer, "Not used by the data; saved with the model.");
}

void describe(config::Fields<MockPackedConfig>& f) {
  f.doc("Blocks filled with random sentences, each a document of its own.");
  f.target({"nemo_automodel.components.datasets.llm.mock_packed.build_packed_dataset", "mock_packed"});
  f("num_blocks", &MockPackedConfig::num_blocks, "Samples.").above(0);
  f("block_size", &MockPackedConfig::block_size, "Tokens per sample.").above(0);
  f.flatten(&MockPackedConfig::sentences);
  f("tokenizer", &MockPackedConfig::tokenizer, "Not used by the data; saved with the model.");
}

std::unique_ptr<Dataset> make_mock_dataset(const MockConfig& config, uint64_t seed) {
  return std::make_unique<MockDataset>(config, seed);
}
std::unique_ptr<Dataset> make_mock_dataset(const MockUnpackedConfig& config) {
  return std::make_unique<MockUnpackedDataset>(config);
}
std::unique_ptr<Dataset> make_mock_dataset(const MockPackedConfig& config) {
  return std::make_unique<MockPackedDataset>(config);
}

}  // namespace automodel::data
