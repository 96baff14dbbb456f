// Reads a Hugging Face tokenizer.json. The vocabulary and the merges, which are nearly all of the file, go straight
// into flat lists; the rest becomes a JSON tree.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace automodel::data {

struct TokenizerJson {
  std::unique_ptr<nlohmann::json> tree;  // without model.vocab (when it is an object) and model.merges
  std::vector<std::pair<std::string, uint32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;

  TokenizerJson();
  TokenizerJson(TokenizerJson&&) noexcept;
  ~TokenizerJson();
};

// `name` is the file in error messages. Throws Error(kData) for what is not JSON or has a malformed vocabulary or
// merges.
TokenizerJson parse_tokenizer_json(std::string_view content, const std::string& name);

}  // namespace automodel::data
