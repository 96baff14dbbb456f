// What a tp_plan selects of a model, and what is said when it cannot.
#include "models/tensor_plan.h"

#include <doctest/doctest.h>
#include <fmt/core.h>

#include "config/config.h"
#include "models/registry.h"

using namespace automodel;
using namespace automodel::models;
using Map = std::map<std::string, std::string>;

namespace {

std::string config_of(const std::string& type, bool tied) {
  if (type == "gpt2")
    return R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32})";
  return fmt::format(R"({{"model_type": "{}", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 40,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": {}}})",
                     type, tied);
}

struct Answer {
  TensorCuts cuts;
  std::string problems;
};

Answer ask(const distributed::TpPlan& plan, const std::string& type = "llama", bool tied = false) {
  const auto model = build(config::parse_json(config_of(type, tied), "config.json"));
  config::Report report;
  const config::Node nowhere;
  config::Problems problems(report, nowhere, "distributed");
  Answer answer{cuts_of(*model, plan, problems), ""};
  for (const config::Problem& p : report.problems())
    answer.problems += p.key + ": " + p.message + " | " + p.hint + "\n";
  return answer;
}

const Map kAttention{{"model.layers.*.self_attn.q_proj", "colwise"},
                     {"model.layers.*.self_attn.k_proj", "colwise"},
                     {"model.layers.*.self_attn.v_proj", "colwise"},
                     {"model.layers.*.self_attn.o_proj", "rowwise"}};

Map with(Map plan, const std::string& pattern, const std::string& style) {
  plan[pattern] = style;
  return plan;
}
Map without(Map plan, const std::string& pattern) {
  plan.erase(pattern);
  return plan;
}

}  // namespace

TEST_CASE("a plan cuts what it names in all layers, and nothing else") {
  const Answer answer = ask(kAttention);
  CHECK(answer.problems == "");
  CHECK(*answer.cuts.wholes == std::set<std::string>{"model.layers.0.self_attn", "model.layers.1.self_attn"});
  CHECK(ask(Map{}).cuts.wholes->empty());
  CHECK(ask(Map{{"h.1.mlp.c_fc", "colwise"}, {"h.1.mlp.c_proj", "rowwise"}}, "gpt2").cuts.wholes ==
        std::set<std::string>{"transformer.h.1.mlp"});
}

TEST_CASE("styles that say where results go cut as the plain ones do, or not at all") {
  Map plan = kAttention;
  plan["model.embed_tokens"] = "rowwise_rep";
  plan["lm_head"] = "colwise_rep";
  plan["layers.*.input_layernorm"] = "sequence_parallel";
  plan["norm"] = "sequence_parallel";
  plan["layers.*.mlp"] = "gather";
  // A module without a weight of its own has nothing that could be cut.
  CHECK(ask(plan).problems == "");
  plan["layers.*.mlp"] = "colwise";
  CHECK(ask(plan).problems.starts_with("distributed.tp_plan.layers.*.mlp: no module of the model has such a name"));
  plan.erase("layers.*.mlp");
  const Answer answer = ask(plan);
  CHECK(answer.problems == "");
  CHECK(*answer.cuts.wholes ==
        std::set<std::string>{"lm_head", "model.embed_tokens", "model.layers.0.self_attn", "model.layers.1.self_attn"});
  Map experts = kAttention;
  experts["layers.*.self_attn.q_norm"] = "replicated_with_grad_allreduce";
  experts["layers.*.mlp.gate"] = "ep_router";
  experts["layers.*.mlp.experts.*.up_proj"] = "local_colwise";
  CHECK(ask(experts, "qwen3_moe").problems == "");
}

TEST_CASE("known names mean all of the model, others are refused") {
  CHECK(!ask("auto").cuts.wholes);
  CHECK(!ask("llama_nemotron_super_tp_plan").cuts.wholes);
  const Answer dotted = ask("nemo_automodel.components.distributed.plans.llama_nemotron_super_tp_plan", "qwen3");
  CHECK(dotted.problems == "");
  CHECK(!dotted.cuts.wholes);
  CHECK(ask("my.plans.of_mine").problems ==
        "distributed.tp_plan: there is no plan 'my.plans.of_mine', and nothing that a recipe names is executed | write "
        "llama_nemotron_super_tp_plan, or a style for each pattern of module names, or leave it out for the model's "
        "own plan\n");
  CHECK(ask("llama_nemotron_super_tp_plan", "gpt2").problems ==
        "distributed.tp_plan: llama_nemotron_super_tp_plan is about other modules than a gpt2 model has | leave it out "
        "for the model's own plan\n");
}

