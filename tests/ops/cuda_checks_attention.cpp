// Attention: whole rows and parts of them, windows, documents, dropout, groups of heads, merged and accumulated.
#include "ops/cuda_checks.h"

namespace automodel::ops::test {
namespace {

struct Case {
  int64_t batch = 1, sequence = 1;
  HeadLayout layout;
  AttentionPart part{};
  int64_t window = 0;
  bool documents = false;
  float dropout = 0;
  int64_t gap = 0;  // columns of q, k and v that are not of a head
  DType to = DType::kF32;
};

std::string describe(const Case& c, DType dtype) {
  return std::string(name_of(dtype)) + ": batch " + std::to_string(c.batch) + ", sequence " +
         std::to_string(c.sequence) + ", keys " + std::to_string(c.part.keys) + ", from " +
         std::to_string(c.part.first_query) + "/" + std::to_string(c.part.first_key) + ", heads " +
         std::to_string(c.layout.heads) + "/" + std::to_string(c.layout.kv_heads) + " x " +
         std::to_string(c.layout.head_dim) + ", window " + std::to_string(c.window) +
         (c.documents ? ", documents" : "") + ", dropout " + std::to_string(c.dropout) + ", gap " +
         std::to_string(c.gap);
}

int64_t keys_of(const Case& c) {
  return c.part.keys > 0 ? c.part.keys : c.sequence;
}

// Documents of 1 to 60 tokens, cut from the whole row.
void fill_starts(Array& starts, const Case& c) {
  Random random(3, "documents");
  for (int64_t row = 0; row < c.batch; ++row) {
    int64_t begin = 0;
    for (int64_t i = 0; i < c.sequence; ++i) {
      int64_t position = c.part.first_query + i;
      for (int64_t end = begin; end <= position; begin = end <= position ? end : begin)
        end = begin + 1 + static_cast<int64_t>(random.below(60, static_cast<uint64_t>(row * 100000 + begin)));
      starts.set(row, i, static_cast<double>(begin));
    }
  }
}

void check_case(const Machine& machine, const Case& c, DType dtype) {
  CAPTURE(describe(c, dtype));
  Trial t(machine);
  const HeadLayout& layout = c.layout;
  int64_t d = layout.head_dim, width = layout.heads * d, kv_width = layout.kv_heads * d;
  int64_t query_rows = c.batch * (c.part.query_rows > 0 ? c.part.query_rows : c.sequence);
  int64_t key_rows = c.batch * (c.part.key_rows > 0 ? c.part.key_rows : keys_of(c));
  Array &q = t.array(query_rows, width, dtype, width + c.gap).random(1),
        &k = t.array(key_rows, kv_width, dtype, kv_width + c.gap).random(2),
        &v = t.array(key_rows, kv_width, dtype, kv_width + c.gap).random(3), &out = t.array(query_rows, width, c.to),
        &typed_out = t.array(query_rows, width, dtype), &lse = t.array(c.batch * layout.heads, c.sequence),
        &dout = t.array(query_rows, width, dtype).random(4),
        &starts = t.array(c.batch, c.sequence, DType::kI32, c.sequence + 3), &dq = t.array(query_rows, width, c.to),
        &dk = t.array(key_rows, kv_width, c.to, kv_width + c.gap),
        &dv = t.array(key_rows, kv_width, c.to, kv_width + c.gap);
  fill_starts(starts, c);
  std::vector<int64_t> samples;
  for (int64_t row = 0; row < c.batch; ++row) samples.push_back(row * 0x123456789 + 3);

  auto with_args = [&](auto&& f) {
    Tensor start = t(starts), sample = t(samples, {c.batch});
    AttentionArgs args{.batch = c.batch,
                       .sequence = c.sequence,
                       .layout = layout,
                       .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d))),
                       .window = c.window,
                       .part = c.part};
    if (c.documents) args.document_start = &start;
    args.dropout = {c.dropout, 0x0123456789abcdef, &sample};
    HeadColumns in{t(q), t(k), t(v)};
    f(in, t(lse).view({c.batch, layout.heads, c.sequence}), args);
  };
  // Weights are rounded to bf16 where bf16 is multiplied.
  Trial::Expectation near{.f32 = dtype == DType::kBF16 ? 6e-3 : 1e-5, .bf16 = 6e-3, .scale = 0.6};
  t.run({&out, &lse}, near, [&](const Kernels& kernels) {
    with_args([&](const HeadColumns& in, const Tensor& l, const AttentionArgs& args) {
      kernels.attention_forward(t(out), l, in, args, false);
    });
  });
  if (c.to == DType::kF32) {
    // On top of what is there: the result over as many keys again.
    t.run({&out, &lse}, near, [&](const Kernels& kernels) {
      with_args([&](const HeadColumns& in, const Tensor& l, const AttentionArgs& args) {
        kernels.attention_forward(t(out), l, in, args, true);
      });
    });
  }
  // The backward goes by an output of the compute type and a log-sum-exp over these keys, and more of them for some.
  t.run({&typed_out, &lse}, near, [&](const Kernels& kernels) {
    with_args([&](const HeadColumns& in, const Tensor& l, const AttentionArgs& args) {
      kernels.attention_forward(t(typed_out), l, in, args, false);
    });
  });
  for (int64_t i = 0; i < lse.rows() * lse.cols(); i += 3) lse.set(i, std::isinf(lse.get(i)) ? 1 : lse.get(i) + 0.5);
  near.scale = 1.5;
  for (bool accumulate : {false, true}) {
    t.run({&dq, &dk, &dv}, near, [&](const Kernels& kernels) {
      with_args([&](const HeadColumns& in, const Tensor& l, const AttentionArgs& args) {
        kernels.attention_backward({{t(dq), t(dk), t(dv)}, accumulate, accumulate}, t(dout), in, t(typed_out), l, args);
      });
    });
    if (c.part.query_rows > 0 || c.part.key_rows > 0) break;  // rows between that nobody writes are NaN
  }
}

}  // namespace

