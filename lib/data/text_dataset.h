// Plain text cut into windows, for pre-training and for trying things out.
#pragma once

#include "config/schema.h"
#include "data/dataset.h"
#include "data/tokenizer_config.h"

namespace automodel::data {

enum class Split { kTrain, kValidation };
void describe(config::Names<Split>&);

struct TextConfig {
  std::vector<std::string> path;
  int64_t seq_len = 1024;
  double validation_fraction = 0.0;
  Split split = Split::kTrain;
  std::optional<TokenizerConfig> tokenizer;
  std::optional<std::string> token_cache = "auto";  // a folder; auto: default_token_cache(); nothing: none
};
void describe(config::Fields<TextConfig>&);

// All files encoded one after the other, each with the tokens its tokenizer puts around a text, make one stream. Of n
// tokens the first floor(n * (1 - validation_fraction)) are the train split and the rest is the validation split.
// Sample i has the inputs [i*seq_len, (i+1)*seq_len) of its split and the tokens one later as labels; what is left over
// at the end is not used. Throws Error(kData) when nothing matches, a file is empty or not what the tokenizer takes, or
// a split is too short.
std::unique_ptr<Dataset> make_text_dataset(const TextConfig& config, const Tokenizer& tokenizer);

}  // namespace automodel::data
