// Products by cuBLASLt: sums in fp32 (of fp32 numbers without TF32), the bias as the library's epilogue, gradients
// added to fp32 by beta = 1. For each shape the library proposes algorithms; each is timed once on what it is to
// multiply, writing to memory of its own, and the fastest is kept (algorithm_store.h). AUTOMODEL_MATMUL_SEARCH=0 in the
// environment takes the library's first proposal instead, as does a stream that is being captured.
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "ops/cuda/algorithm_store.h"
#include "ops/cuda/product.h"
#include "ops/cuda/runtime.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

static_assert(sizeof(AlgorithmWords) == sizeof(cublasLtMatmulAlgo_t));

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr int kProposals = 16;
constexpr int kTimings = 3;

void check(cublasStatus_t status, const char* what) {
  AM_CHECK(status == CUBLAS_STATUS_SUCCESS, Fault::kDevice, "cuBLASLt: {}: {}", what, cublasLtGetStatusString(status));
}
void check(cudaError_t status, const char* what) {
  AM_CHECK(status == cudaSuccess, Fault::kDevice, "CUDA: {}: {}", what, cudaGetErrorString(status));
}

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}

// The largest power of two up to 16 that divides an address and the bytes between rows: what vector loads may assume.
uint32_t alignment_of(const void* data, int64_t stride, DType type) {
  uint64_t bits = reinterpret_cast<uintptr_t>(data) | static_cast<uint64_t>(stride) * size_of(type) | 16;
  return static_cast<uint32_t>(bits & -bits);
}

struct Alignments {
  uint32_t first, second, out, bias;
};
Alignments alignments_of(const ColumnProduct& p) {
  return {alignment_of(p.first, p.first_stride, p.in_type), alignment_of(p.second, p.second_stride, p.in_type),
          alignment_of(p.out, p.out_stride, p.out_type), alignment_of(p.bias, 0, p.in_type)};
}

// Everything that the choice of an algorithm depends on.
std::string key_of(const ColumnProduct& p) {
  Alignments at = alignments_of(p);
  return fmt::format("{}x{}x{}:{}{}:{}-{}:ld{},{},{}:{}{}:a{},{},{},{}", p.m, p.n, p.k, p.transpose_first ? 'T' : 'N',
                     p.transpose_second ? 'T' : 'N', name_of(p.in_type), name_of(p.out_type), p.first_stride,
                     p.second_stride, p.out_stride, p.bias != nullptr ? 'b' : '-', p.accumulate ? '+' : '=', at.first,
                     at.second, at.out, at.bias);
}

// The library's descriptions of one product.
class Description {
 public:
  explicit Description(const ColumnProduct& p) {
    check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_first ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_second ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.bias != nullptr) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(p.in_type)));
      point_to_bias(p.bias);
    }
    first = layout(p.in_type, p.transpose_first ? p.k : p.m, p.transpose_first ? p.m : p.k, p.first_stride);
    second = layout(p.in_type, p.transpose_second ? p.n : p.k, p.transpose_second ? p.k : p.n, p.second_stride);
    out = layout(p.out_type, p.m, p.n, p.out_stride);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  ~Description() {
    cublasLtMatrixLayoutDestroy(out);
    cublasLtMatrixLayoutDestroy(second);
    cublasLtMatrixLayoutDestroy(first);
    cublasLtMatmulDescDestroy(operation);
  }
  void point_to_bias(const void* bias) { set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias); }

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, out = nullptr;

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)), "describing a product");
  }
  static cublasLtMatrixLayout_t layout(DType type, int64_t rows, int64_t cols, int64_t stride) {
    cublasLtMatrixLayout_t made = nullptr;
    check(cublasLtMatrixLayoutCreate(&made, type_of(type), static_cast<uint64_t>(rows), static_cast<uint64_t>(cols),
                                     stride),
          "describing a matrix");
    return made;
  }
};

struct Plan {
  explicit Plan(const ColumnProduct& p) : description(p) {}
  Description description;
  cublasLtMatmulAlgo_t algorithm{};
};

// Of one thread: handles, plans and the workspace belong to its stream.
class Library {
 public:
  Library() {
    check(cublasLtCreate(&handle_), "opening the library");
    check(cudaMalloc(&workspace_, kWorkspaceBytes), "workspace of products");
    const char* search = std::getenv("AUTOMODEL_MATMUL_SEARCH");
    searches_ = search == nullptr || std::strcmp(search, "0") != 0;
    if (searches_) store_ = AlgorithmStore(cache_path(file_name()));
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    cudaFree(workspace_);
    cublasLtDestroy(handle_);
  }

  void multiply(const ColumnProduct& p) {
    Plan& plan = plan_for(p);
    if (p.bias != nullptr) plan.description.point_to_bias(p.bias);
    check(run(p, plan, plan.algorithm, p.out), "a product");
  }

