// The plan for people: one screen, aligned, the numbers that decide whether a job is worth starting.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "distributed/mesh_picture.h"
#include "train/placement.h"
#include "train/plan_pipeline.h"
#include "train/plan_recipe.h"

namespace automodel::train {
namespace {

constexpr std::array kClasses{MemoryClass::kParameters,  MemoryClass::kOptimizer,     MemoryClass::kGradients,
                              MemoryClass::kActivations, MemoryClass::kCommunication, MemoryClass::kWorkspace};

std::string grouped(int64_t n) {
  std::string digits = fmt::format("{}", n);
  for (auto i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

// "70.6 B", "2.04 M".
std::string scaled(double value, const std::array<const char*, 7>& units) {
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < units.size(); ++unit) value /= 1000;
  return fmt::format("{:.{}f}{}{}", value, value < 10 ? 2 : value < 100 ? 1 : 0, *units[unit] ? " " : "", units[unit]);
}

std::string flops_text(double flops) {
  return scaled(flops, {"", "k", "M", "G", "T", "P", "E"}) + "FLOP";
}

std::string model_line(const PlannedRecipe& p) {
  const models::ModelInfo& m = p.job.source.model->info();
  return fmt::format("{}, {} weights ({}): {} layers, hidden {}, {} heads ({} kv), vocab {}{}\n", m.model_type,
                     scaled(static_cast<double>(p.plan.parameters), {"", "k", "M", "B", "T", "", ""}),
                     grouped(p.plan.parameters), m.layers, m.hidden_size, m.heads, m.kv_heads, grouped(m.vocab_size),
                     m.tied_head ? ", tied head" : "");
}

std::string policy_lines(const PlannedRecipe& p) {
  const Job& job = p.job;
  engine::EngineOptions o = engine_options(job);
  std::string dropped = o.unit.keep_gathered       ? "no layer"
                        : !o.reshard_after_forward ? "every layer but the last"
                        : *o.reshard_after_forward ? "every layer"
                                                   : "no layer";
  std::string text = fmt::format("{} on {}; compute in {}, reduce in {}, master weights and moments in float32\n",
                                 distributed::name_of(job.setup->strategy()), name_of(p.plan.device),
                                 name_of(job.precision.param), name_of(job.precision.reduce));
  text += fmt::format("            activation checkpointing {}; gradients reduced after every {}\n",
                      checkpointing_of(o), o.defer_reduce ? "step" : "microbatch");
  if (o.unit.shard && job.world_size > 1)
    text += fmt::format(
        "            gathered weights dropped after the forward: {}; gathered ahead: {} forward, {} "
        "backward\n",
        dropped, o.prefetch, o.prefetch_backward);
  return text;
}

std::string mesh_lines(const Job& job, int gpus_per_node) {
  if (job.world_size == 1) return "";
  const distributed::PictureOptions options{.gpus_per_node = gpus_per_node, .max_columns = 8};
  std::string groups = distributed::group_table(job.setup->mesh_context, options);
  return "\nranks\n" + distributed::mesh_picture(job.setup->mesh_context, options) +
         (groups.empty() ? "" : "\ngroups\n" + groups);
}

std::string batch_lines(const BatchPlan& b) {
  std::string text =
      fmt::format("{} samples a step = {} local x {} microbatch{} x {} data-parallel rank{}; rows of {} tokens{}\n",
                  grouped(b.microbatch.rows * b.accumulation * b.dp_size), b.microbatch.rows, b.accumulation,
                  b.accumulation == 1 ? "" : "es", b.dp_size, b.dp_size == 1 ? "" : "s", grouped(b.microbatch.cols),
                  b.microbatch.packed ? ", packed" : "");
  if (!b.assumed.empty()) text += fmt::format("            assumed: {}\n", b.assumed);
  return text;
}

std::string run_line(const PlannedRecipe& p) {
  const BatchPlan& b = p.plan.batch;
  const StepSchedulerConfig& s = p.job.config().step_scheduler;
  std::string text =
      fmt::format("{} tokens and {} a step; ", grouped(b.tokens_per_step()), flops_text(p.plan.step_flops));
  if (b.epoch_steps)
    return text + fmt::format("{} steps, {} in an epoch\n", grouped(*b.steps), grouped(*b.epoch_steps));
  if (b.steps)
    return text + fmt::format("{} steps, or fewer when {} epochs of the data have fewer\n", grouped(*b.steps),
                              s.num_epochs.value_or(10));
  return text + fmt::format("{} epoch{} of as many steps as the data has\n", s.num_epochs.value_or(10),
                            s.num_epochs.value_or(10) == 1 ? "" : "s");
}

std::string class_note(MemoryClass memory_class, const Job& job, const plan::RankPlan& p) {
  int64_t master = 0, copy = 0;
  for (const plan::UnitPlan& u : p.units) master += u.master_bytes, copy += u.compute_bytes;
  switch (memory_class) {
    case MemoryClass::kParameters:
      return fmt::format("master float32 {}", human_bytes(master)) +
             (copy > 0 ? fmt::format(", copy {} {}", name_of(job.precision.param), human_bytes(copy)) : "");
    case MemoryClass::kOptimizer:
      return "two moments float32";
    case MemoryClass::kCommunication:
      return "gathered weights, gradients under way";
    case MemoryClass::kWorkspace:
      return fmt::format("logits, tables, token ids {}", human_bytes(p.batch_bytes));
    default:
      return "";
  }
}

std::string memory_table(const KindPlan& kind, const Job& job) {
  auto row = [](const std::string& name, const std::string& between, const std::string& peak, const std::string& note) {
    return fmt::format("{:<32}{:>15}{:>12}{}{}\n", name, between, peak, note.empty() ? "" : "   ", note);
  };
  std::string text = "\n" + row("memory of " + ranks_text(kind.ranks), "between steps", "peak", "");
  const plan::RankPlan& p = kind.plan;
  for (MemoryClass c : kClasses)
    text += row(fmt::format("  {}", name_of(c)), human_bytes(p.steady.current[static_cast<size_t>(c)]),
                human_bytes(p.peak(c)), class_note(c, job, p));
  std::string when = p.evaluation.peak_total == p.peak_total() ? ", in a validation" : "";
  text +=
      row("  in all", human_bytes(p.steady.current_total), human_bytes(p.peak_total()), "the most at one time" + when);
  return text;
}

// What moves, told by its size.
std::string moved(const plan::TrafficRow& row, const plan::RankPlan& p) {
  auto is = [&](const plan::UnitPlan& u) {
    if (row.call.call == comm::Call::kAllGather) return row.call.bytes == u.gathered_bytes;
    return row.call.bytes == u.reduced_bytes ||
           (row.call.call == comm::Call::kAllReduce && row.call.bytes == u.reduced_shard_bytes);
  };
  const std::string& axis = row.call.axis;
  constexpr int64_t kNumbers = 16;  // bytes of counts, losses, norms, signals
  if (row.call.bytes > kNumbers) {
    if (axis == "tp") return "activations; gradients of what the ranks have in common";
    if (axis == "tp_sharers") return "gradients of shared heads";
    if (axis == "cp") return "keys and values; their gradients";
    if (axis == "ep") return "tokens to experts and back";
    if (axis == "pp") return "activations and their gradients";
    if (axis == "pp_tied") return "gradient of the embedding that is also the head";
  }
  const char* what = row.call.call == comm::Call::kAllGather ? "weights" : "gradients";
  auto unit = std::ranges::find_if(p.units, is);
  if (unit == p.units.end()) return "counts, loss, norm, signals";
  return fmt::format("{} {}", what, unit->of_layer ? "of a layer" : "outside of the layers");
}

std::string traffic_table(const KindPlan& kind) {
  const plan::Traffic& traffic = kind.plan.traffic;
  if (traffic.sent_bytes() == 0) return "\none rank: nothing is sent\n";
  std::string whose = kind.ranks.where().empty() ? "" : "of " + ranks_text(kind.ranks) + "\n";
  auto row = [](const std::string& name, const std::string& axis, const auto& ranks, const auto& count,
                const std::vector<std::string>& bytes, const std::string& note) {
    return fmt::format("{:<18}{:<13}{:>7}{:>7}{:>11}{:>11}{:>11}{}{}\n", name, axis, ranks, count, bytes[0], bytes[1],
                       bytes[2], note.empty() ? "" : "   ", note);
  };
  std::string text = "\n" + whose + row("calls of a step", "axis", "ranks", "count", {"each", "in all", "sent"}, "");
  for (const plan::TrafficRow& r : traffic.rows())
    text += row(fmt::format("  {}", comm::name_of(r.call.call)), r.call.axis, r.call.size, r.count,
                {human_bytes(r.call.bytes), human_bytes(r.bytes()), human_bytes(r.sent_bytes())}, moved(r, kind.plan));
  return text + row("  in all", "", "", traffic.calls(), {"", "", human_bytes(traffic.sent_bytes())}, "by each rank");
}

// "  peak of a rank   61.2 GiB -> 70.1 GiB", or nothing when it stays.
void change(std::string& text, const std::string& name, const std::string& before, const std::string& after) {
  if (before != after) text += fmt::format("    {:<30} {} -> {}\n", name, before, after);
}

}  // namespace

std::string plan_text(const PlannedRecipe& p, int gpus_per_node) {
  std::string name = p.job.recipe.node.origin().source ? p.job.recipe.node.origin().source->name : "";
  std::string text =
      fmt::format("{} on {} rank{}\n\n", name, grouped(p.job.world_size), p.job.world_size == 1 ? "" : "s");
  text += "model       " + model_line(p);
  text += "mesh        " + distributed::mesh_line(p.job.setup->mesh_context) + "\n";
  text += "set-up      " + policy_lines(p);
  text += "batch       " + batch_lines(p.plan.batch);
  text += "run         " + run_line(p);
  if (auto pipeline = engine_options(p.job).pipeline) text += "pipeline    " + pipeline_lines(pipeline->schedule);
  text += mesh_lines(p.job, gpus_per_node);
  for (const KindPlan& kind : p.plan.kinds) text += memory_table(kind, p.job);
  for (const KindPlan& kind : p.plan.kinds) text += traffic_table(kind);
  for (const std::string& warning : p.plan.warnings) text += fmt::format("\nwarning: {}", warning);
  if (!p.plan.warnings.empty()) text += "\n";
  return text;
}

std::string why_text(const PlannedRecipe& before, const WhyAnswer& answer) {
  std::string text = fmt::format("{} = {}: ", answer.key, answer.value);
  if (!answer.forbidden.empty()) {
    text += "not possible\n";
    size_t begin = 0;
    while (begin < answer.forbidden.size()) {
      size_t end = std::min(answer.forbidden.find('\n', begin), answer.forbidden.size());
      text += "    " + answer.forbidden.substr(begin, end - begin) + "\n";
      begin = end + 1;
    }
    return text;
  }
  const PlannedRecipe& after = *answer.changed;
  const plan::RankPlan& a = before.plan.largest().plan;
  const plan::RankPlan& b = after.plan.largest().plan;
  std::string changes;
  auto bytes = [&](const std::string& what, int64_t x, int64_t y) {
    change(changes, what,
           human_bytes(x) + (human_bytes(x) == human_bytes(y) && x != y ? fmt::format(" ({} B)", x) : ""),
           human_bytes(y) + (human_bytes(x) == human_bytes(y) && x != y ? fmt::format(" ({} B)", y) : ""));
  };
  bytes("memory of a rank, peak", a.peak_total(), b.peak_total());
  for (MemoryClass c : kClasses) bytes(fmt::format("  {}", name_of(c)), a.peak(c), b.peak(c));
  bytes("sent by a rank in a step", a.traffic.sent_bytes(), b.traffic.sent_bytes());
  change(changes, "calls of a step", grouped(a.traffic.calls()), grouped(b.traffic.calls()));
  change(changes, "parameters", grouped(before.plan.parameters), grouped(after.plan.parameters));
  change(changes, "microbatches of a step", grouped(before.plan.batch.accumulation),
         grouped(after.plan.batch.accumulation));
  change(changes, "tokens of a step", grouped(before.plan.batch.tokens_per_step()),
         grouped(after.plan.batch.tokens_per_step()));
  text +=
      changes.empty() ? "possible; neither memory nor traffic of a step changes\n" : "possible; it changes\n" + changes;
  return text;
}

}  // namespace automodel::train
