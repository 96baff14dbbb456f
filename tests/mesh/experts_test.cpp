// Models with experts on every kind of mesh (ARCHITECTURE law 2), with the balance loss as part of the objective and
// layers of both kinds.
#include <doctest/doctest.h>

#include <map>

#include "support/mesh_job.h"

using namespace automodel;
using test::job_of;
using test::MeshJob;
using test::MeshSizes;
using test::MeshTrace;

namespace {

const char* const kMixtral = R"({"model_type": "mixtral", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 20,
  "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "num_local_experts": 8,
  "num_experts_per_tok": 2, "output_router_logits": true, "router_aux_loss_coef": 0.2, "initializer_range": 0.2,
  "max_position_embeddings": 64})";
// Layer 1 has no experts; the weights of the chosen ones do not sum to 1; tied head.
const char* const kQwen3Moe = R"({"model_type": "qwen3_moe", "vocab_size": 59, "hidden_size": 24,
  "intermediate_size": 36, "moe_intermediate_size": 12, "num_hidden_layers": 4, "num_attention_heads": 8,
  "num_key_value_heads": 4, "head_dim": 6, "num_experts": 8, "num_experts_per_tok": 3, "mlp_only_layers": [1],
  "output_router_logits": true, "router_aux_loss_coef": 0.2, "tie_word_embeddings": true, "initializer_range": 0.2,
  "max_position_embeddings": 64})";

const std::map<std::string, const char*> kModels{{"mixtral", kMixtral}, {"qwen3_moe", kQwen3Moe}};

}  // namespace

TEST_CASE("models with experts train on every mesh as on one rank, the balance loss included") {
  const std::vector<MeshSizes> meshes{{.dp_shard = 2},
                                      {.dp_replicate = 2, .dp_shard = 2},
                                      {.dp_shard = 4, .ep = 2},
                                      {.dp_shard = 8, .ep = 8},
                                      {.tp = 2},
                                      {.tp = 4, .sequence_parallel = true},
                                      {.tp = 4, .ep = 4},
                                      {.cp = 2},
                                      {.cp = 4, .ep = 2},
                                      {.pp = 2, .dp_shard = 2, .ep = 2},
                                      {.dp_shard = 2, .cp = 2, .tp = 2, .ep = 4, .sequence_parallel = true},
                                      {.pp = 2, .dp_replicate = 2, .cp = 2, .tp = 2, .ep = 8}};
  for (const auto& [name, config] : kModels) {
    CAPTURE(name);
    MeshTrace one = test::run_job(job_of(config, {}));
    for (const MeshSizes& mesh : meshes) {
      CAPTURE(mesh.text());
      test::check_close(test::run_job(job_of(config, mesh)), one);
    }
  }
}

TEST_CASE("experts that a bias balances train on every mesh as on one rank") {
  std::string config = kMixtral;
  config.replace(config.find("\"output_router_logits\": true"), 28, "\"gate_bias_update_factor\": 0.03");
  MeshTrace one = test::run_job(job_of(config, {}));
  std::string without = config;
  without.replace(without.find("0.03"), 4, "0.00");
  CHECK(one.losses.back() != test::run_job(job_of(without, {})).losses.back());
  for (const MeshSizes& mesh : {MeshSizes{.dp_shard = 4, .ep = 2},
                                {.tp = 2},
                                {.dp_shard = 2, .cp = 2, .tp = 2, .ep = 4, .sequence_parallel = true},
                                {.pp = 2, .dp_replicate = 2, .ep = 2}}) {
    CAPTURE(mesh.text());
    MeshJob job = job_of(config, mesh);
    test::check_close(test::run_job(job), one);
    job.options.activation_checkpointing = true;
    job.options.recall = autograd::Recall::kSelected;
    test::check_close(test::run_job(job), one);
  }
}

TEST_CASE("padding and fillers are no load of the experts, on any mesh") {
  std::string biased = kMixtral;
  biased.replace(biased.find("\"output_router_logits\": true"), 28, "\"gate_bias_update_factor\": 0.03");
  for (const std::string& config : {biased, std::string(kMixtral), std::string(kQwen3Moe)}) {
    MeshJob alone = job_of(config, {});
    alone.padding = 0;
    MeshTrace one = test::run_job(alone);
    for (const MeshSizes& mesh : {MeshSizes{},
                                  {.dp_shard = 4, .ep = 2},
                                  {.cp = 2},
                                  {.cp = 2, .tp = 2, .ep = 4},
                                  {.tp = 2, .sequence_parallel = true},
                                  {.pp = 2, .dp_shard = 2}}) {
      CAPTURE(mesh.text());
      MeshJob job = job_of(config, mesh);
      job.padding = 7;
      test::check_close(test::run_job(job), one);
    }
  }
}

TEST_CASE("the balance loss changes the gradients and not the first loss that is reported") {
  std::string without = kMixtral;
  without.replace(without.find("true"), 4, "false");
  MeshJob job = job_of(kMixtral, {}), other = job_of(without.c_str(), {});
  job.steps = other.steps = 2;
  MeshTrace with = test::run_job(job), none = test::run_job(other);
  CHECK(with.losses[0] == none.losses[0]);
  CHECK(with.losses[1] != none.losses[1]);
  const std::string gate = "model.layers.0.block_sparse_moe.gate.weight";
  CHECK(with.gradients[gate] != none.gradients[gate]);
}

TEST_CASE("ddp, fsdp2, repeated activations and deferred work give models with experts the same bits") {
  for (const auto& [name, config] : kModels) {
    CAPTURE(name);
    for (const MeshSizes& mesh : {MeshSizes{.dp_shard = 4}, {.dp_shard = 4, .ep = 2}}) {
      CAPTURE(mesh.text());
      MeshJob job = job_of(config, mesh);
      job.steps = 4;
      MeshTrace base = test::run_job(job);
      job.options.unit.shard = false;
      test::check_identical(test::run_job(job), base);
      job.options.unit.shard = true;
      job.options.activation_checkpointing = true;
      for (auto recall : {autograd::Recall::kNothing, autograd::Recall::kRouting, autograd::Recall::kSelected}) {
        job.options.recall = recall;
        test::check_identical(test::run_job(job), base);
      }
      job.options.activation_checkpointing = false;
      job.options.overlap_reduce = false;
      job.options.prefetch = job.options.prefetch_backward = 0;
      test::check_identical(test::run_job(job), base);
    }
  }
  // Its head is not tied: the sum of a tied one depends on where its two parts are.
  MeshJob pipeline = job_of(kMixtral, {.pp = 2});
  pipeline.steps = 4;
  MeshTrace base = test::run_job(pipeline);
  for (const char* schedule : {"GPipe", "InterleavedZeroBubble", "ZBVZeroBubble"}) {
    CAPTURE(schedule);
    pipeline.schedule = schedule;
    test::check_identical(test::run_job(pipeline), base);
  }
}
