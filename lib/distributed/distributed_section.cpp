// Keys of two strategies cannot stand in one struct, because a key of the wrong strategy is a mistake. So the section
// is a variant, and the `strategy` text becomes the name by which config::read chooses.
#include "distributed/distributed_section.h"

#include <fmt/core.h>

#include <optional>
#include <utility>
#include <vector>

namespace automodel::distributed {

void describe(config::Names<Strategy>& n) {
  n("fsdp2", Strategy::kFsdp2, "weights are cut over the data-parallel ranks");
  n("ddp", Strategy::kDdp, "every rank keeps the whole model");
  n("megatron_fsdp", Strategy::kMegatronFsdp, "not supported yet");
  n("megatron-fsdp", Strategy::kMegatronFsdp)("mfsdp", Strategy::kMegatronFsdp);
  n.ignore_case();
}

namespace {

bool is_no_checkpointing(const config::Node& node) {
  static const auto off = config::any_of({"false", "off", "none", "disabled", "no"});
  return off(node);
}

template <class S>
void describe_section(config::Fields<S>& f) {
  f("strategy", &S::strategy, "How the model lies on the ranks.");
  f.flatten(&S::sizes);
  f.flatten(&S::options);
  f.key("activation_checkpointing")
      .refused("activation checkpointing is not supported yet; write activation_checkpointing: false",
               is_no_checkpointing);
  f.key("activation_checkpointing_scope").no_effect("activation checkpointing is off");
  f.key("pipeline").no_effect("pp_size is 1, so there is no pipeline");
  f.key("moe").no_effect("ep_size is 1, so there is no expert parallelism");
}

const config::Schema* schema_of(Strategy strategy) {
  switch (strategy) {
    case Strategy::kFsdp2:
      return &config::schema_of<FSDP2Section>();
    case Strategy::kDdp:
      return &config::schema_of<DDPSection>();
    case Strategy::kMegatronFsdp:
      break;
  }
  return nullptr;
}

const char* name_of(Strategy strategy) {
  return strategy == Strategy::kFsdp2 ? "fsdp2" : strategy == Strategy::kDdp ? "ddp" : "megatron_fsdp";
}

// What the section's `strategy` names; nothing, and a problem, when it cannot be used.
std::optional<Strategy> chosen_strategy(const config::Node& section, config::Report& report, const std::string& key) {
  const config::Node* written = section.find("strategy");
  if (!written) return Strategy::kFsdp2;
  const auto problem = [&](std::string message, std::string hint) {
    report.add({key + ".strategy", std::move(message), std::move(hint), written->origin()});
    return std::nullopt;
  };
  if (!written->is_string()) {
    return problem(fmt::format("expected one of: fsdp2 | ddp; got {}", config::show(*written)),
                   "write strategy: fsdp2, or leave the key out");
  }
  const auto& table = config::type_of<Strategy>().names();
  const auto* name = table.find(written->as_string());
  if (!name) {
    return problem(fmt::format("unknown strategy {}; expected one of: fsdp2 | ddp", config::show(*written)),
                   "write strategy: fsdp2");
  }
  const auto strategy = static_cast<Strategy>(name->value);
  if (!schema_of(strategy)) {
    return problem(fmt::format("strategy {} is not supported yet", written->as_string()), "write strategy: fsdp2");
  }
  return strategy;
}

// Takes out the keys that another strategy has and this one lacks.
void refuse_foreign_options(config::Node& section, Strategy strategy, config::Report& report, const std::string& key) {
  std::vector<std::string> foreign;
  for (const config::Entry& entry : section.entries()) {
    if (schema_of(strategy)->find(entry.key)) continue;
    for (Strategy other : {Strategy::kFsdp2, Strategy::kDdp}) {
      if (!schema_of(other)->find(entry.key)) continue;
      foreign.push_back(entry.key);
      report.add({fmt::format("{}.{}", key, entry.key),
                  fmt::format("{} is an option of {}, not of {}", entry.key, name_of(other), name_of(strategy)),
                  "leave it out", entry.key_origin});
    }
  }
  for (const std::string& name : foreign) section.erase(name);
}

}  // namespace

void describe(config::Fields<FSDP2Section>& f) {
  f.doc("Weights, gradients and optimizer state are cut over the data-parallel ranks.");
  f.target({"fsdp2"});
  describe_section(f);
}

void describe(config::Fields<DDPSection>& f) {
  f.doc("Every rank keeps the whole model; gradients are summed.");
  f.target({"ddp"});
  describe_section(f);
}

void prepare_section(config::Node& section, config::Report& report, const std::string& key) {
  if (section.is_null()) {
    const config::Origin origin = section.origin();
    section = config::Node::map();
    section.set_origin(origin);
  }
  if (!section.is_map()) return;  // config::read says so
  for (const char* name : {"_target_", "_recursive_", "_convert_"}) section.erase(name);
  const std::optional<Strategy> strategy = chosen_strategy(section, report, key);
  if (strategy) {
    refuse_foreign_options(section, *strategy, report, key);
  } else {
    // What the other keys mean depends on the strategy; only the sizes can still be checked.
    std::vector<std::string> unclear;
    for (const config::Entry& entry : section.entries()) {
      if (!config::schema_of<ParallelismSizes>().find(entry.key)) unclear.push_back(entry.key);
    }
    for (const std::string& name : unclear) section.erase(name);
  }
  section.set("_target_", config::Node::string(name_of(strategy.value_or(Strategy::kFsdp2))));
}

void tidy_dump(config::Node& section) {
  section.erase("_target_");
}

Strategy strategy_of(const DistributedSection& section) {
  return std::holds_alternative<DDPSection>(section) ? Strategy::kDdp : Strategy::kFsdp2;
}

const ParallelismSizes& sizes_of(const DistributedSection& section) {
  return std::visit([](const auto& s) -> const ParallelismSizes& { return s.sizes; }, section);
}

Precision precision_of(const DistributedSection& section, DType model_dtype) {
  const auto* fsdp2 = std::get_if<FSDP2Section>(&section);
  return resolve(fsdp2 ? fsdp2->options.policy() : MixedPrecisionPolicy{}, model_dtype);
}

DataParallel resolve_data_parallel(const DistributedSection& section, int64_t world_size, config::Problems& problems) {
  // Under ddp the reference takes every rank whatever dp_size says.
  const std::optional<int64_t> requested = sizes_of(section).requested_dp();
  if (strategy_of(section) == Strategy::kDdp || !requested) return {world_size};
  if (*requested != world_size) {
    problems.add("dp_size",
                 fmt::format("dp_size {} * tp_size 1 * cp_size 1 * pp_size 1 = {} ranks, but the job has {}",
                             *requested, *requested, world_size),
                 fmt::format("write dp_size: none to use all {} ranks, or start {} ranks", world_size, *requested));
  }
  return {*requested};
}

}  // namespace automodel::distributed
