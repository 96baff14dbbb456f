// Overrides are free keys with values, which CLI11 cannot know apart from stray words; so they are taken out before it
// parses: every --key that is no flag of the command, with its value.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "commands.h"
#include "core/error.h"

namespace automodel::cli {

namespace {

bool is_recipe(const std::string& word) {
  return word.ends_with(".yaml") || word.ends_with(".yml");
}

// Keys of a recipe are words joined by '_'; a '-' before the first dot is a flag, perhaps a mistyped one.
bool is_override(const CLI::App& command, const CLI::App& app, const std::string& token) {
  if (!token.starts_with("--") || token.size() == 2) return false;
  const std::string name = token.substr(0, token.find('='));
  if (command.get_option_no_throw(name) || app.get_option_no_throw(name)) return false;
  return name.substr(2, name.find('.') - 2).find('-') == std::string::npos;
}

const CLI::App* command_of(const CLI::App& app, const std::string& word) {
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == word) return command;
  }
  return nullptr;
}

}  // namespace

void add_recipe(CLI::App& command, Context& context, std::string& path) {
  auto* positional = command.add_option("RECIPE", path, "The recipe, a YAML file");
  command.add_option("-c,--config", path, "The same, as an option")->type_name("RECIPE")->excludes(positional);
  context.takes_overrides.push_back(&command);
}

train::RecipeSource recipe_source(const std::string& path, const Context& context, const std::string& command) {
  AM_CHECK(!path.empty(), Fault::kUsage, "{0} needs a recipe: automodel {0} RECIPE", command);
  return {path, context.overrides};
}

void add_format(CLI::App& command, train::Format& format) {
  auto* option = command.add_option_function<std::string>(
      "--format",
      [&format](const std::string& name) { format = name == "json" ? train::Format::kJson : train::Format::kText; },
      "How results are printed: text or json");
  option->type_name("FORMAT")->check(CLI::IsMember({"text", "json"}).description(""))->default_str("text");
}

void add_device(CLI::App& command, train::DeviceChoice& device) {
  using train::DeviceChoice;
  const std::map<std::string, DeviceChoice> names{
      {"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}};
  auto* option = command.add_option_function<std::string>(
      "--device", [&device, names](const std::string& name) { device = names.at(name); },
      "What to compute on: auto (cuda where it can be used), cpu or cuda");
  option->type_name("DEVICE")->check(CLI::IsMember({"auto", "cpu", "cuda"}).description(""))->default_str("auto");
}

bool plans_as_json(const std::vector<std::string>& arguments) {
  const auto has = [&](const char* word) { return std::ranges::find(arguments, word) != arguments.end(); };
  const auto flag = std::ranges::find(arguments, "--format");
  const bool separate = flag != arguments.end() && flag + 1 != arguments.end() && flag[1] == "json";
  return has("plan") && (separate || has("--format=json"));
}

void take_overrides(const CLI::App& app, Context& context, std::vector<std::string>& arguments) {
  if (!arguments.empty() && is_recipe(arguments[0])) arguments.insert(arguments.begin(), "train");
  auto at = arguments.begin();
  const CLI::App* command = nullptr;
  while (at != arguments.end() && !command) command = command_of(app, *at++);
  const auto& readers = context.takes_overrides;
  if (std::find(readers.begin(), readers.end(), command) == readers.end()) return;
  std::vector<std::string> kept(arguments.begin(), at);
  for (; at != arguments.end(); ++at) {
    if (!is_override(*command, app, *at)) {
      kept.push_back(*at);
      continue;
    }
    context.overrides.push_back(*at);
    const bool has_value = at->find('=') != std::string::npos;
    if (!has_value && at + 1 != arguments.end() && !(at + 1)->starts_with("--")) context.overrides.push_back(*++at);
  }
  arguments = std::move(kept);
}

}  // namespace automodel::cli
