// Places a model on the ranks of a job and lets it continue a prompt: quick_start MODEL_FOLDER [TP_SIZE]
#include <fmt/ranges.h>

#include <cstdio>
#include <cstdlib>

#include "core/error.h"
#include "distributed/distributed_setup.h"
#include "train/auto_model.h"
#include "train/generator.h"
#include "train/ranks.h"

using namespace automodel;

int main(int argc, char** argv) try {
  const std::string folder = argc > 1 ? argv[1] : "models/Llama-3.2-1B";
  const int64_t tp_size = argc > 2 ? std::atoi(argv[2]) : 2;
  // One rank of the job that mpirun or srun started; without a launcher the only one.
  return train::run_as_rank(10, [&](comm::World& world) {
    const auto setup = distributed::DistributedSetup::build({
        .strategy = distributed::FSDP2Config{.sequence_parallel = true},
        .parallelism_sizes = {.tp_size = tp_size},
        .world_size = world.size(),
    });
    const distributed::MeshContext& mesh = setup.mesh_context;
    fmt::print("rank {} of {}: tp group {} of {}, dp group {} of {}\n", world.rank(), world.size(),
               mesh.group(world.rank(), "tp"), mesh.tp_size(), mesh.group(world.rank(), "dp"), *mesh.dp_size());
    std::fflush(stdout);

    auto model = train::AutoModelForCausalLM::from_pretrained(folder, world, {.distributed_setup = &setup});
    const std::vector<int32_t> ids = train::generate(model->engine(), {1, 2, 3}, {.max_new_tokens = 8});
    if (world.is_main()) fmt::print("{}: {} layers; continues with {}\n", folder, model->info().layers, ids);
    return 0;
  });
} catch (const Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return exit_code(error.fault());
}
