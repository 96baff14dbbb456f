// The forward and the backward of the stages that a rank has, and the order in which they are called.
#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/rng.h"
#include "engine/engine.h"
#include "ops/buffer.h"
#include "ops/pointwise.h"
#include "ops/tensor_parallel.h"
#include "parallel/context_layout.h"
#include "parallel/pipeline.h"

namespace automodel::engine {

using autograd::Tape;
using autograd::Var;
using parallel::Action;
using parallel::Work;

namespace {

// Rows [begin, end) of a batch.
nn::Tokens cut_rows(const nn::Tokens& batch, int64_t begin, int64_t end) {
  nn::Tokens part = batch;
  part.batch = end - begin;
  if (!batch.lengths.empty()) part.lengths.assign(batch.lengths.begin() + begin, batch.lengths.begin() + end);
  auto cut = [&](Tensor& tokens) {
    if (tokens.defined()) tokens = tokens.narrow(begin * batch.sequence, (end - begin) * batch.sequence);
  };
  cut(part.ids);
  cut(part.positions);
  cut(part.labels);
  if (batch.samples.defined()) part.samples = batch.samples.narrow(begin, end - begin);
  if (batch.document_start.defined()) part.document_start = batch.document_start.narrow(begin, end - begin);
  return part;
}

// The microbatch whose weight gradients a rank computes last, for each stage.
std::vector<int> last_microbatches(const parallel::Schedule& schedule, int rank) {
  std::vector<int> last(static_cast<size_t>(schedule.stages), -1);
  for (const Action& action : schedule.ranks[static_cast<size_t>(rank)])
    if (action.work == Work::kBackward || action.work == Work::kWeight)
      last[static_cast<size_t>(action.stage)] = action.microbatch;
  return last;
}

}  // namespace

// Under a pipeline the weights stay while the schedule runs, unless asked otherwise.
bool Engine::reshards(int i) const {
  return options_.reshard_after_forward.value_or(!options_.pipeline && i + 1 < model_.layers());
}

// Starts gathering the layers that come after `from` in the given direction.
void Engine::gather_ahead(int from, int direction) {
  int depth = direction > 0 ? options_.prefetch : options_.prefetch_backward;
  for (int n = 1; n <= depth; ++n) {
    int i = from + n * direction;
    if (i < 0 || i >= model_.layers()) continue;
    for (parallel::Unit* unit : layer(i)) unit->start_gather();
  }
}

void Engine::release_layers() {
  for (const auto& units : layers_)
    for (parallel::Unit* unit : units) unit->release();
}

// Tokens that are in other memory.
void Engine::bring_here(Tensor& tensor) const {
  if (!tensor.defined() || tensor.device() == allocator_.device()) return;
  Tensor here = Tensor::empty(tensor.shape(), tensor.dtype(), allocator_, MemoryClass::kWorkspace);
  copy(here, tensor);
  tensor = here;
}

// The batch as this rank's share of it, on its device.
nn::Tokens Engine::local_tokens(const nn::Tokens& batch, bool trains) const {
  const nn::Parallel& ranks = groups_.model;
  int cp = ranks.cp == nullptr ? 1 : ranks.cp->size();
  parallel::ContextLayout layout(batch.sequence, cp, cp == 1 ? 0 : ranks.cp->rank());
  nn::Tokens tokens = cp == 1 ? batch : layout.local(batch, allocator_);
  tokens.parallel = &ranks;
  for (Tensor* t : {&tokens.ids, &tokens.positions, &tokens.labels, &tokens.document_start, &tokens.samples})
    bring_here(*t);
  if (!trains || !options_.dropout_seed) return tokens;
  tokens.dropout_key = Random(*options_.dropout_seed, "dropout").bits64(static_cast<uint64_t>(updates_));
  if ((!ranks.cuts_rows() && cp == 1) || !tokens.samples.defined()) return tokens;
  Interval rows = ranks.rows(tokens.count());
  tokens.places = Tensor::empty({rows.size(), 2}, DType::kI64, allocator_, MemoryClass::kWorkspace);
  if (allocator_.device().is_meta()) return tokens;
  std::vector<int64_t> positions = layout.positions(), samples = to_host<int64_t>(batch.samples), places;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    bool real = row < tokens.count();
    places.push_back(real ? samples[static_cast<size_t>(row / tokens.sequence)] : 0);
    places.push_back(real ? positions[static_cast<size_t>(row % tokens.sequence)] : -1);
  }
  upload(tokens.places, places);
  return tokens;
}

