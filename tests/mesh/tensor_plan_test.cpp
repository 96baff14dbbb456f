// Whatever part of a model the tensor-parallel ranks cut (tp_plan), they train as one rank does.
#include <doctest/doctest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "support/mesh_job.h"
#include "support/tiny_models.h"

using namespace automodel;
using test::MeshJob;
using test::MeshSizes;
using Plan = std::map<std::string, std::string>;

namespace {

const Plan kAttention{{"model.layers.*.self_attn.q_proj", "colwise"},
                      {"model.layers.*.self_attn.k_proj", "colwise"},
                      {"model.layers.*.self_attn.v_proj", "colwise"},
                      {"model.layers.*.self_attn.o_proj", "rowwise"}};
const Plan kMlp{{"model.layers.*.mlp.gate_proj", "colwise"},
                {"model.layers.*.mlp.up_proj", "colwise"},
                {"model.layers.*.mlp.down_proj", "rowwise"}};
const Plan kTables{{"model.embed_tokens", "rowwise"}, {"lm_head", "colwise"}};
const Plan kGpt2Attention{{"transformer.h.*.attn.c_attn", "colwise"}, {"transformer.h.*.attn.c_proj", "rowwise"}};
const Plan kGpt2Mlp{{"h.*.mlp.c_fc", "colwise"}, {"h.*.mlp.c_proj", "rowwise"}};
const Plan kGpt2Tables{{"transformer.wte", "rowwise_rep"}, {"lm_head", "colwise_rep"}};

Plan joined(Plan a, const Plan& b) {
  a.insert(b.begin(), b.end());
  return a;
}

// By what they cut.
std::vector<std::pair<std::string, Plan>> plans_of(const std::string& model) {
  if (model == "gpt2")
    return {{"attention", kGpt2Attention},
            {"mlp", kGpt2Mlp},
            {"all but tables", joined(kGpt2Attention, kGpt2Mlp)},
            {"tables", kGpt2Tables},
            {"nothing", {}}};
  if (model == "mixtral") return {{"attention", kAttention}, {"tables", kTables}, {"nothing", {}}};
  return {{"attention", kAttention},
          {"mlp", kMlp},
          {"all but tables", joined(kAttention, kMlp)},
          {"tables", kTables},
          {"nothing", {}}};
}

MeshJob job_of(const std::string& config, const MeshSizes& mesh, const Plan& plan) {
  MeshJob job = test::job_of(config, mesh);
  job.tp_plan = plan;
  return job;
}

}  // namespace

TEST_CASE("ranks that cut a part of the model train as one rank does") {
  for (const auto& [name, config] : test::tiny_models()) {
    CAPTURE(name);
    const test::MeshTrace one = test::run_job(test::job_of(config, {}));
    for (const auto& [part, plan] : plans_of(name)) {
      CAPTURE(part);
      for (const MeshSizes& mesh : {MeshSizes{.tp = 2},
                                    {.tp = 2, .sequence_parallel = true},
                                    {.tp = 4, .sequence_parallel = true, .async_tensor_parallel = true},
                                    {.cp = 2, .tp = 2},
                                    {.dp_shard = 2, .cp = 2, .tp = 2, .sequence_parallel = true},
                                    {.pp = 2, .tp = 2, .sequence_parallel = true}}) {
        CAPTURE(mesh.text());
        test::check_close(test::run_job(job_of(config, mesh, plan)), one);
      }
    }
  }
}

TEST_CASE("expert-parallel ranks that cut a part of the rest of the model train as one rank does") {
  const test::MeshTrace one = test::run_job(test::job_of(test::kTinyMixtral, {}));
  for (const auto& [part, plan] : plans_of("mixtral"))
    for (bool rows : {false, true}) {
      CAPTURE(part);
      CAPTURE(rows);
      const MeshSizes mesh{.dp_shard = 2, .tp = 2, .ep = 4, .sequence_parallel = rows};
      test::check_close(test::run_job(job_of(test::kTinyMixtral, mesh, plan)), one);
    }
}

TEST_CASE("layers may be cut differently, and by sizes that the others do not allow") {
  const test::MeshTrace one = test::run_job(test::job_of(test::kTinyLlama, {}));
  Plan first = kMlp;
  for (const auto& [pattern, style] : kAttention) {
    std::string of_layer = pattern;
    of_layer.replace(of_layer.find('*'), 1, "1");
    first[of_layer] = style;
  }
  for (bool rows : {false, true}) {
    test::check_close(test::run_job(job_of(test::kTinyLlama, {.tp = 2, .sequence_parallel = rows}, first)), one);
    // Eight heads for three ranks.
    test::check_close(test::run_job(job_of(test::kTinyLlama, {.tp = 3, .sequence_parallel = rows}, kMlp)), one);
  }
}

TEST_CASE("dropout falls on the same elements whatever is cut, and checkpointed activations change no bit") {
  const std::string gpt2 = R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 32, "n_layer": 4, "n_head": 8,
    "n_positions": 32, "initializer_range": 0.2, "resid_pdrop": 0.1, "embd_pdrop": 0.2, "attn_pdrop": 0.3})";
  MeshJob alone = test::job_of(gpt2, {});
  alone.options.dropout_seed = 3;
  const test::MeshTrace one = test::run_job(alone);
  for (const auto& [part, plan] : plans_of("gpt2"))
    for (bool rows : {false, true}) {
      CAPTURE(part);
      CAPTURE(rows);
      MeshJob job = alone;
      job.mesh = {.tp = 2, .sequence_parallel = rows};
      job.tp_plan = plan;
      const test::MeshTrace cut = test::run_job(job);
      test::check_close(cut, one);
      job.options.activation_checkpointing = true;
      for (auto recall : {autograd::Recall::kNothing, autograd::Recall::kSelected}) {
        job.options.recall = recall;
        test::check_identical(test::run_job(job), cut);
      }
    }
}

TEST_CASE("what a plan cuts, and nothing else, makes the weights of a rank smaller") {
  const auto weights = [](std::optional<distributed::TpPlan> plan, int tp) {
    MeshJob job = test::job_of(test::kTinyQwen3, {.tp = tp});
    job.tp_plan = std::move(plan);
    job.steps = 1;
    return test::run_job(job).memory[0].current[static_cast<size_t>(MemoryClass::kParameters)];
  };
  const auto whole = weights({}, 1), all = weights({}, 2);
  CHECK(weights(Plan{}, 2) == whole);
  CHECK(weights(joined(joined(kAttention, kMlp), kTables), 2) == all);
  CHECK(weights("llama_nemotron_super_tp_plan", 2) == all);
  for (const Plan& part : {kAttention, kMlp, kTables}) {
    CHECK(weights(part, 2) < whole);
    CHECK(weights(part, 2) > all);
  }
}
