#include "comm/signals.h"

#include <signal.h>

#include <atomic>
#include <utility>
#include <vector>

#include "core/error.h"

namespace automodel::comm {
namespace {

// A handler can reach nothing but static storage.
std::atomic<int> first_signal{0};
std::atomic<bool> terminated{false};
std::atomic<bool> in_use{false};

void note(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
  if (signal == SIGTERM) terminated = true;
}

}  // namespace

// Handlers run on a stack of their own: kernels that a library compiles at run time (oneDNN's) keep numbers below the
// stack pointer, farther than the 128 bytes that a signal spares.
struct Signals::Former {
  Former() {
    stack_t mine{};
    mine.ss_sp = memory.data();
    mine.ss_size = memory.size();
    AM_CHECK(sigaltstack(&mine, &stack) == 0, Fault::kBug, "signals: no stack for the handlers");
  }
  ~Former() { sigaltstack(&stack, nullptr); }
  Former(const Former&) = delete;
  Former& operator=(const Former&) = delete;

  std::vector<std::byte> memory = std::vector<std::byte>(256 << 10);
  stack_t stack{};
  std::vector<std::pair<int, struct sigaction>> actions;
};

Signals::Signals(const std::vector<int>& signals) : former_(std::make_unique<Former>()) {
  AM_CHECK(!in_use.exchange(true), Fault::kBug, "signals: handlers are installed already");
  first_signal = 0;
  terminated = false;
  for (int signal : signals) {
    struct sigaction action {};
    action.sa_handler = note;
    action.sa_flags = SA_RESTART | SA_ONSTACK;
    if (signal == SIGINT || signal == SIGTERM) action.sa_flags |= static_cast<int>(SA_RESETHAND);
    sigemptyset(&action.sa_mask);
    struct sigaction before {};
    AM_CHECK(sigaction(signal, &action, &before) == 0, Fault::kBug, "signals: {} cannot be handled", signal);
    former_->actions.emplace_back(signal, before);
  }
}

Signals::~Signals() {
  for (const auto& [signal, before] : former_->actions) sigaction(signal, &before, nullptr);
  in_use = false;
}

int Signals::received() const {
  return first_signal;
}

bool told_to_end() noexcept {
  return terminated;
}

}  // namespace automodel::comm