TEST_CASE("a part of what can only be cut together is refused once for all layers") {
  CHECK(ask(without(without(kAttention, "model.layers.*.self_attn.o_proj"), "model.layers.*.self_attn.q_proj"))
            .problems ==
        "distributed.tp_plan.model.layers.*.self_attn.k_proj: model.layers.0.self_attn.k_proj is cut, but not "
        "model.layers.0.self_attn.q_proj, model.layers.0.self_attn.o_proj: they can only be cut together | add "
        "model.layers.*.self_attn.q_proj: colwise, model.layers.*.self_attn.o_proj: rowwise, or leave all of "
        "model.layers.*.self_attn out\n");
  CHECK(ask(Map{{"model.layers.1.mlp.down_proj", "rowwise"}})
            .problems.find("add model.layers.*.mlp.gate_proj: colwise") != std::string::npos);
}

TEST_CASE("an embedding that is the head is cut as both") {
  CHECK(ask(Map{{"model.embed_tokens", "rowwise"}}).problems == "");
  CHECK(ask(Map{{"model.embed_tokens", "rowwise"}}, "llama", true).problems ==
        "distributed.tp_plan.model.embed_tokens: model.embed_tokens is cut, but lm_head is not, and they are one "
        "weight | add lm_head: colwise, or leave both out\n");
  CHECK(ask(Map{{"lm_head", "colwise_rep"}}, "gpt2").problems ==
        "distributed.tp_plan.lm_head: lm_head is cut, but transformer.wte is not, and they are one weight | add "
        "transformer.wte: rowwise, or leave both out\n");
  CHECK(ask(Map{{"lm_head", "colwise"}, {"wte", "rowwise"}}, "gpt2").cuts.wholes ==
        std::set<std::string>{"lm_head", "transformer.wte"});
}

TEST_CASE("styles and names that do not exist are told with the nearest ones") {
  CHECK(ask(with(kAttention, "lm_head", "colwize")).problems ==
        "distributed.tp_plan.lm_head: there is no style 'colwize' | did you mean 'colwise'? styles are colwise, "
        "colwise_rep, rowwise, rowwise_rep, sequence_parallel, replicated_with_grad_allreduce, gather, local_colwise, "
        "local_rowwise, ep_*\n");
  CHECK(ask(with(kAttention, "model.layers.*.mlp.gate_porj", "colwise")).problems ==
        "distributed.tp_plan.model.layers.*.mlp.gate_porj: no module of the model has such a name | did you mean "
        "'model.layers.*.mlp.gate_proj'?\n");
  CHECK(ask(Map{{"model.layers.*.self_attn", "colwise"}}).problems ==
        "distributed.tp_plan.model.layers.*.self_attn: no module of the model has such a name | name what is in it: "
        "model.layers.*.self_attn.q_proj, model.layers.*.self_attn.k_proj, model.layers.*.self_attn.v_proj, "
        "model.layers.*.self_attn.o_proj\n");
}

TEST_CASE("a module is not cut in a way that it cannot be") {
  CHECK(ask(with(kAttention, "model.layers.*.self_attn.o_proj", "colwise")).problems ==
        "distributed.tp_plan.model.layers.*.self_attn.o_proj: model.layers.0.self_attn.o_proj is 'colwise', but it is "
        "cut the other way | write rowwise\n");
  CHECK(ask(with(kAttention, "norm", "colwise")).problems ==
        "distributed.tp_plan.norm: model.norm is 'colwise', but it is whole on every rank | leave it out, or write "
        "sequence_parallel for a norm\n");
  CHECK(ask(with(kAttention, "model.layers.*.mlp.experts.*.up_proj", "colwise"), "qwen3_moe").problems ==
        "distributed.tp_plan.model.layers.*.mlp.experts.*.up_proj: model.layers.0.mlp.experts.0.up_proj is 'colwise', "
        "but tensor-parallel ranks do not cut experts | leave it out; ep_size shares experts out\n");
}
