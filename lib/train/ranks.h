// From a command to its ranks: starts them with mpirun, or joins the launcher that started this process.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "comm/world.h"
#include "launch/detect.h"
#include "launch/mpirun.h"

namespace automodel::train {

struct RanksWanted {
  std::optional<int64_t> per_node;  // nothing: one
  std::string hostfile;
  std::string hosts;
  std::vector<std::string> command_line;  // argv of this program
};

// The mpirun command when this process must start ranks; nothing when it is a rank itself (under a launcher), or when
// one rank is enough. Throws Error(kUsage): see launch::mpirun_command.
std::optional<launch::Command> command_for(const RanksWanted& wanted);

// The number of ranks that this process knows of: the launcher's, else 1.
int ranks_here();

// Runs `body` as one rank: joins the world, sets the threads, and ends all ranks when the body throws.
int run_as_rank(double timeout_minutes, const std::function<int(comm::World&)>& body);

}  // namespace automodel::train
