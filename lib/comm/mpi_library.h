// Which MPI this program talks to.
#pragma once

#include <string>

namespace automodel::comm {

// As the library calls itself, "Open MPI v4.1.4"; works before and without joining a world.
std::string mpi_library();

}  // namespace automodel::comm
