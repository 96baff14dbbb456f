// Reads one section and nothing else, so that a plan needs no model, data or devices. `--why` reads it again with one
// key changed.
#include "train/plan_distributed.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "config/text.h"
#include "core/error.h"
#include "distributed/mesh_picture.h"
#include "distributed/setup_json.h"
#include "train/plan_errors.h"
#include "train/plan_pipeline.h"
#include "train/ranks.h"
#include "train/recipe_config.h"

namespace automodel::train {
namespace {

using json = nlohmann::ordered_json;
using distributed::DistributedSection;
using distributed::DistributedSetup;

// A section, read as far as it could be.
struct Resolved {
  config::Report report;
  distributed::SectionRemarks remarks;
  distributed::ParallelismSizes asked;
  std::optional<DistributedSetup> setup;
};

bool concerns_mesh(const config::Problem& problem) {
  static const std::vector<std::string> keys{
      "distributed",         "distributed.strategy", "distributed.dp_size", "distributed.dp_replicate_size",
      "distributed.tp_size", "distributed.cp_size",  "distributed.ep_size"};
  const bool size = problem.key == "distributed.pp_size" && !problem.message.starts_with("pp_size is");
  return size || std::find(keys.begin(), keys.end(), problem.key) != keys.end();
}

Resolved resolve(config::Node section, int64_t world_size, std::optional<double> timeout_minutes) {
  Resolved result;
  result.remarks.keep_unchecked = true;
  distributed::prepare_section(section, result.report, result.remarks);
  const auto read = config::read<DistributedSection>(section, result.report, "distributed");
  const auto& problems = result.report.problems();
  // With sizes that could not be read the mesh would be another one.
  if (std::any_of(problems.begin(), problems.end(), concerns_mesh)) return result;
  result.asked = distributed::sizes_of(read);
  config::Problems of_section(result.report, section, "distributed");
  result.setup = distributed::resolve_section(read, {world_size, timeout_minutes}, of_section, result.remarks.warnings);
  return result;
}

// Whether the recipe has the section. Where it has not, a section that was misspelt or put together wrongly must not
// silently become a default one.
void check_root(const config::Node& root, config::Report& report) {
  if (root.is_null()) {
    report.add({"distributed", "the recipe is empty", "write distributed: {} for the defaults", root.origin()});
  }
  if (root.find("distributed")) return;
  const config::Schema& schema = config::schema_of<distributed::FSDP2Section>();
  for (const config::Entry& entry : root.entries()) {
    const std::string meant = config::nearest(entry.key, {"distributed"});
    if (!meant.empty()) {
      report.add({entry.key, "unknown key", fmt::format("did you mean '{}'?", meant), entry.key_origin});
    } else if (schema.find(entry.key) && entry.key != "pipeline" && entry.key != "moe") {
      report.add({entry.key, fmt::format("{} belongs into the distributed section", entry.key),
                  fmt::format("write it below `distributed:`, as distributed.{}", entry.key), entry.key_origin});
    }
  }
}

std::optional<double> timeout_of(const config::Node& root) {
  const config::Node* written = root.at_path("dist_env.timeout_minutes");
  const bool number = written && (written->is_int() || written->is_float());
  return number ? std::optional(written->as_double()) : std::nullopt;
}

int64_t world_size_of(const PlanOptions& options, const config::Node& root) {
  if (options.world_size) return *options.world_size;
  const config::Node* written = root.at_path("launch.nproc_per_node");
  return written && written->is_int() && written->as_int() > 0 ? written->as_int() : ranks_here();
}

std::string text_of(const config::Problem& warning) {
  return fmt::format("{}: {}{}{}", warning.key, warning.message, warning.hint.empty() ? "" : "; ", warning.hint);
}

// What one KEY=VALUE would lead to.
struct Answer {
  std::string question;
  std::vector<config::Problem> problems;
  std::vector<std::string> warnings;  // that the recipe as it is does not cause
  std::string mesh;
};

Answer answer(const std::string& question, const config::Node& root, int64_t world_size, const Resolved& as_it_is) {
  const std::string prefix = question.starts_with("distributed.") ? "--" : "--distributed.";
  AM_CHECK(question.find('=') != std::string::npos && question.find('=') > 0, Fault::kUsage,
           "--why {}: expected KEY=VALUE, such as tp_size=3", question);
  config::Report report;
  config::Node changed = root;
  config::apply(changed, config::parse_overrides({prefix + question}, report));
  if (!report.empty()) return {question, report.problems(), {}, ""};
  const config::Node* section = changed.find("distributed");
  Resolved resolved = resolve(section ? *section : config::Node(), world_size, std::nullopt);
  Answer result{question, resolved.report.problems(), {}, ""};
  if (resolved.setup) result.mesh = distributed::mesh_line(resolved.setup->mesh_context);
  for (const config::Problem& warning : resolved.remarks.warnings) {
    const auto same = [&](const config::Problem& known) { return text_of(known) == text_of(warning); };
    if (std::ranges::none_of(as_it_is.remarks.warnings, same)) result.warnings.push_back(text_of(warning));
  }
  return result;
}

void print_text(const Resolved& resolved, const PlanOptions& options, const std::vector<Answer>& answers) {
  const DistributedSetup& setup = *resolved.setup;
  const distributed::PictureOptions picture{.gpus_per_node = options.gpus_per_node};
  fmt::print("strategy  {}\n", distributed::name_of(setup.strategy()));
  fmt::print("mesh      {}\n", distributed::mesh_line(setup.mesh_context));
  if (const auto& moe = setup.mesh_context.moe_mesh()) {
    fmt::print("experts   ep_shard {} x ep {}, laid over the ranks of {}\n", moe->size({"ep_shard"}), moe->size({"ep"}),
               setup.mesh_context.pp_enabled() ? "each pipeline stage" : "the job");
  }
  fmt::print("data      {} data-parallel ranks\n", setup.mesh_context.data_ranks());
  using distributed::ActivationCheckpointing;
  if (setup.activation_checkpointing != ActivationCheckpointing::kNone) {
    fmt::print("activation checkpointing  {}\n",
               setup.activation_checkpointing == ActivationCheckpointing::kFull ? "full" : "selective");
  }
  fmt::print("\nranks\n{}", distributed::mesh_picture(setup.mesh_context, picture));
  if (const std::string table = distributed::group_table(setup.mesh_context, picture); !table.empty()) {
    fmt::print("\ngroups\n{}", table);
  }
  if (setup.pipeline_config) {
    fmt::print("\npipeline\n{}", pipeline_lines(*setup.pipeline_config, setup.mesh_context.pp_size()));
  }
  const json data = distributed::to_json(setup, resolved.asked, resolved.remarks);
  std::vector<std::string> changed = distributed::changed_options(data);
  if (!changed.empty()) fmt::print("\noptions that differ from the default\n");
  for (const std::string& line : changed) fmt::print("  {}\n", line);
  for (const config::Problem& warning : resolved.remarks.warnings) fmt::print("\nwarning: {}\n", text_of(warning));
  for (const Answer& answer : answers) {
    if (answer.problems.empty())
      fmt::print("\n{}: nothing in the set-up forbids it: {}\n", answer.question, answer.mesh);
    for (const config::Problem& problem : answer.problems) {
      fmt::print("\n{}: {}\n", answer.question, text_of(problem));
    }
    for (const std::string& warning : answer.warnings) fmt::print("\n{}: warning: {}\n", answer.question, warning);
  }
}

json problem_json(const config::Problem& problem) {
  return {{"key", problem.key}, {"message", problem.message}, {"hint", problem.hint}};
}

void print_json(const Resolved& resolved, int64_t world_size, const std::vector<Answer>& answers) {
  json out = {{"status", "ok"}, {"world_size", world_size}, {"warnings", json::array()}};
  for (const config::Problem& warning : resolved.remarks.warnings) out["warnings"].push_back(text_of(warning));
  out["distributed"] = distributed::to_json(*resolved.setup, resolved.asked, resolved.remarks);
  for (const Answer& answer : answers) {
    json entry = {{"question", answer.question}, {"possible", answer.problems.empty()}, {"problems", json::array()}};
    for (const config::Problem& problem : answer.problems) entry["problems"].push_back(problem_json(problem));
    entry["warnings"] = answer.warnings;
    out["why"].push_back(std::move(entry));
  }
  fmt::print("{}\n", out.dump(-1, ' ', false, json::error_handler_t::replace));
}

int print_errors(const std::string& errors, Fault fault) {
  fmt::print("{{\"status\":\"error\",\"errors\":{}}}\n", errors);
  return exit_code(fault);
}

// Mistakes as an Error, or in JSON as part of the object.
int refuse(const config::Report& report, Format format) {
  if (format == Format::kText) report.throw_if_any();
  return print_errors(report.json(), Fault::kConfig);
}

int run(const PlanOptions& options) {
  config::Report report;
  const config::Node root = load_tree(options.recipe, report);
  check_root(root, report);
  if (!report.empty()) return refuse(report, options.format);
  const int64_t world_size = world_size_of(options, root);
  const config::Node* section = root.find("distributed");
  Resolved resolved = resolve(section ? *section : config::Node(), world_size, timeout_of(root));
  if (!resolved.report.empty()) return refuse(resolved.report, options.format);
  if (!section) {
    resolved.remarks.warnings.push_back({"distributed", "the recipe has no such section; these are its defaults",
                                         "write distributed: {} if they are meant", root.origin()});
  }
  std::vector<Answer> answers;
  for (const std::string& question : options.why) answers.push_back(answer(question, root, world_size, resolved));
  if (options.format == Format::kJson) {
    print_json(resolved, world_size, answers);
  } else {
    print_text(resolved, options, answers);
  }
  return 0;
}

}  // namespace

int plan_distributed(const PlanOptions& options) {
  if (options.format == Format::kText) return run(options);
  try {
    return run(options);
  } catch (const Error& error) {
    return print_errors(errors_json(error, options.recipe.path), error.fault());
  }
}

}  // namespace automodel::train
