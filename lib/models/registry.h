// The families, by `model_type` of a Hugging Face config.json.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config/node.h"
#include "config/report.h"
#include "config/schema.h"
#include "models/causal_lm.h"
#include "models/tensor_plan.h"

namespace automodel::models {

// A family: one source file that turns a config.json into a model.
struct Family {
  const char* model_type;
  const char* architecture;  // as `architectures` of config.json names it
  // Reads the config, reports its mistakes, and builds the model when there are none (nullptr otherwise).
  std::unique_ptr<CausalLM> (*build)(const config::Node& config, const TensorCuts& cuts, config::Report& report);
  // Tensors that checkpoints of this family may hold and that are no weights ('*' stands for any text).
  std::vector<std::string> ignorable;
  // The fields of config.json that the family reads.
  const config::Schema& (*schema)();
};

extern const Family kLlama;
extern const Family kMistral;
extern const Family kMixtral;
extern const Family kQwen2;
extern const Family kQwen3;
extern const Family kQwen3Moe;
extern const Family kGpt2;

// Every supported family, in the order of their names.
const std::vector<const Family*>& families();

// The family of a config.json. Throws Error(kCheckpoint) when `model_type` is missing or unsupported, naming the file,
// the value, the supported ones and the nearest.
const Family& family_of(const config::Node& config);

// The same as a value: nothing, and a problem at `model_type`, instead of an Error.
const Family* find_family(const config::Node& config, config::Report& report);

// The fields that a config.json of this family may be expected to have: those that the family reads, under all their
// names, and those that every config has. Real files hold others too.
std::vector<std::string> field_names(const Family& family);

// family_of + build; throws Error(kConfig) with every mistake of the config.
std::unique_ptr<CausalLM> build(const config::Node& config, const TensorCuts& cuts = {});

}  // namespace automodel::models
