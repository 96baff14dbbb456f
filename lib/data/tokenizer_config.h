// The recipe's `tokenizer` section, top level or inside a dataset's section.
#pragma once

#include <variant>

#include "config/schema.h"
#include "data/tokenizer.h"

namespace automodel::data {

// `tokenizer:` as a mapping.
struct TokenizerFields {
  std::string pretrained_model_name_or_path;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
};
void describe(config::Fields<TokenizerFields>&);

// A path or "byte", or the fields.
using TokenizerConfig = std::variant<std::string, TokenizerFields>;

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerConfig& config);

}  // namespace automodel::data
