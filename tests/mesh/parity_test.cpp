// Every mesh trains as one rank does (ARCHITECTURE law 2): tiny models on thread ranks, with accumulation, ragged
// labels, samples without labels and clipping that acts.
#include <doctest/doctest.h>

#include <map>

#include "support/mesh_job.h"

using namespace automodel;
using test::MeshJob;
using test::MeshSizes;
using test::MeshTrace;

namespace {

// Grouped heads, tied head, a vocabulary that does not divide.
const char* const kLlama = R"({"model_type": "llama", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40,
  "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": true,
  "max_position_embeddings": 64, "initializer_range": 0.2})";
const char* const kGpt2 = R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 32, "n_layer": 4, "n_head": 8,
  "n_positions": 32, "initializer_range": 0.2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0})";
// Normed heads of a width of their own, biases, a head that is not tied.
const char* const kQwen3 = R"({"model_type": "qwen3", "vocab_size": 59, "hidden_size": 24, "intermediate_size": 36,
  "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 6, "attention_bias": true,
  "tie_word_embeddings": false, "max_position_embeddings": 64, "initializer_range": 0.2})";

const std::map<std::string, const char*> kModels{{"llama", kLlama}, {"gpt2", kGpt2}, {"qwen3", kQwen3}};

MeshJob job_of(const char* config, const MeshSizes& mesh) {
  MeshJob job;
  job.config = config;
  job.mesh = mesh;
  job.options = test::exact_options();
  return job;
}

}  // namespace

TEST_CASE("tensor and sequence parallel ranks train as one rank does") {
  for (const auto& [name, config] : kModels) {
    CAPTURE(name);
    MeshTrace one = test::run_job(job_of(config, {}));
    CHECK(one.norms[0] > 0.5);
    for (int tp : {2, 4, 8})
      for (bool rows : {false, true}) {
        MeshSizes mesh{.tp = tp, .sequence_parallel = rows};
        CAPTURE(mesh.text());
        test::check_close(test::run_job(job_of(config, mesh)), one);
      }
  }
}

TEST_CASE("every schedule of a pipeline trains as one rank does") {
  for (const auto& [name, config] : kModels) {
    CAPTURE(name);
    MeshTrace one = test::run_job(job_of(config, {}));
    for (const char* schedule :
         {"1F1B", "GPipe", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"})
      for (int pp : {2, 4}) {
        if (pp == 4 && !parallel::is_single_stage(schedule)) continue;  // the models have four layers
        CAPTURE(schedule);
        MeshJob job = job_of(config, {.pp = pp});
        job.schedule = schedule;
        test::check_close(test::run_job(job), one);
      }
  }
}

TEST_CASE("schedules that add microbatches in their order give the bits of the same microbatches without a pipeline") {
  MeshJob alone = job_of(kQwen3, {});
  alone.accumulation = 8;  // two batches of four microbatches
  MeshTrace one = test::run_job(alone);
  for (const char* schedule : {"1F1B", "GPipe", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble"}) {
    CAPTURE(schedule);
    MeshJob job = job_of(kQwen3, {.pp = 2});
    job.schedule = schedule;
    test::check_identical(test::run_job(job), one);
  }
}
