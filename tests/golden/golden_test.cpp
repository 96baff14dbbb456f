// Forward and backward against what PyTorch and transformers computed (tests/golden/HOW.md, scripts/make_golden).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "checkpoint/hf_model_dir.h"
#include "comm/world.h"
#include "config/config.h"
#include "engine/engine.h"
#include "models/registry.h"
#include "support/engine_fixture.h"
#include "train/weights.h"

using namespace automodel;
using support::EngineFixture;

namespace {

struct Expected {
  explicit Expected(const std::string& folder)
      : tensors(checkpoint::TensorSet::open(folder + "/expected.safetensors")) {}

  template <class T>
  std::vector<T> values(const std::string& name) const {
    const auto* t = tensors.find(name);
    REQUIRE_MESSAGE(t != nullptr, name);
    std::vector<T> out(t->bytes().size() / sizeof(T));
    std::memcpy(out.data(), t->bytes().data(), t->bytes().size());
    return out;
  }
  std::vector<int64_t> shape(const std::string& name) const { return tensors.find(name)->tensor->shape; }

  checkpoint::TensorSet tensors;
};

std::vector<int32_t> narrow(const std::vector<int64_t>& wide) {
  return {wide.begin(), wide.end()};
}

nn::Tokens tokens_of(const Expected& expected, bool packed) {
  auto shape = expected.shape("input_ids");
  auto tokens = support::make_tokens(shape[0], shape[1], narrow(expected.values<int64_t>("input_ids")),
                                     narrow(expected.values<int64_t>("targets")));
  if (!packed) return tokens;
  auto positions = narrow(expected.values<int64_t>("position_ids"));
  std::vector<int32_t> starts(positions.size());
  for (size_t i = 0; i < starts.size(); ++i)
    starts[i] = static_cast<int32_t>(i % static_cast<size_t>(shape[1])) - positions[i];
  support::fill(tokens.positions, positions);
  tokens.document_start = support::int_tensor({shape[0], shape[1]}, starts);
  return tokens;
}

double max_difference(const float* a, const float* b, size_t n) {
  double worst = 0;
  for (size_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  return worst;
}

// ||a - b|| / ||b||
double relative_distance(const float* a, const float* b, size_t n) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < n; ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference) / std::max(std::sqrt(norm), 1e-12);
}

}  // namespace

TEST_CASE("every family computes the logits, loss and gradients of transformers") {
  for (const char* name : {"llama", "llama_rope_linear", "llama_rope_llama3", "llama_bias", "llama_sharded",
                           "llama_packed", "mistral", "mistral_window", "qwen2", "qwen2_tied", "qwen3", "mixtral",
                           "mixtral_balance", "qwen3_moe", "qwen3_moe_balance", "gpt2", "gpt2_untied"}) {
    CAPTURE(name);
    std::string folder = std::string(AUTOMODEL_SOURCE_DIR) + "/tests/golden/" + name;
    Expected expected(folder);
    EngineFixture fixture(folder, {});
    nn::Tokens tokens = tokens_of(expected, std::string(name) == "llama_packed");

    std::vector<int64_t> rows(static_cast<size_t>(tokens.batch * tokens.sequence));
    std::iota(rows.begin(), rows.end(), 0);
    Tensor logits = fixture.engine.logits(tokens, rows);
    auto want = expected.values<float>("logits");
    REQUIRE(logits.numel() == static_cast<int64_t>(want.size()));
    CHECK(max_difference(logits.data<float>(), want.data(), want.size()) < 1e-4);

    auto labels = expected.values<int64_t>("targets");
    auto count = std::ranges::count_if(labels, [](int64_t l) { return l >= 0; });
    double loss = fixture.engine.evaluate(tokens) / static_cast<double>(count);
    double want_loss = expected.values<float>("loss")[0];
    CHECK(std::abs(loss - want_loss) < 1e-6 * want_loss);

    int checked = 0;
    fixture.engine.set_inspect([&](const auto& units) {
      for (const auto& unit : units)
        for (const auto& segment : unit->layout().segments()) {
          CAPTURE(segment.param->name);
          auto gradient = expected.values<float>("grad." + segment.param->name);
          REQUIRE(static_cast<int64_t>(gradient.size()) == segment.numel);
          CHECK(relative_distance(unit->gradient().template data<float>() + segment.offset, gradient.data(),
                                  gradient.size()) < 1e-5);
          ++checked;
        }
    });
    auto result = fixture.engine.step({std::span(&tokens, 1), count, 0, 0});
    CHECK(checked == static_cast<int>(fixture.model->params().size()));
    CHECK(std::abs(result.loss - want_loss) < 1e-6 * want_loss);
    double want_norm = expected.values<float>("grad_norm")[0];
    CHECK(std::abs(result.grad_norm - want_norm) < 1e-5 * want_norm);
  }
}

TEST_CASE("five AdamW steps follow PyTorch") {
  std::string name;
  SUBCASE("llama") {
    name = "llama";
  }
  SUBCASE("mixtral") {
    name = "mixtral";
  }
  CAPTURE(name);
  std::string folder = std::string(AUTOMODEL_SOURCE_DIR) + "/tests/golden/" + name;
  Expected expected(folder);
  engine::EngineOptions options;
  options.adam = {.decoupled = true, .lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  EngineFixture fixture(folder, options);
  nn::Tokens tokens = tokens_of(expected, false);
  auto labels = expected.values<int64_t>("targets");
  auto count = std::ranges::count_if(labels, [](int64_t l) { return l >= 0; });
  auto losses = expected.values<float>("adamw.losses");
  auto norms = expected.values<float>("adamw.grad_norms");
  for (size_t i = 0; i < losses.size(); ++i) {
    auto result = fixture.engine.step({std::span(&tokens, 1), count, 0.01, 0.1});
    CHECK(std::abs(result.loss - losses[i]) < 1e-5 * losses[i]);
    CHECK(std::abs(result.grad_norm - norms[i]) < 1e-4 * norms[i]);
  }
  for (const auto& slice : fixture.engine.state()) {
    std::string key = "adamw.after." + slice.param->name;
    if (expected.tensors.find(key) == nullptr) continue;
    auto want = expected.values<float>(key);
    CHECK(relative_distance(slice.master.data<float>(), want.data(), want.size()) < 1e-4);
  }
}
