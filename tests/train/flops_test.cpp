// What the reported utilisation counts.
#include "train/flops.h"

#include <doctest/doctest.h>

using namespace automodel;

namespace {

models::ModelInfo llama_like(const char* type, int64_t inner) {
  models::ModelInfo info;
  info.model_type = type;
  info.vocab_size = 1000;
  info.hidden_size = 64;
  info.intermediate_size = inner;
  info.layers = 4;
  info.heads = info.kv_heads = 8;
  info.head_dim = 8;
  return info;
}

}  // namespace

TEST_CASE("a dense model costs six operations for each weight and token, and the attention") {
  // Weights: 4 layers of 4 * 64 * 64 + 3 * 64 * 200, and the head of 64 * 1000; attention: 6 h s a layer and token.
  double weights = 4 * (4 * 64 * 64 + 3 * 64 * 200) + 64 * 1000;
  double attention = 4 * 6.0 * 64 * 32;
  for (const char* type : {"llama", "qwen3"})
    CHECK(train::training_flops(llama_like(type, 200), 3, 32) ==
          doctest::Approx(3 * 32 * (6 * weights + attention)).epsilon(1e-12));
}

TEST_CASE("a model of experts costs what the experts of a token cost, however many there are") {
  for (const char* type : {"mixtral", "qwen3_moe"}) {
    models::ModelInfo info = llama_like(type, 160);
    info.experts_per_token = 2;
    info.expert_size = 120;
    info.expert_layers = 3;
    for (int64_t experts : {4, 400}) {
      info.experts = experts;
      // Three layers of 240 and one of 160 are four of 220.
      CHECK(train::training_flops(info, 3, 32) ==
            doctest::Approx(train::training_flops(llama_like(type, 220), 3, 32)).epsilon(1e-12));
    }
  }
}
