#include "data/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "data/hf_tokenizer.h"
#include "data/unicode.h"

namespace automodel::data {
namespace {

// The files that make up a Hugging Face tokenizer; only the first is needed.
constexpr const char* kFileNames[] = {"tokenizer.json",      "tokenizer_config.json", "special_tokens_map.json",
                                      "chat_template.jinja", "added_tokens.json",     "vocab.json",
                                      "merges.txt",          "tokenizer.model"};

// Where the characters of `text` end that no further byte can change: before a trailing run of U+FFFD.
size_t settled_size(std::string_view text) {
  while (text.ends_with(kReplacementCharacter)) text.remove_suffix(kReplacementCharacter.size());
  return text.size();
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path, const TokenizerOverrides& overrides) {
  if (path == "byte")
    return make_byte_tokenizer({overrides.bos_token, overrides.eos_token, overrides.add_bos_token.value_or(false),
                                overrides.add_eos_token.value_or(false)});
  AM_CHECK(fs::exists(path), Fault::kData,
           "{}: no such tokenizer here; give a folder with a tokenizer.json, such a file, or 'byte' (nothing is "
           "downloaded)",
           path);
  fs::path folder = fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path();
  if (folder.empty()) folder = ".";
  if (!folder.has_filename()) folder = folder.parent_path();  // "model/" is "model"
  fs::path main_file = fs::is_directory(path) ? folder / kFileNames[0] : fs::path(path);
  AM_CHECK(fs::is_regular_file(main_file), Fault::kData, "{}: there is no tokenizer.json", folder.string());
  std::vector<TokenizerFile> files{{kFileNames[0], read_file(main_file)}};
  for (const char* name : kFileNames)
    if (name != kFileNames[0] && fs::is_regular_file(folder / name)) files.push_back({name, read_file(folder / name)});
  return std::make_unique<HfTokenizer>(std::move(files), folder.string(), overrides);
}

void check_fits(const Tokenizer& tokenizer, int64_t model_vocab_size) {
  AM_CHECK(
      tokenizer.vocab_size() <= model_vocab_size, Fault::kData,
      "{}: the tokenizer has ids up to {}, but the model's vocab_size is {}; use the model's own tokenizer or a model "
      "with at least {} embeddings",
      tokenizer.name(), tokenizer.vocab_size() - 1, model_vocab_size, tokenizer.vocab_size());
}

// The text of the window. It begins with what was returned, unless new byte tokens have spoilt the run that the context
// belongs to; then the context goes.
std::string StreamDecoder::decode_window() {
  std::string text = tokenizer_->decode(window_, skip_special_);
  if (text.starts_with(returned_)) return text;
  window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(context_));
  context_ = 0;
  returned_.clear();
  return tokenizer_->decode(window_, skip_special_);
}

std::string StreamDecoder::push(int32_t id) {
  window_.push_back(id);
  std::string text = decode_window();
  size_t settled = settled_size(text);
  if (settled <= returned_.size()) return "";
  std::string out = text.substr(returned_.size(), settled - returned_.size());
  if (settled == text.size()) {
    // Everything is out: what was completed just now is the context of what follows.
    window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(context_));
    context_ = window_.size();
    returned_ = tokenizer_->decode(window_, skip_special_);
  } else {
    returned_ = text.substr(0, settled);
  }
  return out;
}

std::string StreamDecoder::finish() {
  std::string text = decode_window();
  std::string out = text.substr(std::min(returned_.size(), text.size()));
  window_.clear();
  context_ = 0;
  returned_.clear();
  return out;
}

}  // namespace automodel::data
