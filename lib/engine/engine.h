// One optimizer step of a placed model: microbatches in, losses, norm and updated weights out.
//
// The objective is (sum of token losses over the global batch) / (number of label tokens in it), whatever the ranks.
// Units (root, then one per layer) are gathered before use, the next one while the present one computes; gradients are
// reduced while the layer below computes; then the norm, clipping and Adam.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/causal_lm.h"
#include "optim/adam.h"
#include "parallel/unit.h"

namespace automodel::engine {

struct EngineOptions {
  parallel::UnitOptions unit;
  // Drop a layer's gathered weights after its forward and gather them again for its backward. Empty: all layers but the
  // last.
  std::optional<bool> reshard_after_forward;
  // Reduce gradients once per step instead of after every microbatch.
  bool defer_reduce = true;
  bool overlap_reduce = true;  // false: wait for each reduction before the backward goes on
  bool refuse_nan = false;     // stop at a gradient that is not finite, naming its weight, instead of training on
  int prefetch = 1;            // units gathered ahead in the forward; 0: none
  int prefetch_backward = 1;   // and in the backward
  bool activation_checkpointing = false;
  bool trains = true;          // false: no moments are allocated and step() must not be called
  double max_grad_norm = 1.0;  // <= 0: no clipping
  // Of the masks of dropout in step(); nothing: the model trains without the dropout that its config names.
  std::optional<uint64_t> dropout_seed;
  optim::AdamSettings adam;
  std::vector<optim::ParamGroupOverride> group_overrides;
};

struct StepInput {
  std::span<const nn::Tokens> microbatches;  // every rank gives as many; a rank without data gives ignored labels
  int64_t label_tokens = 0;                  // in the global batch; 0: loss and gradients are 0
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
  int64_t begin = 0;  // elements of the whole weight, row-major
  int64_t end = 0;
  float* master = nullptr;
  float* exp_avg = nullptr;  // null, with exp_avg_sq, when the engine does not train
  float* exp_avg_sq = nullptr;
};

class Engine {
 public:
  // Allocates master weights and moments (zero). `model`, `ranks` (the data-parallel ranks) and `allocator` outlive it.
  Engine(models::CausalLM& model, comm::Communicator& ranks, Allocator& allocator, const EngineOptions& options);

  ~Engine();

  // Every weight's slices on this rank, for initialising, loading and saving. Under ddp every rank holds everything.
  std::vector<StateSlice> state() const;
  // After the master weights were written.
  void publish();
  // Fills the master weights with the initial values of `seed`.
  void initialise(uint64_t seed);

  StepResult step(const StepInput& input);
  // Sum of the token losses of this rank's batch; no gradients. Collective: every rank calls it as often.
  double evaluate(const nn::Tokens& tokens);
  // f32 [rows.size(), vocab]: the logits at the given rows of [T, hidden]. Collective. With tokens.cache, the tokens
  // follow those that the cache has seen, and it gains them.
  Tensor logits(const nn::Tokens& tokens, std::span<const int64_t> rows);
  // For generation: what is kept of a text of up to `positions` tokens, in memory of this engine's allocator.
  nn::KvCache make_cache(int64_t positions) const { return nn::KvCache(model_.layers(), positions); }

  // Whether state() is this rank's to save: of the ranks that hold the same slices, one says yes.
  bool saves_state() const { return ranks_.replicate().rank() == 0; }
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }
  // Sentences for the log: patterns that match nothing.
  const std::vector<std::string>& warnings() const { return warnings_; }
  Allocator& allocator() const { return allocator_; }

  // Called with the loss gradient of the first microbatches reduced, before the update: tests read gradients here.
  using Inspect = std::function<void(const std::vector<std::unique_ptr<parallel::Unit>>&)>;
  void set_inspect(Inspect inspect) { inspect_ = std::move(inspect); }

 private:
  parallel::Unit& root() { return *units_[0]; }
  parallel::Unit& layer(int i) { return *units_[static_cast<size_t>(i) + 1]; }
  bool reshards(int i) const;
  void gather_ahead(int from, int direction);
  autograd::Var forward(autograd::Tape& tape, const nn::Tokens& tokens, bool reduce);
  autograd::Var train_layer(int i, const autograd::Var& x, const nn::Tokens& tokens, bool reduce);
  double microbatch(const nn::Tokens& batch, float grad_scale, bool reduce);
  void begin_reduce(parallel::Unit& unit);
  void finish_reductions();
  [[noreturn]] void refuse_gradients(float norm) const;
  void update(const StepInput& input, float norm);

  models::CausalLM& model_;
  parallel::DataRanks ranks_;
  Allocator& allocator_;
  EngineOptions options_;
  std::vector<std::unique_ptr<parallel::Unit>> units_;
  std::vector<optim::AdamState> states_;
  std::vector<std::vector<optim::AdamRun>> runs_;
  parallel::Unit* reducing_ = nullptr;
  int64_t updates_ = 0;
  std::vector<std::string> warnings_;
  Inspect inspect_;
};

}  // namespace automodel::engine
