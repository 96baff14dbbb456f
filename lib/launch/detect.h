// Who started this process. Pure functions over an environment, so that a test can be any machine.
#pragma once

#include <map>
#include <string>

namespace automodel::launch {

using Environment = std::map<std::string, std::string>;

// The environment of this process.
Environment current_environment();

enum class Launcher { kNone, kMpirun, kPmix, kSlurm };

const char* name_of(Launcher launcher);

// Where the launcher says this process stands. Without a launcher: rank 0 of 1.
struct LaunchInfo {
  Launcher kind = Launcher::kNone;
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks of this machine
  int local_size = 1;

  bool operator==(const LaunchInfo&) const = default;
};

// In order of trust: OMPI_COMM_WORLD_* (mpirun), PMIX_RANK with SLURM_* (srun --mpi=pmix), SLURM_PROCID of a step (srun
// without PMIx: MPI cannot start there; see unusable_launcher). Under mpirun inside SLURM the SLURM_* variables are
// those of mpirun's daemon, hence the order. A batch script is not a rank: SLURM_PROCID counts only with SLURM_STEP_ID
// and more than one task, and not for an interactive step. Error(kUsage): a variable that is not a number, or a rank
// outside its size.
LaunchInfo detect(const Environment& environment);

// What to tell a user whose launcher started several processes that cannot form an MPI world; "" when all is well.
std::string unusable_launcher(const LaunchInfo& info);

}  // namespace automodel::launch
