// Shows what a recipe means: every key with its value and where the value was written.
#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "config/config.h"
#include "core/error.h"
#include "train/recipe_config.h"

namespace automodel::cli {

namespace {

struct ConfigOptions {
  train::RecipeSource recipe;
  std::optional<std::string> explain;
  std::optional<int> world_size;
  train::Format format = train::Format::kText;
};

int print_json(const train::LoadedRecipe& recipe) {
  const config::Node tree = recipe.resolved();
  nlohmann::ordered_json out = {{"status", "ok"},
                                {"config", nlohmann::ordered_json::parse(config::dump_json(tree))},
                                {"origins", nlohmann::ordered_json::object()},
                                {"notes", nlohmann::ordered_json::array()}};
  for (const config::Setting& setting : config::settings(tree)) out["origins"][setting.key] = setting.origin;
  for (const config::Problem& note : recipe.notes) {
    out["notes"].push_back({{"key", note.key}, {"message", note.message}, {"source", note.origin.text()}});
  }
  fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  return 0;
}

int print_problems_json(const std::string& problems) {
  fmt::print("{{\"status\": \"error\", \"errors\": {}}}\n", problems);
  return exit_code(Fault::kConfig);
}

int run_config(const ConfigOptions& options) {
  if (options.explain) {
    fmt::print("{}\n", config::explain<train::RecipeConfig>(*options.explain));
    return 0;
  }
  const bool json = options.format == train::Format::kJson;
  config::Report report;
  const train::LoadedRecipe recipe = train::load_recipe(options.recipe, report);
  if (options.world_size) train::check_against_world(recipe, *options.world_size, report);
  if (json && !report.empty()) return print_problems_json(report.json());
  report.throw_if_any();
  if (json) return print_json(recipe);
  fmt::print("{}", recipe.yaml(true));
  for (const config::Problem& note : recipe.notes) {
    fmt::print(stderr, "note: {}: {} {}\n", note.origin.text(), note.key, note.message);
  }
  return 0;
}

}  // namespace

void add_config(CLI::App& app, Context& context) {
  auto options = std::make_shared<ConfigOptions>();
  CLI::App& command = *app.add_subcommand("config", "Show the resolved recipe, or explain a key");
  add_recipe(command, context, options->recipe.path);
  command.add_option("--explain", options->explain, "What a key means; without KEY: all sections")
      ->type_name("KEY")
      ->expected(0, 1)
      ->default_str("");
  command.add_option("--world-size", options->world_size, "Check the recipe for this many ranks too")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  add_format(command, options->format);
  command.footer(
      "Every other --KEY.PATH VALUE changes the recipe.\n\n"
      "  automodel config recipes/quickstart.yaml --optimizer.lr 1e-4\n"
      "  automodel config --explain optimizer.lr");
  command.callback([options, &context] {
    context.action = [options, &context] {
      if (!options->explain) options->recipe = recipe_source(options->recipe.path, context, "config");
      return run_config(*options);
    };
  });
}

}  // namespace automodel::cli
