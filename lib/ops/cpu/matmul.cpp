// The matrix product, after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).
//
// Slabs of both operands are packed by all threads together into shared scratch that fits the outer cache; then threads
// take tasks, each some panels of a by some panels of b, whose tile sums run over stretches of K short enough for the
// panels to stay in the inner caches. Blocks of K depend on the shape alone, so the result does not depend on the
// number of threads or on who takes which task.
#include "ops/cpu/loops.h"
#include "ops/cpu/matmul_pack.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr int64_t kStretch = 384;         // words of K in one run of a tile
constexpr int64_t kSlabK = 4 * kStretch;  // words of K packed at once
constexpr int64_t kSlabWords = int64_t{2} << 20;
constexpr int64_t kTaskRows = 12, kTaskColumns = 8;  // panels

constexpr int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
  return divide_up(a, b) * b;
}
constexpr int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// n cut into equal parts of at most `most`, each a multiple of `unit`.
int64_t even_part(int64_t n, int64_t most, int64_t unit) {
  int64_t parts = divide_up(n, most);
  return parts <= 1 ? round_up(n, unit) : round_up(divide_up(n, parts), unit);
}

template <class In, class Out, bool kPairs>
class Product {
 public:
  Product(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args)
      : m_(c.rows()),
        n_(c.cols()),
        k_(args.transpose_a ? a.rows() : a.cols()),
        a_(ptr<In>(a)),
        b_(ptr<In>(b)),
        c_(ptr<Out>(c)),
        bias_(args.bias == nullptr ? nullptr : ptr<In>(*args.bias)),
        accumulate_(args.accumulate),
        ldc_(c.row_stride()),
        a_source_{a.row_stride(), !args.transpose_a},
        b_source_{b.row_stride(), args.transpose_b} {
    words_ = divide_up(k_, kPerWord);
    slab_k_ = even_part(words_ > 0 ? words_ : 1, kSlabK, 16);
    stretch_ = even_part(slab_k_, kStretch, 16);
    slab_m_ = smaller(round_up(m_, kMR), even_part(m_, kSlabWords / slab_k_ / kMR * kMR, kMR));
    slab_n_ = smaller(round_up(n_, kNR), even_part(n_, kSlabWords / slab_k_ / kNR * kNR, kNR));
  }

  void run() {
    if (m_ == 0 || n_ == 0) return;
    auto* packed_a = words(ScratchSlot::kMatmulA, slab_m_ * slab_k_);
    auto* packed_b = words(ScratchSlot::kMatmulB, slab_n_ * slab_k_ + round_up(n_, kNR));
    fill_bias(reinterpret_cast<float*>(packed_b + slab_n_ * slab_k_));
    int64_t blocks_k = words_ > slab_k_ ? divide_up(words_, slab_k_) : 1;
    if (!kDirect && blocks_k > 1) sums_ = reinterpret_cast<float*>(words(ScratchSlot::kMatmulSums, m_ * slab_n_));
    bool wake = m_ * n_ * (k_ + 1) > kGrain * 8;

#pragma omp parallel if (wake)
    {
      for (int64_t n0 = 0; n0 < n_; n0 += slab_n_)
        for (int64_t block = 0; block < blocks_k; ++block) {
          Slab slab{0, n0, block * slab_k_, 0, smaller(slab_n_, n_ - n0), 0, block == 0, block + 1 == blocks_k};
          slab.words = smaller(slab_k_, words_ - slab.k0);
          pack_b(packed_b, slab);
          for (int64_t m0 = 0; m0 < m_; m0 += slab_m_) {
            slab.m0 = m0;
            slab.m = smaller(slab_m_, m_ - m0);
            bool packed_before = n0 > 0 && blocks_k == 1 && slab_m_ >= m_;
            if (!packed_before) pack_a(packed_a, slab);
#pragma omp barrier
            work(packed_a, packed_b, slab);
          }
        }
    }
  }

 private:
  static constexpr int64_t kPerWord = kPairs ? 2 : 1;
  static constexpr bool kDirect = sizeof(Out) == sizeof(float);  // sums are kept in c itself

  // A part of the product: rows m0 .. m0 + m, columns n0 .. n0 + n, words k0 .. k0 + words.
  struct Slab {
    int64_t m0, n0, k0, m, n, words;
    bool first, last;  // of the blocks along K
  };

  static uint32_t* words(ScratchSlot slot, int64_t count) {
    return static_cast<uint32_t*>(scratch(slot, static_cast<size_t>(count) * sizeof(uint32_t)));
  }

  void fill_bias(float* to) {
    if (bias_ == nullptr) return;
    for_vectors(0, n_, [&](int64_t i, int64_t n) { store_n(to + i, load_n(bias_ + i, n), n); });
    bias_words_ = to;
  }

  int64_t numbers(const Slab& slab) const {
    return smaller(slab.words * kPerWord, k_ - slab.k0 * kPerWord);
  }

  // Panels lie one after the other, and inside a panel its stretches: to[panel][word][lane].
  template <int kWidth>
  void pack(uint32_t* to, const In* from, PanelSource source, int64_t lanes0, int64_t lanes, const Slab& slab) const {
    int64_t k0 = slab.k0 * kPerWord;
#pragma omp for schedule(static) nowait
    for (int64_t lane = 0; lane < lanes; lane += kWidth) {
      const In* begin =
          source.along_k ? from + (lanes0 + lane) * source.stride + k0 : from + k0 * source.stride + lanes0 + lane;
      pack_panel<kPairs, kWidth>(to + lane * slab.words, begin, source, smaller(kWidth, lanes - lane), numbers(slab));
    }
  }
  void pack_a(uint32_t* to, const Slab& slab) const {
    pack<kMR>(to, a_, a_source_, slab.m0, slab.m, slab);
  }
  void pack_b(uint32_t* to, const Slab& slab) const {
    pack<kNR>(to, b_, b_source_, slab.n0, slab.n, slab);
  }

