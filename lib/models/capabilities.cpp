#include "models/capabilities.h"

#include <fmt/core.h>

#include <algorithm>

namespace automodel::models {

namespace {

// Something of the model that an axis cuts, and the sizes that can.
struct Amount {
  int64_t count;
  const char* what;
  bool may_be_uneven = false;
  bool may_be_shared = false;  // several ranks may have the same one

  bool fits(int64_t size) const {
    if (may_be_shared && size % count == 0) return true;
    if (!may_be_uneven) return count % size == 0;
    // Parts of ceil(count / size), the last one shorter; none may be empty.
    return (size - 1) * ((count + size - 1) / size) < count;
  }
  std::string mismatch(const char* key, int64_t size) const {
    if (may_be_uneven)
      return fmt::format("{} {} leaves ranks without a part of the model's {} {}", key, size, count, what);
    return fmt::format("{} {} does not divide the model's {} {}: {} = {} * {} + {}", key, size, count, what, count,
                       size, count / size, count % size);
  }
};

std::vector<int64_t> nearest_fitting(const std::vector<Amount>& amounts, int64_t asked) {
  const auto fits = [&](int64_t size) {
    return std::ranges::all_of(amounts, [&](const Amount& amount) { return amount.fits(size); });
  };
  int64_t most = amounts.front().count;
  for (const Amount& amount : amounts)
    if (!amount.may_be_shared) most = std::min(most, amount.count);
  std::vector<int64_t> out;
  for (int64_t below = std::min(asked - 1, most); below >= 1 && out.empty(); --below)
    if (fits(below)) out.push_back(below);
  for (int64_t above = asked + 1; above <= most; ++above)
    if (fits(above)) {
      out.push_back(above);
      break;
    }
  return out;
}

std::string choice(const std::vector<int64_t>& sizes) {
  return sizes.size() == 2 ? fmt::format("{} or {}", sizes[0], sizes[1]) : fmt::format("{}", sizes[0]);
}

// One violation for each amount that the axis cannot cut.
void check_cuts(const char* key, int64_t size, const std::vector<Amount>& amounts, std::vector<Violation>& out) {
  const std::vector<int64_t> fit_all = nearest_fitting(amounts, size);
  for (const Amount& amount : amounts) {
    if (amount.fits(size)) continue;
    const std::vector<int64_t> fit_this = nearest_fitting({amount}, size);
    std::string hint = fmt::format("the nearest sizes that fit: {}", choice(fit_this));
    if (fit_this != fit_all) hint += fmt::format("; that fit all of the model: {}", choice(fit_all));
    out.push_back({key, amount.mismatch(key, size), std::move(hint)});
  }
}

void check_stages(const ModelInfo& model, int64_t pp, std::vector<Violation>& out) {
  if (pp <= model.layers) return;
  out.push_back({"pp_size",
                 fmt::format("pp_size {} is more than the model's {} layers: every stage needs one", pp, model.layers),
                 fmt::format("the nearest size that fits: {}", model.layers)});
}

void check_experts(const ModelInfo& model, int64_t ep, std::vector<Violation>& out) {
  if (model.experts > 0) return check_cuts("ep_size", ep, {{model.experts, "experts"}}, out);
  if (ep == 1) return;
  out.push_back({"ep_size", fmt::format("ep_size is {}, but a {} model has no experts", ep, model.model_type),
                 "write ep_size: 1"});
}

}  // namespace

std::vector<Violation> violations(const ModelInfo& model, const distributed::ParallelismSizes& sizes) {
  const auto at_least_one = [](int64_t size) { return std::max<int64_t>(1, size); };
  std::vector<Violation> out;
  std::vector<Amount> amounts;
  if (model.cuts_heads) {
    amounts.push_back({model.heads, "attention heads"});
    amounts.push_back({model.kv_heads, "key/value heads", false, true});
  }
  if (model.cuts_vocabulary) amounts.push_back({model.vocab_size, "tokens of the vocabulary", true});
  // Experts stay whole.
  if (model.cuts_mlps && model.expert_layers < model.layers)
    amounts.push_back({model.intermediate_size, "inner width of the MLP", true});
  if (!amounts.empty()) check_cuts("tp_size", at_least_one(sizes.tp_size), amounts, out);
  const int64_t pp = at_least_one(sizes.pp_size);
  if (pp > 1) check_stages(model, pp, out);
  check_experts(model, at_least_one(sizes.ep_size), out);
  return out;
}

void check_capabilities(const ModelInfo& model, const distributed::ParallelismSizes& sizes,
                        config::Problems& problems) {
  for (Violation& violation : violations(model, sizes))
    problems.add(violation.key, std::move(violation.message), std::move(violation.hint));
}

}  // namespace automodel::models
