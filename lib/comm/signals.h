// Signals as flags. A handler only notes that its signal came; the training loop asks once per step and combines the
// answer over the ranks with an all_reduce (max), so that all of them stop at the same step.
#pragma once

#include <memory>
#include <vector>

namespace automodel::comm {

class Signals {
 public:
  // Installs handlers for `signals` (SIGUSR1, SIGTERM, ...); interrupted system calls are restarted. One object may
  // live at a time: handlers belong to the process. A second arrival of SIGINT or SIGTERM has the default effect.
  explicit Signals(const std::vector<int>& signals);
  ~Signals();  // puts the former handlers back
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // The first of the signals that came, or 0.
  int received() const;

 private:
  struct Former;
  std::unique_ptr<Former> former_;
};

// True once SIGTERM came while a Signals watches for it. mpirun sends it to every rank when one has failed, a second
// before SIGKILL.
bool told_to_end() noexcept;

}  // namespace automodel::comm