 private:
  static std::string file_name() {
    int device = 0;
    cudaDeviceProp properties{};
    check(cudaGetDevice(&device), "the current device");
    check(cudaGetDeviceProperties(&properties, device), "the device's properties");
    std::string name = fmt::format("cublaslt-{}-{}.txt", cublasLtGetVersion(), properties.name);
    for (char& c : name)
      if (c == ' ' || c == '/') c = '_';
    return name;
  }

  cublasStatus_t run(const ColumnProduct& p, const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, void* out) {
    float alpha = 1, beta = p.accumulate ? 1 : 0;
    const Description& d = plan.description;
    return cublasLtMatmul(handle_, d.operation, &alpha, p.first, d.first, p.second, d.second, &beta, out, d.out, out,
                          d.out, &algorithm, workspace_, kWorkspaceBytes, static_cast<cudaStream_t>(stream()));
  }

  Plan& plan_for(const ColumnProduct& p) {
    std::string key = key_of(p);
    auto known = plans_.find(key);
    if (known != plans_.end()) return known->second;
    Plan& plan = plans_.try_emplace(key, p).first->second;
    if (std::optional<AlgorithmWords> kept = store_.find(key)) {
      std::memcpy(&plan.algorithm, kept->data(), sizeof(plan.algorithm));
      if (runs_here(plan)) return plan;
    }
    std::vector<cublasLtMatmulHeuristicResult_t> proposals = ask(p, plan);
    plan.algorithm = proposals[0].algo;
    if (!searches_ || capturing() || !choose_fastest(p, plan, proposals)) return plan;
    AlgorithmWords words;
    std::memcpy(words.data(), &plan.algorithm, sizeof(words));
    store_.add(key, words);
    return plan;
  }

  bool runs_here(const Plan& plan) {
    cublasLtMatmulHeuristicResult_t result{};
    const Description& d = plan.description;
    return cublasLtMatmulAlgoCheck(handle_, d.operation, d.first, d.second, d.out, d.out, &plan.algorithm, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= kWorkspaceBytes;
  }

  static bool capturing() {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream()), &status), "the state of the stream");
    return status != cudaStreamCaptureStatusNone;
  }

  std::vector<cublasLtMatmulHeuristicResult_t> ask(const ColumnProduct& p, const Plan& plan) {
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "asking for algorithms");
    auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
            "asking for algorithms");
    };
    Alignments at = alignments_of(p);
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, at.first);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, at.second);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, at.out);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, at.out);
    std::vector<cublasLtMatmulHeuristicResult_t> proposals(kProposals);
    int found = 0;
    const Description& d = plan.description;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, d.operation, d.first, d.second, d.out, d.out,
                                                           preference, kProposals, proposals.data(), &found);
    cublasLtMatmulPreferenceDestroy(preference);
    AM_CHECK(status == CUBLAS_STATUS_SUCCESS && found > 0, Fault::kDevice,
             "cuBLASLt has no algorithm for the product {} ({})", key_of(p), cublasLtGetStatusString(status));
    proposals.resize(static_cast<size_t>(found));
    return proposals;
  }

  // False when there is no memory to measure in: then the first proposal stays, for this run.
  bool choose_fastest(const ColumnProduct& p, Plan& plan,
                      const std::vector<cublasLtMatmulHeuristicResult_t>& proposals) {
    auto at = static_cast<cudaStream_t>(stream());
    void* out = nullptr;
    size_t bytes = static_cast<size_t>(p.out_stride * p.n) * size_of(p.out_type);
    if (cudaMallocAsync(&out, bytes, at) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    cudaEvent_t begin = nullptr, end = nullptr;
    check(cudaEventCreate(&begin), "an event");
    check(cudaEventCreate(&end), "an event");
    float best = 0;
    for (const cublasLtMatmulHeuristicResult_t& proposal : proposals) {
      if (run(p, plan, proposal.algo, out) != CUBLAS_STATUS_SUCCESS) continue;
      check(cudaEventRecord(begin, at), "an event");
      for (int i = 0; i < kTimings; ++i) check(run(p, plan, proposal.algo, out), "a product");
      check(cudaEventRecord(end, at), "an event");
      check(cudaEventSynchronize(end), "a product");
      float time = 0;
      check(cudaEventElapsedTime(&time, begin, end), "an event");
      if (best > 0 && time >= best) continue;
      best = time;
      plan.algorithm = proposal.algo;
    }
    cudaEventDestroy(end);
    cudaEventDestroy(begin);
    check(cudaFreeAsync(out, at), "freeing memory");
    return best > 0;
  }

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  bool searches_ = true;
  AlgorithmStore store_{""};
  std::unordered_map<std::string, Plan> plans_;
};

}  // namespace

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args) {
  if (trivial_product(c, a, args)) return;
  thread_local Library library;
  ColumnProduct product = column_product(c, a, b, args);
  if (product.bias != nullptr && product.in_type != product.out_type) {
    // The library adds a bias only of the type of the result.
    fill_rows(c, args.bias);
    product.bias = nullptr;
    product.accumulate = true;
  }
  library.multiply(product);
}

}  // namespace automodel::ops::cuda
