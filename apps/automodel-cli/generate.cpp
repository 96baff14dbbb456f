#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"

namespace automodel::cli {

void add_generate(CLI::App& app, Context& context) {
  auto options = std::make_shared<train::GenerateOptions>();
  CLI::App& command = *app.add_subcommand("generate", "Continue a text with a model");
  command.add_option("MODEL", options->model, "A model folder, a checkpoint, or a hub id in the local cache")
      ->required();
  auto* prompt = command.add_option_group("prompt");
  prompt->add_option("--prompt", options->prompt, "The text to continue")->type_name("TEXT");
  prompt->add_option("--prompt-ids", options->prompt_ids, "The same as token ids: 1,2,3")
      ->type_name("IDS")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  prompt->require_option(1);
  command.add_option("--max-new-tokens", options->max_new_tokens, "Tokens to add")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  auto* temperature = command.add_option("--temperature", options->temperature, "0: the most likely token each time");
  temperature->type_name("T")->check(CLI::NonNegativeNumber)->capture_default_str();
  command
      .add_flag_callback(
          "--greedy", [options] { options->temperature = 0; }, "The most likely token each time")
      ->excludes(temperature);
  command.add_option("--top-k", options->top_k, "Choose among this many tokens only; 0: all")
      ->type_name("K")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--top-p", options->top_p, "Choose among the most likely tokens that hold this much probability")
      ->type_name("P")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str();
  command.add_option("--seed", options->seed, "Seed of the choices")->type_name("S")->capture_default_str();
  add_device(command, options->device);
  add_format(command, options->format);
  command.footer(
      "  automodel generate checkpoints/quickstart/LATEST --prompt \"// \" --max-new-tokens 200\n"
      "  automodel generate /models/Llama-3.2-1B --prompt \"Once upon a time\" --greedy");
  command.callback([options, &context] { context.action = [options] { return train::run_generate(*options); }; });
}

}  // namespace automodel::cli
