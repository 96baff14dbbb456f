#include "launch/launch.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "launch/affinity.h"
#include "launch/detect.h"
#include "launch/mpirun.h"

using namespace automodel;
using namespace automodel::launch;

namespace {

Machine plain_machine() {
  Machine machine;
  machine.mpirun = "/usr/bin/mpirun";
  machine.cores = 8;
  machine.environment = {{"PATH", "/usr/bin"}, {"HF_HOME", "/models"}, {"SECRET", "no"}};
  return machine;
}

std::string text_of(const MpirunOptions& options, const Machine& machine) {
  return shell_text(mpirun_command(options, machine, "/opt/automodel", {"train", "my recipe.yaml"}));
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string usage_error(const MpirunOptions& options, const Machine& machine) {
  try {
    mpirun_command(options, machine, "/opt/automodel", {});
  } catch (const Error& e) {
    CHECK(e.fault() == Fault::kUsage);
    return e.what();
  }
  FAIL("no error");
  return "";
}

Command shell(const std::string& script) {
  Command command;
  command.argv = {"/bin/sh", "-c", script};
  return command;
}

// A shell script run by launch() in a process of its own, so that the test can send signals to it.
class Launched {
 public:
  explicit Launched(const std::string& script) {
    pid_ = fork();
    if (pid_ == 0) _exit(automodel::launch::launch(shell(script)));
  }
  void signal(int number) const { kill(pid_, number); }
  int exit_code() const {
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

}  // namespace

TEST_CASE("without a launcher a process is rank 0 of 1") {
  CHECK(detect({}) == LaunchInfo{});
  CHECK(detect({{"PATH", "/bin"}, {"SLURM_JOB_ID", "7"}}) == LaunchInfo{});
  CHECK(detect(current_environment()).size >= 1);
}

TEST_CASE("mpirun's variables win over those of SLURM") {
  // Inside an allocation the SLURM variables are those of mpirun's daemon.
  const LaunchInfo info = detect({{"OMPI_COMM_WORLD_RANK", "3"},
                                  {"OMPI_COMM_WORLD_SIZE", "4"},
                                  {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                  {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                                  {"PMIX_RANK", "3"},
                                  {"SLURM_PROCID", "1"},
                                  {"SLURM_NTASKS", "2"},
                                  {"SLURM_STEP_ID", "0"}});
  CHECK(info == LaunchInfo{Launcher::kMpirun, 3, 4, 1, 2});
  CHECK(unusable_launcher(info).empty());
}

TEST_CASE("srun with PMIx is a launcher; tasks per node may be written with repetitions") {
  Environment environment{{"PMIX_RANK", "5"},
                          {"SLURM_PROCID", "5"},
                          {"SLURM_STEP_NUM_TASKS", "7"},
                          {"SLURM_NTASKS", "8"},
                          {"SLURM_LOCALID", "1"},
                          {"SLURM_NODEID", "2"},
                          {"SLURM_STEP_ID", "0"},
                          {"SLURM_TASKS_PER_NODE", "2(x3),1"}};
  CHECK(detect(environment) == LaunchInfo{Launcher::kPmix, 5, 7, 1, 2});
  environment["SLURM_PROCID"] = environment["PMIX_RANK"] = "6";
  environment["SLURM_NODEID"] = "3";
  environment["SLURM_LOCALID"] = "0";
  CHECK(detect(environment) == LaunchInfo{Launcher::kPmix, 6, 7, 0, 1});
}

TEST_CASE("srun without PMIx is recognised and explained; a batch script is no rank") {
  Environment environment{{"SLURM_PROCID", "1"},
                          {"SLURM_NTASKS", "2"},
                          {"SLURM_LOCALID", "1"},
                          {"SLURM_TASKS_PER_NODE", "2"},
                          {"SLURM_STEP_ID", "3"}};
  const LaunchInfo info = detect(environment);
  CHECK(info == LaunchInfo{Launcher::kSlurm, 1, 2, 1, 2});
  CHECK(contains(unusable_launcher(info), "srun --mpi=pmix"));
  environment["SLURM_STEP_ID"] = "4294967291";  // the batch script
  CHECK(detect(environment) == LaunchInfo{});
  environment.erase("SLURM_STEP_ID");
  CHECK(detect(environment) == LaunchInfo{});
}

TEST_CASE("an environment that makes no sense is refused by name") {
  CHECK_THROWS_WITH_AS(
      detect({{"OMPI_COMM_WORLD_RANK", "x"}}),
      "environment: OMPI_COMM_WORLD_RANK is 'x', not a number; unset it, or start the program with mpirun "
      "or srun",
      Error);
  CHECK_THROWS_AS(detect({{"OMPI_COMM_WORLD_RANK", "4"}, {"OMPI_COMM_WORLD_SIZE", "4"}}), Error);
}

TEST_CASE("one machine: unbound, as many threads as cores per rank, nothing else") {
  MpirunOptions options;
  options.ranks_per_node = 4;
  const Command command = mpirun_command(options, plain_machine(), "/opt/automodel", {"train", "my recipe.yaml"});
  CHECK(
      shell_text(command) ==
      "/usr/bin/mpirun -n 4 --oversubscribe --bind-to none -x OMP_NUM_THREADS=2 /opt/automodel train 'my recipe.yaml'");
  CHECK(command.ranks == 4);
  CHECK(command.notices.empty());
  CHECK_FALSE(command.several_nodes);
}

TEST_CASE("one machine: root, no ssh, no reading of peers and too few cores are dealt with") {
  Machine machine = plain_machine();
  machine.is_root = true;
  machine.has_remote_shell = false;
  machine.may_read_peers = false;
  machine.cores = 2;
  MpirunOptions options;
  options.ranks_per_node = 5;
  const Command command = mpirun_command(options, machine, "/opt/automodel", {});
  CHECK(shell_text(command) ==
        "OMPI_MCA_plm=isolated OMPI_MCA_btl_vader_single_copy_mechanism=none /usr/bin/mpirun --allow-run-as-root -n 5 "
        "--oversubscribe --bind-to none -x OMP_NUM_THREADS=1 /opt/automodel");
  REQUIRE(command.notices.size() == 1);
  CHECK(command.notices[0] == "5 ranks share 2 cores; they will take turns");
}

TEST_CASE("the user's OMP_NUM_THREADS is kept") {
  Machine machine = plain_machine();
  machine.environment["OMP_NUM_THREADS"] = "3";
  CHECK(contains(text_of({}, machine), " -x OMP_NUM_THREADS /opt"));
}

TEST_CASE("several machines: hosts, keepalive, exported variables") {
  MpirunOptions options;
  options.hosts = "a:8,b:4";
  options.network = "10.1.0.0/24";
  const Command command = mpirun_command(options, plain_machine(), "/opt/automodel", {});
  const std::string text = shell_text(command);
  CHECK(command.ranks == 12);
  CHECK(command.several_nodes);
  CHECK(contains(text, "-n 12 --host a:8,b:4 --bind-to none"));
  CHECK(contains(text,
                 "--mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 2 --mca oob_tcp_keepalive_probes 3"));
  CHECK(contains(text, "--mca oob_tcp_if_include 10.1.0.0/24 --mca btl_tcp_if_include 10.1.0.0/24"));
  CHECK(contains(text, "-x HF_HOME -x PATH"));
  CHECK_FALSE(contains(text, "SECRET"));
  CHECK_FALSE(contains(text, "oversubscribe"));
  CHECK(contains(text, "OMP_NUM_THREADS=1"));

  options.ranks_per_node = 2;
  const std::string two = text_of(options, plain_machine());
  CHECK(contains(two, "-n 4 --host a:2,b:2 --map-by ppr:2:node:OVERSUBSCRIBE --bind-to none"));
  CHECK(contains(two, "OMP_NUM_THREADS=4"));
}

TEST_CASE("a hostfile is counted when every line has slots") {
  const std::string path = (fs::temp_directory_path() / ("hosts." + std::to_string(getpid()))).string();
  std::ofstream(path) << "# the cluster\nnode1 slots=8\n\nnode2 slots=8 max-slots=16  # second\n";
  MpirunOptions options;
  options.hostfile = path;
  CHECK(mpirun_command(options, plain_machine(), "/opt/automodel", {}).ranks == 16);
  CHECK(contains(text_of(options, plain_machine()), "-n 16 --hostfile " + path));
  std::ofstream(path) << "node1 slots=8\nnode2\n";
  CHECK(mpirun_command(options, plain_machine(), "/opt/automodel", {}).ranks == 0);
  CHECK_FALSE(contains(text_of(options, plain_machine()), " -n "));
  options.ranks_per_node = 3;
  CHECK(mpirun_command(options, plain_machine(), "/opt/automodel", {}).ranks == 6);
  std::ofstream(path) << "node1 slots=many\n";
  CHECK(contains(usage_error(options, plain_machine()), path + ":1: 'many' is not a number of slots"));
  fs::remove(path);
  CHECK(contains(usage_error(options, plain_machine()), "there is no file"));
}

TEST_CASE("inside a SLURM allocation mpirun finds the machines itself") {
  Machine machine = plain_machine();
  machine.has_remote_shell = false;  // srun starts the daemons
  machine.environment["SLURM_JOB_NUM_NODES"] = "2";
  const Command all = mpirun_command({}, machine, "/opt/automodel", {});
  CHECK(all.ranks == 0);
  CHECK(all.several_nodes);
  CHECK_FALSE(contains(shell_text(all), " -n "));
  MpirunOptions options;
  options.ranks_per_node = 4;
  const Command four = mpirun_command(options, machine, "/opt/automodel", {});
  CHECK(four.ranks == 8);
  CHECK(contains(shell_text(four), "-n 8 --map-by ppr:4:node:OVERSUBSCRIBE"));
}

TEST_CASE("mistakes in how to start are told before anything starts") {
  Machine machine = plain_machine();
  machine.mpirun.clear();
  CHECK(contains(usage_error({}, machine), "apt-get install openmpi-bin"));
  MpirunOptions both;
  both.hosts = "a";
  both.hostfile = "b";
  CHECK(contains(usage_error(both, plain_machine()), "either --hosts or --hostfile"));
  MpirunOptions bad;
  bad.hosts = "a:8,:4";
  CHECK(contains(usage_error(bad, plain_machine()), "empty host name"));
  bad.hosts = "a:0";
  CHECK(contains(usage_error(bad, plain_machine()), "'0' is not a number of slots"));
  MpirunOptions none;
  none.ranks_per_node = 0;
  CHECK(contains(usage_error(none, plain_machine()), "--nproc-per-node is 0"));
  machine = plain_machine();
  machine.has_remote_shell = false;
  bad.hosts = "a,b";
  CHECK(contains(usage_error(bad, machine), "several machines need ssh"));
}

TEST_CASE("words are quoted for a shell only where they must be") {
  CHECK(shell_quoted("a/b-c=1,2") == "a/b-c=1,2");
  CHECK(shell_quoted("") == "''");
  CHECK(shell_quoted("it's $HOME") == "'it'\\''s $HOME'");
}

TEST_CASE("a rank on one core of many is told so") {
  CHECK(usable_cores() >= 1);
  CHECK(usable_cores() <= machine_cores());
  CHECK(contains(affinity_warning(1, 16, 2), "bound to 1 of 16 cores"));
  CHECK(affinity_warning(1, 1, 1).empty());
  CHECK(affinity_warning(1, 4, 4).empty());
  CHECK(affinity_warning(8, 16, 2).empty());
}

TEST_CASE("mpirun's exit codes become ours") {
  const auto exited = [](int code) { return code << 8; };
  CHECK(exit_code_of(exited(0), 0, false) == 0);
  CHECK(exit_code_of(exited(1), 0, false) == 1);
  CHECK(exit_code_of(exited(2), 0, false) == 2);
  CHECK(exit_code_of(exited(137), 0, false) == 1);  // a rank was killed
  CHECK(exit_code_of(exited(205), 0, false) == 1);  // a machine was lost
  CHECK(exit_code_of(exited(143), 0, false) == 143);
  CHECK(exit_code_of(SIGKILL, 0, false) == 1);
  CHECK(exit_code_of(SIGTERM, 0, false) == 143);
  CHECK(exit_code_of(exited(0), SIGINT, false) == 130);
  CHECK(exit_code_of(exited(0), SIGTERM, false) == 143);
  CHECK(exit_code_of(exited(1), SIGINT, false) == 1);  // the save failed
  CHECK(exit_code_of(exited(1), SIGINT, true) == 130);
}

TEST_CASE("a command runs with its environment and its exit code comes back") {
  Command command = shell("test \"$AM_PROBE\" = here || exit 5; exit 2");
  command.environment.emplace_back("AM_PROBE", "here");
  CHECK(automodel::launch::launch(command) == 2);
  CHECK(automodel::launch::launch(shell("exit 0")) == 0);
  CHECK(automodel::launch::launch(shell("exit 77")) == 1);
  Command missing;
  missing.argv = {"/no/such/mpirun"};
  CHECK_THROWS_WITH_AS(automodel::launch::launch(missing),
                       "launch: cannot start '/no/such/mpirun': No such file or directory", Error);
}

TEST_CASE("the first stop asks the ranks to save, the second ends them, the third kills") {
  const std::string ready = (fs::temp_directory_path() / ("ready." + std::to_string(getpid()))).string();
  const auto wait_for_ready = [&] {
    while (!fs::exists(ready)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    fs::remove(ready);
  };
  const std::string loop = "echo > " + ready + "; while :; do sleep 0.02; done";
  {
    Launched job("trap 'exit 0' USR1; " + loop);
    wait_for_ready();
    job.signal(SIGTERM);
    CHECK(job.exit_code() == 143);
  }
  {
    Launched job("trap 'exit 0' USR1; " + loop);
    wait_for_ready();
    job.signal(SIGINT);
    CHECK(job.exit_code() == 130);
  }
  {
    Launched job("trap 'exit 0' USR1; " + loop);
    wait_for_ready();
    job.signal(SIGUSR1);  // not a stop of ours: the ranks decide
    CHECK(job.exit_code() == 0);
  }
  {
    Launched job("trap 'echo > " + ready + "' USR1; trap 'exit 9' TERM; " + loop);
    wait_for_ready();
    job.signal(SIGINT);
    wait_for_ready();
    job.signal(SIGINT);
    CHECK(job.exit_code() == 130);
  }
  {
    Launched job("trap 'echo > " + ready + "' USR1 TERM; " + loop);
    for (int signal : {SIGTERM, SIGTERM, SIGTERM}) {
      wait_for_ready();
      job.signal(signal);
    }
    CHECK(job.exit_code() == 143);
  }
}
