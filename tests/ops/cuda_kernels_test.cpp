// The CUDA kernels' sources, compiled for the host and run by an emulator, against the CPU's kernels; and the emulator
// itself, which must notice what a device would do wrong silently.
#include <cstdlib>
#include <cstring>

#include "ops/cuda/table.h"
#include "ops/cuda_checks.h"
#include "support/cuda_emulator/fibers.h"

using namespace automodel;
using namespace automodel::ops::test;

namespace {

Machine emulated() {
  auto copy = [](void* to, const void* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  };
  auto order = [](int run) {
    emulator::set_order(run == 0 ? emulator::Order::kAscending : emulator::Order::kDescending);
  };
  return {ops::cuda::table(), Device{}, [](size_t bytes) { return std::malloc(bytes); }, std::free, copy, copy, order};
}

}  // namespace

TEST_CASE("emulated CUDA: elementwise kernels agree with the CPU's") {
  check_elementwise(emulated());
}
TEST_CASE("emulated CUDA: activations agree with the CPU's") {
  check_activations(emulated());
}
TEST_CASE("emulated CUDA: dropout drops what the CPU drops") {
  check_dropout(emulated());
}
TEST_CASE("emulated CUDA: sums agree with the CPU's") {
  check_sums(emulated());
}
TEST_CASE("emulated CUDA: norms agree with the CPU's") {
  check_norms(emulated());
}
TEST_CASE("emulated CUDA: embeddings and their gradients agree with the CPU's") {
  check_embedding(emulated());
}
TEST_CASE("emulated CUDA: rotary embeddings agree with the CPU's") {
  check_rope(emulated());
}
TEST_CASE("emulated CUDA: losses and their gradients agree with the CPU's") {
  check_losses(emulated());
}
TEST_CASE("emulated CUDA: the optimizer's update agrees with the CPU's") {
  check_optimizer(emulated());
}
TEST_CASE("emulated CUDA: products are put to the BLAS as they are meant") {
  check_products(emulated());
}
TEST_CASE("emulated CUDA: experts are chosen and served as on the CPU") {
  check_experts(emulated());
}
TEST_CASE("emulated CUDA: decoding agrees with the CPU's") {
  check_decoding(emulated());
}
TEST_CASE("emulated CUDA: attention and its gradients agree with the CPU's") {
  check_attention(emulated());
}
