// The rules of a section as written: what the reference checks before, and otherwise than, the description of a struct
// does. They work on the tree, so that every mistake is found however many there are.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "config/config.h"
#include "config/scalar.h"
#include "distributed/distributed_section.h"
#include "distributed/unchecked_values.h"

namespace automodel::distributed {
namespace {

constexpr const char* kSizes[] = {"dp_size", "dp_replicate_size", "tp_size", "pp_size", "cp_size", "ep_size"};

const config::Schema& section_schema(Strategy strategy) {
  switch (strategy) {
    case Strategy::kFsdp2:
      return config::schema_of<FSDP2Section>();
    case Strategy::kDdp:
      return config::schema_of<DDPSection>();
    case Strategy::kMegatronFsdp:
      break;
  }
  return config::schema_of<MegatronFSDPSection>();
}

// Text as the reference's loader reads it, wherever it stands: "none" is null, "2" is 2, "[a]" is a list.
void translate_text(config::Node& node) {
  if (node.is_string()) {
    config::Node meant = config::translate(node.as_string());
    if (meant.is_string()) return;
    meant.set_text(node.as_string());
    meant.set_origin(node.origin());
    node = std::move(meant);
    return;
  }
  if (node.is_map()) {
    config::Node copy = config::Node::map();
    copy.set_origin(node.origin());
    for (const config::Problem& defect : node.defects()) copy.add_defect(defect);
    for (const config::Entry& entry : node.entries()) {
      config::Entry translated = entry;
      if (entry.key != "_target_") translate_text(translated.value);
      copy.push_entry(std::move(translated));
    }
    node = std::move(copy);
  }
}

// One pass over a section; every rule may take out what it has complained about.
class Rules {
 public:
  Rules(config::Node& section, config::Report& report, SectionRemarks& remarks, const std::string& key)
      : section_(section), report_(report), remarks_(remarks), key_(key) {}

  // Keys that the reference's loader takes for itself. A target does not choose anything here, but it has to exist: of
  // names outside the packages of a recipe that cannot be known, so they are taken for mistakes.
  void loader_keys() {
    const config::Node* target = section_.find("_target_");
    if (target && target->is_string()) {
      const std::string& name = target->as_string();
      const std::string package = name.substr(0, name.find('.'));
      static constexpr const char* kPackages[] = {"nemo_automodel", "torch", "transformers", "megatron_fsdp"};
      if (std::find(std::begin(kPackages), std::end(kPackages), package) == std::end(kPackages)) {
        complain("_target_", fmt::format("unknown target '{}'", name), "leave it out; strategy chooses");
      }
    }
    for (const char* name : {"_target_", "_recursive_", "_convert_", "raise_on_missing_attr"}) section_.erase(name);
  }

  std::optional<Strategy> strategy() {
    const config::Node* written = section_.find("strategy");
    if (!written) return Strategy::kFsdp2;
    const char* valid = "one of: ddp, fsdp2, megatron-fsdp, megatron_fsdp, mfsdp";
    std::optional<Strategy> found;
    if (!written->is_string()) {
      complain("strategy", fmt::format("expected the name of a strategy, got {}", config::show(*written)),
               "write strategy: fsdp2, or leave the key out");
    } else if (found = find_strategy(written->as_string()); !found) {
      complain("strategy", fmt::format("unknown strategy {}", config::show(*written)), valid);
    }
    return found;
  }

  // A whole number that was written as one; null is the default.
  void sizes() {
    for (const char* name : kSizes) {
      const config::Node* written = section_.find(name);
      if (!written || written->is_null() || written->is_int()) continue;
      if (!written->defects().empty()) continue;
      complain(name, fmt::format("expected a whole number, got {}", config::show(*written)), hint_for_size(*written));
      section_.erase(name);
    }
  }

  void checkpointing(std::optional<Strategy> strategy) {
    const config::Node* written = section_.find("activation_checkpointing");
    if (!written) return;
    config::Report scratch;
    const auto value = config::read<ActivationCheckpointing>(*written, scratch);
    if (!scratch.empty()) {
      complain("activation_checkpointing",
               fmt::format("expected true, false or selective, got {}", config::show(*written)),
               "full is another word for true");
      section_.erase("activation_checkpointing");
    } else if (value == ActivationCheckpointing::kSelective && strategy == Strategy::kMegatronFsdp) {
      complain("activation_checkpointing",
               "selective activation checkpointing works with fsdp2 and ddp, not with megatron_fsdp",
               "write activation_checkpointing: true, or strategy: fsdp2");
    }
  }

