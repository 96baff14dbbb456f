// Made-up data for benchmarks and smoke tests. Every token is a function of (seed, sample, position).
#pragma once

#include "config/schema.h"
#include "data/dataset.h"
#include "data/tokenizer_config.h"

namespace automodel::data {

// Uniform random rows: num_samples batches of batch_size rows, numbered row by row.
struct MockConfig {
  int64_t vocab_size = 1024;
  int64_t seq_len = 1024;
  int64_t num_samples = 1'000'000;
  int64_t batch_size = 1;
  std::optional<TokenizerConfig> tokenizer;
};
void describe(config::Fields<MockConfig>&);

// Made-up sentences: ids 2 .. vocab_size-1, then the end token 1. Lengths are normal, between 1 and max_sentence_len.
struct MockSentences {
  double mean_len = 20;
  double std_len = 6;
  int64_t vocab_size = 100;
  int64_t max_sentence_len = 64;
  int64_t seed = 0;
};
void describe(config::Fields<MockSentences>&);

// One sentence is one sample.
struct MockUnpackedConfig {
  int64_t num_sentences = 10;
  MockSentences sentences;
  std::optional<TokenizerConfig> tokenizer;
};
void describe(config::Fields<MockUnpackedConfig>&);

// Sentences one after the other fill a block, the last one cut off where the block ends; each is a document.
struct MockPackedConfig {
  int64_t num_blocks = 10;
  int64_t block_size = 128;
  MockSentences sentences;
  std::optional<TokenizerConfig> tokenizer;
};
void describe(config::Fields<MockPackedConfig>&);

std::unique_ptr<Dataset> make_mock_dataset(const MockConfig& config, uint64_t seed);
std::unique_ptr<Dataset> make_mock_dataset(const MockUnpackedConfig& config);
std::unique_ptr<Dataset> make_mock_dataset(const MockPackedConfig& config);

}  // namespace automodel::data
