// A Llama-3 70B shape on 1,024 ranks against numbers worked out by hand.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>

#include "config/config.h"
#include "models/registry.h"
#include "plan/rank_plan.h"

using namespace automodel;

namespace {

const char* const kLlama70B = R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 8192,
  "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
  "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "tie_word_embeddings": false})";

constexpr int64_t kWorld = 1024;
constexpr int64_t kGiB = int64_t{1} << 30;

// By hand. A layer: q and o 8192 x 8192 each, k and v 1024 x 8192 each, gate, up and down 28672 x 8192 each, two norms
// of 8192. Outside of the layers: two tables of 128256 x 8192 and a norm of 8192.
constexpr int64_t kLayer = 2 * 67'108'864 + 2 * 8'388'608 + 3 * 234'881'024 + 2 * 8'192;
constexpr int64_t kRoot = 2 * 1'050'673'152 + 8'192;
static_assert(kLayer == 855'654'400);
static_assert(kRoot == 2'101'354'496);
static_assert(80 * kLayer + kRoot == 70'553'706'496);

// A unit is padded to equal parts of whole 16 elements for 1,024 ranks: to a multiple of 16,384 elements. Both
// sums are 8,192 over a multiple, or a multiple.
constexpr int64_t padded(int64_t n) {
  return (n + 16'383) / 16'384 * 16'384;
}
static_assert(padded(kLayer) == kLayer);
static_assert(padded(kRoot) == kRoot + 8'192);

plan::RankPlan plan_of(models::CausalLM& model, int64_t world, int64_t accumulation) {
  plan::RankRequest request;
  request.model = &model;
  request.world_size = static_cast<int>(world);
  request.axis = "dp_shard";
  request.microbatch = {1, 8192, false};
  request.accumulation = accumulation;
  request.options.unit = {true, DType::kBF16, DType::kF32};
  request.options.prefetch = request.options.prefetch_backward = 1;
  return plan::plan_rank(request);
}

const plan::TrafficRow& row_of(const plan::RankPlan& plan, comm::Call call, int64_t bytes) {
  for (const plan::TrafficRow& row : plan.traffic.rows())
    if (row.call.call == call && row.call.bytes == bytes) return row;
  FAIL("no " << comm::name_of(call) << " of " << bytes << " bytes");
  std::abort();
}

}  // namespace

TEST_CASE("the plan of a 70 B Llama on 1,024 ranks is what a hand calculation gives") {
  auto model = models::build(config::parse_json(kLlama70B, "config.json"));
  CHECK(nn::count_elements(model->params()) == 70'553'706'496);
  plan::RankPlan plan = plan_of(*model, kWorld, 1);

  // Memory that stays: of each rank's 1/1024, a master of 4 bytes and a bf16 copy of 2, and two moments of 4.
  int64_t shard = (80 * padded(kLayer) + padded(kRoot)) / kWorld;
  CHECK(shard == 68'900'112);
  CHECK(plan.steady.current[static_cast<size_t>(MemoryClass::kParameters)] == shard * 6);
  CHECK(plan.steady.current[static_cast<size_t>(MemoryClass::kOptimizer)] == shard * 8);
  CHECK(plan.units.size() == 81);
  CHECK(plan.units[1].elements == kLayer);
  CHECK(plan.units[1].master_bytes == kLayer * 4 / kWorld);

  // Traffic: every layer is gathered in bf16 for the forward and, but for the last, again for the backward; the root
  // once. Every unit's fp32 gradient is reduced once. Two sums over the ranks of one fp64: the loss and the norm.
  CHECK(row_of(plan, comm::Call::kAllGather, 2 * padded(kLayer)).count == 159);
  CHECK(row_of(plan, comm::Call::kAllGather, 2 * padded(kRoot)).count == 1);
  CHECK(row_of(plan, comm::Call::kReduceScatter, 4 * padded(kLayer)).count == 80);
  CHECK(row_of(plan, comm::Call::kReduceScatter, 4 * padded(kRoot)).count == 1);
  CHECK(row_of(plan, comm::Call::kAllReduce, 8).count == 2);
  CHECK(plan.traffic.calls() == 159 + 1 + 80 + 1 + 2);
  int64_t gathered = 159 * 2 * padded(kLayer) + 2 * padded(kRoot);
  int64_t reduced = 4 * (80 * padded(kLayer) + padded(kRoot));
  CHECK(gathered == 276'300'824'576);
  CHECK(reduced == 282'214'858'752);
  CHECK(plan.traffic.sent_bytes() == (gathered + reduced) / kWorld * (kWorld - 1) + 2 * 2 * (8 * 1023 / 1024));

  // Communication buffers: the root and two layers, the one in use and the next one, in bf16.
  CHECK(plan.peak(MemoryClass::kCommunication) == 2 * padded(kRoot) + 2 * 2 * padded(kLayer));
  CHECK(plan.peak_total() > 10 * kGiB);
}

TEST_CASE("more microbatches gather as often again and reduce once") {
  auto model = models::build(config::parse_json(kLlama70B, "config.json"));
  plan::RankPlan plan = plan_of(*model, kWorld, 64);
  CHECK(row_of(plan, comm::Call::kReduceScatter, 4 * padded(kLayer)).count == 80);
  // The last layer stays gathered from one microbatch to the next.
  CHECK(row_of(plan, comm::Call::kAllGather, 2 * padded(kLayer)).count == 64 * 159);
  CHECK(plan.batch_bytes == 64 * (3 * 4 * 8192 + 8));
}

TEST_CASE("planning a rank takes no longer for 100,000 ranks than for 8") {
  auto model = models::build(config::parse_json(kLlama70B, "config.json"));
  // The best of a few: other programs may be at work.
  auto seconds = [&](int64_t world) {
    double best = 1e9;
    for (int i = 0; i < 5; ++i) {
      auto begin = std::chrono::steady_clock::now();
      plan_of(*model, world, 16);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return best;
  };
  double small = seconds(8), large = seconds(100'000);
  MESSAGE("8 ranks: " << 1e3 * small << " ms, 100,000 ranks: " << 1e3 * large << " ms");
  CHECK(large < 3 * small + 0.05);
  CHECK(large < 0.5);
}
