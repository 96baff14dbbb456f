#include "data/dataset.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "data/mock_dataset.h"
#include "data/nanogpt_dataset.h"
#include "data/text_dataset.h"
#include "support.h"

using namespace automodel;
using namespace automodel::data;

namespace {

using Ids = std::vector<int32_t>;

Ids range(int32_t from, int32_t to) {
  Ids ids(static_cast<size_t>(to - from));
  std::iota(ids.begin(), ids.end(), from);
  return ids;
}

template <class T>
std::string as_bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// A token file with a header. `width`: bytes per token.
std::string bin(const Ids& tokens, int32_t width, int32_t magic = 278895051) {
  std::vector<int32_t> header(256);
  header[0] = magic;
  header[1] = 1;
  header[2] = static_cast<int32_t>(tokens.size());
  header[3] = magic == 278895051 ? width : 0;
  std::string out = as_bytes(header);
  return out + (width == 2 ? as_bytes(std::vector<uint16_t>(tokens.begin(), tokens.end())) : as_bytes(tokens));
}

std::unique_ptr<Dataset> read_bin(const std::string& path, int64_t seq_len) {
  NanogptConfig config;
  config.file_pattern = {path};
  config.seq_len = seq_len;
  return make_nanogpt_dataset(config);
}

TextConfig text_config(const std::string& path, int64_t seq_len) {
  TextConfig config;
  config.path = {path};
  config.seq_len = seq_len;
  return config;
}

}  // namespace

TEST_CASE("text is cut into windows whose boundary token is a label and the next input") {
  TempFolder folder;
  auto path = folder.write("t.txt", "abcdefghij");
  auto dataset = make_text_dataset(text_config(path, 3), *make_byte_tokenizer());
  CHECK(dataset->size() == 3);
  CHECK(dataset->at(0).input_ids == Ids{'a', 'b', 'c'});
  CHECK(dataset->at(0).labels == Ids{'b', 'c', 'd'});
  CHECK(dataset->at(2).input_ids == Ids{'g', 'h', 'i'});
  CHECK(dataset->at(2).labels == Ids{'h', 'i', 'j'});
  CHECK(dataset->id_bound() == 'j' + 1);
}

TEST_CASE("the validation split is the end of the token stream") {
  TempFolder folder;
  auto config = text_config(folder.write("t.txt", "abcdefghij"), 2);
  config.validation_fraction = 0.3;
  auto train = make_text_dataset(config, *make_byte_tokenizer());
  CHECK(train->size() == 3);
  CHECK(train->at(2).labels.back() == 'g');
  config.split = Split::kValidation;
  auto validation = make_text_dataset(config, *make_byte_tokenizer());
  CHECK(validation->size() == 1);
  CHECK(validation->at(0).input_ids == Ids{'h', 'i'});
  CHECK(validation->at(0).labels == Ids{'i', 'j'});
}

TEST_CASE("text comes from files, folders and globs, sorted, each file framed by its tokenizer") {
  TempFolder folder;
  folder.write("d/2.txt", "cd");
  folder.write("d/1.txt", "ab");
  folder.write("d/.hidden", "zz");
  folder.write("e.txt", "ef");
  auto bytes = make_byte_tokenizer({"<s>", {}, true, false});
  TextConfig config;
  config.path = {folder.path("e.txt"), folder.path("d"), folder.path("d/*.txt")};
  config.seq_len = 8;
  auto dataset = make_text_dataset(config, *bytes);
  CHECK(dataset->size() == 1);
  CHECK(dataset->at(0).input_ids == Ids{256, 'e', 'f', 256, 'a', 'b', 256, 'c'});
}

TEST_CASE("text that cannot be used is refused with the numbers") {
  TempFolder folder;
  auto bytes = make_byte_tokenizer();
  auto message = [&](const TextConfig& config, const Tokenizer& tokenizer) {
    return error_of(Fault::kData, [&] { make_text_dataset(config, tokenizer); });
  };
  CHECK(contains(message(text_config(folder.path("*.none"), 4), *bytes), "no file matches"));
  fs::create_directory(folder.path("empty"));
  CHECK(contains(message(text_config(folder.path("empty"), 4), *bytes), "the folder holds no file"));
  CHECK(contains(message(text_config(folder.write("0.txt", ""), 4), *bytes), "the file is empty"));
  auto small = text_config(folder.write("4.txt", "abcd"), 4);
  CHECK(contains(message(small, *bytes), "has 4 tokens (of 4), but one sample needs 5"));
  small.split = Split::kValidation;
  CHECK(contains(message(small, *bytes), "validation_fraction is 0"));
  auto golden = load_tokenizer(AUTOMODEL_SOURCE_DIR "/tests/data/golden/splits");
  auto latin1 = folder.write("latin1.txt", "caf\xE9 noir");
  auto text = message(text_config(latin1, 2), *golden);
  CHECK(contains(text, latin1));
  CHECK(contains(text, "byte 3 (0xe9)"));
}

