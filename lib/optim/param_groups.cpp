#include "optim/param_groups.h"

#include <fmt/core.h>

#include <memory>
#include <optional>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.h"

namespace automodel::optim {

namespace {

struct Deleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

class Pattern {
 public:
  // `error` is set when the text is not a regular expression.
  Pattern(const std::string& text, std::optional<std::string>& error) {
    int number = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF, &number, &offset, nullptr));
    if (!code_) {
      PCRE2_UCHAR message[256];
      pcre2_get_error_message(number, message, sizeof message);
      error = fmt::format("'{}' is not a regular expression: {} at offset {}", text,
                          reinterpret_cast<const char*>(message), offset);
      return;
    }
    match_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  }

  bool found_in(const std::string& name) const {
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0, match_.get(),
                       nullptr) >= 0;
  }

 private:
  std::unique_ptr<pcre2_code, Deleter> code_;
  std::unique_ptr<pcre2_match_data, Deleter> match_;
};

}  // namespace

void describe(config::Fields<ParamGroupOverride>& f) {
  f.doc("Another learning rate and decay for some parameters.");
  f("pattern", &ParamGroupOverride::pattern, "Regular expression, searched for in parameter names.").required();
  f("lr_mult", &ParamGroupOverride::lr_mult, "Times the learning rate.").at_least(0);
  f("wd_mult", &ParamGroupOverride::wd_mult, "Times the weight decay.").at_least(0);
  f.check([](const ParamGroupOverride& o, config::Problems& problems) {
    std::optional<std::string> error;
    Pattern pattern(o.pattern, error);
    if (error) problems.add("pattern", *error);
  });
}

GroupAssignment assign_groups(const std::vector<ParamGroupOverride>& overrides, const std::vector<std::string>& names) {
  std::vector<Pattern> patterns;
  for (const ParamGroupOverride& override : overrides) {
    std::optional<std::string> error;
    patterns.emplace_back(override.pattern, error);
    if (error) fail(Fault::kConfig, "optimizer.param_group_overrides: {}", *error);
  }
  GroupAssignment result;
  std::vector<bool> used(overrides.size(), false);
  for (const std::string& name : names) {
    Multipliers multipliers;
    for (size_t i = 0; i < patterns.size(); ++i) {
      if (!patterns[i].found_in(name)) continue;
      multipliers = {overrides[i].lr_mult, overrides[i].wd_mult};
      used[i] = true;
      break;
    }
    result.multipliers.push_back(multipliers);
  }
  for (size_t i = 0; i < overrides.size(); ++i) {
    if (used[i]) continue;
    result.warnings.push_back(
        fmt::format("optimizer.param_group_overrides: '{}' applies to no parameter", overrides[i].pattern));
  }
  return result;
}

}  // namespace automodel::optim
