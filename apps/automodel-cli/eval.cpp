#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"

namespace automodel::cli {

void add_eval(CLI::App& app, Context& context) {
  auto options = std::make_shared<train::EvalOptions>();
  CLI::App& command = *app.add_subcommand("eval", "Measure the validation losses of a recipe's model");
  add_recipe(command, context, options->recipe.path);
  add_format(command, options->format);
  command.footer(
      "Every other --KEY.PATH VALUE changes the recipe.\n\n"
      "  automodel eval recipes/quickstart.yaml --checkpoint.restore_from LOWEST_VAL");
  command.callback([options, &context] {
    context.action = [options, &context] {
      options->recipe = recipe_source(options->recipe.path, context, "eval");
      return train::run_eval(*options);
    };
  });
}

}  // namespace automodel::cli
