#include "ops/cpu/library_matmul.h"

#include <oneapi/dnnl/dnnl.h>

#include "core/error.h"

namespace automodel::ops::cpu {

void library_matmul(const LibraryProduct& p) {
  dnnl_status_t status = dnnl_sgemm(p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', p.m, p.n, p.k, 1.0f, p.a,
                                    p.lda, p.b, p.ldb, p.accumulate ? 1.0f : 0.0f, p.c, p.ldc);
  AM_CHECK(status == dnnl_success, Fault::kBug, "oneDNN refused a product of {} x {} x {}: status {}", p.m, p.n, p.k,
           static_cast<int>(status));
}

std::string library_name() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

}  // namespace automodel::ops::cpu
