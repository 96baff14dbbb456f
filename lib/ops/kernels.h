// The kernels that every backend fills: plain functions over tensors, one table per device kind. A missing kernel does
// not compile. Kernels allocate no tensors, check no shapes (the op did both) and keep no state; outputs come first.
//
// Conventions. T = tokens (batch * sequence, row-major), D = width. "compute type" is f32 or bf16 and is the same for
// all activations and weights of one call; sums, statistics and gradients of weights are f32 inside. `accumulate`: add
// to the output instead of overwriting it (its content is unspecified then). Unless a comment says "columns", tensors
// are contiguous; "columns" means that a view with row_stride() > cols() is fine. On the CPU, kernels are threaded with
// OpenMP and their results do not depend on the number of threads unless noted. Empty inputs (0 rows) are legal
// everywhere.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace automodel::ops {

struct MatmulArgs {
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
  const Tensor* bias = nullptr;  // [N], compute type; added to every row; not together with accumulate
};

enum class Activation {
  kSilu,
  kGelu,
  kGeluTanh,
  kRelu
};  // gelu: the erf form; gelu_tanh: "gelu_new", "gelu_pytorch_tanh"

// Layout of a fused projection: a row holds `heads` query heads, then `kv_heads` key heads, then `kv_heads` value
// heads, each `head_dim` wide. Query head h reads key/value head h / (heads / kv_heads).
struct HeadLayout {
  int64_t heads = 1;
  int64_t kv_heads = 1;
  int64_t head_dim = 1;
  int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

// Dropout (Srivastava et al., 2014): a number is zero with probability p, and divided by 1 - p otherwise. Which ones is
// a function of (key, sample, place) alone, by Philox (core/rng.h), so the backward makes the same mask again. Dropped
// is what has a word below round(p 2^32); the words are, for row r of the batch with s = samples[r],
//   of element e of the row's part of an activation: with g = e / 64, i = e % 64,
//     philox({low(16 g + i % 16), high(16 g + i % 16), low(s), high(s)}, key)[i / 16]
//   of the weight of key j for query i (positions in the whole row) in head h of the layer:
//     philox({i, j / 4, low(s), h + 65536 high(s)}, key)[j % 4]
// where low and high are the halves of a 64-bit number and the key is given as {low, high}.
struct DropoutArgs {
  float p = 0;  // 0 <= p < 1; 0: nothing is dropped, and the rest is not read
  uint64_t key = 0;
  const Tensor* samples = nullptr;  // i64 [batch]
  // Of an activation that does not hold all rows of the batch in order: i64 [T, 2], the sample and the place in it of
  // each row; rows with a negative place are left alone. nullptr: T = batch * sequence rows, in order.
  const Tensor* places = nullptr;
};

// Queries, keys and values (or their gradients) of attention, each columns, of one matrix or of several. Keys and
// values have the same row_stride().
struct HeadColumns {
  Tensor q;  // [rows, heads * head_dim]
  Tensor k;  // [rows, kv_heads * head_dim]
  Tensor v;
};
// Those of a fused projection [rows, width()].
HeadColumns fused_columns(const Tensor& qkv, const HeadLayout& layout);

// Where the gradients of attention go: f32 or the compute type, k and v the same. Accumulating adds to what is there.
struct AttentionGradients {
  HeadColumns to;
  bool accumulate_q = false;
  bool accumulate_kv = false;
};

// Which queries and keys of longer rows an attention is about. The default: whole rows.
struct AttentionPart {
  int64_t keys = 0;         // positions of a row as keys; 0: args.sequence
  int64_t first_query = 0;  // position in the whole row of the first query
  int64_t first_key = 0;    // likewise
  int64_t query_rows = 0;   // of q, out (and their gradients), from one row of the batch to the next; 0: args.sequence
  int64_t key_rows = 0;     // of k, v (and their gradients); 0: the number of keys
  int64_t first_head = 0;   // the number of query head 0 among all heads of the layer
};

// Positions are those in the whole row. A query at i sees the keys from max(document_start, i - window + 1) to i.
struct AttentionArgs {
  int64_t batch = 1;
  int64_t sequence = 1;  // queries of a row
  HeadLayout layout;
  float scale = 1.0f;
  int64_t window = 0;  // 0: all
  // i32 [batch, sequence], columns: the first position of each query's document (packed sequences). nullptr: one
  // document per row. Starts never decrease in a row.
  const Tensor* document_start = nullptr;
  DropoutArgs dropout{};  // of the weights, after the softmax
  AttentionPart part{};
};

struct CrossEntropyArgs {
  const Tensor* labels = nullptr;  // i32 [T]
  int64_t first = 0;               // class of the first column of the logits
  bool gradient = true;
  float grad_scale = 1;
};

// A router's choice for T rows: `tokens` of them, then padding, which chooses no expert. The rows are rows `first`,
// first + 1, ... of whole samples of `sequence` tokens each.
struct RouteArgs {
  bool renormalise = false;      // the weights of a token sum to 1
  const Tensor* bias = nullptr;  // f32 [n], added to the probabilities for the choice alone
  const Tensor* real = nullptr;  // i32 [tokens], 0 where there is padding too; nullptr: nowhere
  int64_t tokens = 0;
  int64_t first = 0;
  int64_t sequence = 1;
};

struct AdamArgs {
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  bool decoupled = true;  // AdamW: p *= 1 - lr * wd.  Otherwise (Adam): g += wd * p
  int64_t step = 1;       // 1 for the first update
  float grad_scale = 1;   // the gradient is multiplied by this first (clipping)
};

// name, argument list
#define AUTOMODEL_KERNELS(X)                                                                                           \
  /* c [M,N] (+)= op(a) op(b) (+ bias); a, b of one compute type, any of the three may be columns; c is of that type   \
     or f32. The sum over K is f32. The number of threads may change the last bits of an fp32 product with b not       \
     transposed; with one thread count the result is always the same. */                                               \
  X(matmul, (const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args))                               \
  /* The same for one row: M = 1, no transpose_a, no accumulate; at the speed of reading b, rounded otherwise. */      \
  X(matmul_row, (const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args))                           \
  /* out f32 [N] (+)= sum over the rows of x [M,N] (x may be columns) */                                               \
  X(sum_rows, (const Tensor& out, const Tensor& x, bool accumulate))                                                   \
  /* y = a + b, same type and shape; y may be a or b */                                                                \
  X(add, (const Tensor& y, const Tensor& a, const Tensor& b))                                                          \
  /* y *= s (f32, bf16) */                                                                                             \
  X(scale, (const Tensor& y, float s))                                                                                 \
  /* y = x between f32 and bf16 (or the same type) */                                                                  \
  X(cast, (const Tensor& y, const Tensor& x))                                                                          \
  /* y [T,D] = rows of `table` [V,D], which is rows [first, first + V) of the whole, by ids i32 [T]; an id of another  \
     row gives zeros */                                                                                                \
  X(embedding_forward, (const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first))                       \
  /* dtable f32 [V,D] (+)= rows of dy [T,D] summed by ids; overwriting also zeroes the rows no id names */             \
  X(embedding_backward, (const Tensor& dtable, const Tensor& dy, const Tensor& ids, int64_t first, bool accumulate))   \
  /* y = x * rstd * w, rstd f32 [T] = 1 / sqrt(mean(x^2) + eps); computed in f32 and rounded as Hugging Face does:     \
     x * rstd is rounded to the compute type before the product with w. Rows of D elements. */                         \
  X(rms_norm_forward, (const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, float eps))              \
  /* dx (+)= ..., dw f32 [D] (+)= ... (dw may be undefined: not wanted). dy may be dx. */                              \
  X(rms_norm_backward, (const Tensor& dx, bool accumulate_dx, const Tensor& dw, bool accumulate_dw, const Tensor& dy,  \
                        const Tensor& x, const Tensor& rstd, const Tensor& w))                                         \
  /* y = (x - mean) * rstd * w + b; mean, rstd f32 [T] */                                                              \
  X(layer_norm_forward, (const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x, const Tensor& w,    \
                         const Tensor& b, float eps))                                                                  \
  /* dw, db f32 [D], undefined when not wanted; both share accumulate_dw */                                            \
  X(layer_norm_backward,                                                                                               \
    (const Tensor& dx, bool accumulate_dx, const Tensor& dw, const Tensor& db, bool accumulate_dw, const Tensor& dy,   \
     const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& w))                                        \
  /* RMS norm of each head of `count` heads of x [T, ...] starting at column `begin`, in place; w [head_dim]; the      \
     input of those columns is first copied to `before` [T, count*head_dim]; rstd f32 [T, count] */                    \
  X(head_norm_forward,                                                                                                 \
    (const Tensor& x, const Tensor& before, const Tensor& rstd, const Tensor& w, int64_t begin, float eps))            \
  /* replaces those columns of dx (holding dy) by the gradient of the input; dw f32 [head_dim] (+)= (or undefined) */  \
  X(head_norm_backward, (const Tensor& dx, const Tensor& dw, bool accumulate_dw, const Tensor& before,                 \
                         const Tensor& rstd, const Tensor& w, int64_t begin))                                          \
  /* Rotates the first `heads` heads (head_dim wide) of each row of x [T, ...] in place, half-split ("rotate_half")    \
     form: pairs (i, i + rotary/2). cos, sin f32 [positions, rotary/2]; positions i32 [T]. inverse: by minus the angle \
     (the backward). Columns beyond heads*head_dim are left alone; rotary <= head_dim. */                              \
  X(rope, (const Tensor& x, const Tensor& positions, const Tensor& cos, const Tensor& sin, int64_t heads,              \
           int64_t head_dim, bool inverse))                                                                            \
  /* Causal softmax attention, tiled (Dao et al., "FlashAttention", 2022): memory linear in the sequence.              \
     out [., heads*head_dim], compute type or f32; lse f32 [batch, heads, sequence] = log-sum-exp of the scaled        \
     scores. A query that sees no key gives 0 and -infinity. `merge`: out (f32) and lse hold the result over other     \
     keys, and become the result over those and these. */                                                              \
  X(attention_forward,                                                                                                 \
    (const Tensor& out, const Tensor& lse, const HeadColumns& in, const AttentionArgs& args, bool merge))              \
  /* The share of the given keys in the gradients, for out and lse over all keys. Deterministic. */                    \
  X(attention_backward, (const AttentionGradients& gradients, const Tensor& dout, const HeadColumns& in,               \
                         const Tensor& out, const Tensor& lse, const AttentionArgs& args))                             \
  /* y = x, same shape, each f32 or bf16, each may be columns */                                                       \
  X(copy_columns, (const Tensor& y, const Tensor& x))                                                                  \
  /* Keys and values kept for generation: keys, values [batch*kv_heads, slots, head_dim]; position p is in slot        \
     p modulo slots. Writes those of qkv [batch*n, width()], of positions first .. first + n - 1; when there are more  \
     than slots, the last ones. */                                                                                     \
  X(cache_write,                                                                                                       \
    (const Tensor& keys, const Tensor& values, const Tensor& qkv, const HeadLayout& layout, int64_t first))            \
  /* out [batch, heads*head_dim]: attention of the queries of qkv [batch, width()] over the first `used` slots. */     \
  X(attention_decode, (const Tensor& out, const Tensor& qkv, const Tensor& keys, const Tensor& values,                 \
                       const HeadLayout& layout, int64_t used, float scale))                                           \
  /* y = x [T,D] with dropout, T = batch * sequence; y may be x. Also the backward, from dy to dx. */                  \
  X(dropout, (const Tensor& y, const Tensor& x, const DropoutArgs& args))                                              \
  /* y [T,F] = act(gate) * up, gate_up [T,2F]: gate in columns 0..F-1, up in F..2F-1 */                                \
  X(gated_forward, (const Tensor& y, const Tensor& gate_up, Activation act))                                           \
  /* dgate_up [T,2F] is overwritten; it may be gate_up itself */                                                       \
  X(gated_backward, (const Tensor& dgate_up, const Tensor& dy, const Tensor& gate_up, Activation act))                 \
  X(activation_forward, (const Tensor& y, const Tensor& x, Activation act))                                            \
  /* dx may be dy or x */                                                                                              \
  X(activation_backward, (const Tensor& dx, const Tensor& dy, const Tensor& x, Activation act))                        \
  /* For each row of logits [T,V] (f32 or bf16): losses f32 [T] = -log softmax(logits)[label]; 0 where the label i32   \
     [T] is negative. With `gradient`, logits are overwritten by grad_scale * (softmax - onehot) (0 in ignored rows),  \
     written as dlogits [T,V], which may be the same memory when the types agree, or of the compute type. */           \
  X(cross_entropy, (const Tensor& losses, const Tensor& dlogits, const Tensor& logits, const Tensor& labels,           \
                    bool gradient, float grad_scale))                                                                  \
  /* The same where the logits [T,V] (f32) are classes [first, first + V) of a row that other ranks have the rest of:  \
     part f32 [T,3] = largest logit, sum of exp(logit - largest), logit of the label (0 when it is of another rank) */ \
  X(cross_entropy_part, (const Tensor& part, const Tensor& logits, const Tensor& labels, int64_t first))               \
  /* ... and the result from `parts` f32 [n,T,3] of all n ranks; losses are those of the whole row */                  \
  X(cross_entropy_join, (const Tensor& losses, const Tensor& dlogits, const Tensor& logits, const Tensor& parts,       \
                         const CrossEntropyArgs& args))                                                                \
  /* Mixture of experts: n experts, k of them for each token; "copy" (t, j) is token t on its way to its j-th expert.  \
     probs f32 [T,n] = softmax of logits f32 [T,n] (probs may be logits); experts i32 [T,k] = those of the k largest   \
     probs, largest first, of equal ones the lower first, -1 in padding; weights f32 [T,k] = their probs */            \
  X(route_forward,                                                                                                     \
    (const Tensor& probs, const Tensor& weights, const Tensor& experts, const Tensor& logits, const RouteArgs& args))  \
  /* dlogits f32 [T,n] from dweights f32 [T,k], and from dprobs f32 [samples,n], which is the gradient of the probs of \
     every token of a sample; either may be undefined (zero) */                                                        \
  X(route_backward, (const Tensor& dlogits, const Tensor& dweights, const Tensor& dprobs, const Tensor& probs,         \
                     const Tensor& experts, const RouteArgs& args))                                                    \
  /* sums f64 [samples, 2n+2], of these rows alone: how often the tokens of a sample chose each expert, the sums of    \
     their probs, their number, and the number of those with a label (i32 [T], not negative) */                        \
  X(route_sums,                                                                                                        \
    (const Tensor& sums, const Tensor& probs, const Tensor& experts, const Tensor& labels, const RouteArgs& args))     \
  /* From the sums over all ranks, for k choices a token: losses f32 [samples] = sum over the experts of f P with      \
     f = n/k times the share of the tokens that chose the expert and P = its mean probability; dprobs f32 [samples,n]  \
     = scale * labels of the sample * the gradient of the loss with respect to the probs of each of its tokens (f is   \
     taken as constant) */                                                                                             \
  X(balance_loss, (const Tensor& losses, const Tensor& dprobs, const Tensor& sums, int64_t k, float scale))            \
  /* The copies in the order of their experts, within an expert in order: counts i32 [n]; slots i32 [T,k] = the place  \
     of each copy, -1 when it has no expert; copies, tokens i32 [T*k] = for each place the number t*k+j of the copy    \
     there and its token t, then -1 up to the end */                                                                   \
  X(order_copies,                                                                                                      \
    (const Tensor& counts, const Tensor& slots, const Tensor& copies, const Tensor& tokens, const Tensor& experts))    \
  /* y [T,D] (+)= sum over j of the rows slots[t,j] of x [R,D] (none when negative), in the order of j */              \
  X(sum_copies, (const Tensor& y, const Tensor& x, const Tensor& slots, bool accumulate))                              \
  /* y [R,D] = x [R,D], row r times scales f32 [R]; y may be x */                                                      \
  X(scale_rows, (const Tensor& y, const Tensor& x, const Tensor& scales))                                              \
  /* out f32 [R] = the inner products of the rows of a and b [R,D] */                                                  \
  X(row_products, (const Tensor& out, const Tensor& a, const Tensor& b))                                               \
  /* out f64 [1] (+)= sum of squares of x (f32 or bf16), in f64 */                                                     \
  X(sum_squares, (const Tensor& out, const Tensor& x, bool accumulate))                                                \
  /* out f64 [1] (+)= sum of x f32, in f64 */                                                                          \
  X(sum, (const Tensor& out, const Tensor& x, bool accumulate))                                                        \
  /* Adam, one pass over memory: p (master), m, v, g f32 [N]; `copy` (bf16 [N]) receives the new p rounded to nearest  \
     when it is defined. Bias-corrected as torch.optim.Adam/AdamW (no amsgrad). */                                     \
  X(adam,                                                                                                              \
    (const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g, const Tensor& copy, const AdamArgs& args))

struct Kernels {
#define AUTOMODEL_KERNEL(name, arguments) void(*name) arguments;
  AUTOMODEL_KERNELS(AUTOMODEL_KERNEL)
#undef AUTOMODEL_KERNEL
};

// The table of a kind of device. Throws Error(kDevice) when this build or machine has none.
const Kernels& kernels(Device device);

// What kernels() gives for cuda devices from now on: the table of the backend that was opened, which lives as long as
// the process. Null: none.
void set_cuda_kernels(const Kernels* table);

namespace cpu {
// The best table for the instruction sets of this processor: AVX-512 (x86-64-v4 with or without avx512_bf16), AVX2
// (x86-64-v3), or plain. AUTOMODEL_ISA=v4|v3|base in the environment asks for a lower one (tests, comparisons).
const Kernels& table();
}  // namespace cpu

namespace meta {
const Kernels& table();  // every kernel does nothing
}  // namespace meta

}  // namespace automodel::ops
