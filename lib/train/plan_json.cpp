// The plan for programs: lib/plan/FORMAT.md says what each field means.
#include <nlohmann/json.hpp>

#include "distributed/setup_json.h"
#include "train/placement.h"
#include "train/plan_recipe.h"

namespace automodel::train {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json model_json(const PlannedRecipe& p) {
  const models::ModelInfo& m = p.job.source.model->info();
  return {{"model_type", m.model_type},
          {"parameters", p.plan.parameters},
          {"layers", m.layers},
          {"hidden_size", m.hidden_size},
          {"intermediate_size", m.intermediate_size},
          {"heads", m.heads},
          {"kv_heads", m.kv_heads},
          {"head_dim", m.head_dim},
          {"vocab_size", m.vocab_size},
          {"max_positions", m.max_positions},
          {"tied_head", m.tied_head}};
}

// Without the groups, which grow with the ranks: --only distributed has them.
Json setup_json(const Job& job) {
  Json out = distributed::to_json(*job.setup, distributed::sizes_of(job.config().distributed));
  out.erase("groups");
  return out;
}

Json policy_json(const Job& job) {
  engine::EngineOptions o = engine_options(job);
  return {{"param_dtype", name_of(job.precision.param)},
          {"reduce_dtype", name_of(job.precision.reduce)},
          {"master_dtype", "float32"},
          {"optimizer_dtype", "float32"},
          {"activation_checkpointing", checkpointing_of(o)},
          {"reshard_after_forward", or_null(o.reshard_after_forward)},
          {"keep_gathered", o.unit.keep_gathered},
          {"replicas", o.unit.shard ? o.unit.replicas : job.world_size},
          {"defer_reduce", o.defer_reduce},
          {"prefetch_forward", o.prefetch},
          {"prefetch_backward", o.prefetch_backward}};
}

Json batch_json(const BatchPlan& b) {
  return {{"global_batch_size", b.global_batch},    {"local_batch_size", b.microbatch.rows},
          {"accumulation", b.accumulation},         {"dp_size", b.dp_size},
          {"sequence", b.microbatch.cols},          {"packed", b.microbatch.packed},
          {"tokens_per_step", b.tokens_per_step()}, {"assumed", b.assumed.empty() ? Json(nullptr) : Json(b.assumed)}};
}

Json memory_json(const plan::RankPlan& p) {
  int64_t master = 0, copy = 0;
  for (const plan::UnitPlan& u : p.units) master += u.master_bytes, copy += u.compute_bytes;
  Json classes = Json::object();
  for (int i = 0; i < kMemoryClasses; ++i) {
    auto c = static_cast<MemoryClass>(i);
    classes[name_of(c)] = {{"between_steps", p.steady.current[static_cast<size_t>(i)]}, {"peak", p.peak(c)}};
  }
  return {{"peak", p.peak_total()},
          {"peak_first_step", p.first.peak_total},
          {"peak_later_steps", p.steady.peak_total},
          {"peak_validation", p.evaluation.peak_total > 0 ? Json(p.evaluation.peak_total) : Json(nullptr)},
          {"between_steps", p.steady.current_total},
          {"classes", classes},
          {"master_weights", master},
          {"compute_weights", copy},
          {"token_ids", p.batch_bytes}};
}

Json traffic_json(const plan::Traffic& traffic) {
  Json rows = Json::array();
  for (const plan::TrafficRow& row : traffic.rows())
    rows.push_back({{"call", comm::name_of(row.call.call)},
                    {"axis", row.call.axis},
                    {"ranks", row.call.size},
                    {"count", row.count},
                    {"bytes", row.call.bytes},
                    {"total_bytes", row.bytes()},
                    {"sent_bytes", row.sent_bytes()}});
  return {{"calls", traffic.calls()}, {"sent_bytes", traffic.sent_bytes()}, {"rows", rows}};
}

Json kinds_json(const JobPlan& plan) {
  Json out = Json::array();
  for (const KindPlan& kind : plan.kinds)
    out.push_back({{"first_rank", kind.ranks.first},
                   {"count", kind.ranks.count},
                   {"where", kind.ranks.where()},
                   {"memory", memory_json(kind.plan)},
                   {"traffic", traffic_json(kind.plan.traffic)}});
  return out;
}

Json plan_object(const PlannedRecipe& p) {
  const auto& source = p.job.recipe.node.origin().source;
  Json warnings = p.plan.warnings;
  return {{"recipe", source ? Json(source->name) : Json(nullptr)},
          {"world_size", p.job.world_size},
          {"device", name_of(p.plan.device)},
          {"model", model_json(p)},
          {"distributed", setup_json(p.job)},
          {"policies", policy_json(p.job)},
          {"batch", batch_json(p.plan.batch)},
          {"run", {{"steps", or_null(p.plan.batch.steps)}, {"epoch_steps", or_null(p.plan.batch.epoch_steps)}}},
          {"flops_per_step", p.plan.step_flops},
          {"ranks", kinds_json(p.plan)},
          {"warnings", warnings}};
}

Json why_json(const WhyAnswer& answer) {
  Json out{{"key", answer.key}, {"value", answer.value}, {"allowed", answer.changed.has_value()}};
  out["errors"] = answer.changed ? Json::array() : Json::parse(answer.forbidden_json);
  out["plan"] = answer.changed ? plan_object(*answer.changed) : Json(nullptr);
  return out;
}

}  // namespace

std::string plan_json(const PlannedRecipe& planned, const std::vector<WhyAnswer>& answers) {
  Json out{{"status", "ok"}};
  out.update(plan_object(planned));
  if (!answers.empty()) out["why"] = Json::array();
  for (const WhyAnswer& answer : answers) out["why"].push_back(why_json(answer));
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace automodel::train
