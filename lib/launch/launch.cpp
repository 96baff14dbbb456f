#include "launch/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace automodel::launch {
namespace {

constexpr int kWatched[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};

// Blocks the watched signals, so that they are waited for instead of handled; puts the mask back.
class SignalMask {
 public:
  SignalMask() {
    sigemptyset(&watched_);
    for (int signal : kWatched) sigaddset(&watched_, signal);
    pthread_sigmask(SIG_BLOCK, &watched_, &before_);
  }
  ~SignalMask() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalMask(const SignalMask&) = delete;
  SignalMask& operator=(const SignalMask&) = delete;

  const sigset_t& watched() const { return watched_; }
  const sigset_t& before() const { return before_; }

 private:
  sigset_t watched_, before_;
};

// What the child needs, built before the fork: after it only system calls are allowed.
struct Image {
  std::vector<std::string> words;
  std::vector<char*> argv, envp;

  explicit Image(const Command& command) : words(command.argv) {
    Environment environment = current_environment();
    for (const auto& [name, value] : command.environment) environment[name] = value;
    const size_t arguments = words.size();
    for (const auto& [name, value] : environment) words.push_back(name + "=" + value);
    for (size_t i = 0; i < words.size(); ++i) (i < arguments ? argv : envp).push_back(words[i].data());
    argv.push_back(nullptr);
    envp.push_back(nullptr);
  }
};

[[noreturn]] void become(const Image& image, const SignalMask& mask, int report) {
  setpgid(0, 0);  // a Ctrl-C of the terminal reaches this program alone
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (isatty(STDIN_FILENO)) {  // reading a terminal from the background would stop the job
    const int none = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (none >= 0) dup2(none, STDIN_FILENO);
  }
  pthread_sigmask(SIG_SETMASK, &mask.before(), nullptr);
  execve(image.argv[0], image.argv.data(), image.envp.data());
  const int reason = errno;
  [[maybe_unused]] const ssize_t n = write(report, &reason, sizeof reason);
  _exit(127);
}

pid_t start(const Command& command, const SignalMask& mask) {
  int report[2];  // closed by a successful exec; else it brings the reason
  AM_CHECK(pipe2(report, O_CLOEXEC) == 0, Fault::kIo, "launch: no pipe: {}", std::strerror(errno));
  const Image image(command);
  const pid_t child = fork();
  if (child == 0) become(image, mask, report[1]);
  const int fork_reason = errno;
  close(report[1]);
  int reason = 0;
  const ssize_t got = child < 0 ? 0 : read(report[0], &reason, sizeof reason);
  close(report[0]);
  AM_CHECK(child > 0, Fault::kIo, "launch: no new process: {}", std::strerror(fork_reason));
  if (got > 0) {
    waitpid(child, nullptr, 0);
    fail(Fault::kUsage, "launch: cannot start '{}': {}", command.argv[0], std::strerror(reason));
  }
  return child;
}

}  // namespace

int exit_code_of(int wait_status, int stop_signal, bool killed) {
  const int code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
  const int stopped = stop_signal == SIGINT ? 130 : 143;
  if (stop_signal != 0 && (killed || code == 0)) return stopped;
  if (code == 0 || code == 2 || code == 130 || code == 143) return code;
  return 1;
}

int launch(const Command& command) {
  AM_CHECK(!command.argv.empty(), Fault::kBug, "launch: no command");
  const SignalMask mask;
  const pid_t child = start(command, mask);
  int stop_signal = 0, stops = 0;
  while (true) {
    siginfo_t info{};
    const int signal = sigwaitinfo(&mask.watched(), &info);
    if (signal == SIGCHLD) {
      int status = 0;
      const pid_t ended = waitpid(child, &status, WNOHANG);
      if (ended == child) return exit_code_of(status, stop_signal, stops > 1);
    } else if (signal == SIGUSR1 || signal == SIGUSR2) {
      kill(child, signal);
    } else if (signal > 0) {
      if (stop_signal == 0) stop_signal = signal;
      ++stops;
      if (stops == 1)
        kill(child, SIGUSR1);
      else if (stops == 2)
        kill(child, SIGTERM);
      else
        kill(-child, SIGKILL);
    }
  }
}

}  // namespace automodel::launch
