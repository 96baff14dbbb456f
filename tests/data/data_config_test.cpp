#include "data/data_config.h"

#include <doctest/doctest.h>

#include "config/config.h"
#include "support.h"

using namespace automodel;
using namespace automodel::data;

namespace {

struct Sections {
  std::optional<DatasetConfig> dataset;
  std::optional<TokenizerConfig> tokenizer;
  DataloaderConfig dataloader;
};
void describe(config::Fields<Sections>& f) {
  f("dataset", &Sections::dataset, "Training data.");
  f("tokenizer", &Sections::tokenizer, "The tokenizer.");
  f("dataloader", &Sections::dataloader, "Batches.");
}

Sections read(const std::string& yaml) {
  return config::read_or_throw<Sections>(config::parse_yaml(yaml, "test.yaml"));
}

std::string mistakes(const std::string& yaml) {
  return error_of(Fault::kConfig, [&] { read(yaml); });
}

}  // namespace

TEST_CASE("a text dataset is described by path, length and split") {
  auto s = read(
      "dataset:\n  _target_: text\n  path: a.txt\n  seq_len: 64\n  validation_fraction: 0.1\n  split: validation\n"
      "  tokenizer: byte\n");
  const auto& text = std::get<TextConfig>(*s.dataset);
  CHECK(text.path == std::vector<std::string>{"a.txt"});
  CHECK(text.seq_len == 64);
  CHECK(text.split == Split::kValidation);
  CHECK(needs_tokenizer(*s.dataset));
  REQUIRE(tokenizer_of(*s.dataset) != nullptr);
  CHECK(make_tokenizer(*tokenizer_of(*s.dataset))->vocab_size() == 256);
  CHECK(contains(error_of(Fault::kData, [&] { make_dataset(*s.dataset, nullptr, 0); }), "needs a tokenizer"));
}

TEST_CASE("the datasets of other recipes are taken by their full names") {
  auto dataset = [](const std::string& target, const std::string& rest) {
    return *read("dataset: {_target_: nemo_automodel.components.datasets.llm." + target + rest + "}").dataset;
  };
  auto mock = dataset("mock_iterable_dataset.MockIterableDataset", ", vocab_size: 10, seq_len: 5, num_samples: 4");
  CHECK(std::get<MockConfig>(mock).vocab_size == 10);
  CHECK(make_dataset(mock, nullptr, 1)->size() == 4);
  CHECK(!needs_tokenizer(mock));
  auto unpacked = dataset("mock.build_unpacked_dataset", ", num_sentences: 3, mean_len: 5");
  CHECK(make_dataset(unpacked, nullptr, 1)->size() == 3);
  auto packed = dataset("mock_packed.build_packed_dataset", ", block_size: 16");
  CHECK(make_dataset(packed, nullptr, 1)->at(0).input_ids.size() == 16);
  auto nanogpt = dataset("nanogpt_dataset.NanogptDataset", ", file_pattern: 'data/*.bin', shuffle_files: true");
  CHECK(std::get<NanogptConfig>(nanogpt).file_pattern.size() == 1);
}

TEST_CASE("datasets that are not there yet are refused by name") {
  for (const char* target : {"nemo_automodel.components.datasets.llm.squad.make_squad_dataset",
                             "nemo_automodel.components.datasets.llm.hellaswag.HellaSwag"}) {
    auto text = mistakes(std::string("dataset: {_target_: ") + target + ", split: train, seq_length: 128}");
    CHECK(contains(text, std::string(target) + " is not supported yet"));
  }
  CHECK(contains(mistakes("dataset: {_target_: textt, path: a}"), "text"));
  CHECK(contains(mistakes("dataset: {_target_: text, path: a, seqlen: 4}"), "seq_len"));
  CHECK(contains(mistakes("dataset: {_target_: text, seq_len: 4}"), "path"));
  CHECK(contains(mistakes("dataset: {_target_: text, path: a, validation_fraction: 1.5}"), "validation_fraction"));
  CHECK(contains(mistakes("dataset: {_target_: nanogpt, file_pattern: a, align_to_bos: true}"), "bos_token"));
}

TEST_CASE("a tokenizer is a path, or a mapping with overrides") {
  auto s = read(
      "tokenizer:\n  _target_: transformers.AutoTokenizer.from_pretrained\n  pretrained_model_name_or_path: byte\n"
      "  eos_token: </s>\n  add_eos_token: true\n  trust_remote_code: true\n");
  auto tokenizer = make_tokenizer(*s.tokenizer);
  CHECK(tokenizer->encode("a", true) == std::vector<int32_t>{97, 256});
  CHECK(std::get<std::string>(*read("tokenizer: models/llama").tokenizer) == "models/llama");
  CHECK(contains(mistakes("tokenizer: {_target_: AutoTokenizer.from_pretrained}"), "pretrained_model_name_or_path"));
}

TEST_CASE("the dataloader section takes the keys of other recipes") {
  auto s = read(
      "dataloader:\n  _target_: torchdata.stateful_dataloader.StatefulDataLoader\n"
      "  collate_fn: nemo_automodel.components.datasets.utils.default_collater\n  shuffle: false\n  num_workers: 2\n"
      "  pin_memory: true\n  persistent_workers: true\n  prefetch_factor: 2\n  drop_last: true\n  batch_size: none\n"
      "  group_by_length: false\n  shuffle_buffer_size: 10\n");
  CHECK(s.dataloader.shuffle == false);
  CHECK(s.dataloader.drop_last);
  CHECK(!s.dataloader.batch_size);
  CHECK(s.dataloader.collate_fn.pad_seq_len_divisible == 1);
  s = read(
      "dataloader:\n  collate_fn:\n    _target_: nemo_automodel.components.datasets.utils.default_collater\n"
      "    pad_seq_len_divisible: 16\n");
  CHECK(s.dataloader.collate_fn.pad_seq_len_divisible == 16);
  CHECK(!s.dataloader.shuffle);
  CHECK(read("dataloader: {collate_fn: default}").dataloader.collate_fn.pad_seq_len_divisible == 1);
}

TEST_CASE("what the dataloader cannot do yet is refused by name") {
  CHECK(contains(mistakes("dataloader: {group_by_length: true}"), "grouping by length"));
  CHECK(contains(mistakes("dataloader: {dataloader_type: single}"), "Megatron"));
  CHECK(contains(
      mistakes("dataloader: {collate_fn: nemo_automodel.components.datasets.utils.packed_sequence_thd_collater}"),
      "packed_sequence_thd_collater is not supported yet"));
  CHECK(contains(mistakes("dataloader: {batch_size: 0}"), "batch_size"));
  CHECK(contains(mistakes("dataloader: {suffle: true}"), "shuffle"));
}

TEST_CASE("a described data section dumps and reads back") {
  for (const char* yaml :
       {"dataset: {_target_: text, path: [a, b], split: validation, validation_fraction: 0.5, tokenizer: byte}",
        "dataset: {_target_: mock_packed, seed: 4}\ndataloader: {collate_fn: {pad_seq_len_divisible: 8}}",
        "tokenizer: {_target_: AutoTokenizer.from_pretrained, path: x, add_bos_token: false}"}) {
    auto first = read(yaml);
    auto dumped = config::dump(first);
    CHECK(config::dump(read(dumped)) == dumped);
  }
}
