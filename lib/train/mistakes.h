// Everything that is wrong with a job, found in several stages and told at once: mistakes of the recipe, and what turns
// out to be wrong with the model, the data and the checkpoints that it names.
#pragma once

#include <functional>
#include <initializer_list>
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
  // Of the recipe.
  config::Report& report() { return report_; }

  // Whether a key at the top level is unknown: the section that it was meant to be may be missed elsewhere.
  bool has_stray_section() const;

  // Runs a stage. An Error in it that is the user's to mend is kept; true when there was none.
  bool attempt(const std::function<void()>& stage);

  // Throws one Error with everything: the recipe's report, then the errors of the stages, equal ones once. Its fault is
  // kConfig when the recipe is wrong itself, else the first error's.
  void throw_if_any() const;

 private:
  config::Report report_;
  std::vector<Error> errors_;
};

}  // namespace automodel::train
