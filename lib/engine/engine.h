// One optimizer step of a model on its ranks: batches in, losses, norm and updated weights out.
//
// The objective is (sum of token losses over the global batch) / (number of label tokens in it), whatever the ranks.
// Each rank has some stages of the model (without a pipeline: the one stage that is all of it) and its part of their
// weights. Units (the weights outside of the layers, then one per layer) are gathered before use, the next one while
// the present one computes; gradients are reduced while the layer below computes; then the norm, clipping and Adam.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "autograd/checkpoint.h"
#include "models/causal_lm.h"
#include "optim/adam.h"
#include "parallel/groups.h"
#include "parallel/schedule.h"
#include "parallel/stages.h"
#include "parallel/tensor_ranks.h"
#include "parallel/unit.h"

namespace automodel::engine {

// How the ranks of Groups::pp take turns. Each batch is cut into the schedule's microbatches by its rows.
struct Pipeline {
  parallel::Schedule schedule;
  std::vector<parallel::LayerRange> stages;  // the layers of each
};

struct EngineOptions {
  std::optional<Pipeline> pipeline;  // exactly when there are several pipeline ranks
  parallel::UnitOptions unit;
  // Drop a layer's gathered weights after its forward and gather them again for its backward. Empty: all layers but the
  // last; none while the schedule of a pipeline runs.
  std::optional<bool> reshard_after_forward;
  // Reduce gradients once per step instead of after every microbatch.
  bool defer_reduce = true;
  bool overlap_reduce = true;  // false: wait for each reduction before the backward goes on
  bool refuse_nan = false;     // stop at a gradient that is not finite, naming its weight, instead of training on
  int prefetch = 1;            // units gathered ahead in the forward; 0: none
  int prefetch_backward = 1;   // and in the backward
  bool activation_checkpointing = false;
  autograd::Recall recall = autograd::Recall::kNothing;  // what it keeps besides the inputs of the layers
  bool trace_checkpointing = false;                      // log once what becomes of each result of the first layer
  bool trains = true;          // false: no moments are allocated and step() must not be called
  double max_grad_norm = 1.0;  // <= 0: no clipping
  // Of the masks of dropout in step(); nothing: the model trains without the dropout that its config names.
  std::optional<uint64_t> dropout_seed;
  optim::AdamSettings adam;
  std::vector<optim::ParamGroupOverride> group_overrides;
};

struct StepInput {
  // Every rank gives as many; those that share a batch (all but the data-parallel ranks) give the same. A rank without
  // data gives ignored labels.
  // In memory of the engine's device, or of the host (token_memory()), which context-parallel ranks must be given.
  std::span<const nn::Tokens> microbatches;
  int64_t label_tokens = 0;  // in the global batch; 0: loss and gradients are 0
  double lr = 0;
  double weight_decay = 0;
};

struct StepResult {
  double loss = 0;      // of the global batch
  float grad_norm = 0;  // before clipping
};

// This rank's part of one weight and of its moments; memory of the engine.
struct StateSlice {
  nn::Param* param = nullptr;
  int64_t begin = 0;  // elements of the tensor-parallel rank's part of the weight (nn::runs_of), row-major
  int64_t end = 0;
  Tensor master;   // f32 [end - begin], as the others
  Tensor exp_avg;  // undefined, with exp_avg_sq, when the engine does not train
  Tensor exp_avg_sq;
  bool saved = true;  // of the ranks that have these elements, one is to save them
};

// The selection bias of a layer of this rank that has one (nn::MoeMlp::bias).
struct ExpertBias {
  std::string name;
  std::span<float> values;  // by expert
  bool saved = true;
};

class Engine {
 public:
  // Places the model on this rank and allocates master weights and moments (zero). `model`, what `groups` points to,
  // and `allocator` outlive it. Collective over all groups.
  Engine(models::CausalLM& model, const parallel::Groups& groups, Allocator& allocator, const EngineOptions& options);
  // With data-parallel ranks alone.
  Engine(models::CausalLM& model, comm::Communicator& ranks, Allocator& allocator, const EngineOptions& options)
      : Engine(model, parallel::Groups{.data = &ranks}, allocator, options) {}

  ~Engine();

  // The slices that this rank has of every weight, for initialising, loading and saving. Under ddp every rank has
  // everything.
  std::vector<StateSlice> state() const;
  // For loading and saving.
  std::vector<ExpertBias> expert_biases() const;
  // After the master weights were written.
  void publish();
  // Fills the master weights with the initial values of `seed`.
  void initialise(uint64_t seed);

  StepResult step(const StepInput& input);
  // Sum of the token losses of this rank's batch, on all ranks that share it; no gradients. Collective: every rank
  // calls it as often.
  double evaluate(const nn::Tokens& tokens);
  // f32 [rows.size(), vocab]: the logits at the given rows of [T, hidden]. Collective; without a pipeline and context
  // parallelism only. With tokens.cache, the tokens follow those that the cache has seen, and it gains them.
  Tensor logits(const nn::Tokens& tokens, std::span<const int64_t> rows);
  // For generation: what is kept of a text of up to `positions` tokens, in memory of this engine's allocator.
  nn::KvCache make_cache(int64_t positions) const { return nn::KvCache(model_.layers(), positions); }

