#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"
namespace automodel::ops::cuda {
void attention_forward(const Tensor&, const Tensor&, const HeadColumns&, const AttentionArgs&, bool) {}
}
