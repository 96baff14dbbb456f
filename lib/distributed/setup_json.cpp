#include "distributed/setup_json.h"

#include <nlohmann/json.hpp>

#include "config/config.h"

namespace automodel::distributed {
namespace {

using json = nlohmann::ordered_json;

json as_json(const config::Node& node) {
  return json::parse(config::dump_json(node));
}

template <class T>
json struct_json(const T& value) {
  return as_json(config::to_node(value));
}

json checkpointing_json(ActivationCheckpointing value) {
  if (value == ActivationCheckpointing::kSelective) return "selective";
  return value == ActivationCheckpointing::kFull;
}

// Options with what null stands for filled in.
json options_json(const StrategyConfig& config) {
  return std::visit(
      [](auto options) {
        json out;
        if constexpr (std::is_same_v<decltype(options), FSDP2Config>) {
          options.mp_policy = options.policy();
          out = struct_json(options);
          // The base class of the reference's policies has no options.
          if (options.offload_policy && !options.offload_policy->to_cpu) out["offload_policy"] = json::object();
        } else {
          out = struct_json(options);
        }
        out["activation_checkpointing"] = checkpointing_json(options.activation_checkpointing);
        return out;
      },
      config);
}

// Lays the values that were kept as written over the typed ones.
void overlay(json& options, json& pipeline, json& moe, const SectionRemarks& remarks) {
  for (const auto& [path, node] : remarks.as_written) {
    json* at = &options;
    std::string_view rest = path;
    for (auto [name, block] : {std::pair{"pipeline.", &pipeline}, std::pair{"moe.", &moe}}) {
      if (!rest.starts_with(name)) continue;
      at = block;
      rest.remove_prefix(std::string_view(name).size());
    }
    if (at->is_null()) continue;
    for (size_t dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
      at = &(*at)[std::string(rest.substr(0, dot))];
      rest.remove_prefix(dot + 1);
    }
    (*at)[std::string(rest)] = as_json(node);
  }
}

json mesh_json(const std::vector<comm::MeshAxis>& axes) {
  json out = {{"axes", json::array()}, {"shape", json::array()}};
  for (const comm::MeshAxis& axis : axes) {
    out["axes"].push_back(axis.name);
    out["shape"].push_back(axis.size);
  }
  return out;
}

void add_mesh(json& out, const MeshContext& context) {
  out["mesh"] = context.device_mesh() ? mesh_json(context.device_mesh()->axes()) : json();
  out["flattened"] = json::object();
  if (context.device_mesh()) {
    for (const auto& [name, sources] : context.device_mesh()->derived()) out["flattened"][name] = *context.size(name);
  }
  out["moe_mesh"] = context.moe_mesh() ? mesh_json(context.moe_mesh_of_stage(0).axes()) : json();
  out["groups"] = json::object();
  for (const std::string& axis : context.axes()) out["groups"][axis] = context.groups(axis);
}

}  // namespace

json to_json(const DistributedSetup& setup, const ParallelismSizes& asked, const SectionRemarks& remarks) {
  json options = options_json(setup.strategy_config);
  json pipeline = setup.pipeline_config ? struct_json(*setup.pipeline_config) : json();
  json moe = setup.moe_parallel_config ? struct_json(*setup.moe_parallel_config) : json();
  overlay(options, pipeline, moe, remarks);
  json out = {{"strategy", name_of(setup.strategy())},
              {"strategy_options", std::move(options)},
              {"parallelism_sizes", struct_json(asked)},
              {"activation_checkpointing", checkpointing_json(setup.activation_checkpointing)},
              {"pipeline", std::move(pipeline)},
              {"moe", std::move(moe)}};
  add_mesh(out, setup.mesh_context);
  return out;
}

std::vector<std::string> changed_options(const json& setup) {
  std::vector<std::string> changed;
  const auto compare = [&](const std::string& prefix, const json& now, const json& usual) {
    for (const auto& [key, value] : now.items()) {
      if (value != usual.value(key, json())) changed.push_back(prefix + key + ": " + value.dump());
    }
  };
  const Strategy strategy = *find_strategy(setup.at("strategy").get<std::string>());
  compare("", setup.at("strategy_options"), options_json(default_config(strategy)));
  if (!setup.at("pipeline").is_null()) compare("pipeline.", setup.at("pipeline"), struct_json(PipelineConfig{}));
  if (!setup.at("moe").is_null()) compare("moe.", setup.at("moe"), struct_json(MoEParallelizerConfig{}));
  return changed;
}

}  // namespace automodel::distributed
