#include "launch/detect.h"

#include <unistd.h>

#include <charconv>
#include <optional>

#include "core/error.h"

namespace automodel::launch {
namespace {

const std::string* find(const Environment& environment, const char* name) {
  const auto found = environment.find(name);
  return found == environment.end() ? nullptr : &found->second;
}

int number(const std::string& name, std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  AM_CHECK(error == std::errc() && end == text.data() + text.size() && value >= 0, Fault::kUsage,
           "environment: {} is '{}', not a number; unset it, or start the program with mpirun or srun", name, text);
  return value;
}

std::optional<int> number_of(const Environment& environment, const char* name) {
  const std::string* text = find(environment, name);
  if (text == nullptr) return std::nullopt;
  return number(name, *text);
}

// SLURM_TASKS_PER_NODE: "4", "2(x3),1": tasks of node 0, 1, ...; 0 when the text does not reach node `node`.
int tasks_of_node(const std::string& text, int node) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    const size_t open = item.find("(x");
    const int tasks = number("SLURM_TASKS_PER_NODE", item.substr(0, open));
    const int nodes = open == std::string_view::npos
                          ? 1
                          : number("SLURM_TASKS_PER_NODE", item.substr(open + 2, item.size() - open - 3));
    if (node < nodes) return tasks;
    node -= nodes;
  }
  return 0;
}

void check(const LaunchInfo& info) {
  AM_CHECK(info.size >= 1 && info.rank < info.size, Fault::kUsage, "environment: {} says rank {} of {}",
           name_of(info.kind), info.rank, info.size);
  AM_CHECK(info.local_size >= 1 && info.local_rank < info.local_size, Fault::kUsage,
           "environment: {} says local rank {} of {}", name_of(info.kind), info.local_rank, info.local_size);
}

LaunchInfo from_slurm(const Environment& environment, Launcher kind, int rank) {
  LaunchInfo info;
  info.kind = kind;
  info.rank = rank;
  const auto step = number_of(environment, "SLURM_STEP_NUM_TASKS");
  info.size = step ? *step : number_of(environment, "SLURM_NTASKS").value_or(1);
  info.local_rank = number_of(environment, "SLURM_LOCALID").value_or(0);
  const std::string* per_node = find(environment, "SLURM_STEP_TASKS_PER_NODE");
  if (per_node == nullptr) per_node = find(environment, "SLURM_TASKS_PER_NODE");
  const int here = per_node ? tasks_of_node(*per_node, number_of(environment, "SLURM_NODEID").value_or(0)) : 0;
  info.local_size = here > 0 ? here : info.local_rank + 1;
  return info;
}

}  // namespace

const char* name_of(Launcher launcher) {
  switch (launcher) {
    case Launcher::kNone:
      return "none";
    case Launcher::kMpirun:
      return "mpirun";
    case Launcher::kPmix:
      return "PMIx";
    case Launcher::kSlurm:
      return "srun";
  }
  return "?";
}

Environment current_environment() {
  Environment environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos) environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

LaunchInfo detect(const Environment& environment) {
  LaunchInfo info;
  if (const auto rank = number_of(environment, "OMPI_COMM_WORLD_RANK")) {
    info.kind = Launcher::kMpirun;
    info.rank = *rank;
    info.size = number_of(environment, "OMPI_COMM_WORLD_SIZE").value_or(1);
    info.local_rank = number_of(environment, "OMPI_COMM_WORLD_LOCAL_RANK").value_or(0);
    info.local_size = number_of(environment, "OMPI_COMM_WORLD_LOCAL_SIZE").value_or(info.local_rank + 1);
  } else if (const auto pmix = number_of(environment, "PMIX_RANK")) {
    info = from_slurm(environment, Launcher::kPmix, *pmix);
  } else if (const auto proc = number_of(environment, "SLURM_PROCID")) {
    const std::string* step = find(environment, "SLURM_STEP_ID");
    // Steps have numbers; the batch script and an interactive shell have other words, or a number near 2^32.
    const bool is_step = step != nullptr && !step->empty() && step->size() < 10 &&
                         step->find_first_not_of("0123456789") == std::string::npos;
    const LaunchInfo slurm = from_slurm(environment, Launcher::kSlurm, *proc);
    if (!is_step || slurm.size == 1) return info;
    info = slurm;
  }
  check(info);
  return info;
}

std::string unusable_launcher(const LaunchInfo& info) {
  if (info.kind != Launcher::kSlurm) return "";
  return fmt::format(
      "srun started {} tasks without PMIx, so they cannot find each other; use 'srun --mpi=pmix' (see 'srun "
      "--mpi=list'), "
      "or call the program once inside the allocation and let it use mpirun",
      info.size);
}

}  // namespace automodel::launch
