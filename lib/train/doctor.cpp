#include "train/doctor.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>

#include "comm/mpi_library.h"
#include "core/error.h"
#include "cuda/backend.h"
#include "launch/affinity.h"
#include "launch/mpirun.h"
#include "ops/cpu/library_matmul.h"
#include "ops/cpu/peak.h"
#include "ops/cpu/sets.h"
#include "ops/kernels.h"
#include "train/commands.h"
#include "train/device.h"
#include "train/ranks.h"
#include "train/rates.h"

namespace automodel::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Exchange exchange_rates(comm::Communicator& ranks) {
  constexpr int64_t kBytes = int64_t{32} << 20;
  int64_t share = kBytes / 4 / ranks.size();
  std::vector<float> buffer(static_cast<size_t>(share * ranks.size())), own(static_cast<size_t>(share));
  constexpr int kRuns = 5;
  auto rate = [&](auto&& call) {
    call();
    double best = 1e30;
    for (int i = 0; i < kRuns; ++i) {
      ranks.barrier();
      auto start = Clock::now();
      call();
      best = std::min(best, ranks.reduced(seconds_since(start), comm::Reduce::kMax));
    }
    return 4e-9 * static_cast<double>(buffer.size()) / best;
  };
  Exchange out;
  out.all_reduce_gb_per_s = rate([&] { ranks.all_reduce(comm::buffer_of(buffer), comm::Reduce::kSum); });
  out.all_gather_gb_per_s = rate([&] { ranks.all_gather(comm::buffer_of(buffer), comm::buffer_of(own)); });
  return out;
}

std::vector<std::string> host_names(comm::Communicator& ranks) {
  constexpr size_t kLength = 256;
  std::vector<uint8_t> own(kLength), all(kLength * static_cast<size_t>(ranks.size()));
  gethostname(reinterpret_cast<char*>(own.data()), kLength - 1);
  ranks.all_gather(comm::buffer_of(all), comm::buffer_of(own));
  std::vector<std::string> out;
  for (size_t r = 0; r < static_cast<size_t>(ranks.size()); ++r)
    out.emplace_back(reinterpret_cast<const char*>(all.data() + r * kLength));
  return out;
}