  // The unit of the weights outside of the layers; null: a pipeline rank that has none.
  const parallel::Unit* root() const { return root_; }
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }
  // Sentences for the log: patterns that match nothing.
  const std::vector<std::string>& warnings() const { return warnings_; }
  Allocator& allocator() const { return allocator_; }
  // Where batches are best made: memory of the host, which is the engine's own on the CPU.
  Allocator& token_memory() const { return host_memory_ ? *host_memory_ : allocator_; }

  // Called with the loss gradient of the first microbatches reduced, before the update: tests read gradients here.
  using Inspect = std::function<void(const std::vector<std::unique_ptr<parallel::Unit>>&)>;
  void set_inspect(Inspect inspect) { inspect_ = std::move(inspect); }

 private:
  // A forward whose backward has not ended.
  struct Pass {
    nn::Tokens tokens;
    std::unique_ptr<autograd::Tape> tape;
    autograd::Var input, output;
    bool reduces = false;  // its weight gradients are the last ones of its layers
  };
  // One run of the schedule over one batch.
  struct Call {
    std::vector<nn::Tokens> microbatches;
    std::map<std::pair<int, int>, Pass> passes;  // by stage and microbatch
    float grad_scale = 0;
    bool reduces = false;            // the last call before the update, or every call reduces
    std::vector<int> last_of_stage;  // microbatch whose weight gradients come last, by stage
  };

  void place_stages();
  void make_units();
  bool speaks_for(const nn::Param& param) const;
  const std::vector<parallel::Unit*>& layer(int i) const { return layers_[static_cast<size_t>(i)]; }
  bool embeds(int stage) const { return stage == 0; }
  bool has(int stage) const { return std::ranges::find(own_, stage) != own_.end(); }
  bool heads(int stage) const { return stage + 1 == static_cast<int>(stages_.size()); }
  bool reshards(int i) const;
  void gather_ahead(int from, int direction);
  void release_layers();
  nn::Tokens local_tokens(const nn::Tokens& batch, bool trains) const;
  void bring_here(Tensor& tensor) const;
  void keep_loss(const Tensor& loss);
  double take_losses();
  autograd::Var forward(const autograd::Var& input, int stage, Pass& pass);
  autograd::CheckpointOptions checkpointing(int i);
  autograd::Var train_layer(int i, const autograd::Var& x, Pass& pass);
  Tensor forward_pass(Call& call, int stage, int microbatch, Tensor input);
  Tensor backward_pass(Call& call, int stage, int microbatch, Tensor gradient, parallel::Work work);
  void weights_pass(Call& call, int stage, int microbatch);
  Tensor between_stages(const nn::Tokens& tokens) const;
  void train_batch(const nn::Tokens& batch, float grad_scale, bool reduce);
  void run_schedule(Call& call, const nn::Tokens& batch);
  autograd::Var evaluate_stages(Pass& pass);
  void sum_tied_gradients();
  void begin_reduce(parallel::Unit& unit);
  void finish_reductions();
  float gradient_norm() const;
  [[noreturn]] void refuse_gradients(float norm) const;
  void update(const StepInput& input, float norm);
  // The layers of this rank whose routers have a bias.
  std::vector<nn::MoeMlp*> biased_experts() const;
  void balance_experts();

  models::CausalLM& model_;
  parallel::Groups groups_;
  parallel::DataRanks ranks_;
  std::optional<parallel::DataRanks> expert_ranks_;
  parallel::TensorRanks tensor_ranks_;
  parallel::TensorRanks apart_;  // of experts that are shared out: no two ranks have one in common
  Allocator& allocator_;
  std::unique_ptr<Allocator> host_memory_;  // null: allocator_ is of the host
  EngineOptions options_;
  std::vector<parallel::LayerRange> stages_;  // of the whole pipeline
  std::vector<int> own_;                      // the stages of this rank
  std::vector<int> stage_ranks_;              // the pipeline rank of each stage; empty without a pipeline
  // The two ranks that have the embedding and the head tied to it, where they are two and this is one of them.
  std::unique_ptr<comm::Communicator> tied_;
  // The units of each layer: its weights and, with expert parallelism, those of this rank's experts; empty: the layer
  // is another rank's.
  std::vector<std::vector<parallel::Unit*>> layers_;
  parallel::Unit* root_ = nullptr;  // null: a rank without embedding and head
  std::vector<std::unique_ptr<parallel::Unit>> units_;
  std::vector<optim::AdamState> states_;
  std::vector<std::vector<optim::AdamRun>> runs_;
  parallel::Unit* reducing_ = nullptr;
  // The losses of microbatches that the host has not read, so that it waits for the device once per step.
  Tensor losses_;  // f64
  int64_t kept_losses_ = 0;
  double loss_sum_ = 0;  // of the step's losses that it has read
  int64_t updates_ = 0;
  std::vector<std::string> warnings_;
  Inspect inspect_;
};

}  // namespace automodel::engine
