// Runs a command built by mpirun_command and sees to its end.
#pragma once

#include "launch/mpirun.h"

namespace automodel::launch {

// Starts the command, waits for it and returns the program's exit code: 0, 2 (the user's input), 1 (any other failure),
// 130 and 143 (stopped by SIGINT or SIGTERM). stdout and stderr pass through; stdin is empty when it is a terminal.
//
// mpirun kills its ranks a second after SIGTERM, which is no time to save. So the first SIGINT, SIGTERM or SIGHUP
// reaches the ranks as SIGUSR1: save and stop. A second one becomes SIGTERM for mpirun, a third SIGKILL for its process
// group. SIGUSR1 and SIGUSR2 are passed on. When this process dies, mpirun is sent SIGTERM. One thread of the process
// may be in here; it must be the main thread. Error(kUsage) when the command cannot be started.
int launch(const Command& command);

// The exit code of the program for the status of mpirun (as waitpid gives it), `stop_signal` being the first of SIGINT,
// SIGTERM, SIGHUP that was received, or 0.
int exit_code_of(int wait_status, int stop_signal, bool killed);

}  // namespace automodel::launch
