#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"

namespace automodel::cli {

namespace {

constexpr int64_t kMostRanks = 1'000'000;  // of a plan: a line of its picture, and a number in a group, for each

}  // namespace

void add_plan(CLI::App& app, Context& context) {
  auto options = std::make_shared<train::PlanOptions>();
  CLI::App& command = *app.add_subcommand("plan", "Show what a job will be, at any size, without starting it");
  add_recipe(command, context, options->recipe.path);
  command.add_option("--world-size,--world_size", options->world_size, "Ranks of the job")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, kMostRanks));
  auto* only = command.add_option_function<std::string>(
      "--only", [options](const std::string&) { options->only_distributed = true; },
      "Plan this section alone: distributed");
  only->type_name("SECTION")->check(CLI::IsMember({"distributed"}).description(""));
  command.add_option("--gpus-per-node,--gpus_per_node", options->gpus_per_node, "Draw the mesh node by node")
      ->type_name("G")
      ->check(CLI::PositiveNumber);
  command.add_option("--why", options->why, "What forbids a value of the distributed section: tp_size=3; may repeat")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  add_format(command, options->format);
  command.footer(
      "Every other --KEY.PATH VALUE changes the recipe.\n\n"
      "  automodel plan r.yaml --world-size 1024 --gpus-per-node 8\n"
      "  automodel plan r.yaml --world-size 64 --only distributed --format json\n"
      "  automodel plan r.yaml --world-size 64 --why tp_size=3");
  command.callback([options, &context] {
    context.action = [options, &context] {
      options->recipe = recipe_source(options->recipe.path, context, "plan");
      return train::run_plan(*options);
    };
  });
}

}  // namespace automodel::cli
