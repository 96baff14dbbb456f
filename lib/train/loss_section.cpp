#include "train/loss_section.h"

namespace automodel::train {

namespace {

constexpr const char* kAlwaysFp32 = "losses are always computed in fp32";

template <class T>
void describe_common(config::Fields<T>& f) {
  f.key("ignore_index").refused("labels that do not count are always -100; leave ignore_index out", {"-100"});
  f.key("reduction")
      .refused("the loss is always the mean over the label tokens of the global batch; leave reduction out", {"sum"});
}

}  // namespace

void describe(config::Fields<MaskedCrossEntropy>& f) {
  f.doc("Cross entropy of the tokens that have a label.");
  f.target({"nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"});
  describe_common(f);
  f.key("fp32_upcast").no_effect(kAlwaysFp32);
}

void describe(config::Fields<FusedLinearCrossEntropy>& f) {
  f.doc("The same, computed together with the head.");
  f.target({"nemo_automodel.components.loss.linear_ce.FusedLinearCrossEntropy"});
  describe_common(f);
  f.key("logit_softcapping")
      .refused("soft-capped logits are not supported yet; leave logit_softcapping out", {"0", "0.0"});
}

void describe(config::Fields<TEParallelCrossEntropy>& f) {
  f.doc("The same, for logits that are cut over ranks.");
  f.target({"nemo_automodel.components.loss.te_parallel_ce.TEParallelCrossEntropy"});
  describe_common(f);
  f.key("tp_group").no_effect("the ranks come from the distributed section");
}

void describe(config::Fields<ChunkedCrossEntropy>& f) {
  f.doc("The same, in chunks.");
  f.target({"nemo_automodel.components.loss.chunked_ce.ChunkedCrossEntropy"});
  describe_common(f);
  f.key("chunk_len").no_effect("the size of the chunks follows from the machine");
  f.key("compile").no_effect("kernels are compiled ahead");
}

void describe(config::Fields<KDLoss>& f) {
  f.doc("Distillation from a teacher. Not supported yet.");
  f.target({"nemo_automodel.components.loss.kd_loss.KDLoss"});
  f.allow_unknown();
  f.check([](const KDLoss&, config::Problems& problems) {
    problems.add("_target_", "KDLoss belongs to knowledge distillation, which is not supported yet",
                 "use MaskedCrossEntropy");
  });
}

}  // namespace automodel::train