// The value of the first line "key : value" of a file, or nothing.
std::string line_value(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    size_t colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::string listed(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

std::vector<std::string> advice_for(const Diagnosis& d, const launch::LaunchInfo& info) {
  std::vector<std::string> out;
  if (d.mpirun.empty())
    out.push_back("mpirun was not found, so only one rank can run; install openmpi-bin (scripts/setup does)");
  if (!d.has_remote_shell) out.push_back("neither ssh nor rsh was found, so mpirun cannot reach other machines");
  if (!d.may_read_peers)
    out.push_back(
        "ranks may not read each other's memory (process_vm_readv), as in many containers, so messages between them "
        "are "
        "copied twice");
  if (d.kernel_sets.back() == "base")
    out.push_back("the processor has no AVX2, so the kernels are several times slower than they could be");
  if (d.kernel_sets.back() != "v4bf16")
    out.push_back("the processor does not multiply bf16, so bf16 saves memory and no time");
  std::string affinity = launch::affinity_warning(d.usable_cores, d.machine_cores, info.local_size);
  if (!affinity.empty()) out.push_back(affinity);
  return out;
}

CudaDevice measure_device(const cuda::Plugin& plugin, int index) {
  CudaDevice device;
  device.info = plugin.describe_device(index);
  auto allocator = plugin.make_allocator(index);
  device.matmul_fp32_gflops = matmul_gflops(DType::kF32, *allocator);
  device.matmul_bf16_gflops = matmul_gflops(DType::kBF16, *allocator);
  device.copy_gb_per_s = copy_rate(*allocator);
  device.transfer = transfer_rates(*allocator);
  return device;
}

// The first rank of a machine looks at its devices, one after the other.
CudaDiagnosis diagnose_cuda(const comm::World& world) {
  const cuda::Backend& backend = cuda::backend(true);
  CudaDiagnosis out{backend.file, backend.why_not, {}, {}};
  if (backend.plugin != nullptr) out.libraries = backend.plugin->find_libraries();
  for (int i = 0; i < backend.devices && world.local_rank() == 0; ++i) {
    try {
      // A thread is a rank of one device.
      out.devices.push_back(std::async(std::launch::async, measure_device, std::cref(*backend.plugin), i).get());
    } catch (const Error& error) {
      out.why_not = error.what();
    }
  }
  return out;
}

std::string found(const std::string& version) {
  return version.empty() ? "not found" : version;
}

// One line, or one for each device.
std::vector<std::string> cuda_text(const CudaDiagnosis& cuda) {
  std::vector<std::string> out;
  if (!cuda.why_not.empty()) out.push_back("cannot be used: " + cuda.why_not);
  for (size_t i = 0; i < cuda.devices.size(); ++i) {
    const CudaDevice& d = cuda.devices[i];
    out.push_back(fmt::format(
        "cuda:{} {}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB; matrix products {:.1f} TFLOP/s in fp32, "
        "{:.1f} in bf16; copies {:.0f} GB/s in its memory, {:.1f} from the host, {:.1f} to the host",
        i, d.info.name, d.info.major, d.info.minor, d.info.multiprocessors,
        static_cast<double>(d.info.total_bytes) / (1 << 30), 1e-3 * d.matmul_fp32_gflops, 1e-3 * d.matmul_bf16_gflops,
        d.copy_gb_per_s, d.transfer.upload, d.transfer.download));
  }
  std::string versions;
  for (const cuda::LibraryVersion& library : cuda.libraries)
    versions += fmt::format("{}{} {}", versions.empty() ? "" : ", ", library.name, found(library.version));
  if (!versions.empty()) out.push_back(versions);
  if (!cuda.plugin.empty()) out.push_back(cuda.plugin);
  return out;
}

nlohmann::ordered_json cuda_json(const CudaDiagnosis& cuda) {
  using nlohmann::ordered_json;
  ordered_json out{{"usable", cuda.why_not.empty()}, {"plugin", nullptr}, {"why_not", nullptr}};
  if (!cuda.plugin.empty()) out["plugin"] = cuda.plugin;
  if (!cuda.why_not.empty()) out["why_not"] = cuda.why_not;
  out["libraries"] = ordered_json::object();
  for (const cuda::LibraryVersion& library : cuda.libraries)
    out["libraries"][library.name] = library.version.empty() ? ordered_json() : ordered_json(library.version);
  out["devices"] = ordered_json::array();
  for (const CudaDevice& d : cuda.devices)
    out["devices"].push_back({{"name", d.info.name},
                              {"compute_capability", fmt::format("{}.{}", d.info.major, d.info.minor)},
                              {"multiprocessors", d.info.multiprocessors},
                              {"memory_bytes", d.info.total_bytes},
                              {"free_bytes", d.info.free_bytes},
                              {"matmul_fp32_gflops", d.matmul_fp32_gflops},
                              {"matmul_bf16_gflops", d.matmul_bf16_gflops},
                              {"copy_gb_per_s", d.copy_gb_per_s},
                              {"upload_gb_per_s", d.transfer.upload},
                              {"download_gb_per_s", d.transfer.download}});
  return out;
}

}  // namespace

Diagnosis diagnose(comm::World& world) {
  launch::LaunchInfo info = launch::detect(launch::current_environment());
  launch::Machine machine = launch::this_machine();
  Diagnosis d;
  d.version = AUTOMODEL_VERSION;
  d.processor = line_value("/proc/cpuinfo", "model name");
  d.usable_cores = launch::usable_cores();
  d.machine_cores = launch::machine_cores();
  d.threads = omp_get_max_threads();
  d.memory_gib = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE)) / (1 << 30);
  for (const ops::cpu::KernelSet& set : ops::cpu::runnable_sets()) d.kernel_sets.emplace_back(set.name);
  d.math_library = ops::cpu::library_name();
  d.mpi_library = comm::mpi_library();
  d.mpirun = machine.mpirun;
  d.launcher = launch::name_of(info.kind);
  d.has_remote_shell = machine.has_remote_shell;
  d.may_read_peers = machine.may_read_peers;
  d.advice = advice_for(d, info);

  auto allocator = make_cpu_allocator();
  world.global().barrier();
  d.rates = {1e-9 * ops::cpu::peak_flops(DType::kF32, 0.2), 1e-9 * ops::cpu::peak_flops(DType::kBF16, 0.2),
             matmul_gflops(DType::kF32, *allocator), matmul_gflops(DType::kBF16, *allocator), copy_rate(*allocator)};
  d.cuda = diagnose_cuda(world);
  d.hosts = host_names(world.global());
  if (world.size() > 1) d.exchange = exchange_rates(world.global());
  return d;
}

std::string to_text(const Diagnosis& d) {
  std::string out;
  auto row = [&](const char* name, const std::string& value) { out += fmt::format("{:<14}{}\n", name, value); };
  row("automodel", d.version);
  row("processor", fmt::format("{}, {} of {} cores usable, {} threads a rank, {:.1f} GiB of memory", d.processor,
                               d.usable_cores, d.machine_cores, d.threads, d.memory_gib));
  row("kernels", fmt::format("{} (this processor runs: {})", d.kernel_sets.back(), listed(d.kernel_sets)));
  row("math library", d.math_library);
  row("MPI", fmt::format("{}, mpirun: {}", d.mpi_library, d.mpirun.empty() ? "not found" : d.mpirun));
  row("launcher", d.launcher);
  for (const std::string& line : cuda_text(d.cuda)) row("CUDA", line);
  row("fp32", fmt::format("{:.0f} GFLOP/s in matrix products, of a peak of {:.0f}", d.rates.matmul_fp32_gflops,
                          d.rates.peak_fp32_gflops));
  row("bf16", fmt::format("{:.0f} GFLOP/s in matrix products, of a peak of {:.0f}", d.rates.matmul_bf16_gflops,
                          d.rates.peak_bf16_gflops));
  row("memory copy", fmt::format("{:.1f} GB/s", d.rates.copy_gb_per_s));
  if (d.exchange) {
    std::vector<std::string> distinct = d.hosts;
    std::ranges::sort(distinct);
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    row("ranks", fmt::format("{} on {}", d.hosts.size(), listed(distinct)));
    row("all-reduce", fmt::format("{:.2f} GB/s", d.exchange->all_reduce_gb_per_s));
    row("all-gather", fmt::format("{:.2f} GB/s", d.exchange->all_gather_gb_per_s));
  }
  for (const std::string& sentence : d.advice) row("note", sentence);
  return out;
}

std::string to_json(const Diagnosis& d) {
  nlohmann::ordered_json json{
      {"version", d.version},
      {"processor",
       {{"name", d.processor},
        {"usable_cores", d.usable_cores},
        {"cores", d.machine_cores},
        {"threads", d.threads},
        {"memory_gib", d.memory_gib},
        {"kernels", d.kernel_sets.back()}}},
      {"math_library", d.math_library},
      {"mpi",
       {{"library", d.mpi_library},
        {"mpirun", d.mpirun.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(d.mpirun)},
        {"launcher", d.launcher},
        {"remote_shell", d.has_remote_shell},
        {"reads_peers", d.may_read_peers}}},
      {"cuda", cuda_json(d.cuda)},
      {"rates",
       {{"peak_fp32_gflops", d.rates.peak_fp32_gflops},
        {"peak_bf16_gflops", d.rates.peak_bf16_gflops},
        {"matmul_fp32_gflops", d.rates.matmul_fp32_gflops},
        {"matmul_bf16_gflops", d.rates.matmul_bf16_gflops},
        {"copy_gb_per_s", d.rates.copy_gb_per_s}}},
      {"hosts", d.hosts},
      {"notes", d.advice}};
  if (d.exchange)
    json["exchange"] = {{"all_reduce_gb_per_s", d.exchange->all_reduce_gb_per_s},
                        {"all_gather_gb_per_s", d.exchange->all_gather_gb_per_s}};
  return json.dump() + "\n";
}

int run_doctor(Format format) {
  return run_as_rank(5, [&](comm::World& world) {
    Diagnosis d = diagnose(world);
    if (world.is_main()) fmt::print("{}", format == Format::kJson ? to_json(d) : to_text(d));
    return 0;
  });
}

}  // namespace automodel::train
