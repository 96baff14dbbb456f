// Not a test: our collectives beside those of the installed MPI, in turn on the same buffers of the same ranks.
//   build/tests/bench_collectives --ranks 4 --mb 1,8,32,128 --rounds 15 --format json
// It starts its ranks by itself, as the program starts those of a job. A size is that of the whole: what is gathered,
// reduced, or scattered. Each time is that of the slowest rank; medians are printed. Every result is checked, so what
// is timed is the work.
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/mpi_library.h"
#include "comm/world.h"
#include "core/error.h"
#include "launch/launch.h"

using namespace automodel;

namespace {

struct Options {
  int ranks = 2;
  std::vector<int64_t> megabytes{1, 8, 32, 128};
  int rounds = 15;
  std::string format = "text";
};

void succeed(int code, const char* what) {
  AM_CHECK(code == MPI_SUCCESS, Fault::kComm, "{} failed with code {}", what, code);
}

double median(std::vector<double> values) {
  auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class Comparison {
 public:
  Comparison(comm::World& world, const Options& options) : world_(world), options_(options) {
    succeed(MPI_Comm_dup(MPI_COMM_WORLD, &theirs_), "MPI_Comm_dup");
  }
  ~Comparison() { MPI_Comm_free(&theirs_); }
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;

  void run(int64_t megabytes) {
    int64_t count = (megabytes << 20) / 4 / size() * size();
    whole_.assign(static_cast<size_t>(count), 0.0f);
    part_.assign(static_cast<size_t>(count / size()), 0.0f);
    comm::Communicator& ours = world_.global();
    comm::Buffer whole = comm::buffer_of(whole_), part = comm::buffer_of(part_);
    auto n = static_cast<int>(whole.count), slice = static_cast<int>(part.count);
    auto sum = comm::Reduce::kSum;
    compare("all_gather", megabytes,
            {[&] { ours.all_gather(whole, part); },
             [&] {
               succeed(MPI_Allgather(part.data, slice, MPI_FLOAT, whole.data, slice, MPI_FLOAT, theirs_),
                       "MPI_Allgather");
             },
             [&] { return gathered(); }});
    compare("all_reduce", megabytes,
            {[&] { ours.all_reduce(whole, sum); },
             [&] { succeed(MPI_Allreduce(MPI_IN_PLACE, whole.data, n, MPI_FLOAT, MPI_SUM, theirs_), "MPI_Allreduce"); },
             [&] { return summed(whole_); }});
    compare("reduce_scatter", megabytes,
            {[&] { ours.reduce_scatter(part, whole, sum); },
             [&] {
               succeed(MPI_Reduce_scatter_block(whole.data, part.data, slice, MPI_FLOAT, MPI_SUM, theirs_),
                       "MPI_Reduce_scatter_block");
             },
             [&] { return summed(part_); }});
  }

 private:
  struct Rivals {
    std::function<void()> ours, theirs;
    std::function<bool()> right;  // the result, on this rank
  };

  int size() const { return world_.size(); }
  float own() const { return static_cast<float>(world_.rank() + 1); }
  bool gathered() const {
    size_t slice = part_.size();
    for (int r = 0; r < size(); ++r)
      for (size_t i : {size_t{0}, slice / 2, slice - 1})
        if (whole_[static_cast<size_t>(r) * slice + i] != static_cast<float>(r + 1)) return false;
    return true;
  }
  bool summed(const std::vector<float>& values) const {
    auto expected = static_cast<float>(size() * (size() + 1) / 2);
    return std::ranges::all_of(values, [&](float v) { return v == expected; });
  }

  double milliseconds(const char* what, const std::function<void()>& call, const std::function<bool()>& right) {
    std::ranges::fill(whole_, own());
    std::ranges::fill(part_, own());
    world_.global().barrier();
    auto start = std::chrono::steady_clock::now();
    call();
    double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    AM_CHECK(right(), Fault::kBug, "{} of {} bytes gave a wrong result", what, whole_.size() * 4);
    return world_.global().reduced(ms, comm::Reduce::kMax);
  }

  void compare(const char* collective, int64_t megabytes, const Rivals& rivals) {
    std::vector<double> ours, theirs;
    for (int round = -2; round < options_.rounds; ++round) {  // the first two are not counted
      double our_ms = milliseconds(collective, rivals.ours, rivals.right);
      double their_ms = milliseconds("MPI's", rivals.theirs, rivals.right);
      if (round < 0) continue;
      ours.push_back(our_ms);
      theirs.push_back(their_ms);
    }
    if (world_.is_main()) print(collective, megabytes, median(ours), median(theirs));
  }

  void print(const char* collective, int64_t megabytes, double ours, double theirs) const {
    if (options_.format == "json") {
      nlohmann::json line{{"collective", collective},  {"ranks", size()},           {"mb", megabytes},
                          {"ours_ms", ours},           {"mpi_ms", theirs},          {"ratio", ours / theirs},
                          {"rounds", options_.rounds}, {"mpi", comm::mpi_library()}};
      fmt::print("{}\n", line.dump());
    } else {
      fmt::print("{:15} {} ranks {:4} MB: {:9.3f} ms, {} {:9.3f} ms, ratio {:.2f}\n", collective, size(), megabytes,
                 ours, comm::mpi_library(), theirs, ours / theirs);
    }
    std::fflush(stdout);
  }

  comm::World& world_;
  const Options& options_;
  MPI_Comm theirs_ = MPI_COMM_NULL;
  std::vector<float> whole_, part_;
};

int as_rank(const launch::LaunchInfo& info, const Options& options) {
  comm::MpiOptions mpi;
  mpi.expected = {info.rank, info.size};
  comm::World world = comm::World::mpi(mpi);
  try {
    Comparison comparison(world, options);
    for (int64_t megabytes : options.megabytes) comparison.run(megabytes);
  } catch (const std::exception& e) {
    world.abort(e.what());
    throw;
  }
  return 0;
}

int start_ranks(const Options& options, int argc, char** argv) {
  launch::MpirunOptions ranks;
  ranks.ranks_per_node = options.ranks;
  return launch::launch(launch::mpirun_command(ranks, launch::this_machine(),
                                               std::filesystem::read_symlink("/proc/self/exe").string(),
                                               std::vector<std::string>(argv + 1, argv + argc)));
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Times our collectives beside those of the installed MPI");
  app.add_option("--ranks", options.ranks, "Processes")->check(CLI::Range(2, 256));
  app.add_option("--mb", options.megabytes, "Sizes, in MiB")->delimiter(',')->check(CLI::Range(1, 4096));
  app.add_option("--rounds", options.rounds, "Times that each is measured")->check(CLI::PositiveNumber);
  app.add_option("--format", options.format, "text or json")->check(CLI::IsMember({"text", "json"}));
  CLI11_PARSE(app, argc, argv);
  try {
    launch::LaunchInfo info = launch::detect(launch::current_environment());
    return info.kind == launch::Launcher::kNone ? start_ranks(options, argc, argv) : as_rank(info, options);
  } catch (const Error& e) {
    fmt::print(stderr, "bench_collectives: {}\n", e.what());
    return exit_code(e.fault());
  }
}
