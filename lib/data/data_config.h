// The recipe's sections about data: `dataset` and `dataloader`.
#pragma once

#include <variant>

#include "config/schema.h"
#include "data/loader.h"
#include "data/mock_dataset.h"
#include "data/nanogpt_dataset.h"
#include "data/text_dataset.h"
#include "data/tokenizer_config.h"

namespace automodel::data {

// Datasets that recipes for other programs may name and this one does not read yet; described so that they are refused
// by name.
struct UnsupportedDataset {
  std::string target;
};
void describe(config::Fields<UnsupportedDataset>&);

// The sections `dataset` and `validation_dataset`.
using DatasetConfig =
    std::variant<TextConfig, NanogptConfig, MockConfig, MockUnpackedConfig, MockPackedConfig, UnsupportedDataset>;

// The tokenizer named inside the dataset's section; null pointer when there is none.
const TokenizerConfig* tokenizer_of(const DatasetConfig& config);

// Whether the dataset is made from text and so needs a tokenizer.
bool needs_tokenizer(const DatasetConfig& config);

// `tokenizer` may be null where needs_tokenizer() is false. `seed` is the recipe's.
std::unique_ptr<Dataset> make_dataset(const DatasetConfig& config, const Tokenizer* tokenizer, uint64_t seed);

struct CollateConfig {
  int64_t pad_seq_len_divisible = 1;
  std::string target;
};
void describe(config::Fields<CollateConfig>&);

// The sections `dataloader` and `validation_dataloader`.
struct DataloaderConfig {
  std::optional<bool> shuffle;        // absent: training data is shuffled, validation data is not
  std::optional<int64_t> batch_size;  // absent: step_scheduler.local_batch_size
  bool drop_last = false;
  CollateConfig collate_fn;
};
void describe(config::Fields<DataloaderConfig>&);

}  // namespace automodel::data
