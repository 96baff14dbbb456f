// Real pretrained models against reference results and training traces of others' code, where they are at hand
// (stories260k, nano-sort-gpt2; see the README beside them). Skipped, saying so, when they are not.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "support/engine_fixture.h"

using namespace automodel;
using nlohmann::json;
using support::EngineFixture;
using Rows = std::vector<std::vector<int32_t>>;

namespace {

bool absent(const std::string& folder) {
  if (std::filesystem::exists(folder)) return false;
  MESSAGE("skipped: ", folder, " is not there");
  return true;
}

const std::string kStories = std::string(AUTOMODEL_SHARED_DIR) + "/data/stories260k";
const std::string kSort = std::string(AUTOMODEL_SHARED_DIR) + "/data/nano-sort-gpt2";

json read(const std::string& path) {
  return json::parse(std::ifstream(path));
}

// Rows of ids as a batch that predicts the next id of the row; the first `ignore[r]` ids are no labels.
nn::Tokens next_token_batch(const Rows& rows, const std::vector<int>& ignore) {
  std::vector<int32_t> ids, labels;
  for (size_t r = 0; r < rows.size(); ++r)
    for (size_t t = 0; t + 1 < rows[r].size(); ++t) {
      ids.push_back(rows[r][t]);
      labels.push_back(static_cast<int>(t) + 1 < ignore[r] ? -100 : rows[r][t + 1]);
    }
  return support::make_tokens(static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size()) - 1, ids, labels);
}

int64_t labels_in(const nn::Tokens& tokens) {
  const auto* l = tokens.labels.data<int32_t>();
  return std::count_if(l, l + tokens.labels.numel(), [](int32_t x) { return x >= 0; });
}

std::vector<int32_t> greedy(EngineFixture& fixture, std::vector<int32_t> ids, size_t count, size_t context, int stop) {
  std::vector<int32_t> made;
  while (made.size() < count) {
    size_t begin = ids.size() > context ? ids.size() - context : 0;
    std::vector<int32_t> window(ids.begin() + static_cast<int64_t>(begin), ids.end());
    auto n = static_cast<int64_t>(window.size());
    int64_t last = n - 1;
    Tensor logits = fixture.engine.logits(support::make_tokens(1, n, window, window), std::span(&last, 1));
    const float* row = logits.data<float>();
    auto next = static_cast<int32_t>(std::max_element(row, row + logits.cols()) - row);
    made.push_back(next);
    ids.push_back(next);
    if (next == stop) break;
  }
  return made;
}

// Follows a trace of PyTorch: the first step's loss, norm and gradients, and every later loss and norm.
void follow(const std::string& folder, const json& job, const json& result) {
  const json& o = job["optimizer"];
  engine::EngineOptions options;
  options.adam = {.decoupled = true,
                  .lr = o["lr"],
                  .beta1 = o["betas"][0],
                  .beta2 = o["betas"][1],
                  .eps = o["eps"],
                  .weight_decay = o["weight_decay"]};
  options.max_grad_norm = o["clip"];
  if (!o["decay_1d"]) options.group_overrides = {{"(norm|ln_[12f])\\.weight$|\\.bias$", 1.0, 0.0}};
  EngineFixture fixture(folder, options);

  bool first = true;
  fixture.engine.set_inspect([&](const auto& units) {
    if (!first) return;
    first = false;
    for (const auto& unit : units)
      for (const auto& segment : unit->layout().segments()) {
        CAPTURE(segment.param->name);
        const json& want = result["step0"]["grads"][segment.param->name];
        const float* g = unit->gradient().template data<float>() + segment.offset;
        double squares = 0;
        for (int64_t i = 0; i < segment.numel; ++i) squares += static_cast<double>(g[i]) * g[i];
        double l2 = want["l2"];
        CHECK(std::abs(std::sqrt(squares) - l2) < 1e-4 * l2);
        double scale = l2 / std::sqrt(static_cast<double>(segment.numel));
        for (size_t i = 0; i < want["first"].size(); ++i)
          CHECK(std::abs(g[i] - want["first"][i].get<double>()) < 1e-4 * scale + 1e-8);
      }
  });
  for (size_t s = 0; s < job["batches"].size(); ++s) {
    CAPTURE(s);
    Rows rows = job["batches"][s];
    std::vector<int> ignore(rows.size(), 0);
    if (job.contains("ignore")) ignore = job["ignore"][s].get<std::vector<int>>();
    nn::Tokens tokens = next_token_batch(rows, ignore);
    auto step = fixture.engine.step({std::span(&tokens, 1), labels_in(tokens), o["lr"], o["weight_decay"]});
    double loss = result["steps"][s]["loss"];
    double norm = result["steps"][s]["grad_norm"];
    CHECK(std::abs(step.loss - loss) < 1e-5 * std::max(1.0, loss));
    CHECK(std::abs(step.grad_norm - norm) < 1e-4 * norm);
  }
  CHECK(!first);
}

}  // namespace