  void scope() {
    const char* name = "activation_checkpointing_scope";
    const config::Node* written = section_.find(name);
    if (!written || written->is_null()) return;
    std::vector<std::string> words;
    const auto add = [&](const config::Node& node) {
      return node.is_string() && (words.push_back(node.as_string()), true);
    };
    bool text = written->is_list();
    if (written->is_list()) {
      for (const config::Node& item : written->items()) text = add(item) && text;
    } else {
      text = add(*written);
    }
    const std::string mistake = text
                                    ? normalise_scope(words).mistake
                                    : fmt::format("expected a text or a list of texts, got {}", config::show(*written));
    if (mistake.empty()) return;
    complain(name, mistake, "such as all, language, or [language, vision]");
    section_.erase(name);
  }

  // The reference takes no word for a number or a boolean here, unlike elsewhere.
  void multimodal() {
    config::Node* block = section_.find("multimodal");
    if (!block) return;
    if (!needs_map("multimodal", *block)) return;
    config::Node* vision = block->find("vision");
    if (!vision || !needs_map("multimodal.vision", *vision)) return;
    config::Node* frames = vision->find("frame_sharding");
    if (!frames || !needs_map("multimodal.vision.frame_sharding", *frames)) return;
    const std::string path = "multimodal.vision.frame_sharding.";
    const auto check = [&](const char* name, bool fits, const char* what) {
      const config::Node* value = frames->find(name);
      if (!value || fits) return;
      complain(path + name, fmt::format("expected {}, got {}", what, config::show(*value)), "");
      frames->erase(name);
    };
    const auto is = [&](const char* name, bool (config::Node::*kind)() const) {
      const config::Node* value = frames->find(name);
      return value && (value->*kind)();
    };
    check("enabled", is("enabled", &config::Node::is_bool), "true or false");
    check("mesh_dims", is("mesh_dims", &config::Node::is_list), "the list [cp]");
    for (const char* name : {"min_tokens", "min_frames", "min_local_patch_rows"}) {
      check(name, is(name, &config::Node::is_int), "a whole number of at least 0");
    }
    const bool alpha = !is("cost_alpha", &config::Node::is_float) && !is("cost_alpha", &config::Node::is_bool);
    check("cost_alpha", alpha, "auto, null or a whole number of at least 0");
  }

  // The base class of the policies takes no options.
  void offload() {
    config::Node* policy = section_.find("offload_policy");
    const config::Node* target = policy ? policy->find("_target_") : nullptr;
    if (!target || !target->is_string() || !policy->find("pin_memory")) return;
    const std::string& name = target->as_string();
    if (name.substr(name.rfind('.') + 1) != "OffloadPolicy") return;
    complain("offload_policy.pin_memory", "OffloadPolicy offloads nothing, so it has no pin_memory",
             "write _target_: torch.distributed.fsdp.CPUOffloadPolicy, or leave pin_memory out");
    policy->erase("pin_memory");
  }

  // A block for which an axis is too small.
  void idle(const char* block, const char* axis, const config::Node& written) {
    remarks_.warnings.push_back({fmt::format("{}.{}", key_, block),
                                 fmt::format("has no effect because {} is {}", axis, size(axis)),
                                 fmt::format("set {} above 1 to use it", axis), written.origin()});
  }

  // A pipeline or moe block that the sizes leave without use is not even looked at.
  void blocks() {
    const config::Node* pipeline = section_.find("pipeline");
    const bool absent = !pipeline || pipeline->is_null();
    if (size("pp_size") <= 1) {
      if (!absent) idle("pipeline", "pp_size", *pipeline);
      section_.erase("pipeline");
    } else if (absent) {
      complain("pp_size", fmt::format("pp_size is {}, but there is no {}.pipeline section", size("pp_size"), key_),
               "write pipeline: {} for its defaults");
    } else if (!pipeline->is_map()) {
      complain("pipeline", fmt::format("expected a mapping, got {}", config::show(*pipeline)), "write pipeline: {}");
      section_.erase("pipeline");
    }
    const config::Node* moe = section_.find("moe");
    if (!moe) return;
    const bool empty =
        moe->is_null() || (moe->is_list() && moe->items().empty()) || (moe->is_string() && moe->as_string().empty());
    if (size("ep_size") > 1 && !empty) return;
    if (!empty) idle("moe", "ep_size", *moe);
    section_.erase("moe");
  }

