#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "core/error.h"
#include "nn/moe.h"
#include "parallel/grad_norm.h"

namespace automodel::engine {

namespace {

constexpr int64_t kLosses = 64;  // that the device keeps before the host reads them

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

// Takes the weights of all experts out of a layer's; returns those of the `rank`-th `each` experts.
std::vector<nn::Param*> take_experts(std::vector<nn::Param*>& params, int64_t each, int64_t rank) {
  auto routed = std::stable_partition(params.begin(), params.end(), [](nn::Param* p) { return p->expert < 0; });
  std::vector<nn::Param*> own;
  std::copy_if(routed, params.end(), std::back_inserter(own), [&](nn::Param* p) { return p->expert / each == rank; });
  params.erase(routed, params.end());
  return own;
}

}  // namespace

Engine::Engine(models::CausalLM& model, const parallel::Groups& groups, Allocator& allocator,
               const EngineOptions& options)
    : model_(model),
      groups_(groups),
      ranks_(*groups.data, options.unit.shard ? options.unit.replicas : groups.data->size()),
      allocator_(allocator),
      host_memory_(allocator.make_host_allocator()),
      options_(options),
      losses_(Tensor::empty({kLosses}, DType::kF64, allocator, MemoryClass::kWorkspace)) {
  model.place(groups.model.tp_rank(), groups.model.tp_size());
  tensor_ranks_ = parallel::TensorRanks(groups.model, model.params());
  place_stages();
  make_units();

  std::vector<std::string> names;
  for (const nn::Param* p : model.params()) names.push_back(p->name);
  optim::GroupAssignment assigned = optim::assign_groups(options.group_overrides, names);
  warnings_ = assigned.warnings;
  std::map<const nn::Param*, optim::Multipliers> multipliers;
  for (size_t i = 0; const nn::Param* p : model.params()) multipliers[p] = assigned.multipliers[i++];
  for (const auto& unit : units_) {
    if (options.trains) states_.emplace_back(unit->layout().shard_size(), allocator);
    runs_.push_back(runs_of(*unit, multipliers));
  }
}

// Which stages this rank has, and whether another rank has the other copy of a tied embedding.
void Engine::place_stages() {
  if (!options_.pipeline) {
    stages_ = {{0, model_.layers()}};
    own_ = {0};
    return;
  }
  AM_CHECK(groups_.pp != nullptr && groups_.pp->size() == options_.pipeline->schedule.size(), Fault::kBug,
           "a schedule of {} ranks for a pipeline of {}", options_.pipeline->schedule.size(),
           groups_.pp == nullptr ? 1 : groups_.pp->size());
  stages_ = options_.pipeline->stages;
  stage_ranks_ = parallel::ranks_of_stages(options_.pipeline->schedule);
  int last = static_cast<int>(stages_.size()) - 1;
  for (int s = 0; s <= last; ++s)
    if (stage_ranks_[static_cast<size_t>(s)] == groups_.pp->rank()) own_.push_back(s);
  int members[2] = {stage_ranks_.front(), stage_ranks_.back()};
  bool tied = model_.head_params().back() == model_.embedding_params().front();
  if (!tied || members[0] == members[1]) return;
  if (groups_.pp->rank() == members[0] || groups_.pp->rank() == members[1])
    tied_ = groups_.pp->group(members, "pp_tied");
}

void Engine::make_units() {
  auto add_to = [&](const parallel::DataRanks& ranks, const parallel::TensorRanks& tensor_ranks,
                    std::vector<nn::Param*> params) {
    units_.push_back(
        std::make_unique<parallel::Unit>(std::move(params), ranks, tensor_ranks, options_.unit, allocator_));
    return units_.back().get();
  };
  auto add = [&](std::vector<nn::Param*> params) { return add_to(ranks_, tensor_ranks_, std::move(params)); };
  comm::Communicator* ep = groups_.model.ep;
  if (ep != nullptr) expert_ranks_.emplace(*groups_.experts, options_.unit.shard ? 1 : groups_.experts->size(), ep);
  bool first = own_.front() == 0, last = heads(own_.back());
  if (first || last)
    root_ = add(first && last ? model_.root_params() : first ? model_.embedding_params() : model_.head_params());
  layers_.resize(static_cast<size_t>(model_.layers()));
  for (int stage : own_)
    for (int i = stages_[static_cast<size_t>(stage)].begin; i < stages_[static_cast<size_t>(stage)].end; ++i) {
      std::vector<nn::Param*> params = model_.layer_params(i), experts;
      if (ep != nullptr) experts = take_experts(params, model_.info().experts / ep->size(), ep->rank());
      auto& units = layers_[static_cast<size_t>(i)];
      units.push_back(add(std::move(params)));
      if (!experts.empty()) units.push_back(add_to(*expert_ranks_, apart_, std::move(experts)));
    }
}

// Of the ranks that have the same part of a weight, one counts it and saves it.
bool Engine::speaks_for(const nn::Param& param) const {
  if (groups_.model.ep != nullptr && param.expert >= 0) return true;
  bool copy = tied_ != nullptr && own_.front() != 0 && &param == model_.embedding_params().front();
  return parallel::TensorRanks::speaks_for(param) && !copy;
}

Engine::~Engine() {
  model_.release_memory();
}

std::vector<StateSlice> Engine::state() const {
  std::vector<StateSlice> out;
  for (size_t u = 0; u < units_.size(); ++u)
    for (const parallel::Piece& piece : units_[u]->pieces()) {
      auto at = [&](const Tensor& t) { return t.narrow(piece.flat, piece.end - piece.begin); };
      StateSlice slice{piece.param, piece.begin, piece.end, at(units_[u]->master()), {}, {}, true};
      slice.saved = units_[u]->ranks().replicate().rank() == 0 && speaks_for(*piece.param);
      if (options_.trains) {
        slice.exp_avg = at(states_[u].exp_avg());
        slice.exp_avg_sq = at(states_[u].exp_avg_sq());
      }
      out.push_back(slice);
    }
  return out;
}

std::vector<ExpertBias> Engine::expert_biases() const {
  bool saved = groups_.data->rank() == 0 && groups_.model.tp_rank() == 0;
  std::vector<ExpertBias> out;
  for (nn::MoeMlp* layer : biased_experts()) out.push_back({layer->bias_name(), layer->mutable_bias(), saved});
  return out;
}

void Engine::publish() {
  for (const auto& unit : units_) unit->publish();
}

void Engine::initialise(uint64_t seed) {
  std::vector<float> values;
  for (const StateSlice& slice : state()) {
    if (slice.master.device().is_cpu()) {
      nn::initialise(*slice.param, seed, slice.begin, slice.end, slice.master.data<float>());
      continue;
    }
    values.resize(static_cast<size_t>(slice.end - slice.begin));
    nn::initialise(*slice.param, seed, slice.begin, slice.end, values.data());
    upload(slice.master, values);
  }
  publish();
}

void Engine::keep_loss(const Tensor& loss) {
  if (kept_losses_ == kLosses) loss_sum_ = take_losses();
  copy(losses_.narrow(kept_losses_++, 1), loss);
}

// The sum of the step's losses in their order; there are none afterwards.
double Engine::take_losses() {
  double sum = std::exchange(loss_sum_, 0);
  for (double loss : to_host<double>(losses_.narrow(0, std::exchange(kept_losses_, 0)))) sum += loss;
  return sum;
}

StepResult Engine::step(const StepInput& input) {
  float scale = input.label_tokens > 0 ? static_cast<float>(1.0 / static_cast<double>(input.label_tokens)) : 0.0f;
  kept_losses_ = 0;
  loss_sum_ = 0;
  for (size_t m = 0; m < input.microbatches.size(); ++m) {
    bool last = m + 1 == input.microbatches.size();
    train_batch(input.microbatches[m], scale, last || !options_.defer_reduce);
  }
  if (inspect_) inspect_(units_);
  double sum = take_losses();
  StepResult result;
  if (input.label_tokens > 0) {
    sum = ranks_.all().reduced(sum, comm::Reduce::kSum);
    if (groups_.pp != nullptr) sum = groups_.pp->reduced(sum, comm::Reduce::kSum);
    result.loss = sum / static_cast<double>(input.label_tokens);
  }
  result.grad_norm = gradient_norm();
  if (options_.refuse_nan && !std::isfinite(result.grad_norm)) refuse_gradients(result.grad_norm);
  update(input, result.grad_norm);
  return result;
}

float Engine::gradient_norm() const {
  parallel::NormRanks ranks{[this](const nn::Param& p) { return speaks_for(p); }, tensor_ranks_.all(), groups_.pp};
  return parallel::gradient_norm(units_, ranks, allocator_);
}

void Engine::refuse_gradients(float norm) const {
  for (const auto& unit : units_)
    for (const parallel::Piece& piece : unit->pieces()) {
      auto gradient = to_host<float>(unit->gradient().narrow(piece.flat, piece.end - piece.begin));
      auto bad = std::ranges::find_if_not(gradient, [](float x) { return std::isfinite(x); });
      if (bad != gradient.end())
        fail(Fault::kRun,
             "update {}: the gradient of {} is {} at element {}; lower the learning rate, or look at the data of this "
             "step",
             updates_ + 1, piece.param->name, *bad,
             nn::runs_of(*piece.param, piece.begin + (bad - gradient.begin()),
                         piece.begin + (bad - gradient.begin()) + 1)[0]
                 .whole);
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
  balance_experts();
}

std::vector<nn::MoeMlp*> Engine::biased_experts() const {
  std::vector<nn::MoeMlp*> out;
  for (int stage : own_)
    for (int i = stages_[static_cast<size_t>(stage)].begin; i < stages_[static_cast<size_t>(stage)].end; ++i)
      if (nn::MoeMlp* experts = model_.experts(i); experts != nullptr && !experts->bias().empty())
        out.push_back(experts);
  return out;
}

void Engine::balance_experts() {
  std::vector<nn::MoeMlp*> layers = biased_experts();
  std::erase_if(layers, [](nn::MoeMlp* layer) { return layer->spec().bias_step == 0; });
  if (layers.empty()) return;
  std::vector<int64_t> load;
  for (nn::MoeMlp* layer : layers) {
    load.insert(load.end(), layer->load().begin(), layer->load().end());
    layer->clear_load();
  }
  // Tensor-parallel ranks route different rows too.
  for (comm::Communicator* ranks : {groups_.data, groups_.model.tp})
    if (ranks != nullptr) ranks->all_reduce(comm::buffer_of(load), comm::Reduce::kSum);
  for (std::span<const int64_t> rest = load; nn::MoeMlp * layer : layers) {
    layer->update_bias(rest.first(layer->load().size()));
    rest = rest.subspan(layer->load().size());
  }
}

}  // namespace automodel::engine
