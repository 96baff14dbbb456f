#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "ops/kernels.h"
#include "ops/pointwise.h"
#include "parallel/grad_norm.h"

namespace automodel::engine {

using autograd::Tape;
using autograd::Var;

namespace {

// Runs of equal multipliers over a shard; what lies between Params (padding, always zero) joins the run before it.
std::vector<optim::AdamRun> runs_of(const parallel::Unit& unit,
                                    const std::map<const nn::Param*, optim::Multipliers>& multipliers) {
  std::vector<optim::AdamRun> runs;
  for (const parallel::Piece& piece : unit.pieces()) {
    const optim::Multipliers& m = multipliers.at(piece.param);
    if (!runs.empty() && runs.back().multipliers == m)
      runs.back().end = piece.flat + piece.end - piece.begin;
    else
      runs.push_back({piece.flat, piece.flat + piece.end - piece.begin, m});
  }
  return runs;
}

}  // namespace

Engine::Engine(models::CausalLM& model, comm::Communicator& ranks, Allocator& allocator, const EngineOptions& options)
    : model_(model),
      ranks_(ranks, options.unit.shard ? options.unit.replicas : ranks.size()),
      allocator_(allocator),
      options_(options) {
  auto add = [&](std::vector<nn::Param*> params) {
    units_.push_back(std::make_unique<parallel::Unit>(std::move(params), ranks_, options.unit, allocator));
  };
  add(model.root_params());
  for (int i = 0; i < model.layers(); ++i) add(model.layer_params(i));

  std::vector<std::string> names;
  for (const nn::Param* p : model.params()) names.push_back(p->name);
  optim::GroupAssignment groups = optim::assign_groups(options.group_overrides, names);
  warnings_ = groups.warnings;
  std::map<const nn::Param*, optim::Multipliers> multipliers;
  for (size_t i = 0; const nn::Param* p : model.params()) multipliers[p] = groups.multipliers[i++];
  for (const auto& unit : units_) {
    if (options.trains) states_.emplace_back(unit->layout().shard_size(), allocator);
    runs_.push_back(runs_of(*unit, multipliers));
  }
}

Engine::~Engine() {
  model_.release_memory();
}

std::vector<StateSlice> Engine::state() const {
  std::vector<StateSlice> out;
  for (size_t u = 0; u < units_.size(); ++u)
    for (const parallel::Piece& piece : units_[u]->pieces()) {
      auto at = [&](const Tensor& t) { return t.raw() == nullptr ? nullptr : t.data<float>() + piece.flat; };
      StateSlice slice{piece.param, piece.begin, piece.end, at(units_[u]->master()), nullptr, nullptr};
      if (options_.trains) {
        slice.exp_avg = at(states_[u].exp_avg());
        slice.exp_avg_sq = at(states_[u].exp_avg_sq());
      }
      out.push_back(slice);
    }
  return out;
}

void Engine::publish() {
  for (const auto& unit : units_) unit->publish();
}

void Engine::initialise(uint64_t seed) {
  for (const StateSlice& slice : state()) nn::initialise(*slice.param, seed, slice.begin, slice.end, slice.master);
  publish();
}

bool Engine::reshards(int i) const {
  return options_.reshard_after_forward.value_or(i + 1 < model_.layers());
}

// Starts gathering the layers that come after `from` in the given direction.
void Engine::gather_ahead(int from, int direction) {
  int depth = direction > 0 ? options_.prefetch : options_.prefetch_backward;
  for (int n = 1; n <= depth; ++n) {
    int i = from + n * direction;
    if (i >= 0 && i < model_.layers()) layer(i).start_gather();
  }
}

Var Engine::train_layer(int i, const Var& x, const nn::Tokens& tokens, bool reduce) {
  Tape& tape = *x.tape;
  // Markers run backwards: the one recorded before the layer runs when its backward is done.
  tape.on_reverse([this, i, reduce] {
    if (reduce) begin_reduce(layer(i));
    layer(i).release();
  });
  Var y = options_.activation_checkpointing
              ? autograd::checkpoint(x, [this, i, &tokens](const Var& in) { return model_.layer(i, in, tokens); })
              : model_.layer(i, x, tokens);
  tape.on_reverse([this, i] {
    layer(i).gather();
    gather_ahead(i, -1);
    layer(i).begin_gradients();
  });
  return y;
}

Var Engine::forward(Tape& tape, const nn::Tokens& tokens, bool reduce) {
  root().gather();
  gather_ahead(-1, 1);
  if (tape.recording()) root().begin_gradients();
  Var x = model_.embed(tape, tokens);
  for (int i = 0; i < model_.layers(); ++i) {
    layer(i).gather();
    gather_ahead(i, 1);
    if (tape.recording()) {
      x = train_layer(i, x, tokens, reduce);
      if (reshards(i)) layer(i).release();
    } else {
      x = model_.layer(i, x, tokens);
      layer(i).release();
    }
  }
  return x;
}

// One reduction is in flight at a time: the one before is finished first, which bounds memory.
void Engine::begin_reduce(parallel::Unit& unit) {
  finish_reductions();
  unit.start_reduce();
  reducing_ = &unit;
  if (!options_.overlap_reduce) finish_reductions();
}

void Engine::finish_reductions() {
  if (reducing_ != nullptr) std::exchange(reducing_, nullptr)->finish_reduce();
}

double Engine::microbatch(const nn::Tokens& batch, float grad_scale, bool reduce) {
  nn::Tokens tokens = batch;
  if (options_.dropout_seed)
    tokens.dropout_key = Random(*options_.dropout_seed, "dropout").bits64(static_cast<uint64_t>(updates_));
  Tape tape(allocator_, ops::add_into, true);
  Var x = forward(tape, tokens, reduce);
  ops::HeadLoss head = model_.loss(x, tokens, grad_scale);
  x = {};
  tape.backward(head.loss, head.loss.value);
  if (reduce) {
    begin_reduce(root());
    finish_reductions();
  }
  return allocator_.device().is_meta() ? 0 : *head.loss.value.data<double>();
}

StepResult Engine::step(const StepInput& input) {
  float scale = input.label_tokens > 0 ? static_cast<float>(1.0 / static_cast<double>(input.label_tokens)) : 0.0f;
  double sum = 0;
  for (size_t m = 0; m < input.microbatches.size(); ++m) {
    bool last = m + 1 == input.microbatches.size();
    sum += microbatch(input.microbatches[m], scale, last || !options_.defer_reduce);
  }
  if (inspect_) inspect_(units_);
  StepResult result;
  result.loss = input.label_tokens > 0
                    ? ranks_.all().reduced(sum, comm::Reduce::kSum) / static_cast<double>(input.label_tokens)
                    : 0.0;
  result.grad_norm = parallel::gradient_norm(units_, ranks_, allocator_);
  if (options_.refuse_nan && !std::isfinite(result.grad_norm)) refuse_gradients(result.grad_norm);
  update(input, result.grad_norm);
  return result;
}

void Engine::refuse_gradients(float norm) const {
  for (const auto& unit : units_)
    for (const parallel::Piece& piece : unit->pieces()) {
      const float* begin = unit->gradient().data<float>() + piece.flat;
      const float* bad =
          std::find_if_not(begin, begin + (piece.end - piece.begin), [](float x) { return std::isfinite(x); });
      if (bad != begin + (piece.end - piece.begin))
        fail(Fault::kRun,
             "update {}: the gradient of {} is {} at element {}; lower the learning rate, or look at the data of this "
             "step",
             updates_ + 1, piece.param->name, *bad, piece.begin + (bad - begin));
    }
  fail(Fault::kRun, "update {}: the norm of the gradients is {}, because of a weight of another rank", updates_ + 1,
       norm);
}

void Engine::update(const StepInput& input, float norm) {
  ++updates_;
  optim::AdamUpdate update{options_.adam, input.lr, input.weight_decay, updates_,
                           parallel::clip_coefficient(norm, options_.max_grad_norm)};
  for (size_t u = 0; u < units_.size(); ++u) {
    parallel::Unit& unit = *units_[u];
    states_[u].update(unit.master(), unit.gradient(), unit.compute_shard(), runs_[u], update);
    unit.end_step();
    unit.outdate();
  }
}

double Engine::evaluate(const nn::Tokens& tokens) {
  Tape tape(allocator_, ops::add_into, false);
  Var x = forward(tape, tokens, false);
  ops::HeadLoss head = model_.loss(x, tokens, 0);
  return allocator_.device().is_meta() ? 0 : *head.loss.value.data<double>();
}

Tensor Engine::logits(const nn::Tokens& tokens, std::span<const int64_t> rows) {
  Tape tape(allocator_, ops::add_into, false);
  Var x = forward(tape, tokens, false);
  Tensor picked = Tensor::empty({static_cast<int64_t>(rows.size()), x.value.cols()}, x.value.dtype(), allocator_);
  for (size_t i = 0; i < rows.size(); ++i) copy(picked.narrow(static_cast<int64_t>(i), 1), x.value.narrow(rows[i], 1));
  return model_.logits(tape.input(picked));
}

}  // namespace automodel::engine