void check_attention(const Machine& machine) {
  std::vector<Case> cases{
      {.batch = 2, .sequence = 1, .layout = {2, 1, 8}},
      {.sequence = 130, .layout = {2, 2, 64}, .to = DType::kBF16},
      {.batch = 2, .sequence = 77, .layout = {4, 2, 16}, .gap = 5},
      {.sequence = 97, .layout = {3, 1, 33}, .window = 20},
      {.sequence = 140, .layout = {2, 1, 80}, .documents = true, .gap = 8, .to = DType::kBF16},
      {.sequence = 100, .layout = {2, 1, 128}, .dropout = 0.3f},
      {.sequence = 70, .layout = {2, 1, 256}},
      {.sequence = 66, .layout = {2, 2, 200}, .window = 40, .documents = true, .dropout = 0.2f},
      {.batch = 0, .sequence = 5, .layout = {2, 1, 16}},
  };
  // Queries before, over, at the end of, behind and far behind the keys, at places that are multiples of nothing.
  struct Place {
    int64_t sequence, keys, first_query, first_key;
  };
  int64_t turn = 0;
  for (Place p : {Place{5, 9, 0, 20},
                  {64, 64, 64, 0},
                  {70, 33, 10, 30},
                  {33, 150, 61, 0},
                  {130, 70, 3, 66},
                  {130, 130, 259, 129},
                  {40, 90, 1000, 903},
                  {1, 1, 7, 7},
                  {66, 130, 77, 14}})
    for (int64_t window : {0, 31}) {
      ++turn;
      cases.push_back({.batch = 1 + turn % 2,
                       .sequence = p.sequence,
                       .layout = turn % 3 == 0 ? HeadLayout{4, 2, 16} : HeadLayout{2, 1, 24},
                       .part = {.keys = p.keys,
                                .first_query = p.first_query,
                                .first_key = p.first_key,
                                .query_rows = turn % 4 == 0 ? p.sequence + 11 : 0,
                                .key_rows = turn % 5 == 0 ? p.keys + 7 : 0,
                                .first_head = turn % 7},
                       .window = window,
                       .documents = turn % 2 == 0,
                       .dropout = turn % 3 == 1 ? 0.3f : 0});
    }
  if (machine.fast)
    cases.insert(cases.end(), {{.batch = 2, .sequence = 1500, .layout = {4, 2, 64}},
                               {.sequence = 2048, .layout = {4, 1, 128}, .documents = true, .to = DType::kBF16},
                               {.sequence = 1111, .layout = {2, 2, 128}, .window = 256}});
  for (const Case& c : cases)
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      Case with = c;
      if (dtype == DType::kF32) with.to = DType::kF32;
      check_case(machine, with, dtype);
    }
}

}  // namespace automodel::ops::test
