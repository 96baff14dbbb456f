#include "train/weights.h"

#include <algorithm>

#include "nn/moe.h"

namespace automodel::train {
namespace {

std::vector<int64_t> dims_of(const nn::Param& p) {
  return {p.shape.dims().begin(), p.shape.dims().end()};
}

checkpoint::Region region_of(const engine::StateSlice& s, const std::string& prefix) {
  return {.name = prefix + s.param->name,
          .shape = dims_of(*s.param),
          .kept = s.param->kept,
          .kept_dim = std::max(0, s.param->split.dim),
          .begin = s.begin,
          .end = s.end};
}

checkpoint::LoadSlice load_slice(const engine::StateSlice& s, const std::string& prefix, const Tensor& to) {
  return {region_of(s, prefix), DType::kF32, to.raw(), to.device().is_cpu() ? nullptr : to.allocator()};
}

checkpoint::SaveSlice save_slice(const engine::StateSlice& s, const std::string& prefix, const Tensor& from) {
  return {region_of(s, prefix), DType::kF32, from.raw(), from.device().is_cpu() ? nullptr : from.allocator()};
}

const std::string kExpAvg = "exp_avg/";
const std::string kExpAvgSq = "exp_avg_sq/";
const std::string kMaster = "master/";

void add_specs(std::vector<checkpoint::TensorSpec>& out, models::CausalLM& model, const std::string& prefix,
               DType dtype) {
  for (const nn::Param* p : model.params()) out.push_back({prefix + p->name, dtype, dims_of(*p)});
}

std::vector<nn::MoeMlp*> expert_layers(models::CausalLM& model) {
  std::vector<nn::MoeMlp*> out;
  for (int i = 0; i < model.layers(); ++i)
    if (nn::MoeMlp* experts = model.experts(i)) out.push_back(experts);
  return out;
}

checkpoint::TensorSpec bias_spec(const nn::MoeMlp& experts) {
  return {experts.bias_name(), DType::kF32, {experts.spec().experts}};
}

checkpoint::Region region_of(const engine::ExpertBias& bias) {
  return {.name = bias.name, .shape = {static_cast<int64_t>(bias.values.size())}};
}

checkpoint::LoadOptions options_for(models::CausalLM& model, const checkpoint::TensorSet& source) {
  checkpoint::LoadOptions options;
  for (const nn::Param* p : model.params()) options.expected.push_back({p->name, dims_of(*p)});
  // Selection biases come with weights that were trained with them.
  for (const nn::MoeMlp* experts : expert_layers(model))
    if (source.find(experts->bias_name()) != nullptr)
      options.expected.push_back({experts->bias_name(), bias_spec(*experts).shape});
  if (model.info().tied_head) options.aliases["lm_head.weight"] = model.root_params()[0]->name;
  return options;
}

}  // namespace

void check_weights(models::CausalLM& model, const checkpoint::TensorSet& source) {
  checkpoint::load(source, {}, options_for(model, source));
}

checkpoint::LoadSummary load_weights(engine::Engine& engine, models::CausalLM& model,
                                     const checkpoint::TensorSet& source) {
  std::vector<checkpoint::LoadSlice> slices;
  for (const engine::StateSlice& s : engine.state()) slices.push_back(load_slice(s, "", s.master));
  for (nn::MoeMlp* experts : expert_layers(model))
    if (source.find(experts->bias_name()) != nullptr || !experts->bias().empty()) experts->have_bias();
  for (const engine::ExpertBias& bias : engine.expert_biases())
    if (source.find(bias.name) != nullptr) slices.push_back({region_of(bias), DType::kF32, bias.values.data()});
  auto summary = checkpoint::load(source, slices, options_for(model, source));
  engine.publish();
  return summary;
}

std::optional<checkpoint::LoadSummary> fill_weights(engine::Engine& engine, ModelSource& source, uint64_t seed) {
  if (source.weights) return load_weights(engine, *source.model, source.weights->tensors());
  engine.initialise(seed);
  return std::nullopt;
}

void load_optimizer(engine::Engine& engine, models::CausalLM& model, const checkpoint::TensorSet& source) {
  bool masters = source.find(kMaster + model.root_params()[0]->name) != nullptr;
  std::vector<checkpoint::LoadSlice> slices;
  for (const engine::StateSlice& s : engine.state()) {
    slices.push_back(load_slice(s, kExpAvg, s.exp_avg));
    slices.push_back(load_slice(s, kExpAvgSq, s.exp_avg_sq));
    if (masters) slices.push_back(load_slice(s, kMaster, s.master));
  }
  checkpoint::LoadOptions options;
  std::vector<checkpoint::TensorSpec> specs;
  for (const auto* prefix : {&kExpAvg, &kExpAvgSq}) add_specs(specs, model, *prefix, DType::kF32);
  if (masters) add_specs(specs, model, kMaster, DType::kF32);
  for (auto& spec : specs) options.expected.push_back({spec.name, spec.shape});
  options.prefixes.clear();
  checkpoint::load(source, slices, options);
  engine.publish();
}

checkpoint::TensorGroup model_group(const engine::Engine& engine, models::CausalLM& model, DType stored) {
  checkpoint::TensorGroup group;
  add_specs(group.tensors, model, "", stored);
  for (const engine::StateSlice& s : engine.state())
    if (s.saved) group.slices.push_back(save_slice(s, "", s.master));
  for (const nn::MoeMlp* experts : expert_layers(model))
    if (!experts->bias().empty()) group.tensors.push_back(bias_spec(*experts));
  for (const engine::ExpertBias& bias : engine.expert_biases())
    if (bias.saved) group.slices.push_back({region_of(bias), DType::kF32, bias.values.data()});
  return group;
}

checkpoint::TensorGroup optimizer_group(const engine::Engine& engine, models::CausalLM& model, DType stored) {
  checkpoint::TensorGroup group;
  bool masters = stored != DType::kF32;
  for (const auto* prefix : {&kExpAvg, &kExpAvgSq}) add_specs(group.tensors, model, *prefix, DType::kF32);
  if (masters) add_specs(group.tensors, model, kMaster, DType::kF32);
  for (const engine::StateSlice& s : engine.state()) {
    if (!s.saved) continue;
    group.slices.push_back(save_slice(s, kExpAvg, s.exp_avg));
    group.slices.push_back(save_slice(s, kExpAvgSq, s.exp_avg_sq));
    if (masters) group.slices.push_back(save_slice(s, kMaster, s.master));
  }
  return group;
}

}  // namespace automodel::train
