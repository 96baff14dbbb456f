// The commands of the program, without their command lines: each takes what the user asked for and returns the exit
// code. Results go to stdout, logs and progress to stderr. A user's mistake is an Error that names every mistake.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/bench.h"
#include "train/device_choice.h"

namespace automodel::train {

enum class Format { kText, kJson };

// A recipe and what the command line changes of it.
struct RecipeSource {
  std::string path;
  std::vector<std::string> overrides;  // tokens as written: "--optimizer.lr", "1e-4", "--seed=3"
};

struct TrainOptions {
  RecipeSource recipe;
  std::optional<int> nproc_per_node;      // wins over the recipe's launch.nproc_per_node
  std::string hostfile;                   // at most one of hostfile and hosts is not empty
  std::string hosts;                      // "a:8,b:8"
  bool dry_run = false;                   // check everything that can be checked without starting ranks, then stop
  std::vector<std::string> command_line;  // argv, for starting the ranks
};
int run_train(const TrainOptions& options);

struct EvalOptions {
  RecipeSource recipe;
  Format format = Format::kText;
};
// The validation losses of a recipe's model.
int run_eval(const EvalOptions& options);

struct PlanOptions {
  RecipeSource recipe;
  std::optional<int64_t> world_size;  // nothing: the recipe's launch.nproc_per_node, else the launcher's ranks, else 1
  bool only_distributed = false;      // resolve the `distributed:` section alone; the rest of the recipe is not read
  int gpus_per_node = 0;              // how the mesh is drawn; 0: unknown
  std::vector<std::string> why;       // "tp_size=3": what forbids this value of the section
  Format format = Format::kText;
};
// What a job will be: its mesh, memory, traffic and schedule, without starting it.
int run_plan(const PlanOptions& options);

struct GenerateOptions {
  std::string model;  // a model folder, a checkpoint, or a hub id that is in the local cache
  std::optional<std::string> prompt;
  std::vector<int32_t> prompt_ids;  // instead of a prompt
  int64_t max_new_tokens = 64;
  double temperature = 1.0;  // 0: the most likely token, as --greedy
  int64_t top_k = 0;         // 0: all tokens
  double top_p = 1.0;
  uint64_t seed = 0;
  DeviceChoice device = DeviceChoice::kAuto;
  Format format = Format::kText;
};
int run_generate(const GenerateOptions& options);

// What this machine has, and how fast it is; with several ranks also how fast they exchange.
int run_doctor(Format format);

struct BenchOptions {
  BenchShape shape;
  std::optional<int> nproc_per_node;
  std::vector<std::string> command_line;  // argv, for starting the ranks
  Format format = Format::kText;
};
// Times training steps of a known shape.
int run_bench(const BenchOptions& options);

}  // namespace automodel::train
