// How many cores this process may use.
#pragma once

#include <string>

namespace automodel::launch {

// Cores in the affinity mask of this process, at least 1.
int usable_cores();
// Cores of the machine that are online.
int machine_cores();

// What to tell a user whose ranks are bound to one core while others idle ("" when all is well): `usable` and `machine`
// as above, `local_ranks` processes of the job on this machine. mpirun does that to one and two ranks unless told
// otherwise.
std::string affinity_warning(int usable, int machine, int local_ranks);

}  // namespace automodel::launch
