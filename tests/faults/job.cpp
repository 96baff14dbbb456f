// A job of four ranks, pp 2 x tp 2, that does one kind of call again and again until a fault strikes. Started without a
// launcher it starts its ranks as `automodel train` does.
//   faults_job CALL FAULT RANK DEADLINE_MS
// CALL: barrier, all_reduce, all_gather, reduce_scatter, broadcast, all_to_all, exchange; on tp and on pp in turn.
// FAULT, half a second after the start, wherever RANK is by then: kill (SIGKILL), stop (SIGSTOP), throw, leave
// (returns, as if it were done), launcher (the launching program is killed), mpirun (mpirun is killed).
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "comm/signals.h"
#include "comm/world.h"
#include "core/error.h"
#include "launch/launch.h"

using namespace automodel;
using comm::Communicator;
using comm::Reduce;
using comm::Transfer;

namespace {

constexpr int64_t kCount = 1 << 20;  // floats: large enough that messages need both sides

struct Buffers {
  std::vector<float> whole = std::vector<float>(kCount, 1.0F), part = std::vector<float>(kCount / 2, 1.0F);
  std::vector<float> other = whole;
};

using Call = std::function<void(Communicator&, Buffers&)>;

Call call_named(const std::string& name) {
  using comm::buffer_of;
  static const std::map<std::string, Call> calls{
      {"barrier", [](Communicator& c, Buffers&) { c.barrier(); }},
      {"all_reduce", [](Communicator& c, Buffers& b) { c.all_reduce(buffer_of(b.whole), Reduce::kMax); }},
      {"all_gather",
       [](Communicator& c, Buffers& b) { c.all_gather(buffer_of(b.whole), buffer_of(std::as_const(b.part))); }},
      {"reduce_scatter",
       [](Communicator& c, Buffers& b) {
         c.reduce_scatter(buffer_of(b.part), buffer_of(std::as_const(b.whole)), Reduce::kMax);
       }},
      {"broadcast",
       [](Communicator& c, Buffers& b) {
         for (int root = 0; root < c.size(); ++root) c.broadcast(buffer_of(b.whole), root);
       }},
      {"all_to_all",
       [](Communicator& c, Buffers& b) {
         const std::array<int64_t, 2> bytes{2 * kCount, 2 * kCount};
         c.all_to_all(buffer_of(b.other), buffer_of(std::as_const(b.whole)), bytes, bytes);
       }},
      {"exchange", [](Communicator& c, Buffers& b) {
         const int peer = 1 - c.rank();
         const std::array transfers{Transfer::send(peer, buffer_of(b.whole)),
                                    Transfer::receive(peer, buffer_of(b.other))};
         c.exchange(transfers);
       }}};
  return calls.at(name);
}

pid_t parent_of(pid_t process) {
  std::FILE* file = std::fopen(("/proc/" + std::to_string(process) + "/stat").c_str(), "r");
  int parent = 0;
  if (file == nullptr || std::fscanf(file, "%*d (%*[^)]) %*c %d", &parent) != 1) parent = 0;
  if (file != nullptr) std::fclose(file);
  return parent;
}

// Strikes from outside, so that the calls do not know; throwing and leaving are up to the loop.
void strike(const std::string& fault, std::atomic<bool>& struck) {
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  if (fault == "kill") kill(getpid(), SIGKILL);
  if (fault == "stop") kill(getpid(), SIGSTOP);
  if (fault == "mpirun") kill(getppid(), SIGKILL);
  if (fault == "launcher") kill(parent_of(getppid()), SIGKILL);
  struck = true;
}

int run(comm::World& world, const std::string& name, const std::string& fault, int rank) {
  world.set_places([](int r) { return fmt::format("pp {}, tp {}", r / 2, r % 2); });
  const comm::Signals signals({SIGTERM, SIGUSR1});
  auto tp = world.global().split(world.rank() / 2, world.rank(), "tp");
  auto pp = world.global().split(world.rank() % 2, world.rank(), "pp");
  const Call call = call_named(name);
  Buffers buffers;
  std::atomic<bool> struck{false};
  std::jthread striker;
  if (world.rank() == rank) striker = std::jthread([&] { strike(fault, struck); });
  while (!struck || (fault != "throw" && fault != "leave")) {
    call(*tp, buffers);
    call(*pp, buffers);
  }
  if (striker.joinable()) striker.join();
  if (fault == "throw") fail(Fault::kData, "the data of rank {} are gone", world.rank());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const launch::LaunchInfo info = launch::detect(launch::current_environment());
  if (info.kind == launch::Launcher::kNone) {
    launch::MpirunOptions options;
    options.ranks_per_node = 4;
    return launch::launch(launch::mpirun_command(options, launch::this_machine(),
                                                 std::filesystem::read_symlink("/proc/self/exe").string(),
                                                 std::vector<std::string>(argv + 1, argv + argc)));
  }
  comm::MpiOptions options;
  options.deadline = std::chrono::milliseconds(std::atoi(argv[4]));
  comm::World world = comm::World::mpi(options);
  try {
    return run(world, argv[1], argv[2], std::atoi(argv[3]));
  } catch (const std::exception& e) {
    world.abort(e.what());
    return 1;
  }
}
