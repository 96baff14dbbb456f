#include "train/plan_recipe.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/error.h"
#include "train/plan_errors.h"
#include "train/ranks.h"

namespace automodel::train {
namespace {

// As many ranks as `train` would use.
int ranks_to_plan(const PlanOptions& options) {
  if (options.world_size) return static_cast<int>(*options.world_size);
  config::Report report;
  LoadedRecipe recipe = load_recipe(options.recipe, report);
  int64_t here = ranks_here();
  return static_cast<int>(here > 1 || !report.empty() ? here : recipe.config.launch.nproc_per_node.value_or(1));
}

std::optional<PlannedRecipe> plan_on(const RecipeSource& recipe, int world_size, config::Report& report) {
  PlannedRecipe planned{prepare_from_config(recipe, world_size, report), {}};
  if (!report.empty()) return std::nullopt;
  planned.plan = plan_job(planned.job);
  return planned;
}

// A word is a key of the `distributed` section, unless only the recipe has such a one.
std::string path_of(const std::string& key) {
  if (key.find('.') != std::string::npos) return key;
  bool in_section = config::schema_of<distributed::FSDP2Section>().find(key) != nullptr ||
                    config::schema_of<distributed::DDPSection>().find(key) != nullptr ||
                    config::schema_of<distributed::MegatronFSDPSection>().find(key) != nullptr;
  bool in_recipe = config::schema_of<RecipeConfig>().find(key) != nullptr;
  return in_section || !in_recipe ? "distributed." + key : key;
}

WhyAnswer answer(const PlanOptions& options, const std::string& question, int world_size) {
  size_t equals = question.find('=');
  AM_CHECK(equals != std::string::npos && equals > 0, Fault::kUsage, "--why {}: expected KEY=VALUE, such as tp_size=2",
           question);
  std::string key = question.substr(0, equals);
  key.erase(0, key.find_first_not_of('-'));
  WhyAnswer out;
  out.value = question.substr(equals + 1);
  RecipeSource recipe = options.recipe;
  if (key == "world_size") {
    out.key = key;
    const char* end = out.value.data() + out.value.size();
    auto [stop, error] = std::from_chars(out.value.data(), end, world_size);
    AM_CHECK(error == std::errc() && stop == end && world_size > 0, Fault::kUsage,
             "--why {}: expected a number of ranks, from 1 to {}", question, std::numeric_limits<int>::max());
  } else {
    out.key = path_of(key);
    recipe.overrides.push_back(fmt::format("--{}={}", out.key, out.value));
  }
  try {
    config::Report report;
    out.changed = plan_on(recipe, world_size, report);
    if (out.changed) return out;
    out.forbidden = report.text();
    out.forbidden_json = report.json();
  } catch (const Error& error) {
    if (error.fault() == Fault::kBug) throw;
    out.forbidden = error.what();
    out.forbidden_json = errors_json(error, options.recipe.path);
  }
  return out;
}

int print_mistakes(const std::string& problems) {
  nlohmann::ordered_json out{{"status", "error"}, {"errors", nlohmann::ordered_json::parse(problems)}};
  fmt::print("{}\n", out.dump(2));
  return exit_code(Fault::kConfig);
}

int plan_and_print(const PlanOptions& options) {
  int world_size = ranks_to_plan(options);
  config::Report report;
  auto planned = plan_on(options.recipe, world_size, report);
  if (!planned) {
    if (options.format == Format::kText) report.throw_if_any();
    return print_mistakes(report.json());
  }
  std::vector<WhyAnswer> answers;
  for (const std::string& question : options.why) answers.push_back(answer(options, question, world_size));
  if (options.format == Format::kJson) {
    fmt::print("{}\n", plan_json(*planned, answers));
  } else if (answers.empty()) {
    fmt::print("{}", plan_text(*planned, options.gpus_per_node));
  } else {
    for (const WhyAnswer& a : answers) fmt::print("{}", why_text(*planned, a));
  }
  return 0;
}

}  // namespace

int plan_recipe(const PlanOptions& options) {
  if (options.format == Format::kText) return plan_and_print(options);
  try {
    return plan_and_print(options);
  } catch (const Error& error) {
    if (exit_code(error.fault()) != exit_code(Fault::kConfig)) throw;
    return print_mistakes(errors_json(error, options.recipe.path));
  }
}

}  // namespace automodel::train
