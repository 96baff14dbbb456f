// A communicator of one rank: reductions are nothing, gathers are copies. It exists so that no caller asks "is there
// more than one rank?".
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace automodel::comm {

std::unique_ptr<Communicator> make_single(std::string name = "world");

}  // namespace automodel::comm
