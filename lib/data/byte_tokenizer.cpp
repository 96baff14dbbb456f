// The byte tokenizer and its Hugging Face form: a byte-level BPE model without merges, whose 256 tokens are the
// characters of the byte alphabet.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/added_tokens.h"
#include "data/tokenizer.h"
#include "data/unicode.h"

namespace automodel::data {
namespace {

using json = nlohmann::ordered_json;

class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(const ByteTokenizerOptions& options) : options_(options) {
    name_ = "byte";
    settings_.bos_id = add_special_token(options.bos_token);
    settings_.eos_id = options.bos_token == options.eos_token ? settings_.bos_id : add_special_token(options.eos_token);
    settings_.add_bos_token = options.add_bos_token && settings_.bos_id;
    settings_.add_eos_token = options.add_eos_token && settings_.eos_id;
  }

  std::vector<int32_t> encode(std::string_view text, bool add_special) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size() + 2);
    if (add_special && settings_.add_bos_token) ids.push_back(*settings_.bos_id);
    size_t done = 0;
    size_t begin = 0;
    size_t end = 0;
    size_t index = 0;
    auto append_bytes = [&](size_t to) {
      for (char c : text.substr(done, to - done)) ids.push_back(static_cast<unsigned char>(c));
    };
    while (!matcher_.empty() && matcher_.find(text, done, begin, end, index)) {
      append_bytes(begin);
      ids.push_back(256 + static_cast<int32_t>(index));
      done = end;
    }
    append_bytes(text.size());
    if (add_special && settings_.add_eos_token) ids.push_back(*settings_.eos_id);
    return ids;
  }

  std::string decode(std::span<const int32_t> ids, bool skip_special) const override {
    std::string bytes;
    for (int32_t id : ids) {
      if (id >= 0 && id < 256) {
        bytes.push_back(static_cast<char>(id));
      } else if (id >= 256 && id < vocab_size() && !skip_special) {
        bytes += tokens_[static_cast<size_t>(id - 256)];
      }
    }
    return to_valid_utf8(bytes);
  }

  int64_t vocab_size() const override { return 256 + static_cast<int64_t>(tokens_.size()); }

  std::optional<int32_t> id_of(std::string_view token) const override {
    auto it = std::find(tokens_.begin(), tokens_.end(), token);
    if (it != tokens_.end()) return 256 + static_cast<int32_t>(it - tokens_.begin());
    if (token.size() == 1) return static_cast<unsigned char>(token[0]);
    return std::nullopt;
  }

  std::vector<TokenizerFile> files() const override {
    return {{"tokenizer.json", tokenizer_json().dump(1) + "\n"},
            {"tokenizer_config.json", tokenizer_config_json().dump(1) + "\n"}};
  }

 private:
  std::optional<int32_t> add_special_token(const std::optional<std::string>& token) {
    if (!token) return std::nullopt;
    AM_CHECK(!token->empty() && find_invalid_utf8(*token) == std::string_view::npos, Fault::kData,
             "byte tokenizer: a special token must be UTF-8 text that is not empty");
    matcher_.add(*token, tokens_.size());
    tokens_.push_back(*token);
    return 255 + static_cast<int32_t>(tokens_.size());
  }

  json template_json() const {
    json single = json::array();
    json special = json::object();
    auto add = [&](int32_t id) {
      const std::string& token = tokens_[static_cast<size_t>(id - 256)];
      single.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
      special[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
    };
    if (settings_.add_bos_token) add(*settings_.bos_id);
    single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    if (settings_.add_eos_token) add(*settings_.eos_id);
    json pair = single;
    pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
    return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
  }

  json tokenizer_json() const {
    json added = json::array();
    for (size_t i = 0; i < tokens_.size(); ++i)
      added.push_back({{"id", 256 + i},
                       {"content", tokens_[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    json vocab = json::object();
    for (size_t b = 0; b < 256; ++b) {
      std::string character;
      append_utf8(character, kByteAlphabet.code_point[b]);
      vocab[character] = b;
    }
    json byte_level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    json model = {{"type", "BPE"},
                  {"dropout", nullptr},
                  {"unk_token", nullptr},
                  {"continuing_subword_prefix", nullptr},
                  {"end_of_word_suffix", nullptr},
                  {"fuse_unk", false},
                  {"byte_fallback", false},
                  {"ignore_merges", false},
                  {"vocab", vocab},
                  {"merges", json::array()}};
    bool frames = settings_.add_bos_token || settings_.add_eos_token;
    return {{"version", "1.0"},
            {"truncation", nullptr},
            {"padding", nullptr},
            {"added_tokens", added},
            {"normalizer", nullptr},
            {"pre_tokenizer", byte_level},
            {"post_processor", frames ? template_json() : byte_level},
            {"decoder", byte_level},
            {"model", model}};
  }

  json tokenizer_config_json() const {
    json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
    if (options_.bos_token) config["bos_token"] = *options_.bos_token;
    if (options_.eos_token) config["eos_token"] = *options_.eos_token;
    if (settings_.add_bos_token) config["add_bos_token"] = true;
    if (settings_.add_eos_token) config["add_eos_token"] = true;
    return config;
  }

  ByteTokenizerOptions options_;
  std::vector<std::string> tokens_;  // by id - 256
  TextMatcher matcher_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer(const ByteTokenizerOptions& options) {
  return std::make_unique<ByteTokenizer>(options);
}

}  // namespace automodel::data
