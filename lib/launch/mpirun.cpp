// Each flag answers one thing that bites: mpirun binds one or two ranks to a core each; refuses root; refuses more
// ranks than cores; needs ssh even on one machine; copies between processes by a system call that containers forbid;
// and takes eight minutes to notice a dead machine.
#include "launch/mpirun.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "launch/affinity.h"

namespace automodel::launch {
namespace {

struct Host {
  std::string name;
  int slots;  // 0: as many as the machine has cores, which only mpirun can find out
};

int slots(std::string_view text, const std::string& where) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  AM_CHECK(error == std::errc() && end == text.data() + text.size() && value >= 1, Fault::kUsage,
           "{}: '{}' is not a number of slots", where, text);
  return value;
}

std::vector<Host> parse_hosts(const std::string& text) {
  std::vector<Host> hosts;
  std::stringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) {
    const size_t colon = item.rfind(':');
    Host host{item.substr(0, colon), 1};
    AM_CHECK(!host.name.empty(), Fault::kUsage, "--hosts: '{}' has an empty host name; write name:slots,name:slots",
             text);
    if (colon != std::string::npos) host.slots = slots(std::string_view(item).substr(colon + 1), "--hosts");
    hosts.push_back(host);
  }
  AM_CHECK(!hosts.empty(), Fault::kUsage, "--hosts: the list is empty; write name:slots,name:slots");
  return hosts;
}

std::vector<Host> parse_hostfile(const std::string& path) {
  AM_CHECK(fs::is_regular_file(path), Fault::kUsage, "--hostfile: there is no file '{}'", path);
  std::vector<Host> hosts;
  std::stringstream stream(read_file(path));
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    std::stringstream words(line.substr(0, line.find('#')));
    Host host{"", 0};
    words >> host.name;
    if (host.name.empty()) continue;
    for (std::string word; words >> word;) {
      if (word.rfind("slots=", 0) == 0) {
        host.slots = slots(std::string_view(word).substr(6), fmt::format("{}:{}", path, number));
      }
    }
    hosts.push_back(host);
  }
  AM_CHECK(!hosts.empty(), Fault::kUsage, "--hostfile: '{}' names no host", path);
  return hosts;
}

bool is_this_machine(const Host& host) {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return host.name == "localhost" || host.name == "127.0.0.1" || host.name == name;
}

const std::string* find(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found == environment.end() ? nullptr : &found->second;
}

// Where the ranks go.
struct Placement {
  std::vector<Host> hosts;  // empty: this machine, or SLURM's
  bool slurm = false;
  bool several_nodes = false;
  int ranks = 0;        // 0: unknown
  int local_ranks = 0;  // on this machine, or the most on one; 0: unknown
};

Placement place(const MpirunOptions& options, const Machine& machine) {
  AM_CHECK(options.hosts.empty() || options.hostfile.empty(), Fault::kUsage,
           "give either --hosts or --hostfile, not both");
  AM_CHECK(!options.ranks_per_node || *options.ranks_per_node >= 1, Fault::kUsage,
           "--nproc-per-node is {}; it starts at 1", options.ranks_per_node.value_or(0));
  Placement p;
  if (!options.hosts.empty()) p.hosts = parse_hosts(options.hosts);
  if (!options.hostfile.empty()) p.hosts = parse_hostfile(options.hostfile);
  const std::string* nodes = find(machine.environment, "SLURM_JOB_NUM_NODES");
  p.slurm = p.hosts.empty() && nodes != nullptr;
  if (p.slurm) {
    p.several_nodes = *nodes != "1";
    if (options.ranks_per_node) {
      p.local_ranks = *options.ranks_per_node;
      p.ranks = p.local_ranks * slots(*nodes, "SLURM_JOB_NUM_NODES");
    }
    return p;
  }
  if (p.hosts.empty()) {
    p.ranks = p.local_ranks = options.ranks_per_node.value_or(1);
    return p;
  }
  p.several_nodes = p.hosts.size() > 1 || !is_this_machine(p.hosts[0]);
  bool known = true;
  for (const Host& host : p.hosts) {
    const int here = options.ranks_per_node.value_or(host.slots);
    known = known && here > 0;
    p.ranks += here;
    p.local_ranks = std::max(p.local_ranks, here);
  }
  if (!known) p.ranks = p.local_ranks = 0;
  return p;
}

void add(std::vector<std::string>& argv, std::initializer_list<std::string> words) {
  argv.insert(argv.end(), words);
}

void add_placement(std::vector<std::string>& argv, const MpirunOptions& options, const Placement& p) {
  if (p.ranks > 0) add(argv, {"-n", std::to_string(p.ranks)});
  if (!options.hosts.empty()) {
    // With a number of ranks per node the slots follow it.
    std::string list;
    for (const Host& host : p.hosts) {
      list += fmt::format("{}{}:{}", list.empty() ? "" : ",", host.name, options.ranks_per_node.value_or(host.slots));
    }
    add(argv, {"--host", list});
  }
  if (!options.hostfile.empty()) add(argv, {"--hostfile", options.hostfile});
  const bool many = p.slurm || !p.hosts.empty();
  if (many && options.ranks_per_node) {
    add(argv, {"--map-by", fmt::format("ppr:{}:node:OVERSUBSCRIBE", *options.ranks_per_node)});
  } else if (!p.several_nodes) {
    add(argv, {"--oversubscribe"});
  }
  add(argv, {"--bind-to", "none"});
}

