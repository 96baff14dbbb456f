#include "train/flops.h"

namespace automodel::train {

namespace {

// Inner width of the MLPs that a token passes, on the average of the layers: of its experts where there are several.
double inner_width(const models::ModelInfo& info) {
  auto all = static_cast<double>(info.layers), routed = static_cast<double>(info.expert_layers);
  auto experts = static_cast<double>(info.experts_per_token * info.expert_size);
  return ((all - routed) * static_cast<double>(info.intermediate_size) + routed * experts) / all;
}

}  // namespace

double training_flops(const models::ModelInfo& info, int64_t batch, int64_t sequence) {
  auto b = static_cast<double>(batch), s = static_cast<double>(sequence);
  auto h = static_cast<double>(info.hidden_size), l = static_cast<double>(info.layers);
  auto v = static_cast<double>(info.vocab_size), f = inner_width(info);
  auto a = static_cast<double>(info.heads), g = static_cast<double>(info.kv_heads);
  auto d = static_cast<double>(info.head_dim);
  if (info.model_type == "gpt2") return (24 * b * s * h * h + 2 * b * s * s * h) * 3 * l + 6 * b * s * h * v;
  if (info.model_type == "qwen2" || info.model_type == "qwen3" || info.model_type == "qwen3_moe")
    return 6 * b * l * s * h * h * (a * d / h) * ((2 * g / a + 1) + s / h + 1) + 18 * b * l * s * h * f +
           6 * b * s * h * v;
  return b * s * l * h * h * (12 + 12 * g / a + 18 * f / h + 6 * s / h + 6 * v / (l * h));
}

}  // namespace automodel::train
