#include "data/tokenizer_config.h"

#include "core/error.h"

namespace automodel::data {

void describe(config::Fields<TokenizerFields>& f) {
  f.doc("The tokenizer: a folder with a tokenizer.json, such a file, or 'byte' (one token for each byte).");
  f.target({"transformers.AutoTokenizer.from_pretrained"});
  f.target({"nemo_automodel._transformers.auto_tokenizer.NeMoAutoTokenizer.from_pretrained",
            "nemo_automodel.NeMoAutoTokenizer.from_pretrained"});
  f("pretrained_model_name_or_path", &TokenizerFields::pretrained_model_name_or_path,
    "Folder with a tokenizer.json, such a file, or 'byte'. Names on a hub are not downloaded.")
      .alias("path")
      .required();
  f("add_bos_token", &TokenizerFields::add_bos_token,
    "Whether a text begins with the begin token; absent: as the tokenizer's files say.");
  f("add_eos_token", &TokenizerFields::add_eos_token,
    "Whether a text ends with the end token; absent: as the tokenizer's files say.");
  f("bos_token", &TokenizerFields::bos_token, "The begin token; of the byte tokenizer a new one, with id 256.");
  f("eos_token", &TokenizerFields::eos_token, "The end token; of the byte tokenizer a new one, with the next id.");
  f.key("use_fast").no_effect("there is one implementation");
  f.key("trust_remote_code").no_effect("no code is ever loaded from a model folder");
  f.key("padding_side").refused("padding is always on the right", {"right"});
}

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerConfig& config) {
  if (const auto* path = std::get_if<std::string>(&config)) return load_tokenizer(*path);
  const auto& fields = std::get<TokenizerFields>(config);
  return load_tokenizer(fields.pretrained_model_name_or_path,
                        {fields.add_bos_token, fields.add_eos_token, fields.bos_token, fields.eos_token});
}

}  // namespace automodel::data