  // Keys that another strategy has and this one lacks.
  void foreign_options(Strategy strategy) {
    std::vector<std::string> foreign;
    for (const config::Entry& entry : section_.entries()) {
      const config::FieldSpec* own = section_schema(strategy).find(entry.key);
      if (own) continue;
      std::string owners;
      for (Strategy other : {Strategy::kFsdp2, Strategy::kDdp, Strategy::kMegatronFsdp}) {
        const config::FieldSpec* field = section_schema(other).find(entry.key);
        if (field && field->type) owners += (owners.empty() ? "" : " and ") + std::string(name_of(other));
      }
      if (owners.empty()) continue;
      foreign.push_back(entry.key);
      report_.add({fmt::format("{}.{}", key_, entry.key),
                   fmt::format("{} is an option of {}, not of {}", entry.key, owners, name_of(strategy)),
                   "leave it out", entry.key_origin.source ? entry.key_origin : entry.value.origin()});
    }
    for (const std::string& name : foreign) section_.erase(name);
  }

  // What the other keys mean depends on the strategy; only keys that every strategy has can still be checked.
  void drop_unclear() {
    std::vector<std::string> unclear{"strategy"};
    for (const config::Entry& entry : section_.entries()) {
      const bool common = std::find(std::begin(kSizes), std::end(kSizes), entry.key) != std::end(kSizes) ||
                          entry.key == "activation_checkpointing" || entry.key == "pipeline" || entry.key == "moe";
      if (!common) unclear.push_back(entry.key);
    }
    for (const std::string& name : unclear) section_.erase(name);
  }

 private:
  void complain(std::string_view name, std::string message, std::string hint) {
    config::Problems(report_, section_, key_).add(name, std::move(message), std::move(hint));
  }

  static const char* hint_for_size(const config::Node& written) {
    if (!written.is_float()) return "leave the key out for its default";
    constexpr double kMost = 1e15;  // whole numbers up to here are exact
    const double value = written.as_double();
    return std::abs(value) < kMost && value == std::floor(value) ? "write it without a point or an exponent"
                                                                 : "no job has that many ranks, or a part of one";
  }

  int64_t size(const char* name) const {
    const config::Node* written = section_.find(name);
    return written && written->is_int() ? written->as_int() : 1;
  }

  bool needs_map(const std::string& path, const config::Node& block) {
    if (block.is_map()) return true;
    complain(path, fmt::format("expected a mapping, got {}", config::show(block)), "leave it out for its defaults");
    const size_t dot = path.rfind('.');
    config::Node* parent = &section_;
    if (dot != std::string::npos) parent = const_cast<config::Node*>(section_.at_path(path.substr(0, dot)));
    parent->erase(path.substr(dot == std::string::npos ? 0 : dot + 1));
    return false;
  }

  config::Node& section_;
  config::Report& report_;
  SectionRemarks& remarks_;
  const std::string& key_;
};

}  // namespace

void prepare_section(config::Node& section, config::Report& report, SectionRemarks& remarks, const std::string& key) {
  if (!section.defects().empty() && !section.is_map()) return;  // config::read tells them
  translate_text(section);
  if (!section.is_map()) {
    if (!section.is_null()) {
      report.add({key, fmt::format("expected a mapping, got {}", config::show(section)),
                  fmt::format("write {}: {{}} for its defaults", key), section.origin()});
    }
    const config::Origin origin = section.origin();
    section = config::Node::map();
    section.set_origin(origin);
  }
  Rules rules(section, report, remarks, key);
  rules.loader_keys();
  const std::optional<Strategy> strategy = rules.strategy();
  rules.sizes();
  rules.checkpointing(strategy);
  rules.blocks();
  if (strategy) {
    rules.foreign_options(*strategy);
    rules.scope();
    rules.multimodal();
    rules.offload();
    if (remarks.keep_unchecked) keep_unchecked(section, section_schema(*strategy), remarks, key);
  } else {
    rules.drop_unclear();
  }
  section.set("_target_", config::Node::string(name_of(strategy.value_or(Strategy::kFsdp2))));
}

}  // namespace automodel::distributed
