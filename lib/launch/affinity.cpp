#include "launch/affinity.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

#include "core/error.h"

namespace automodel::launch {

int machine_cores() {
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
}

int usable_cores() {
  // The mask of a machine with more than 1024 cores needs a larger set.
  for (int cores = 1024; cores <= 1 << 20; cores *= 4) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(cores));
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(cores));
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    const int count = known ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (known) return std::max(1, count);
  }
  return machine_cores();
}

std::string affinity_warning(int usable, int machine, int local_ranks) {
  if (usable > 1 || machine / std::max(1, local_ranks) <= 1) return "";
  return fmt::format(
      "this rank is bound to 1 of {} cores, which {} rank(s) on this machine could share; start mpirun with --bind-to "
      "none",
      machine, local_ranks);
}

}  // namespace automodel::launch