autograd::CheckpointOptions Engine::checkpointing(int i) {
  autograd::CheckpointOptions options{options_.recall, model_.layer_ends_in_sum(i), {}};
  if (!std::exchange(options_.trace_checkpointing, false)) return options;
  options.trace = [i](const char* op, autograd::Work work, autograd::Fate fate) {
    const char* said = fate == autograd::Fate::kKept        ? "SAVE"
                       : fate == autograd::Fate::kMadeAgain ? "RECOMPUTE"
                                                            : "LEAVE OUT";
    log::info("activation checkpointing: layer {}: {} ({}): {}", i, op, name_of(work), said);
  };
  return options;
}

Var Engine::train_layer(int i, const Var& x, Pass& pass) {
  Tape& tape = *pass.tape;
  // Markers run backwards: the one recorded before the layer runs when its backward is done.
  tape.on_reverse([this, i, &tape, reduces = pass.reduces] {
    tape.after_wgrads([this, i, reduces] {
      for (parallel::Unit* unit : layer(i)) {
        if (reduces) begin_reduce(*unit);
        if (!options_.pipeline || reshards(i)) unit->release();
      }
    });
  });
  const nn::Tokens& tokens = pass.tokens;
  auto run = [this, i, &tokens](const Var& in) { return model_.layer(i, in, tokens); };
  Var y = options_.activation_checkpointing ? autograd::checkpoint(x, run, checkpointing(i)) : run(x);
  tape.on_reverse([this, i] {
    for (parallel::Unit* unit : layer(i)) unit->gather();
    gather_ahead(i, -1);
    for (parallel::Unit* unit : layer(i)) unit->begin_gradients();
  });
  return y;
}

