// For developers: not listed in --help.
#include <CLI/CLI.hpp>
#include <map>
#include <memory>

#include "commands.h"
#include "train/bench_shapes.h"

namespace automodel::cli {

void add_bench(CLI::App& app, Context& context) {
  auto options = std::make_shared<train::BenchOptions>();
  CLI::App& command = *app.add_subcommand("bench", "Time training steps of a known shape");
  command.group("");
  command.add_option("--model", options->shape.model, train::bench_models_text())->required();
  command.add_option("--dtype", options->shape.dtype, "Type of the compute: fp32 or bf16")
      ->transform(CLI::CheckedTransformer(std::map<std::string, DType>{{"fp32", DType::kF32}, {"bf16", DType::kBF16}}));
  command.add_option("--batch", options->shape.batch, "Rows of the global batch")->check(CLI::PositiveNumber);
  command.add_option("--seq", options->shape.sequence, "Tokens of a row")->check(CLI::PositiveNumber);
  command.add_option("--steps", options->shape.steps, "Steps that are timed")->check(CLI::PositiveNumber);
  command.add_flag("--activation-checkpointing", options->shape.activation_checkpointing,
                   "Keep the inputs of the layers alone and compute the rest again");
  command.add_option("--nproc-per-node", options->nproc_per_node, "Ranks on this machine")->check(CLI::PositiveNumber);
  train::BenchMesh& mesh = options->shape.mesh;
  command.add_option("--strategy", mesh.strategy, "fsdp2, ddp or megatron_fsdp");
  command.add_option("--tp", mesh.tp, "Tensor-parallel ranks")->check(CLI::PositiveNumber);
  command.add_flag("--sequence-parallel", mesh.sequence_parallel, "Cut activations along the sequence, with --tp");
  command.add_option("--cp", mesh.cp, "Context-parallel ranks")->check(CLI::PositiveNumber);
  command.add_option("--pp", mesh.pp, "Pipeline ranks")->check(CLI::PositiveNumber);
  command.add_option("--schedule", mesh.schedule, "How pipeline ranks take turns, such as ZBVZeroBubble");
  command.add_option("--microbatches", mesh.microbatches, "Of a pipeline's batch (default: one a row)")
      ->check(CLI::PositiveNumber);
  command.add_option("--stage-layers", mesh.stage_layers, "Layers of each pipeline stage, 2,4,4,2 (default: equal)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  add_device(command, options->shape.device);
  add_format(command, options->format);
  command.callback([options, &context] {
    context.action = [options, &context] {
      options->command_line = context.command_line;
      return train::run_bench(*options);
    };
  });
}

}  // namespace automodel::cli
