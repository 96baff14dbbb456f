// The commands of the program. Each add_ function describes one on the command line; the one that is called leaves its
// work in the context.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "train/commands.h"

namespace CLI {
class App;
}

namespace automodel::cli {

struct Context {
  std::vector<std::string> command_line;   // argv
  std::vector<std::string> overrides;      // its --KEY.PATH VALUE tokens
  std::vector<CLI::App*> takes_overrides;  // the commands that read a recipe
  std::function<int()> action;             // of the command that was called; returns the exit code
};

// `context` outlives `app`.
void add_train(CLI::App& app, Context& context);
void add_eval(CLI::App& app, Context& context);
void add_config(CLI::App& app, Context& context);
void add_plan(CLI::App& app, Context& context);
void add_generate(CLI::App& app, Context& context);
void add_doctor(CLI::App& app, Context& context);
void add_bench(CLI::App& app, Context& context);

// Options that several commands have.
void add_recipe(CLI::App& command, Context& context, std::string& path);
// The recipe with the overrides of the command line. Throws Error(kUsage) when no recipe was named.
train::RecipeSource recipe_source(const std::string& path, const Context& context, const std::string& command);
void add_format(CLI::App& command, train::Format& format);
// --device, for commands without a recipe.
void add_device(CLI::App& command, train::DeviceChoice& device);
// Whether argv asks for a plan in JSON, whatever else is wrong with it.
bool plans_as_json(const std::vector<std::string>& arguments);

// Moves the overrides out of `arguments` (argv without the program) into the context. What stays is for CLI11:
// commands, their flags and positional words. A recipe as the first word means the command train.
void take_overrides(const CLI::App& app, Context& context, std::vector<std::string>& arguments);

}  // namespace automodel::cli
