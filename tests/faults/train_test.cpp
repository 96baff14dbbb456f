// A training job through the command line in which a rank stops answering: dist_env.timeout_minutes ends it.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "cli/program.h"

using namespace automodel;
namespace fs = std::filesystem;

TEST_CASE("a training rank that stops is named with its place, and the last checkpoint stays usable") {
  const fs::path folder = fs::temp_directory_path() / ("automodel-faults-" + std::to_string(::getpid()));
  const std::string where = folder.string();
  // The ranks are children of the mpirun that the program started.
  const cli_test::Run stopped = cli_test::run(
      "train recipes/mock/smoke.yaml --nproc-per-node 2 --dist_env.timeout_minutes 0.05 "
      "--step_scheduler.max_steps 1000000 --step_scheduler.num_epochs 1000000 --step_scheduler.ckpt_every_steps 5 "
      "--checkpoint.enabled true --checkpoint.checkpoint_dir " +
      where + " 2>&1 & pid=$!; for i in $(seq 300); do [ -e " + where +
      "/LATEST ] && break; sleep 0.1; done; for p in $(pgrep -P $(pgrep -P $pid)); do grep -qz OMPI_COMM_WORLD_RANK=1 "
      "/proc/$p/environ && kill -STOP $p; done; wait $pid");
  INFO(stopped.output);
  CHECK(stopped.code == 1);
  CHECK(cli_test::has(stopped, "rank 0 failed: [dp_shard 0] waited 3"));
  CHECK(cli_test::has(stopped, "still missing: rank 1 [dp_shard 1]; did a peer hang"));
  CHECK(cli_test::run("generate " + where + "/LATEST --prompt-ids 1 --max-new-tokens 1 --greedy --format json").code ==
        0);
  fs::remove_all(folder);
}
