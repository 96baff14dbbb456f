#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"

namespace automodel::cli {

void add_train(CLI::App& app, Context& context) {
  auto options = std::make_shared<train::TrainOptions>();
  CLI::App& command = *app.add_subcommand("train", "Train a model as a recipe says");
  add_recipe(command, context, options->recipe.path);
  command.add_option("--nproc-per-node,--nproc_per_node", options->nproc_per_node, "Ranks on each machine")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  auto* hostfile = command.add_option("--hostfile", options->hostfile, "Machines, in OpenMPI's format");
  hostfile->check(CLI::ExistingFile);
  command.add_option("--hosts", options->hosts, "Machines and their ranks: a:8,b:8")
      ->type_name("LIST")
      ->excludes(hostfile);
  command.add_flag("--dry-run", options->dry_run, "Check everything and show what would be started, then stop");
  command.footer(
      "Every other --KEY.PATH VALUE changes the recipe; see `automodel config --explain`.\n\n"
      "  automodel train recipes/quickstart.yaml\n"
      "  automodel train r.yaml --nproc-per-node 8 --optimizer.lr 1e-4 --step_scheduler.max_steps=100\n"
      "  automodel train r.yaml --hosts a:8,b:8\n"
      "  mpirun -np 16 automodel train r.yaml");
  command.callback([options, &context] {
    context.action = [options, &context] {
      options->recipe = recipe_source(options->recipe.path, context, "train");
      options->command_line = context.command_line;
      return train::run_train(*options);
    };
  });
}

}  // namespace automodel::cli
