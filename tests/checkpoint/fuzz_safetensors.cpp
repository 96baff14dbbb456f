// Fuzz target: any bytes at all are either refused with Error(kCheckpoint) or give tensors that lie inside the file,
// tile it, and have the size that their shape says. Anything else aborts.
#include <cstdlib>

#include "checkpoint/safetensors.h"
#include "core/error.h"

using namespace automodel;
using namespace automodel::checkpoint;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto file = std::as_bytes(std::span(data, size));
  try {
    SafetensorsHeader header = parse_safetensors(file, "fuzz");
    uint64_t next = 0;
    for (const auto& tensor : header.tensors.all()) {
      uint64_t bytes = 0;
      if (tensor.begin > tensor.end || tensor.end > size || (next != 0 && tensor.begin != next)) std::abort();
      if (!byte_size(tensor.shape, tensor.dtype, bytes) || bytes != tensor.end - tensor.begin) std::abort();
      next = tensor.end;
    }
    if (next != 0 && next != size) std::abort();
    return header.tensors.all().empty() ? 0 : 1;
  } catch (const Error& error) {
    if (error.fault() != Fault::kCheckpoint) std::abort();
    return -1;
  }
}
