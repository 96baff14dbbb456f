#include "data/data_config.h"

#include "core/error.h"

namespace automodel::data {
namespace {

constexpr const char* kPlannedDatasets[] = {
    "nemo_automodel.components.datasets.llm.squad.make_squad_dataset",
    "nemo_automodel.components.datasets.llm.hellaswag.HellaSwag",
    "nemo_automodel.components.datasets.llm.column_mapped_text_instruction_dataset.ColumnMappedTextInstructionDataset",
    "nemo_automodel.components.datasets.llm.column_mapped_text_instruction_iterable_dataset."
    "ColumnMappedTextInstructionIterableDataset",
    "nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset",
    "nemo_automodel.components.datasets.llm.agent_chat.make_agent_chat_dataset",
    "nemo_automodel.components.datasets.llm.xlam.make_xlam_dataset",
    "nemo_automodel.components.datasets.llm.seq2seq.make_seq2seq_dataset",
    "nemo_automodel.components.datasets.llm.seq_cls.GLUE_MRPC",
    "nemo_automodel.components.datasets.llm.megatron_dataset.MegatronPretraining",
    "nemo_automodel.components.datasets.llm.mock_prefix_tree.build_mock_rollout_dataset",
    "nemo_automodel.components.datasets.llm.mock_seq_cls.build_mock_seq_cls_dataset",
};

constexpr const char* kPlannedCollaters[] = {
    "nemo_automodel.components.datasets.utils.packed_sequence_thd_collater",
    "nemo_automodel.components.datasets.utils.neat_packed_collater",
    "nemo_automodel.components.datasets.llm.prefix_tree.prefix_tree_collate_fn",
};

template <class Names>
bool contains(const Names& names, const std::string& target) {
  for (const char* name : names)
    if (target == name) return true;
  return false;
}

}  // namespace

void describe(config::Fields<UnsupportedDataset>& f) {
  f.doc("Datasets that are known but not supported yet.");
  for (const char* name : kPlannedDatasets) f.target({name});
  f.keep_target(&UnsupportedDataset::target);
  f.allow_unknown();
  f.check([](const UnsupportedDataset& c, config::Problems& p) {
    p.add("_target_", c.target + " is not supported yet",
          "use text (plain files), nanogpt (.bin token files) or mock (random tokens)");
  });
}

void describe(config::Fields<CollateConfig>& f) {
  f.doc("How samples become a batch: side by side, padded on the right.");
  f.target({"nemo_automodel.components.datasets.utils.default_collater", "default"});
  f.target({"torch.utils.data.default_collate"});
  for (const char* name : kPlannedCollaters) f.target({name});
  f.keep_target(&CollateConfig::target);
  f("pad_seq_len_divisible", &CollateConfig::pad_seq_len_divisible, "Rows are padded to a multiple of this.")
      .above(0)
      .null_is_default();
  f.check([](const CollateConfig& c, config::Problems& p) {
    if (contains(kPlannedCollaters, c.target))
      p.add("_target_", c.target + " is not supported yet", "use default_collater");
  });
}

void describe(config::Fields<DataloaderConfig>& f) {
  f.doc("How samples are drawn and put into batches.");
  f.target({"torchdata.stateful_dataloader.StatefulDataLoader"});
  f.target({"torch.utils.data.DataLoader"});
  f("collate_fn", &DataloaderConfig::collate_fn, "How samples become a batch.");
  f("shuffle", &DataloaderConfig::shuffle, "Absent: training data yes, validation data no.");
  f("batch_size", &DataloaderConfig::batch_size, "Samples per rank and microbatch; absent: local_batch_size.").above(0);
  f("drop_last", &DataloaderConfig::drop_last, "Leave out the samples that do not fill a batch on every rank.");
  f.key("group_by_length").refused("grouping by length is not supported yet; leave it out", {"false"});
  f.key("shuffle_buffer_size").no_effect("every order is a full shuffle");
  f.key("num_workers").no_effect("one thread always prepares the next batch");
  f.key("prefetch_factor").no_effect("one thread always prepares the next batch");
  f.key("pin_memory").no_effect("batches are small integers");
  f.key("persistent_workers").no_effect("there are no worker processes");
  f.key("dataloader_type").refused("dataloader_type belongs to Megatron data, which is not supported yet");
  f.key("dataset").renamed_to("dataset");
}

const TokenizerConfig* tokenizer_of(const DatasetConfig& config) {
  return std::visit(
      [](const auto& c) -> const TokenizerConfig* {
        if constexpr (requires { c.tokenizer; }) return c.tokenizer ? &*c.tokenizer : nullptr;
        return nullptr;
      },
      config);
}

bool needs_tokenizer(const DatasetConfig& config) {
  return std::holds_alternative<TextConfig>(config);
}

std::unique_ptr<Dataset> make_dataset(const DatasetConfig& config, const Tokenizer* tokenizer, uint64_t seed) {
  if (const auto* text = std::get_if<TextConfig>(&config)) {
    AM_CHECK(tokenizer != nullptr, Fault::kData,
             "dataset: text needs a tokenizer; set dataset.tokenizer to a folder with a tokenizer.json or to 'byte'");
    return make_text_dataset(*text, *tokenizer);
  }
  if (const auto* nanogpt = std::get_if<NanogptConfig>(&config)) return make_nanogpt_dataset(*nanogpt);
  if (const auto* mock = std::get_if<MockConfig>(&config)) return make_mock_dataset(*mock, seed);
  if (const auto* mock = std::get_if<MockUnpackedConfig>(&config)) return make_mock_dataset(*mock);
  if (const auto* mock = std::get_if<MockPackedConfig>(&config)) return make_mock_dataset(*mock);
  fail(Fault::kConfig, "dataset: {} is not supported yet", std::get<UnsupportedDataset>(config).target);
}

}  // namespace automodel::data
