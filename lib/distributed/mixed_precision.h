// Which element types the compute of a sharded unit uses. Storage is another matter: weights are kept in fp32 here.
#pragma once

#include <optional>

#include "config/schema.h"
#include "core/dtype.h"

namespace automodel::distributed {

struct MixedPrecisionPolicy {
  std::optional<DType> param_dtype = std::nullopt;   // gathered weights and compute; null: the type of the model
  std::optional<DType> reduce_dtype = std::nullopt;  // gradients on the wire; null: as param_dtype
  std::optional<DType> output_dtype = std::nullopt;  // what a unit hands on; null: as param_dtype
  bool cast_forward_inputs = true;

  // What a recipe without mp_policy means: bf16 weights, fp32 reduction, bf16 outputs. A policy that is written
  // replaces all of it.
  static MixedPrecisionPolicy standard() { return {DType::kBF16, DType::kF32, DType::kBF16, true}; }
};
void describe(config::Fields<MixedPrecisionPolicy>&);

// A policy with every type decided.
struct Precision {
  DType param = DType::kF32;
  DType reduce = DType::kF32;
  DType output = DType::kF32;
  bool cast_forward_inputs = true;
};
// `model_dtype` is the type of the model (model.torch_dtype).
Precision resolve(const MixedPrecisionPolicy& policy, DType model_dtype);

}  // namespace automodel::distributed
