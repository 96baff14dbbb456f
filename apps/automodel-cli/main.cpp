// Parses the command line, runs the command, and turns errors into messages and exit codes: 0 done, 2 the user's input
// is wrong, 1 a run failed. A plan in JSON is an object even then.
#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <exception>
#include <map>

#include "commands.h"
#include "core/error.h"
#include "core/log.h"
#include "train/plan_errors.h"

using namespace automodel;

namespace {

void describe_program(CLI::App& app, cli::Context& context, log::Level& level) {
  app.name("automodel");
  app.set_version_flag("--version", std::string("automodel ") + AUTOMODEL_VERSION);
  app.add_option("--log-level", level, "What is logged: debug, info, warning, error or off")
      ->type_name("LEVEL")
      ->transform(CLI::CheckedTransformer(std::map<std::string, log::Level>{{"debug", log::Level::kDebug},
                                                                            {"info", log::Level::kInfo},
                                                                            {"warning", log::Level::kWarning},
                                                                            {"error", log::Level::kError},
                                                                            {"off", log::Level::kOff}})
                      .description(""))
      ->default_str("info");
  app.require_subcommand(1);
  app.fallthrough();
  cli::add_train(app, context);
  cli::add_eval(app, context);
  cli::add_plan(app, context);
  cli::add_config(app, context);
  cli::add_generate(app, context);
  cli::add_doctor(app, context);
  cli::add_bench(app, context);
  app.footer(
      "Examples:\n"
      "  automodel train recipes/quickstart.yaml\n"
      "  automodel train r.yaml --nproc-per-node 8 --optimizer.lr 1e-4\n"
      "  automodel plan r.yaml --world-size 1024 --gpus-per-node 8\n"
      "  automodel config r.yaml\n"
      "  automodel config --explain optimizer.lr\n"
      "  automodel generate checkpoints/quickstart/LATEST --prompt \"// \"\n\n"
      "`automodel COMMAND --help` has the flags of a command.");
}

int run(int argc, char** argv) {
  CLI::App app("Trains Hugging Face-format language models from YAML recipes.");
  cli::Context context;
  log::Level level = log::Level::kInfo;
  describe_program(app, context, level);
  context.command_line.assign(argv, argv + argc);
  std::vector<std::string> arguments(argv + 1, argv + argc);
  cli::take_overrides(app, context, arguments);
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0 && cli::plans_as_json(context.command_line)) fail(Fault::kUsage, "{}", error.what());
    return app.exit(error) == 0 ? 0 : exit_code(Fault::kUsage);
  }
  log::configure(level);
  return context.action();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    if (exit_code(error.fault()) == exit_code(Fault::kUsage) && cli::plans_as_json({argv, argv + argc})) {
      fmt::print("{{\"status\":\"error\",\"errors\":{}}}\n", train::errors_json(error, ""));
      return exit_code(error.fault());
    }
    fmt::print(stderr, "automodel: {} error: {}\n", name_of(error.fault()), error.what());
    return exit_code(error.fault());
  } catch (const std::exception& error) {
    fmt::print(stderr, "automodel: error: {}\n", error.what());
    return 1;
  }
}
