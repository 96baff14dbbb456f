// The tokenizers against the encodings that other projects publish (../shared; skipped when it is absent).
#include <doctest/doctest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "data/tokenizer.h"

using namespace automodel;
using namespace automodel::data;

namespace {

const fs::path kData = fs::path(AUTOMODEL_SHARED_DIR) / "data";

bool absent(const fs::path& path) {
  if (fs::exists(path)) return false;
  MESSAGE("skipped: " << path.string() << " is absent");
  return true;
}

void check_vectors(const fs::path& folder, int expected_cases) {
  if (absent(folder)) return;
  auto tokenizer = load_tokenizer(folder.string());
  std::ifstream lines(folder / "vectors.jsonl");
  int cases = 0;
  int decoded = 0;
  for (std::string line; std::getline(lines, line); ++cases) {
    auto row = nlohmann::json::parse(line);
    auto text = row["text"].get<std::string>();
    auto ids = row["ids"].get<std::vector<int32_t>>();
    CAPTURE(text);
    CHECK(tokenizer->encode(text, row["add_special_tokens"].get<bool>()) == ids);
    for (bool skip : {true, false}) {
      const char* key = skip ? "decoded_skip_special" : "decoded_with_special";
      if (!row.contains(key)) continue;
      CHECK(tokenizer->decode(ids, skip) == row[key].get<std::string>());
      StreamDecoder stream(*tokenizer, skip);
      std::string streamed;
      for (int32_t id : ids) streamed += stream.push(id);
      CHECK(streamed + stream.finish() == row[key].get<std::string>());
      ++decoded;
    }
  }
  CHECK(cases == expected_cases);
  MESSAGE(folder.filename().string() << ": " << cases << " encodings, " << decoded << " decodings");
}

}  // namespace

TEST_CASE("the stories260k tokenizer gives the published ids and texts") {
  check_vectors(kData / "stories260k", 88);
}
TEST_CASE("the GPT-2 tokenizer gives the published ids and texts") {
  check_vectors(kData / "tokenizers/gpt2", 120);
}
TEST_CASE("the Mistral tokenizer gives the published ids and texts") {
  check_vectors(kData / "tokenizers/mistral-7b-v0.1", 71);
}
TEST_CASE("the Qwen2.5 tokenizer gives the published ids and texts") {
  check_vectors(kData / "tokenizers/qwen2.5", 101);
}
