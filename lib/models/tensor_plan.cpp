#include "models/tensor_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <vector>

#include "config/text.h"
#include "models/causal_lm.h"

namespace automodel::models {
namespace {

enum class Side { kNone, kOutputs, kInputs };

// What a plan's patterns may name: something with a weight.
struct Module {
  std::string name;
  std::string whole;  // see TensorCuts; empty with kNone
  Side side = Side::kNone;
  bool expert = false;
};

struct Style {
  const char* name;
  Side side;
};
constexpr Style kStyles[] = {
    {"colwise", Side::kOutputs},    {"colwise_rep", Side::kOutputs},    {"rowwise", Side::kInputs},
    {"rowwise_rep", Side::kInputs}, {"sequence_parallel", Side::kNone}, {"replicated_with_grad_allreduce", Side::kNone},
    {"gather", Side::kNone},        {"local_colwise", Side::kNone},     {"local_rowwise", Side::kNone}};
constexpr const char* kWholePlan = "llama_nemotron_super_tp_plan";
const TensorCuts kNothing{std::set<std::string>{}};

std::optional<Side> side_of(const std::string& style) {
  for (const Style& known : kStyles)
    if (style == known.name) return known.side;
  return style.starts_with("ep_") ? std::optional(Side::kNone) : std::nullopt;
}

const char* style_for(Side side) {
  return side == Side::kOutputs ? "colwise" : "rowwise";
}

std::string parent_of(const std::string& name) {
  return name.substr(0, name.rfind('.'));
}

// Whether `text` is `pattern`, in which * stands for any text.
bool fits(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] != '*') return !text.empty() && text[0] == pattern[0] && fits(pattern.substr(1), text.substr(1));
  for (size_t skipped = 0; skipped <= text.size(); ++skipped)
    if (fits(pattern.substr(1), text.substr(skipped))) return true;
  return false;
}

bool names(std::string_view pattern, std::string_view module) {
  if (fits(pattern, module)) return true;
  const size_t dot = module.find('.');
  return dot != std::string_view::npos && fits(pattern, module.substr(dot + 1));
}

// Whether the pattern names something that the module is part of.
bool contains(std::string_view pattern, std::string module) {
  while (module.find('.') != std::string::npos)
    if (module = parent_of(module); names(pattern, module)) return true;
  return false;
}

// "model.layers.3.mlp.up_proj" as a plan would write it.
std::string pattern_of(const std::string& module) {
  std::string out;
  for (size_t at = 0; at <= module.size();) {
    const size_t end = std::min(module.find('.', at), module.size());
    const std::string part = module.substr(at, end - at);
    const bool number = std::ranges::all_of(part, [](unsigned char c) { return std::isdigit(c) != 0; });
    out += (at > 0 ? "." : "") + (number ? "*" : part);
    at = end + 1;
  }
  return out;
}

std::vector<Module> modules_of(CausalLM& model) {
  const std::string suffix = ".weight";
  std::vector<Module> out;
  const auto add = [&](const nn::Param& p, bool root) {
    if (!p.name.ends_with(suffix)) return;
    Module m{p.name.substr(0, p.name.size() - suffix.size()), {}, Side::kNone, p.expert >= 0};
    if (p.split.dim >= 0) {
      m.side = p.split.inputs ? Side::kInputs : Side::kOutputs;
      m.whole = root ? m.name : parent_of(m.name);
    }
    out.push_back(std::move(m));
  };
  for (const nn::Param* p : model.root_params()) add(*p, true);
  if (model.info().tied_head) out.push_back({"lm_head", "lm_head", Side::kOutputs});
  for (int i = 0; i < model.layers(); ++i)
    for (const nn::Param* p : model.layer_params(i)) add(*p, false);
  return out;
}

class Reader {
 public:
  Reader(CausalLM& model, config::Problems& problems)
      : model_(model), modules_(modules_of(model)), problems_(problems) {}

  TensorCuts named(const std::string& name) {
    const std::string last = name.substr(name.rfind('.') + 1);
    if (name == "auto") return {};
    if (last != kWholePlan) {
      problems_.add("tp_plan", fmt::format("there is no plan '{}', and nothing that a recipe names is executed", name),
                    fmt::format("write {}, or a style for each pattern of module names, or leave it out for the "
                                "model's own plan",
                                kWholePlan));
      return kNothing;
    }
    if (std::ranges::any_of(modules_, [](const Module& m) { return m.whole.ends_with(".self_attn"); })) return {};
    problems_.add("tp_plan",
                  fmt::format("{} is about other modules than a {} model has", name, model_.info().model_type),
                  "leave it out for the model's own plan");
    return kNothing;
  }

  TensorCuts mapped(const std::map<std::string, std::string>& plan) {
    for (const auto& [pattern, style] : plan) apply(pattern, style);
    if (sound_) check_wholes();
    if (sound_) check_tied_head();
    TensorCuts cuts = kNothing;
    if (!sound_) return cuts;
    for (const auto& [name, pattern] : cut_)
      for (const Module& m : modules_)
        if (m.name == name) cuts.wholes->insert(m.whole);
    return cuts;
  }

