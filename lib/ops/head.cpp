#include "ops/head.h"

#include <algorithm>

#include "core/error.h"
#include "ops/buffer.h"
#include "ops/linear.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Param;
using autograd::Var;

namespace {

constexpr int64_t kChunkBytes = int64_t{48} << 20;

// Rows of one chunk: as many as fit, in equal chunks.
int64_t chunk_rows(int64_t rows, int64_t vocab) {
  int64_t most = std::max<int64_t>(1, kChunkBytes / (vocab * 4));
  int64_t chunks = (rows + most - 1) / most;
  return chunks <= 1 ? std::max<int64_t>(rows, 1) : (rows + chunks - 1) / chunks;
}

// Cross entropy of rows whose other logits are on other ranks.
void cross_entropy_with(const VocabularyPart& part, const Tensor& losses, const Tensor& dlogits, const Tensor& logits,
                        const CrossEntropyArgs& args) {
  const Kernels& k = kernels(logits.device());
  Allocator& allocator = *logits.allocator();
  int64_t rows = logits.rows(), ranks = part.ranks->size();
  Tensor all = Tensor::empty({ranks, rows, 3}, DType::kF32, allocator, MemoryClass::kCommunication);
  Tensor own = all.narrow(part.ranks->rank(), 1);
  k.cross_entropy_part(own.view({rows, 3}), logits, *args.labels, part.first);
  part.ranks->all_gather(buffer_of(all), buffer_of(own));
  k.cross_entropy_join(losses, dlogits, logits, all, args);
}

}  // namespace

Tensor head_logits(const Tensor& x, const Param& weight, Allocator& allocator) {
  Tensor logits = Tensor::empty({x.rows(), weight.value.size(0)}, DType::kF32, allocator, MemoryClass::kWorkspace);
  product(logits, x, weight.value, {.transpose_b = true});
  return logits;
}

Tensor gather_vocabulary(const Tensor& part, int64_t vocabulary, comm::Communicator& ranks) {
  Allocator& allocator = *part.allocator();
  int64_t rows = part.rows(), each = (vocabulary + ranks.size() - 1) / ranks.size();
  auto workspace = [&](Shape shape) { return Tensor::empty(shape, part.dtype(), allocator, MemoryClass::kWorkspace); };
  // Row by row: a part may be narrower than the others, and parts do not lie side by side.
  Tensor own = workspace({rows, each}), all = workspace({ranks.size() * rows, each}),
         out = workspace({rows, vocabulary});
  zero(own);
  for (int64_t r = 0; r < rows; ++r) copy(own.narrow(r, 1).columns(0, part.cols()), part.narrow(r, 1));
  ranks.all_gather(buffer_of(all), buffer_of(own));
  for (int64_t p = 0; p < ranks.size(); ++p) {
    int64_t first = p * each, width = std::min(each, vocabulary - first);
    for (int64_t r = 0; r < rows && width > 0; ++r)
      copy(out.narrow(r, 1).columns(first, width), all.narrow(p * rows + r, 1).columns(0, width));
  }
  return out;
}

HeadLoss head_loss(const Var& x, Param& weight, const Tensor& labels, float grad_scale, const VocabularyPart& part) {
  int64_t rows = x.value.rows();
  int64_t vocab = weight.value.size(0);
  AM_CHECK(labels.numel() == rows && weight.value.size(1) == x.value.cols(), Fault::kShape,
           "head: {} labels for x {} and a weight {}", labels.numel(), x.value.shape().str(),
           weight.value.shape().str());
  const Kernels& k = kernels(x.value.device());
  Allocator& allocator = x.tape->allocator();
  bool train = x.tape->keeps({&x, 1}, weight.requires_grad);
  bool wants_dx = train && x.id >= 0;

  Tensor losses = Tensor::empty({rows}, DType::kF32, allocator);
  Tensor dx = wants_dx ? Tensor::empty(x.value.shape(), x.value.dtype(), allocator) : Tensor{};
  int64_t chunk = chunk_rows(rows, std::max(vocab, part.most));
  auto buffer = [&](DType dtype) { return Tensor::empty({chunk, vocab}, dtype, allocator, MemoryClass::kWorkspace); };
  Tensor logits = buffer(DType::kF32);
  Tensor dlogits = train && x.value.dtype() != DType::kF32 ? buffer(x.value.dtype()) : logits;
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    int64_t count = std::min(chunk, rows - begin);
    Tensor x_part = x.value.narrow(begin, count);
    Tensor l_part = logits.narrow(0, count);
    Tensor d_part = dlogits.narrow(0, count);
    k.matmul(l_part, x_part, weight.value, {.transpose_b = true});
    Tensor here = labels.narrow(begin, count), loss = losses.narrow(begin, count);
    if (part.ranks == nullptr)
      k.cross_entropy(loss, d_part, l_part, here, train, grad_scale);
    else
      cross_entropy_with(part, loss, d_part, l_part, {&here, part.first, train, grad_scale});
    if (wants_dx) k.matmul(dx.narrow(begin, count), d_part, weight.value, {});
    if (train && weight.requires_grad)
      k.matmul(weight.grad, d_part, x_part, {.transpose_a = true, .accumulate = weight.begin_grad()});
  }
  Tensor total = Tensor::empty({1}, DType::kF64, allocator);
  k.sum(total, losses, false);
  Var loss = x.tape->record("head_loss", total, {x}, weight.requires_grad,
                            wants_dx ? std::vector{dx} : std::vector<Tensor>{}, [](Gradients& g) {
                              if (g.needed(0)) g.pass(0, g.saved(0));
                            });
  return {std::move(loss), std::move(losses)};
}

}  // namespace automodel::ops
