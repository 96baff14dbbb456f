#include "distributed/mixed_precision.h"

namespace automodel::distributed {

void describe(config::Fields<MixedPrecisionPolicy>& f) {
  using P = MixedPrecisionPolicy;
  f.doc("Element types of the compute. What is left out takes the type of the model, not the default policy's.");
  f.target({"torch.distributed.fsdp.MixedPrecisionPolicy"});
  f("param_dtype", &P::param_dtype, "Gathered weights and compute.");
  f("reduce_dtype", &P::reduce_dtype, "Gradients while they are reduced; null: as param_dtype.");
  f("output_dtype", &P::output_dtype, "What a unit hands on; null: as param_dtype.");
  f("cast_forward_inputs", &P::cast_forward_inputs, "Cast the inputs of a unit to param_dtype.");
}

Precision resolve(const MixedPrecisionPolicy& policy, DType model_dtype) {
  Precision precision;
  precision.param = policy.param_dtype.value_or(model_dtype);
  precision.reduce = policy.reduce_dtype.value_or(precision.param);
  precision.output = policy.output_dtype.value_or(precision.param);
  precision.cast_forward_inputs = policy.cast_forward_inputs;
  return precision;
}

}  // namespace automodel::distributed
