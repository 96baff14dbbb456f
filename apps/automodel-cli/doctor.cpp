#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"

namespace automodel::cli {

void add_doctor(CLI::App& app, Context& context) {
  auto format = std::make_shared<train::Format>(train::Format::kText);
  CLI::App& command = *app.add_subcommand("doctor", "Show what this machine has and how fast it is");
  add_format(command, *format);
  command.footer(
      "Under mpirun it also measures the exchange between the ranks:\n\n"
      "  automodel doctor\n"
      "  mpirun -n 2 --bind-to none automodel doctor");
  command.callback([format, &context] { context.action = [format] { return train::run_doctor(*format); }; });
}

}  // namespace automodel::cli