// The layers of a stage on pass.tape, with the embedding in front on the first one (which has no input).
Var Engine::forward(const Var& input, int stage, Pass& pass) {
  const parallel::LayerRange& range = stages_[static_cast<size_t>(stage)];
  bool trains = pass.tape->recording();
  if (root_ != nullptr) root_->gather();
  gather_ahead(range.begin - 1, 1);
  if (trains && root_ != nullptr) root_->begin_gradients();
  Var x = embeds(stage) ? model_.embed(*pass.tape, pass.tokens) : input;
  for (int i = range.begin; i < range.end; ++i) {
    for (parallel::Unit* unit : layer(i)) unit->gather();
    gather_ahead(i, 1);
    x = trains ? train_layer(i, x, pass) : model_.layer(i, x, pass.tokens);
    if (trains ? reshards(i) : !options_.pipeline)
      for (parallel::Unit* unit : layer(i)) unit->release();
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

Tensor Engine::forward_pass(Call& call, int stage, int microbatch, Tensor input) {
  Pass& pass = call.passes[{stage, microbatch}];
  pass.tokens = call.microbatches[static_cast<size_t>(microbatch)];
  pass.tokens.objective_scale = call.grad_scale;
  pass.reduces = call.reduces && call.last_of_stage[static_cast<size_t>(stage)] == microbatch;
  pass.tape = std::make_unique<Tape>(allocator_, ops::add_into, true);
  if (!embeds(stage)) pass.input = pass.tape->input(std::move(input), true);
  Var x = forward(pass.input, stage, pass);
  pass.input.value = {};
  if (!heads(stage)) {
    pass.output = {{}, x.id, x.tape, {}};
    return x.value;
  }
  pass.output = model_.loss(x, pass.tokens, call.grad_scale).loss;
  keep_loss(pass.output.value);
  return {};
}

Tensor Engine::backward_pass(Call& call, int stage, int microbatch, Tensor gradient, Work work) {
  Pass& pass = call.passes.at({stage, microbatch});
  bool whole = work == Work::kBackward;
  Tensor dy = heads(stage) ? pass.output.value : std::move(gradient);
  pass.tape->backward(pass.output, std::move(dy), whole ? Tape::Wgrads::kNow : Tape::Wgrads::kLater);
  Tensor dx = pass.tape->grad(pass.input);
  if (whole) call.passes.erase({stage, microbatch});
  return dx;
}

void Engine::weights_pass(Call& call, int stage, int microbatch) {
  const parallel::LayerRange& range = stages_[static_cast<size_t>(stage)];
  for (int i = range.begin; i < range.end; ++i)
    for (parallel::Unit* unit : layer(i)) unit->gather();
  call.passes.at({stage, microbatch}).tape->run_wgrads();
  call.passes.erase({stage, microbatch});
}

// What passes between two stages: the rank's rows.
Tensor Engine::between_stages(const nn::Tokens& tokens) const {
  int64_t rows = groups_.model.rows(tokens.count()).size();
  return Tensor::empty({rows, model_.info().hidden_size}, options_.unit.param_dtype, allocator_);
}

// One batch, whose loss and gradients are added to the step's. With `reduce` it is the last one before the update.
void Engine::train_batch(const nn::Tokens& batch, float grad_scale, bool reduce) {
  Call call;
  call.grad_scale = grad_scale;
  call.reduces = reduce;
  if (!options_.pipeline) {
    call.microbatches = {local_tokens(batch, true)};
    call.last_of_stage = {0};
    forward_pass(call, 0, 0, {});
    backward_pass(call, 0, 0, {}, Work::kBackward);
  } else {
    run_schedule(call, batch);
  }
  if (reduce && root_ != nullptr) {
    sum_tied_gradients();
    begin_reduce(*root_);
  }
  finish_reductions();
}

void Engine::run_schedule(Call& call, const nn::Tokens& batch) {
  const parallel::Schedule& schedule = options_.pipeline->schedule;
  for (int64_t m = 0; m < schedule.microbatches; ++m)
    call.microbatches.push_back(local_tokens(
        cut_rows(batch, batch.batch * m / schedule.microbatches, batch.batch * (m + 1) / schedule.microbatches), true));
  call.last_of_stage = last_microbatches(schedule, groups_.pp->rank());
  parallel::StageCalls calls;
  calls.forward = [&](int stage, int m, Tensor input) { return forward_pass(call, stage, m, std::move(input)); };
  calls.backward = [&](int stage, int m, Tensor dy, Work work) {
    return backward_pass(call, stage, m, std::move(dy), work);
  };
  calls.weights = [&](int stage, int m) { weights_pass(call, stage, m); };
  calls.buffer = [&](int, int m, bool) { return between_stages(call.microbatches[static_cast<size_t>(m)]); };
  parallel::run_pipeline(schedule, *groups_.pp, calls);
  finish_reductions();
  release_layers();
}

// The gradient of an embedding that is also the head, where the two are on different ranks.
void Engine::sum_tied_gradients() {
  if (tied_ == nullptr) return;
  nn::Param& param = *model_.embedding_params().front();
  if (!param.begin_grad()) zero(param.grad);
  tied_->all_reduce(ops::buffer_of(param.grad), comm::Reduce::kSum);
}

// The stages of this rank one after the other; what goes from rank to rank is sent as soon as it is there. Returns what
// the last stage gives (without a value on other ranks).
Var Engine::evaluate_stages(Pass& pass) {
  Var x;
  Tensor sent;
  comm::Pending sending;
  for (int stage : own_) {
    if (!embeds(stage) && !has(stage - 1)) {
      Tensor input = between_stages(pass.tokens);
      groups_.pp->receive(stage_ranks_[static_cast<size_t>(stage) - 1], ops::buffer_of(input));
      x = pass.tape->input(std::move(input));
    }
    x = forward(x, stage, pass);
    if (heads(stage) || has(stage + 1)) continue;
    sending.wait();
    sent = x.value;
    auto out = comm::Transfer::send(stage_ranks_[static_cast<size_t>(stage) + 1], ops::buffer_of(sent));
    sending = groups_.pp->start_exchange({&out, 1});
  }
  sending.wait();
  return x;
}

double Engine::evaluate(const nn::Tokens& batch) {
  Pass pass;
  pass.tokens = local_tokens(batch, false);
  pass.tape = std::make_unique<Tape>(allocator_, ops::add_into, false);
  Var x = evaluate_stages(pass);
  double sum = 0;
  if (heads(own_.back())) {
    ops::HeadLoss head = model_.loss(x, pass.tokens, 0);
    sum = to_host<double>(head.loss.value)[0];
  }
  if (options_.pipeline) {
    release_layers();
    sum = groups_.pp->reduced(sum, comm::Reduce::kSum);
  }
  if (groups_.model.cp != nullptr) sum = groups_.model.cp->reduced(sum, comm::Reduce::kSum);
  return sum;
}

Tensor Engine::logits(const nn::Tokens& batch, std::span<const int64_t> rows) {
  AM_CHECK(!options_.pipeline && groups_.model.cp == nullptr, Fault::kUsage,
           "logits are computed without pipeline and context parallelism only; set pp_size and cp_size to 1");
  Pass pass;
  pass.tokens = local_tokens(batch, false);
  pass.tape = std::make_unique<Tape>(allocator_, ops::add_into, false);
  Var x = evaluate_stages(pass);
  if (groups_.model.cuts_rows()) x = ops::gather_rows(x, pass.tokens.count(), *groups_.model.tp);
  Tensor picked = Tensor::empty({static_cast<int64_t>(rows.size()), x.value.cols()}, x.value.dtype(), allocator_);
  for (size_t i = 0; i < rows.size(); ++i) copy(picked.narrow(static_cast<int64_t>(i), 1), x.value.narrow(rows[i], 1));
  return model_.logits(pass.tape->input(picked), groups_.model);
}

}  // namespace automodel::engine
