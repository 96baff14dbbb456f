#include "train/run_sections.h"

#include <fmt/core.h>

#include <cmath>

namespace automodel::ops {

void describe(config::Names<ContextMethod>& n) {
  n("all_gather", ContextMethod::kAllGather, "all keys and values at once")(
      "ring", ContextMethod::kRing, "blocks travel while others are computed; least memory")(
      "all_to_all", ContextMethod::kAllToAll, "each rank has whole sequences of some heads (Ulysses)");
}

}  // namespace automodel::ops

namespace automodel::train {

namespace {

constexpr const char* kTraining = "TrainFinetuneRecipeForNextTokenPrediction";

constexpr const char* kUnsupportedRecipes[] = {
    "nemo_automodel.recipes.llm.benchmark.BenchmarkingRecipeForNextTokenPrediction",
    "nemo_automodel.recipes.llm.kd.KnowledgeDistillationRecipeForNextTokenPrediction",
    "nemo_automodel.recipes.llm.train_seq_cls.TrainFinetuneRecipeForSequenceClassification",
    "nemo_automodel.recipes.vlm.finetune.FinetuneRecipeForVLM",
    "nemo_automodel.recipes.vlm.kd.KnowledgeDistillationRecipeForVLM",
};

}  // namespace

void describe(config::Fields<RecipeKind>& f) {
  f.doc("The training procedure.");
  f.target({fmt::format("nemo_automodel.recipes.llm.train_ft.{}", kTraining)});
  for (const char* name : kUnsupportedRecipes) f.target({name});
  f.keep_target(&RecipeKind::target);
  f.check([](const RecipeKind& c, config::Problems& problems) {
    if (c.target.empty()) {
      problems.add("", "expected the name of a recipe", fmt::format("write recipe: {}", kTraining));
    } else if (!c.target.ends_with(kTraining)) {
      problems.add("_target_", fmt::format("{} is not supported yet", c.target.substr(c.target.rfind('.') + 1)),
                   fmt::format("supported: {}", kTraining));
    }
  });
}

void describe(config::Fields<RngConfig>& f) {
  f.doc("Random numbers.");
  f.target({"nemo_automodel.components.training.rng.StatefulRNG"});
  f("seed", &RngConfig::seed, "Seed of the run, when there is no top-level seed.").at_least(0);
  f.key("ranked").no_effect("random numbers never depend on the rank");
}

void describe(config::Fields<DistEnvConfig>& f) {
  f.doc("How ranks talk.");
  f("timeout_minutes", &DistEnvConfig::timeout_minutes, "The longest that ranks wait for each other.").above(0);
  f("device_transport", &DistEnvConfig::device_transport,
    "What ranks on GPUs exchange their memory by. Without effect on CPUs.");
  f.key("backend").no_effect("ranks on CPUs talk over MPI; for GPUs see device_transport");
}

void describe(config::Fields<PackedSequenceConfig>& f) {
  f.doc("Several samples in one row.");
  f.key("packed_sequence_size").refused("packing is not supported yet; write packed_sequence_size: 0", {"0"});
  for (const char* key :
       {"packing_strategy", "max_packs", "prepacked", "num_proc", "drop_long_samples", "split_across_pack"}) {
    f.key(key).no_effect("packed_sequence_size is 0");
  }
}

void describe(config::Fields<ClipGradNormConfig>& f) {
  f.doc("Clipping of the gradient's L2 norm.");
  f("max_norm", &ClipGradNormConfig::max_norm, "Longer gradients are scaled down to this norm; 0 or less: no clipping.")
      .null_is_default();
}

void describe(config::Fields<MfuConfig>& f) {
  f.doc("What the utilisation is measured against.");
  f("device", &MfuConfig::device, "Name of the device, for its known peak.");
  f("peak_tflops", &MfuConfig::peak_tflops, "Peak of one rank's device in TFLOP/s.")
      .above(0)
      .must([](const std::optional<double>& peak) { return !peak || std::isfinite(*peak); }, "must be finite");
}

void describe(config::Fields<LaunchConfig>& f) {
  f.doc("How many ranks a run gets when the command line does not say.");
  f("nproc_per_node", &LaunchConfig::nproc_per_node, "Ranks on each machine; --nproc-per-node wins over it.")
      .at_least(1);
}

void describe(config::Fields<ContextParallelConfig>& f) {
  f.doc("How ranks that share a sequence exchange keys and values.");
  f("method", &ContextParallelConfig::method, "One exchange a layer, blocks in a ring, or heads for sequences.");
}

void describe(config::Fields<SampleConfig>& f) {
  using C = SampleConfig;
  f.doc("A text that the model continues when training is over.");
  f("prompt", &C::prompt, "The text's beginning.").required();
  f("max_new_tokens", &C::max_new_tokens, "Tokens to add.").above(0);
  f("temperature", &C::temperature, "0: the most likely token each time; higher: more varied.").at_least(0);
  f("top_k", &C::top_k, "Choose among this many tokens only; 0: all.").at_least(0);
  f("top_p", &C::top_p, "Choose among the most likely tokens that hold this much probability.").above(0).at_most(1);
}

}  // namespace automodel::train