TEST_CASE("stories260k gives the reference logits and losses") {
  if (absent(kStories)) return;
  json expected = read(kStories + "/expected.json");
  EngineFixture fixture(kStories, {});
  const json& results = expected["results"]["float32"];
  for (size_t i = 0; i < expected["sequences"].size(); ++i) {
    const json& sequence = expected["sequences"][i];
    CAPTURE(sequence["name"].get<std::string>());
    auto ids = sequence["ids"].get<std::vector<int32_t>>();
    size_t block = results["loss"][i]["block"];
    double sum = 0;
    int64_t count = 0;
    for (size_t begin = 0; begin + 1 < ids.size(); begin += block) {
      size_t n = std::min(block, ids.size() - begin);
      if (n < 2) break;
      Rows rows{{ids.begin() + static_cast<int64_t>(begin), ids.begin() + static_cast<int64_t>(begin + n)}};
      nn::Tokens tokens = next_token_batch(rows, {0});
      sum += fixture.engine.evaluate(tokens);
      count += labels_in(tokens);
    }
    CHECK(count == results["loss"][i]["predictions"].get<int64_t>());
    double want = results["loss"][i]["mean_nll"];
    CHECK(std::abs(sum / static_cast<double>(count) - want) < 1e-6 * want);
  }
}

TEST_CASE("stories260k continues prompts with the reference's greedy ids") {
  if (absent(kStories)) return;
  json expected = read(kStories + "/expected.json");
  EngineFixture fixture(kStories, {});
  for (const json& entry : expected["greedy"]) {
    auto want = entry["new_ids"].get<std::vector<int32_t>>();
    size_t count = std::min<size_t>(want.size(), 96);
    want.resize(count);
    CHECK(greedy(fixture, entry["prompt_ids"], count, 512, -1) == want);
  }
}

TEST_CASE("training stories260k follows both PyTorch traces") {
  if (absent(kStories)) return;
  json expected = read(kStories + "/expected_train.json");
  for (const char* job : {"a", "b"}) {
    CAPTURE(job);
    follow(kStories, expected[job]["job"], expected[job]["result"]["float32"]);
  }
}

TEST_CASE("nano-sort-gpt2 gives the published logits and sorts") {
  if (absent(kSort)) return;
  json expected = read(kSort + "/expected.json");
  EngineFixture fixture(kSort, {});
  for (const json& row : expected["activations_rows"]) {
    auto ids = row["ids"].get<std::vector<int32_t>>();
    std::vector<int64_t> all(ids.size());
    std::iota(all.begin(), all.end(), 0);
    Tensor logits = fixture.engine.logits(support::make_tokens(1, static_cast<int64_t>(ids.size()), ids, ids), all);
    for (size_t t = 0; t < ids.size(); ++t)
      for (size_t v = 0; v < 3; ++v)
        CHECK(std::abs(logits.data<float>()[t * 3 + v] - row["logits"][t][v].get<double>()) < 1e-4);
  }
  for (const json& entry : expected["greedy"])
    CHECK(greedy(fixture, entry["prompt_ids"], 6, 11, -1) == entry["new_ids"].get<std::vector<int32_t>>());
}

TEST_CASE("training nano-sort-gpt2 follows the PyTorch trace") {
  if (absent(kSort)) return;
  json expected = read(kSort + "/expected_train.json");
  follow(kSort, expected["job"], expected["result"]["float32"]);
}
