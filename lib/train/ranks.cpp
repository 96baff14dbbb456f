#include "train/ranks.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "launch/affinity.h"

namespace automodel::train {
namespace {

launch::LaunchInfo launch_info() {
  launch::LaunchInfo info = launch::detect(launch::current_environment());
  std::string unusable = launch::unusable_launcher(info);
  if (!unusable.empty()) fail(Fault::kUsage, "{}", unusable);
  return info;
}

// This process's share of the cores it may use, unless the user has decided.
void set_threads(const launch::LaunchInfo& info, bool speaks) {
  if (std::getenv("OMP_NUM_THREADS") == nullptr)
    omp_set_num_threads(std::max(1, launch::usable_cores() / std::max(1, info.local_size)));
  std::string warning = launch::affinity_warning(launch::usable_cores(), launch::machine_cores(), info.local_size);
  if (speaks && !warning.empty()) log::warning("{}", warning);
}

comm::World make_world(const launch::LaunchInfo& info, double timeout_minutes) {
  if (info.kind == launch::Launcher::kNone) return comm::World::single();
  comm::MpiOptions options;
  options.expected = {info.rank, info.size};
  options.deadline = std::chrono::milliseconds(static_cast<int64_t>(timeout_minutes * 60000));
  return comm::World::mpi(options);
}

}  // namespace

std::optional<launch::Command> command_for(const RanksWanted& wanted) {
  if (launch_info().kind != launch::Launcher::kNone) return std::nullopt;
  bool several = !wanted.hosts.empty() || !wanted.hostfile.empty();
  if (!several && wanted.per_node.value_or(1) == 1) return std::nullopt;
  launch::MpirunOptions options;
  if (wanted.per_node) options.ranks_per_node = static_cast<int>(*wanted.per_node);
  options.hosts = wanted.hosts;
  options.hostfile = wanted.hostfile;
  std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  std::vector<std::string> arguments(wanted.command_line.begin() + 1, wanted.command_line.end());
  launch::Command command = launch::mpirun_command(options, launch::this_machine(), program, arguments);
  if (isatty(STDERR_FILENO)) command.environment.emplace_back("AUTOMODEL_TERMINAL", "1");
  return command;
}

int ranks_here() {
  return launch_info().size;
}

int run_as_rank(double timeout_minutes, const std::function<int(comm::World&)>& body) {
  launch::LaunchInfo info = launch_info();
  comm::World world = make_world(info, timeout_minutes);
  set_threads(info, world.is_main());
  if (!world.is_main()) log::configure(log::Level::kWarning, fmt::format("[rank {}]", world.rank()));
  try {
    return body(world);
  } catch (const std::exception& e) {
    world.abort(e.what());
    throw;
  }
}

}  // namespace automodel::train
