// Adam's moments for one flat shard of weights, and its update (Kingma & Ba, 2015; Loshchilov & Hutter, 2019).
#pragma once

#include <cstdint>
#include <span>

#include "optim/optimizer_config.h"
#include "tensor/tensor.h"

namespace automodel::optim {

// Flat elements [begin, end) of a shard that share their multipliers.
struct AdamRun {
  int64_t begin = 0;
  int64_t end = 0;
  Multipliers multipliers;
};

// What one update takes; the learning rate and the decay are those of the schedule, before multipliers.
struct AdamUpdate {
  AdamSettings settings;
  double lr = 0;
  double weight_decay = 0;
  int64_t step = 1;      // counts updates, from 1
  float grad_scale = 1;  // clipping
};

class AdamState {
 public:
  // Zero moments, fp32.
  AdamState(int64_t elements, Allocator& allocator);
  const Tensor& exp_avg() const { return exp_avg_; }
  const Tensor& exp_avg_sq() const { return exp_avg_sq_; }

  // weights and gradient are fp32 [elements]; `copy` (of lower precision, may be undefined) receives the rounded
  // weights. Elements outside of the runs are left alone.
  void update(const Tensor& weights, const Tensor& gradient, const Tensor& copy, std::span<const AdamRun> runs,
              const AdamUpdate& update);

 private:
  Tensor exp_avg_;
  Tensor exp_avg_sq_;
};

}  // namespace automodel::optim
