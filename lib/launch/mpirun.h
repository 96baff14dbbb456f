// The mpirun command line that starts a job, as data: shown by --dry-run, run by launch(). Written for OpenMPI 4 and
// 5's common options.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/detect.h"

namespace automodel::launch {

struct MpirunOptions {
  // Ranks on each machine. Without it: the slots that hosts, hostfile or the SLURM allocation name; else 1.
  std::optional<int> ranks_per_node;
  // At most one of the two. hosts: "a:8,b:8" (one slot where no number stands). hostfile: OpenMPI's format.
  std::string hosts;
  std::string hostfile;
  // The network between the machines, "10.1.0.0/24"; "" lets OpenMPI choose.
  std::string network;
  // What starts the daemons instead of ssh; "" is ssh.
  std::string agent;
};

// What mpirun_command needs to know about the machine it runs on.
struct Machine {
  Environment environment;
  std::string mpirun;  // its path; "" when it is not installed
  bool is_root = false;
  bool has_remote_shell = true;  // ssh or rsh
  bool may_read_peers = true;    // process_vm_readv works (containers often forbid it)
  int cores = 1;                 // in the affinity mask
};

Machine this_machine();

struct Command {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> environment;  // added to that of this process
  std::vector<std::string> notices;                              // for the user, before the start
  int ranks = 0;                                                 // 0: only mpirun knows (slots of a hostfile, SLURM)
  bool several_nodes = false;
};

// The command that runs `program` (absolute path) with `arguments` on every rank: unbound, with OMP_NUM_THREADS set to
// this machine's cores divided among its ranks unless the user set it, root allowed when the user is root, more ranks
// than cores allowed with a notice, dead machines noticed within about 10 s. Error(kUsage): mpirun missing, a malformed
// host list or hostfile, both given, no remote shell for several machines.
Command mpirun_command(const MpirunOptions& options, const Machine& machine, const std::string& program,
                       const std::vector<std::string>& arguments);

// The command as one line for a POSIX shell.
std::string shell_text(const Command& command);
std::string shell_quoted(const std::string& word);

}  // namespace automodel::launch
