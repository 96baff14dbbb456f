// A small recipe that uses every feature of the description mechanism. It is not the schema of any room.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/config.h"

namespace sample {

namespace config = automodel::config;

enum class Strategy { kFsdp2, kDdp, kMegatron };
enum class Consolidated { kNever, kFinal, kEvery };

struct Policy {
  std::optional<automodel::DType> param_dtype = automodel::DType::kBF16;
  bool cast = true;
};

struct Sizes {
  std::optional<int64_t> dp_size;
  int tp_size = 1;
  int pp_size = 1;
};

struct Distributed {
  Strategy strategy = Strategy::kFsdp2;
  Sizes sizes;
  std::optional<Policy> mp_policy;
  bool prefetch = false;
  Strategy fallback = Strategy::kDdp;
  std::optional<automodel::DType> autocast_dtype = automodel::DType::kBF16;
};

struct Scheduler {
  int64_t global_batch_size = 32;
  int64_t local_batch_size = 1;
  std::optional<int64_t> max_steps;
  std::variant<int64_t, std::string, std::vector<std::string>> signal = std::string("SIGTERM");
};

struct Adam {
  double lr = 1e-3;
  std::array<double, 2> betas{0.9, 0.999};
  double weight_decay = 0;
};

struct AdamW {
  std::string target;
  double lr = 1e-3;
  std::array<double, 2> betas{0.9, 0.999};
  double weight_decay = 0.01;
};

struct Collate {
  std::optional<int> pad_seq_len_divisible;
};

struct Dataset {
  std::string name;
  std::string split = "train";
  std::optional<std::string> revision;
  std::variant<std::string, Collate> collate_fn = std::string("default");
  std::vector<std::string> columns;
};

struct Override {
  std::string pattern;
  double lr_mult = 1;
};

struct Model {
  std::string path;
  std::optional<automodel::DType> dtype;
  config::Node extra;
};

struct Tracker {
  std::string project = "automodel";
  std::string api_key;
  std::string handle;
  std::map<std::string, double> weights;
};

struct Recipe {
  std::string recipe;
  int64_t seed = 42;
  Scheduler step_scheduler;
  Model model;
  Distributed distributed;
  std::variant<Adam, AdamW> optimizer;
  std::map<std::string, Dataset> datasets;
  std::vector<Override> groups;
  Consolidated consolidated = Consolidated::kFinal;
  std::optional<Tracker> wandb;
  config::Node raw;
};

void describe(config::Names<Strategy>& n);
void describe(config::Names<Consolidated>& n);
void describe(config::Fields<Policy>& f);
void describe(config::Fields<Sizes>& f);
void describe(config::Fields<Distributed>& f);
void describe(config::Fields<Scheduler>& f);
void describe(config::Fields<Adam>& f);
void describe(config::Fields<AdamW>& f);
void describe(config::Fields<Collate>& f);
void describe(config::Fields<Dataset>& f);
void describe(config::Fields<Override>& f);
void describe(config::Fields<Model>& f);
void describe(config::Fields<Tracker>& f);
void describe(config::Fields<Recipe>& f);

// An environment for tests: these variables and no others.
config::Environment variables(std::map<std::string, std::string> values);

// A recipe without mistakes that touches most keys.
extern const char* const kRecipe;

}  // namespace sample