TEST_CASE("token files give disjoint windows, whatever their form") {
  TempFolder folder;
  std::vector<std::string> files{folder.write("new2.bin", bin(range(0, 12), 2)),
                                 folder.write("new4.bin", bin(range(0, 12), 4)),
                                 folder.write("legacy.bin", bin(range(0, 12), 2, 20240520)),
                                 folder.write("bare.bin", bin(range(0, 12), 2).substr(1024))};
  for (const auto& file : files) {
    CAPTURE(file);
    auto dataset = read_bin(file, 4);
    REQUIRE(dataset->size() == 2);
    CHECK(dataset->at(0).input_ids == Ids{0, 1, 2, 3});
    CHECK(dataset->at(0).labels == Ids{1, 2, 3, 4});
    CHECK(dataset->at(1).input_ids == Ids{5, 6, 7, 8});
    CHECK(dataset->at(1).labels == Ids{6, 7, 8, 9});
    CHECK(dataset->id_bound() == 12);
  }
}

TEST_CASE("the windows of several token files follow each other and cross none") {
  TempFolder folder;
  folder.write("a.bin", bin(range(0, 7), 2));
  folder.write("b.bin", bin(range(100, 102), 2));
  folder.write("c.bin", bin(range(200, 206), 4));
  auto dataset = read_bin(folder.path(), 2);
  CHECK(dataset->size() == 4);
  CHECK(dataset->at(1).input_ids == Ids{3, 4});
  CHECK(dataset->at(2).input_ids == Ids{200, 201});
  CHECK(dataset->at(3).labels == Ids{204, 205});
}

TEST_CASE("aligned windows begin where documents begin, found in the file or in its index") {
  TempFolder folder;
  Ids tokens{5, 9, 1, 2, 9, 3, 9, 4, 5, 6, 9, 7};
  NanogptConfig config;
  config.file_pattern = {folder.write("t.bin", bin(tokens, 2))};
  config.seq_len = 2;
  config.bos_token = 9;
  config.align_to_bos = true;
  auto dataset = make_nanogpt_dataset(config);
  REQUIRE(dataset->size() == 2);  // the document at 10 has no whole window
  CHECK(dataset->at(0).input_ids == Ids{9, 1});
  CHECK(dataset->at(0).labels == Ids{1, 2});
  CHECK(dataset->at(1).input_ids == Ids{9, 3});
  CHECK(dataset->at(1).labels == Ids{3, 9});
}

TEST_CASE("damaged token files are refused with both numbers") {
  TempFolder folder;
  auto message = [&](std::string_view content) {
    auto path = folder.write("t.bin", content);
    auto text = error_of(Fault::kData, [&] { read_bin(path, 4); });
    CHECK(contains(text, path));
    return text;
  };
  std::string good = bin(range(0, 12), 2);
  CHECK(contains(message(good.substr(0, good.size() - 2)), "a file of 1048 bytes, but it has 1046"));
  CHECK(contains(message(good + "xx"), "but it has 1050"));
  CHECK(contains(message(good.substr(0, 600)), "600 bytes are too few"));
  std::string version = good;
  version[4] = 2;
  CHECK(contains(message(version), "version 2"));
  std::string width = good;
  width[12] = 3;
  CHECK(contains(message(width), "3 bytes per token"));
  CHECK(contains(message("abc"), "no whole number of uint16"));
  CHECK(contains(message(""), "empty"));
  CHECK(contains(message(bin(range(0, 4), 2)), "4 tokens hold no window of 5"));
  auto negative = folder.write("n.bin", bin(Ids{1, -2, 3, 4, 5}, 4));
  CHECK(contains(error_of(Fault::kData, [&] { read_bin(negative, 4)->at(0); }), "token 1 is 4294967294"));
}

TEST_CASE("a damaged index of document begins is refused") {
  TempFolder folder;
  NanogptConfig config;
  config.file_pattern = {folder.write("t.bin", bin(range(0, 12), 2))};
  config.seq_len = 2;
  CHECK(make_nanogpt_dataset(config)->size() == 4);
  config.align_to_bos = true;
  CHECK(contains(error_of(Fault::kData, [&] { make_nanogpt_dataset(config); }), "needs bos_token"));
  config.bos_token = 50;
  CHECK(contains(error_of(Fault::kData, [&] { make_nanogpt_dataset(config); }), "begins at bos_token 50"));
  auto index = [&](const Ids& begins) {
    folder.write("t.bos.idx", as_bytes(begins));
    return error_of(Fault::kData, [&] { make_nanogpt_dataset(config); });
  };
  CHECK(index({1, 6}) == "");
  CHECK(make_nanogpt_dataset(config)->at(1).input_ids == Ids{6, 7});
  CHECK(contains(index({3, 2}), "position 2 (entry 1)"));
  CHECK(contains(index({12}), "position 12"));
  folder.write("t.bos.idx", "abc");
  CHECK(contains(error_of(Fault::kData, [&] { make_nanogpt_dataset(config); }), "3 bytes"));
}