 private:
  void complain(const std::string& pattern, std::string message, std::string hint) {
    sound_ = false;
    problems_.add("tp_plan." + pattern, std::move(message), std::move(hint));
  }

  void apply(const std::string& pattern, const std::string& style) {
    const std::optional<Side> side = side_of(style);
    if (!side) complain(pattern, fmt::format("there is no style '{}'", style), style_hint(style));
    bool found = false;
    for (const Module& module : modules_) {
      if (!names(pattern, module.name)) continue;
      found = true;
      if (side && *side != Side::kNone && !cut(module, *side, pattern, style)) return;
    }
    // Styles that cut nothing are also given to what contains modules.
    if (side == Side::kNone)
      found |= std::ranges::any_of(modules_, [&](const Module& m) { return contains(pattern, m.name); });
    if (!found) complain(pattern, "no module of the model has such a name", pattern_hint(pattern));
  }

  // False: it cannot be cut so, which is said once for a pattern.
  bool cut(const Module& module, Side side, const std::string& pattern, const std::string& style) {
    if (module.expert) {
      complain(pattern, fmt::format("{} is '{}', but tensor-parallel ranks do not cut experts", module.name, style),
               "leave it out; ep_size shares experts out");
      return false;
    }
    if (module.side == Side::kNone) {
      complain(pattern, fmt::format("{} is '{}', but it is whole on every rank", module.name, style),
               "leave it out, or write sequence_parallel for a norm");
      return false;
    }
    if (module.side != side) {
      complain(pattern, fmt::format("{} is '{}', but it is cut the other way", module.name, style),
               fmt::format("write {}", style_for(module.side)));
      return false;
    }
    cut_.emplace(module.name, pattern);
    return true;
  }

  // Of the modules that can only be cut together, all or none.
  void check_wholes() {
    struct Parts {
      std::vector<std::string> there, missing, wanted;
    };
    std::map<std::string, Parts> wholes;
    for (const Module& m : modules_) {
      if (m.side == Side::kNone) continue;
      Parts& parts = wholes[m.whole];
      (cut_.contains(m.name) ? parts.there : parts.missing).push_back(m.name);
      if (!cut_.contains(m.name)) parts.wanted.push_back(pattern_of(m.name) + ": " + style_for(m.side));
    }
    std::set<std::vector<std::string>> told;  // once for all layers
    for (const auto& [name, parts] : wholes) {
      if (parts.there.empty() || parts.missing.empty() || !told.insert(parts.wanted).second) continue;
      complain(cut_.at(parts.there[0]),
               fmt::format("{} is cut, but not {}: they can only be cut together", parts.there[0],
                           config::joined(parts.missing, ", ")),
               fmt::format("add {}, or leave all of {} out", config::joined(parts.wanted, ", "), pattern_of(name)));
    }
  }

  void check_tied_head() {
    if (!model_.info().tied_head) return;
    const std::string& embedding = modules_.front().name;
    if (cut_.contains(embedding) == cut_.contains("lm_head")) return;
    const bool head = cut_.contains("lm_head");
    complain(cut_.at(head ? "lm_head" : embedding),
             fmt::format("{} is cut, but {} is not, and they are one weight", head ? "lm_head" : embedding,
                         head ? embedding : "lm_head"),
             head ? fmt::format("add {}: rowwise, or leave both out", embedding)
                  : "add lm_head: colwise, or leave both out");
  }

  std::string style_hint(const std::string& style) const {
    std::vector<std::string> known;
    for (const Style& s : kStyles) known.emplace_back(s.name);
    const std::string near = config::nearest(style, known);
    return (near.empty() ? "" : fmt::format("did you mean '{}'? ", near)) + "styles are " +
           config::joined(known, ", ") + ", ep_*";
  }

  std::string pattern_hint(const std::string& pattern) const {
    std::vector<std::string> known, inside;
    const auto add = [](std::vector<std::string>& to, std::string name) {
      if (std::ranges::find(to, name) == to.end()) to.push_back(std::move(name));
    };
    for (const Module& m : modules_) {
      if (!m.expert) add(known, pattern_of(m.name));
      if (names(pattern, parent_of(m.name)) && !m.expert) add(inside, pattern_of(m.name));
    }
    if (!inside.empty()) return "name what is in it: " + config::joined(inside, ", ");
    const std::string near = config::nearest(pattern, known);
    return near.empty() ? "names are " + config::joined(known, ", ") : "did you mean '" + near + "'?";
  }

  CausalLM& model_;
  std::vector<Module> modules_;  // the embedding first
  config::Problems& problems_;
  std::map<std::string, std::string> cut_;  // modules, and the patterns that named them
  bool sound_ = true;
};

}  // namespace

TensorCuts cuts_of(CausalLM& model, const distributed::TpPlan& plan, config::Problems& problems) {
  Reader reader(model, problems);
  if (const auto* name = std::get_if<std::string>(&plan)) return reader.named(*name);
  return reader.mapped(std::get<std::map<std::string, std::string>>(plan));
}

}  // namespace automodel::models
