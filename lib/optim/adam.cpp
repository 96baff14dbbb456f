#include "optim/adam.h"

#include "ops/kernels.h"

namespace automodel::optim {

AdamState::AdamState(int64_t elements, Allocator& allocator)
    : exp_avg_(Tensor::zeros({elements}, DType::kF32, allocator, MemoryClass::kOptimizer)),
      exp_avg_sq_(Tensor::zeros({elements}, DType::kF32, allocator, MemoryClass::kOptimizer)) {}

void AdamState::update(const Tensor& weights, const Tensor& gradient, const Tensor& copy, std::span<const AdamRun> runs,
                       const AdamUpdate& update) {
  const auto& k = ops::kernels(weights.device());
  for (const AdamRun& run : runs) {
    int64_t n = run.end - run.begin;
    ops::AdamArgs args{.lr = update.lr * run.multipliers.lr,
                       .beta1 = update.settings.beta1,
                       .beta2 = update.settings.beta2,
                       .eps = update.settings.eps,
                       .weight_decay = update.weight_decay * run.multipliers.weight_decay,
                       .decoupled = update.settings.decoupled,
                       .step = update.step,
                       .grad_scale = update.grad_scale};
    k.adam(weights.narrow(run.begin, n), exp_avg_.narrow(run.begin, n), exp_avg_sq_.narrow(run.begin, n),
           gradient.narrow(run.begin, n), copy.defined() ? copy.narrow(run.begin, n) : Tensor{}, args);
  }
}

}  // namespace automodel::optim
