// launch() with the real mpirun: what reaches the ranks and what comes back.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "core/file.h"
#include "launch/launch.h"

using namespace automodel;
using namespace automodel::launch;

namespace {

Command ranks(int n, const std::string& script) {
  MpirunOptions options;
  options.ranks_per_node = n;
  return mpirun_command(options, this_machine(), "/bin/sh", {"-c", script});
}

struct Folder {
  fs::path path = fs::temp_directory_path() / ("launch." + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  int files() const { return static_cast<int>(std::distance(fs::directory_iterator(path), fs::directory_iterator())); }
};

}  // namespace

TEST_CASE("every rank starts, knows itself, and its exit code comes back") {
  const Folder folder;
  const std::string touch = "echo $OMP_NUM_THREADS > " + folder.path.string() + "/$OMPI_COMM_WORLD_RANK; ";
  CHECK(launch::launch(ranks(3, touch)) == 0);
  CHECK(folder.files() == 3);
  CHECK(std::stoi(read_file(folder.path / "2")) >= 1);
  CHECK(launch::launch(ranks(2, "test $OMPI_COMM_WORLD_RANK = 0 || exit 2; sleep 30")) == 2);
  CHECK(launch::launch(ranks(2, "test $OMPI_COMM_WORLD_RANK = 0 || kill -9 $$; sleep 30")) == 1);
}

TEST_CASE("a termination signal lets the ranks save, and none stays behind") {
  const Folder folder;
  const std::string out = folder.path.string();
  const std::string script = "trap 'sleep 2; echo > " + out + "/saved$OMPI_COMM_WORLD_RANK; exit 0' USR1; echo > " +
                             out + "/ready$OMPI_COMM_WORLD_RANK; while :; do sleep 0.05; done";
  const pid_t job = fork();
  if (job == 0) _exit(launch::launch(ranks(2, script)));
  while (folder.files() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(job, SIGTERM);
  int status = 0;
  waitpid(job, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 143);
  CHECK(folder.files() == 4);  // two seconds of saving were granted to both
}

TEST_CASE("when the launching program is killed its ranks end too") {
  const Folder folder;
  const std::string script =
      "echo $$ > " + folder.path.string() + "/$OMPI_COMM_WORLD_RANK; while :; do sleep 0.05; done";
  const pid_t job = fork();
  if (job == 0) _exit(launch::launch(ranks(2, script)));
  const auto pid_of = [&](const char* rank) {
    while (!fs::exists(folder.path / rank) || read_file(folder.path / rank).empty()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return std::stoi(read_file(folder.path / rank));
  };
  const pid_t first = pid_of("0"), second = pid_of("1");
  kill(job, SIGKILL);
  waitpid(job, nullptr, 0);
  bool gone = false;
  for (int i = 0; i < 100 && !gone; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    gone = kill(first, 0) != 0 && kill(second, 0) != 0;
  }
  CHECK(gone);
}
