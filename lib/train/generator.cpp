#include "train/generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/rng.h"
#include "train/tokens.h"

namespace automodel::train {

int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, int64_t n) {
  if (options.temperature <= 0)
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto by_logit = [&](int32_t a, int32_t b) {
    float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  size_t keep = options.top_k > 0 ? std::min(order.size(), static_cast<size_t>(options.top_k)) : order.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(keep), order.end(), by_logit);
  std::vector<double> weights(keep);
  double largest = logits[static_cast<size_t>(order[0])];
  for (size_t i = 0; i < keep; ++i)
    weights[i] = std::exp((logits[static_cast<size_t>(order[i])] - largest) / options.temperature);
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (options.top_p < 1) {
    double sum = 0;
    size_t kept = 0;
    while (kept < keep && sum < options.top_p * total) sum += weights[kept++];
    keep = std::max<size_t>(kept, 1);
    total = std::accumulate(weights.begin(), weights.begin() + static_cast<int64_t>(keep), 0.0);
  }
  double pick = Random(options.seed, "generate").uniform64(static_cast<uint64_t>(n)) * total;
  for (size_t i = 0; i < keep; ++i)
    if ((pick -= weights[i]) < 0) return order[i];
  return order[keep - 1];
}

namespace {

// What the model sees of a text that grows by one token after another.
class Context {
 public:
  // The text will have at most `longest` tokens; the model sees at most `limit` of them (0: all).
  Context(engine::Engine& engine, int64_t longest, int64_t limit)
      : engine_(engine),
        capacity_(limit > 0 ? std::min(longest, limit) : longest),
        cache_(engine.make_cache(capacity_)) {}

  // f32 [1, vocab]: the logits of what follows `ids`. The first call computes all of them, later ones the last alone.
  // Where they are more than the model sees, it sees the last ones, each call at other positions: nothing can be kept.
  Tensor next(std::span<const int32_t> ids) {
    if (static_cast<int64_t>(ids.size()) > capacity_) {
      cache_.reset();
      return last_logits(to_tokens(ids.last(static_cast<size_t>(capacity_)), engine_.allocator()));
    }
    int64_t known = cache_->length();
    nn::Tokens tokens =
        to_tokens(ids.subspan(static_cast<size_t>(known)), engine_.allocator(), static_cast<int32_t>(known));
    tokens.cache = &*cache_;
    return last_logits(tokens);
  }

 private:
  Tensor last_logits(const nn::Tokens& tokens) {
    int64_t last = tokens.sequence - 1;
    return engine_.logits(tokens, std::span(&last, 1));
  }

  engine::Engine& engine_;
  int64_t capacity_;
  std::optional<nn::KvCache> cache_;
};

}  // namespace

std::vector<int32_t> generate(engine::Engine& engine, std::vector<int32_t> prompt, const SamplingOptions& options,
                              const std::function<void(int32_t)>& on_token) {
  AM_CHECK(!prompt.empty(), Fault::kUsage, "an empty prompt: give at least one token to continue");
  std::vector<int32_t> ids = std::move(prompt);
  std::vector<int32_t> made;
  Context context(engine, static_cast<int64_t>(ids.size()) + options.max_new_tokens, options.context);
  while (static_cast<int64_t>(made.size()) < options.max_new_tokens) {
    Tensor logits = context.next(ids);
    int32_t id = sample_token(to_host<float>(logits), options, static_cast<int64_t>(made.size()));
    made.push_back(id);
    ids.push_back(id);
    if (on_token) on_token(id);
    if (std::ranges::find(options.stop_ids, id) != options.stop_ids.end()) break;
  }
  return made;
}

}  // namespace automodel::train