void add_network(std::vector<std::string>& argv, const MpirunOptions& options) {
  const auto set = [&argv](const char* name, const std::string& value) { add(argv, {"--mca", name, value}); };
  set("oob_tcp_keepalive_time", "5");
  set("oob_tcp_keepalive_intvl", "2");
  set("oob_tcp_keepalive_probes", "3");
  set("btl_tcp_sndbuf", "4194304");
  set("btl_tcp_rcvbuf", "4194304");
  if (!options.network.empty()) {
    set("oob_tcp_if_include", options.network);
    set("btl_tcp_if_include", options.network);
  }
  if (!options.agent.empty()) set("plm_rsh_agent", options.agent);
}

// Remote ranks see only what -x names.
void add_exports(std::vector<std::string>& argv, const Environment& environment) {
  const char* kNames[] = {"PATH", "LD_LIBRARY_PATH", "LOGGING_LEVEL", "NO_COLOR", "FORCE_COLOR", "TZ", "LANG"};
  const char* kPrefixes[] = {"AUTOMODEL_", "HF_", "NCCL_", "CUDA_", "GOMP_", "UCX_", "WANDB_"};
  for (const auto& [name, value] : environment) {
    const bool named = std::any_of(std::begin(kNames), std::end(kNames), [&](const char* n) { return name == n; });
    const bool prefixed = std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                                      [&](const char* prefix) { return name.rfind(prefix, 0) == 0; });
    const bool openmp = name.rfind("OMP_", 0) == 0 && name != "OMP_NUM_THREADS";
    if (named || prefixed || openmp) add(argv, {"-x", name});
  }
}

bool can_read_peers() {
  int value = 1, copy = 0;
  const iovec from{&value, sizeof value}, to{&copy, sizeof copy};
  return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == static_cast<ssize_t>(sizeof value);
}

std::string on_path(const Environment& environment, const std::string& program) {
  const std::string* path = find(environment, "PATH");
  std::stringstream folders(path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : *path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = (folder.empty() ? "." : folder) + "/" + program;
    if (access(candidate.c_str(), X_OK) == 0 && fs::is_regular_file(candidate)) return candidate;
  }
  return "";
}

}  // namespace

Machine this_machine() {
  Machine machine;
  machine.environment = current_environment();
  machine.mpirun = on_path(machine.environment, "mpirun");
  machine.is_root = geteuid() == 0;
  machine.has_remote_shell =
      !on_path(machine.environment, "ssh").empty() || !on_path(machine.environment, "rsh").empty();
  machine.may_read_peers = can_read_peers();
  machine.cores = usable_cores();
  return machine;
}

Command mpirun_command(const MpirunOptions& options, const Machine& machine, const std::string& program,
                       const std::vector<std::string>& arguments) {
  AM_CHECK(
      !machine.mpirun.empty(), Fault::kUsage,
      "mpirun is not on the PATH, and several ranks need it; install it (Debian, Ubuntu: apt-get install openmpi-bin) "
      "or run one rank");
  const Placement p = place(options, machine);
  const bool daemons_by_shell = p.several_nodes && !p.slurm && options.agent.empty();
  AM_CHECK(
      !daemons_by_shell || machine.has_remote_shell, Fault::kUsage,
      "several machines need ssh to start on, and there is none on the PATH; install it (openssh-client) or run on one "
      "machine");

  Command command;
  command.ranks = p.ranks;
  command.several_nodes = p.several_nodes;
  std::vector<std::string>& argv = command.argv;
  argv.push_back(machine.mpirun);
  if (machine.is_root) argv.push_back("--allow-run-as-root");
  add_placement(argv, options, p);
  if (p.several_nodes) {
    add_network(argv, options);
    add_exports(argv, machine.environment);
  }
  if (find(machine.environment, "OMP_NUM_THREADS") != nullptr) {
    add(argv, {"-x", "OMP_NUM_THREADS"});
  } else if (p.local_ranks > 0) {
    add(argv, {"-x", fmt::format("OMP_NUM_THREADS={}", std::max(1, machine.cores / p.local_ranks))});
  }
  if (!machine.has_remote_shell && !p.several_nodes) command.environment.emplace_back("OMPI_MCA_plm", "isolated");
  const char* kSingleCopy = "OMPI_MCA_btl_vader_single_copy_mechanism";
  if (!machine.may_read_peers && find(machine.environment, kSingleCopy) == nullptr) {
    if (p.several_nodes)
      add(argv, {"--mca", "btl_vader_single_copy_mechanism", "none"});
    else
      command.environment.emplace_back(kSingleCopy, "none");
  }
  if (!p.several_nodes && p.local_ranks > machine.cores) {
    command.notices.push_back(fmt::format("{} ranks share {} core{}; they will take turns", p.local_ranks,
                                          machine.cores, machine.cores == 1 ? "" : "s"));
  }
  argv.push_back(program);
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return command;
}

std::string shell_quoted(const std::string& word) {
  const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,=+@%^";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string text(1, '\'');
  for (char c : word) {
    if (c == '\'')
      text.append("'\\''");
    else
      text.push_back(c);
  }
  text.push_back('\'');
  return text;
}

std::string shell_text(const Command& command) {
  std::string text;
  for (const auto& [name, value] : command.environment) text.append(fmt::format("{}={} ", name, shell_quoted(value)));
  for (size_t i = 0; i < command.argv.size(); ++i) {
    if (i > 0) text.push_back(' ');
    text.append(shell_quoted(command.argv[i]));
  }
  return text;
}

}  // namespace automodel::launch
