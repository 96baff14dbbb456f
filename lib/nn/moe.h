// A layer of experts in the place of an MLP.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nn/layers.h"
#include "ops/moe.h"

namespace automodel::nn {

// What the weights are called after the layer's prefix: `router`.weight, experts.N.`gate`.weight and so on.
struct ExpertNames {
  const char* router = "gate";
  const char* gate = "gate_proj";
  const char* up = "up_proj";
  const char* down = "down_proj";
};

struct MoeSpec {
  int64_t hidden = 0;
  int64_t inner = 0;  // of each expert
  int64_t experts = 0;
  int64_t top_k = 0;
  bool renormalise = false;  // the weights of a token's experts sum to 1
  ops::Activation activation = ops::Activation::kSilu;
  float init_std = 0.02f;
  ExpertNames names = {};

  // The balance loss joins the objective, which is (the sum of what the label tokens lose) / (their number): every
  // label token of a sample also loses `balance_coefficient` times the ops::Balance loss of its sample, in this layer.
  // A sample's loss depends on that sample alone, so no mesh changes it; the loss that a step reports leaves it out.
  float balance_coefficient = 0;
  // Balance without a loss (Wang et al., "Auxiliary-Loss-Free Load Balancing", 2024): update_bias() moves each expert's
  // selection bias by this much. 0: a bias that the weights come with stays as it is.
  float bias_step = 0;
};

// Each token's weighted sum of some of the experts. Expert-parallel ranks (nn::Parallel::ep) have the experts between
// them, [e n/E, (e+1) n/E) on rank e, and only those have values; a tensor-parallel rank routes its share of the rows,
// so the gradients of all weights here are parts of a sum over those ranks, and no weight is cut.
class MoeMlp {
 public:
  MoeMlp(const std::string& prefix, const MoeSpec& spec);
  autograd::Var forward(const autograd::Var& x, const Tokens& tokens);
  // The router's weight, then gate, up and down of one expert after the other.
  void collect(std::vector<Param*>& out);

  const MoeSpec& spec() const { return spec_; }

  // How often each expert was chosen by this rank's tokens since the last clear_load(): in passes that are recorded for
  // a gradient, once each (activation checkpointing records a pass once, whatever it repeats). Without bias_step
  // nobody counts.
  const std::vector<int64_t>& load() const { return load_; }
  void clear_load();

  // Hugging Face's name of the selection bias of such a layer (DeepSeek-V3): f32 [experts].
  const std::string& bias_name() const { return bias_name_; }
  // After a step, with the load of all ranks that have other tokens: moves the bias of the experts above the mean load
  // down and of those below it up. Error(kBug) when bias_step is 0.
  void update_bias(std::span<const int64_t> load);
  // From now on there is a bias; it is zero.
  void have_bias();
  // Of the choice, by expert; empty when there is none. Every rank has the same.
  const std::vector<float>& bias() const { return bias_; }
  std::span<float> mutable_bias() { return bias_; }

 private:
  struct ExpertWeights {
    Linear gate, up, down;
  };
  void count_load(const ops::Routing& routing);

  MoeSpec spec_;
  Linear router_;
  std::vector<ExpertWeights> experts_;
  std::vector<int64_t> load_;
  std::vector<float> bias_;
  std::string bias_name_;
};

}  // namespace automodel::nn
