// Tokenizers against encodings made elsewhere: the small ones in golden/ (made by golden/make.py) and real ones in
// ../shared, which are skipped when that folder is absent.
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "support.h"

using namespace automodel;
using namespace automodel::data;

namespace {

void check_decoding(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip, const std::string& text) {
  CHECK(tokenizer.decode(ids, skip) == text);
  StreamDecoder stream(tokenizer, skip);
  std::string streamed;
  for (int32_t id : ids) streamed += stream.push(id);
  CHECK(streamed + stream.finish() == text);
}

void check_vectors(const fs::path& folder, int expected_cases) {
  if (!fs::exists(folder)) {
    MESSAGE("skipped: " << folder.string() << " is absent");
    return;
  }
  auto tokenizer = load_tokenizer(folder.string());
  std::ifstream lines(folder / "vectors.jsonl");
  int cases = 0;
  for (std::string line; std::getline(lines, line); ++cases) {
    auto row = nlohmann::json::parse(line);
    auto text = row["text"].get<std::string>();
    auto ids = row["ids"].get<std::vector<int32_t>>();
    CAPTURE(text);
    CHECK(tokenizer->encode(text, row["add_special_tokens"].get<bool>()) == ids);
    for (bool skip : {true, false}) {
      const char* key = skip ? "decoded_skip_special" : "decoded_with_special";
      if (row.contains(key)) check_decoding(*tokenizer, ids, skip, row[key].get<std::string>());
    }
  }
  CHECK(cases == expected_cases);
}

const fs::path kShared = fs::path(AUTOMODEL_SHARED_DIR) / "data";
const fs::path kGolden = fs::path(AUTOMODEL_SOURCE_DIR) / "tests/data/golden";

}  // namespace

TEST_CASE("small tokenizers of every kind give the ids and texts of the reference implementation") {
  for (const char* name : {"byte_level", "added_tokens", "sentencepiece", "metaspace", "splits"}) {
    CAPTURE(name);
    check_vectors(kGolden / name, 63);
  }
}

TEST_CASE("the stories260k tokenizer gives the published ids and texts") {
  check_vectors(kShared / "stories260k", 88);
}
TEST_CASE("the GPT-2 tokenizer gives the published ids and texts") {
  check_vectors(kShared / "tokenizers/gpt2", 120);
}
TEST_CASE("the Mistral tokenizer gives the published ids and texts") {
  check_vectors(kShared / "tokenizers/mistral-7b-v0.1", 71);
}
TEST_CASE("the Qwen2.5 tokenizer gives the published ids and texts") {
  check_vectors(kShared / "tokenizers/qwen2.5", 101);
}

TEST_CASE("real tokenizers bring their special tokens and chat template") {
  if (!fs::exists(kShared)) {
    MESSAGE("skipped: " << kShared.string() << " is absent");
    return;
  }
  auto qwen = load_tokenizer((kShared / "tokenizers/qwen2.5").string());
  CHECK(qwen->settings().eos_id == 151645);
  CHECK(qwen->settings().pad_id == 151643);
  CHECK(!qwen->settings().bos_id);
  CHECK(qwen->settings().chat_template.starts_with("{%"));
  CHECK(qwen->vocab_size() == 151665);
  auto mistral = load_tokenizer((kShared / "tokenizers/mistral-7b-v0.1").string());
  CHECK(mistral->settings().bos_id == 1);
  CHECK(mistral->settings().eos_id == 2);
  CHECK(mistral->settings().add_bos_token);
  CHECK(mistral->encode("a", true).front() == 1);
  auto bert = error_of(Fault::kData, [&] { load_tokenizer((kShared / "tokenizers/bert-base-uncased").string()); });
  CHECK(contains(bert, "WordPiece"));
}