TEST_CASE("the published token files of Tiny Shakespeare are read, and hold the text") {
  fs::path shared = fs::path(AUTOMODEL_SHARED_DIR) / "data/tinyshakespeare";
  if (!fs::exists(shared)) {
    MESSAGE("skipped: " << shared.string() << " is absent");
    return;
  }
  auto at = [&](const char* name) { return (shared / name).string(); };
  CHECK(read_bin(at("train.bin"), 255)->size() == 301966 / 256);
  CHECK(read_bin(at("train_char.bin"), 255)->size() == 1003854 / 256);
  CHECK(read_bin(at("train_char.bin"), 255)->id_bound() == 65);
  auto legacy = read_bin(at("tiny_shakespeare_val.bin"), 127);
  auto two = read_bin(at("tiny_shakespeare_val_v2.bin"), 127);
  auto four = read_bin(at("tiny_shakespeare_val_v2_u32.bin"), 127);
  REQUIRE(legacy->size() == 32768 / 128);
  CHECK(two->size() == legacy->size());
  CHECK(four->size() == legacy->size());
  for (int64_t i : {int64_t{0}, int64_t{100}, int64_t{255}}) {
    CHECK(legacy->at(i).labels == two->at(i).labels);
    CHECK(legacy->at(i).input_ids == four->at(i).input_ids);
  }
  auto gpt2 = load_tokenizer((shared.parent_path() / "tokenizers/gpt2").string());
  std::string text = read_file(shared / "input.txt");
  auto ids = gpt2->encode(std::string_view(text).substr(0, 1003854), false);
  CHECK(ids.size() == 301966);
  Ids window(ids.begin(), ids.begin() + 1000);
  CHECK(read_bin(at("train.bin"), 1000)->at(0).input_ids == window);
}

TEST_CASE("mock rows are random, repeatable and shifted by one") {
  MockConfig config;
  config.vocab_size = 50;
  config.seq_len = 200;
  config.num_samples = 3;
  config.batch_size = 2;
  auto dataset = make_mock_dataset(config, 7);
  CHECK(dataset->size() == 6);
  auto sample = dataset->at(5);
  REQUIRE(sample.input_ids.size() == 200);
  CHECK(std::all_of(sample.input_ids.begin(), sample.input_ids.end(), [](int32_t id) { return id >= 0 && id < 50; }));
  CHECK(Ids(sample.input_ids.begin() + 1, sample.input_ids.end()) ==
        Ids(sample.labels.begin(), sample.labels.end() - 1));
  CHECK(sample.labels.back() == kIgnoredLabel);
  CHECK(make_mock_dataset(config, 7)->at(5).input_ids == sample.input_ids);
  CHECK(make_mock_dataset(config, 8)->at(5).input_ids != sample.input_ids);
  CHECK(dataset->at(4).input_ids != sample.input_ids);
}

TEST_CASE("mock sentences end with the end token") {
  MockUnpackedConfig config;
  config.num_sentences = 50;
  auto dataset = make_mock_dataset(config);
  for (int64_t i = 0; i < dataset->size(); ++i) {
    auto sample = dataset->at(i);
    CHECK(sample.input_ids.back() == 1);
    CHECK(sample.input_ids.size() >= 2);
    CHECK(sample.input_ids.size() <= 65);
    CHECK(
        std::all_of(sample.input_ids.begin(), sample.input_ids.end() - 1, [](int32_t x) { return x >= 2 && x < 100; }));
    CHECK(sample.labels[0] == sample.input_ids[1]);
    CHECK(sample.labels.back() == kIgnoredLabel);
  }
}

TEST_CASE("mock blocks are full of documents that do not predict each other") {
  MockPackedConfig config;
  auto dataset = make_mock_dataset(config);
  CHECK(dataset->size() == 10);
  for (int64_t i = 0; i < dataset->size(); ++i) {
    auto sample = dataset->at(i);
    REQUIRE(sample.input_ids.size() == 128);
    REQUIRE(sample.labels.size() == 128);
    REQUIRE(sample.document_lengths.size() > 1);
    size_t end = 0;
    for (int32_t length : sample.document_lengths) {
      end += static_cast<size_t>(length);
      CHECK(sample.labels[end - 1] == kIgnoredLabel);
      if (end < 128) CHECK(sample.input_ids[end - 1] == 1);
    }
    CHECK(end == 128);
  }
}
