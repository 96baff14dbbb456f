// Sampling from a model, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace automodel::train {

struct SamplingOptions {
  int64_t max_new_tokens = 64;
  double temperature = 0;  // 0: the most likely token; among equals the lowest id
  int64_t top_k = 0;       // sample among the k most likely; 0: all
  double top_p = 1;        // sample among the most likely whose probabilities sum to p
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids = {};  // generation ends after one of these
  int64_t context = 0;                 // the model sees at most so many of the last ids; 0: all
};

// The id that options choose from one row of logits, for the n-th new token (randomness depends on seed and n alone).
int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, int64_t n);

// New ids after `prompt` (which must not be empty). `on_token` is told each as it comes. Every rank calls and gets the
// same ids.
std::vector<int32_t> generate(engine::Engine& engine, std::vector<int32_t> prompt, const SamplingOptions& options,
                              const std::function<void(int32_t)>& on_token = {});

}  // namespace automodel::train
