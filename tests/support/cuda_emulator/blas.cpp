// cuBLASLt and the few functions of cudart that ops/cuda/matmul.cpp calls, on the host: products as plain loops over
// what the descriptions say. It proposes three algorithms, of which the first does not run and the last is the fastest,
// and counts what was asked of it.
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "core/dtype.h"
#include "support/cuda_emulator/blas.h"

using automodel::bf16;
using automodel::emulator::BlasCounts;

namespace {

struct Operation {
  std::map<int, std::vector<unsigned char>> attributes;
  template <class T>
  T get(int attribute, T otherwise) const {
    auto found = attributes.find(attribute);
    if (found == attributes.end() || found->second.size() != sizeof(T)) return otherwise;
    T value;
    std::memcpy(&value, found->second.data(), sizeof(T));
    return value;
  }
};

struct Layout {
  cudaDataType type;
  uint64_t rows, cols;
  int64_t stride;
};

BlasCounts counts;
uint64_t last_algorithm = 0;

const Operation& operation_of(const void* p) {
  return *static_cast<const Operation*>(p);
}
const Layout& layout_of(const void* p) {
  return *static_cast<const Layout*>(p);
}

float get(const void* data, cudaDataType type, int64_t at) {
  return type == CUDA_R_16BF ? automodel::to_float(static_cast<const bf16*>(data)[at])
                             : static_cast<const float*>(data)[at];
}
void set(void* data, cudaDataType type, int64_t at, float x) {
  if (type == CUDA_R_16BF)
    static_cast<bf16*>(data)[at] = automodel::to_bf16(x);
  else
    static_cast<float*>(data)[at] = x;
}

// Element (row, col) of op(matrix).
float element(const void* data, const Layout& layout, bool transposed, int64_t row, int64_t col) {
  return get(data, layout.type, transposed ? row * layout.stride + col : col * layout.stride + row);
}

}  // namespace

namespace automodel::emulator {
BlasCounts& blas_counts() {
  return counts;
}
}  // namespace automodel::emulator

extern "C" {

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "not a success";
}
size_t cublasLtGetVersion() {
  return 130000;
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(&counts);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) {
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t compute, cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *made = reinterpret_cast<cublasLtMatmulDesc_t>(new Operation);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  delete reinterpret_cast<Operation*>(operation);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(value);
  reinterpret_cast<Operation*>(operation)->attributes[attribute].assign(bytes, bytes + size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* made, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t stride) {
  if (stride < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *made = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, cols, stride});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<Layout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
  *made = reinterpret_cast<cublasLtMatmulPreference_t>(new Operation);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete reinterpret_cast<Operation*>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(value);
  reinterpret_cast<Operation*>(preference)->attributes[attribute].assign(bytes, bytes + size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  ++counts.searches;
  counts.alignment = operation_of(preference).get<uint32_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 256);
  *found = most < 3 ? most : 3;
  for (int i = 0; i < *found; ++i) {
    results[i] = {};
    results[i].algo.data[0] = static_cast<uint64_t>(i + 1);
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
  result->workspaceSize = 0;
  return algorithm->data[0] == 2 || algorithm->data[0] == 3 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void*, size_t,
                              cudaStream_t) {
  const Operation& with = operation_of(operation);
  const Layout &left = layout_of(a_layout), &right = layout_of(b_layout), &out = layout_of(d_layout);
  bool transpose_a = with.get(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N) == CUBLAS_OP_T;
  bool transpose_b = with.get(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N) == CUBLAS_OP_T;
  auto m = static_cast<int64_t>(out.rows), n = static_cast<int64_t>(out.cols);
  auto k = static_cast<int64_t>(transpose_a ? left.rows : left.cols);
  bool fits = static_cast<int64_t>(transpose_a ? left.cols : left.rows) == m &&
              static_cast<int64_t>(transpose_b ? right.rows : right.cols) == n &&
              static_cast<int64_t>(transpose_b ? right.cols : right.rows) == k && c == d &&
              layout_of(c_layout).stride == out.stride;
  if (!fits || algorithm->data[0] == 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  const void* bias = nullptr;
  if (with.get(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT) == CUBLASLT_EPILOGUE_BIAS)
    bias = with.get<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, nullptr);
  auto bias_type = with.get<int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, out.type);
  if (bias != nullptr && bias_type != out.type) return CUBLAS_STATUS_NOT_SUPPORTED;
  ++counts.products;
  last_algorithm = counts.algorithm = algorithm->data[0];
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < m; ++i) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += element(a, left, transpose_a, i, l) * element(b, right, transpose_b, l, j);
      sum *= *static_cast<const float*>(alpha);
      if (*static_cast<const float*>(beta) != 0)
        sum += *static_cast<const float*>(beta) * get(c, out.type, j * out.stride + i);
      if (bias != nullptr) sum += get(bias, out.type, i);
      set(d, out.type, j * out.stride + i, sum);
    }
  return CUBLAS_STATUS_SUCCESS;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "success" : "not a success";
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "Emulated Device/1");
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) {
  // Full of NaN: a product that is only timed must not tell.
  *memory = std::malloc(bytes);
  std::memset(*memory, 0xff, bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = reinterpret_cast<cudaEvent_t>(&counts);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = last_algorithm == 3 ? 1.0f : 2.0f;
  return cudaSuccess;
}

}  // extern "C"
