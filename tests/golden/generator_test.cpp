// Generation with kept keys and values against computing the whole text again for every token.
#include "train/generator.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <mutex>

#include "core/rng.h"
#include "support/engine_fixture.h"
#include "support/run_mesh.h"
#include "train/tokens.h"

using namespace automodel;
using support::EngineFixture;

namespace {

const char* const kModels[] = {"llama",      "llama_rope_linear", "llama_rope_llama3",
                               "llama_bias", "mistral",           "mistral_window",
                               "qwen2",      "qwen2_tied",        "qwen3",
                               "mixtral",    "qwen3_moe",         "gpt2",
                               "gpt2_untied"};

std::string golden(const std::string& name) {
  return std::string(AUTOMODEL_SOURCE_DIR) + "/tests/golden/" + name;
}

std::vector<int32_t> random_ids(int64_t count, int64_t vocab) {
  Random random(11, "prompt");
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab), static_cast<uint64_t>(i))));
  return ids;
}

engine::EngineOptions untrained() {
  engine::EngineOptions options;
  options.trains = false;
  return options;
}

train::SamplingOptions greedy(int64_t count, int64_t context = 0) {
  train::SamplingOptions options;
  options.max_new_tokens = count;
  options.context = context;
  return options;
}

// Without anything kept.
Tensor whole_logits(engine::Engine& engine, std::span<const int32_t> ids) {
  auto last = static_cast<int64_t>(ids.size()) - 1;
  return engine.logits(train::to_tokens(ids, engine.allocator()), std::span(&last, 1));
}

std::vector<int32_t> greedy_without_cache(engine::Engine& engine, std::vector<int32_t> ids, int64_t count,
                                          size_t context) {
  std::vector<int32_t> made;
  for (int64_t n = 0; n < count; ++n) {
    Tensor logits = whole_logits(engine, std::span(ids).last(std::min(context, ids.size())));
    std::span<const float> row(logits.data<float>(), static_cast<size_t>(logits.cols()));
    made.push_back(train::sample_token(row, {}, n));
    ids.push_back(made.back());
  }
  return made;
}

double max_difference(const Tensor& a, const Tensor& b) {
  double worst = 0;
  for (int64_t i = 0; i < a.numel(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(a.data<float>()[i]) - b.data<float>()[i]));
  return worst;
}

// Feeds ids[0 .. first) at once, then one by one, and compares every row of logits with the whole computation.
void check_logits(engine::Engine& engine, const std::vector<int32_t>& ids, int64_t first, double tolerance) {
  auto length = static_cast<int64_t>(ids.size());
  nn::KvCache cache = engine.make_cache(length);
  for (int64_t end = first; end <= length; ++end) {
    CAPTURE(end);
    int64_t begin = end == first ? 0 : end - 1, last = end - begin - 1;
    auto part = std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    nn::Tokens tokens = train::to_tokens(part, engine.allocator(), static_cast<int32_t>(begin));
    tokens.cache = &cache;
    Tensor kept = engine.logits(tokens, std::span(&last, 1));
    CHECK(cache.length() == end);
    CHECK(max_difference(kept, whole_logits(engine, std::span(ids).first(static_cast<size_t>(end)))) < tolerance);
  }
}

int64_t context_of(const models::ModelInfo& info) {
  return std::min<int64_t>(info.max_positions, 40);
}

}  // namespace

TEST_CASE("every family gives the same logits with kept keys and values as without, whatever the prompt's length") {
  for (const char* name : kModels) {
    CAPTURE(name);
    EngineFixture fixture(golden(name), untrained());
    const auto& info = fixture.model->info();
    std::vector<int32_t> ids = random_ids(context_of(info), info.vocab_size);
    for (int64_t first : {1, 2, 3, 7, 17}) {
      CAPTURE(first);
      check_logits(fixture.engine, ids, first, 1e-5);
    }
  }
}

TEST_CASE("every family generates the ids of computing everything again, also beyond the context it may see") {
  for (const char* name : kModels) {
    CAPTURE(name);
    EngineFixture fixture(golden(name), untrained());
    const auto& info = fixture.model->info();
    for (int64_t prompt : {1, 3, 12})
      for (int64_t context : {int64_t{9}, context_of(info)}) {
        CAPTURE(prompt);
        CAPTURE(context);
        std::vector<int32_t> ids = random_ids(prompt, info.vocab_size);
        int64_t count = context_of(info) - prompt;
        auto made = train::generate(fixture.engine, ids, greedy(count, context));
        CHECK(made == greedy_without_cache(fixture.engine, ids, count, static_cast<size_t>(context)));
      }
  }
}

TEST_CASE("a trained model tells the same story with kept keys and values") {
  std::string folder = std::string(AUTOMODEL_SHARED_DIR) + "/data/stories260k";
  if (!std::filesystem::exists(folder)) {
    MESSAGE("skipped: ", folder, " is not there");
    return;
  }
  EngineFixture fixture(folder, untrained());
  std::vector<int32_t> prompt{1, 403, 407, 261, 378};
  auto made = train::generate(fixture.engine, prompt, greedy(300));
  CHECK(made == greedy_without_cache(fixture.engine, prompt, 300, 512));
}

TEST_CASE("keys and values are allocated once, a window's worth where the window is shorter, and given back") {
  for (const char* name : {"llama", "mistral_window", "gpt2"}) {
    CAPTURE(name);
    EngineFixture fixture(golden(name), untrained());
    const auto& info = fixture.model->info();
    int64_t positions = context_of(info), slots = std::string(name) == "mistral_window" ? 4 : positions;
    auto in_use = [&] { return fixture.allocator->stats().current[static_cast<size_t>(MemoryClass::kActivations)]; };
    std::vector<int32_t> ids = random_ids(5, info.vocab_size);
    std::vector<int64_t> seen;
    int64_t before = in_use();
    train::generate(fixture.engine, ids, greedy(positions - 5), [&](int32_t) { seen.push_back(in_use()); });
    int64_t expected = info.layers * 2 * slots * info.kv_heads * info.head_dim * 4;
    for (int64_t bytes : seen) CHECK(bytes - before == expected);
    CHECK(in_use() == before);
  }
}

TEST_CASE("all ranks of fsdp2 and ddp generate what one rank does") {
  for (const char* name : {"llama", "mistral_window", "gpt2"})
    for (bool shard : {true, false})
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        CAPTURE(name);
        std::vector<std::vector<int32_t>> results;
        for (int ranks : {1, 2, 3}) {
          std::mutex mutex;
          test::run_mesh(ranks, [&](comm::World& world) {
            checkpoint::HfModelDir dir(golden(name));
            auto model = models::build(config::parse_json(dir.config_text(), "config.json"));
            auto allocator = make_cpu_allocator();
            engine::EngineOptions options;
            options.unit.shard = shard;
            options.unit.param_dtype = dtype;
            engine::Engine engine(*model, world.global(), *allocator, options);
            train::load_weights(engine, *model, dir.tensors());
            std::vector<int32_t> ids = random_ids(4, model->info().vocab_size);
            train::SamplingOptions sampling = greedy(20);
            sampling.temperature = 0.9;
            sampling.seed = 5;
            auto made = train::generate(engine, ids, sampling);
            std::lock_guard lock(mutex);
            results.push_back(made);
          });
        }
        for (const auto& made : results) CHECK(made == results[0]);
      }
}