  void work(const uint32_t* packed_a, const uint32_t* packed_b, const Slab& slab) const {
    int64_t panels_m = divide_up(slab.m, kMR), panels_n = divide_up(slab.n, kNR);
    // Enough tasks that the last ones to finish matter little.
    int64_t rows = kTaskRows, columns = kTaskColumns, enough = 24 * omp_get_num_threads();
    while (divide_up(panels_m, rows) * divide_up(panels_n, columns) < enough && (rows > 3 || columns > 2)) {
      if (rows > 3) rows = divide_up(rows, 2);
      if (columns > 2 && divide_up(panels_m, rows) * divide_up(panels_n, columns) < enough) columns /= 2;
    }
    int64_t tasks_n = divide_up(panels_n, columns), tasks = divide_up(panels_m, rows) * tasks_n;
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < tasks; ++t) {
      int64_t i = t / tasks_n * rows, j = t % tasks_n * columns;
      task(packed_a, packed_b, slab, {i, smaller(i + rows, panels_m), j, smaller(j + columns, panels_n)});
    }
  }

  struct Panels {
    int64_t i, i_end, j, j_end;
  };

  void task(const uint32_t* packed_a, const uint32_t* packed_b, const Slab& slab, const Panels& panels) const {
    float* own = nullptr;
    if (!kDirect && sums_ == nullptr && slab.words > stretch_)
      own = reinterpret_cast<float*>(words(ScratchSlot::kMatmulSums, kTaskRows * kMR * kTaskColumns * kNR));
    int64_t k = 0;
    do {
      int64_t count = smaller(stretch_, slab.words - k);
      bool first = slab.first && k == 0, last = slab.last && k + count >= slab.words;
      for (int64_t j = panels.j; j < panels.j_end; ++j)
        for (int64_t i = panels.i; i < panels.i_end; ++i) {
          Tile at{slab.m0 + i * kMR, slab.n0 + j * kNR, smaller(kMR, slab.m - i * kMR), smaller(kNR, slab.n - j * kNR)};
          float* sums = sums_ + at.row * slab_n_ + j * kNR;
          int64_t ld = slab_n_;
          if (own != nullptr) {
            sums = own + (i - panels.i) * kMR * kTaskColumns * kNR + (j - panels.j) * kNR;
            ld = kTaskColumns * kNR;
          }
          one_tile(count, packed_a + (i * slab.words + k) * kMR, packed_b + (j * slab.words + k) * kNR, at, sums, ld,
                   first, last);
        }
      k += count;
    } while (k < slab.words);
  }

  struct Tile {
    int64_t row, column, rows, columns;
  };

  // The sums of a tile over one stretch of K, added to those of earlier stretches, and put where they belong.
  void one_tile(int64_t count, const uint32_t* a, const uint32_t* b, const Tile& at, float* sums, int64_t ld,
                bool first, bool last) const {
    TileFunction multiply = kTiles<kPairs>[static_cast<size_t>(at.rows - 1)];
    const float* bias = first && bias_words_ != nullptr ? bias_words_ + at.column : nullptr;
    Out* c = c_ + at.row * ldc_ + at.column;
    bool whole = at.columns == kNR;
    if constexpr (kDirect) {
      bool add = accumulate_ || !first;
      if (whole) return multiply(count, a, b, c, ldc_, add ? c : bias, add ? ldc_ : 0);
    } else {
      // Scratch rows are whole panels, so no edge needs care.
      if (!last) return multiply(count, a, b, sums, ld, first ? bias : sums, first ? 0 : ld);
    }
    alignas(64) float tile[kMR * kNR];
    if constexpr (kDirect) {
      multiply(count, a, b, tile, kNR, bias, 0);
    } else {
      multiply(count, a, b, tile, kNR, first ? bias : sums, first ? 0 : ld);
    }
    bool add = accumulate_ || (kDirect && !first);
    for (int64_t i = 0; i < at.rows; ++i) write_row(c + i * ldc_, tile + i * kNR, at.columns, add);
  }

  static AM_INLINE void write_row(Out* c, const float* tile, int64_t columns, bool add) {
    if (columns == kNR && !add) {
      store(c, load(tile));
      store(c + kLanes, load(tile + kLanes));
      return;
    }
    for_vectors(0, columns, [&](int64_t i, int64_t n) {
      VecF v = load(tile + i);
      if (add) v += load_n(c + i, n);
      store_n(c + i, v, n);
    });
  }

  int64_t m_, n_, k_;
  const In* a_;
  const In* b_;
  Out* c_;
  const In* bias_;
  bool accumulate_;
  int64_t ldc_;
  PanelSource a_source_, b_source_;
  int64_t words_ = 0, slab_k_ = 0, stretch_ = 0, slab_m_ = 0, slab_n_ = 0;
  const float* bias_words_ = nullptr;  // fp32
  float* sums_ = nullptr;              // [m, slab_n] when a bf16 result needs several slabs along K
};

}  // namespace

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args) {
  with_type(a, [&](auto in) {
    using In = decltype(in);
    constexpr bool kPairs = kBf16Products && sizeof(In) == 2;
    with_type(c, [&](auto out) { Product<In, decltype(out), kPairs>(c, a, b, args).run(); });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA
