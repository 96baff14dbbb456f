// What this machine has and can do, for people who wonder why a job is slow or does not start.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/world.h"
#include "cuda/plugin.h"
#include "train/rates.h"

namespace automodel::train {

struct Rates {
  double peak_fp32_gflops = 0;  // of registers alone
  double peak_bf16_gflops = 0;
  double matmul_fp32_gflops = 0;
  double matmul_bf16_gflops = 0;
  double copy_gb_per_s = 0;  // read and written bytes of a large copy
};

// Between the ranks of this run.
struct Exchange {
  double all_reduce_gb_per_s = 0;  // bytes of the buffer by the time of the call
  double all_gather_gb_per_s = 0;  // bytes of the result by the time of the call
};

struct CudaDevice {
  cuda::DeviceInfo info;
  double matmul_fp32_gflops = 0;
  double matmul_bf16_gflops = 0;
  double copy_gb_per_s = 0;  // as Rates::copy_gb_per_s
  TransferRates transfer;
};

struct CudaDiagnosis {
  std::string plugin;   // its file; empty: not opened
  std::string why_not;  // empty: the devices can be used
  std::vector<cuda::LibraryVersion> libraries;
  std::vector<CudaDevice> devices;  // of the main rank's machine
};

struct Diagnosis {
  std::string version;
  std::string processor;
  int usable_cores = 1;  // by this process
  int machine_cores = 1;
  int threads = 1;  // of each rank
  double memory_gib = 0;
  std::vector<std::string> kernel_sets;  // that the processor can run, slowest first; the last one is used
  std::string math_library;
  std::string mpi_library;
  std::string mpirun;    // path; empty: not found
  std::string launcher;  // that started this process
  bool has_remote_shell = false;
  bool may_read_peers = false;
  Rates rates;
  CudaDiagnosis cuda;
  std::vector<std::string> hosts;    // of every rank
  std::optional<Exchange> exchange;  // with more than one rank
  std::vector<std::string> advice;   // plain sentences
};

// Takes about two seconds, and two for each device. Collective.
Diagnosis diagnose(comm::World& world);

std::string to_text(const Diagnosis& diagnosis);
std::string to_json(const Diagnosis& diagnosis);

}  // namespace automodel::train
