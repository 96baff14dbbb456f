// Everything that is wrong with a job, found in several stages and told at once: mistakes of the recipe, and what turns
// out to be wrong with the model, the data and the checkpoints that it names.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "config/report.h"
#include "core/error.h"

namespace automodel::train {

// Whether nothing is reported in these top-level sections, so that they can be acted on. A name that ends in '*' stands
// for all that begin so.
bool intact(const config::Report& report, std::initializer_list<std::string_view> sections);

class Mistakes {
 public:
  // What is found goes to `report`, which outlives this object.
  explicit Mistakes(config::Report& report) : report_(report) {}
  config::Report& report() { return report_; }

  // Whether a key at the top level is unknown: the section that it was meant to be may be missed elsewhere.
  bool has_stray_section() const;

  // Runs a stage that acts on a key of the recipe, such as "dataset.path". An Error in it that is the user's to mend
  // becomes a problem at that key; true when there was none.
  bool attempt(const config::Node& recipe, const std::string& key, const std::function<void()>& stage);

  // Throws one Error with everything. Its fault is the stages', when they found everything and agree, else kConfig.
  void throw_if_any() const;

 private:
  config::Report& report_;
  std::vector<Fault> faults_;  // of the stages that failed
};

}  // namespace automodel::train
