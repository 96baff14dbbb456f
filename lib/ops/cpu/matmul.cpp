// The matrix product, after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).
//
// A slab of b is packed by all threads together into shared scratch of about the size of the outer cache. Then threads
// take tasks: some panels of rows of a, which they pack into scratch of their own that fits the second cache, by the
// panels of b, whose tiles run over stretches of K. The blocks of K depend on the shape alone, so the result does not
// depend on the number of threads or on who takes which task.
#include <type_traits>

#include "ops/cpu/library_matmul.h"
#include "ops/cpu/loops.h"
#include "ops/cpu/matmul_pack.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr int64_t kStretch = 768;                      // words of K in one run of a tile, at most
constexpr int64_t kSlabWords = int64_t{2} << 20;       // words of b packed at once
constexpr int64_t kMinSlabK = 1536, kMaxSlabK = 8192;  // words of K in a slab
constexpr int64_t kResidentWords = 200 << 10;          // words of a that the second cache holds beside other things
constexpr int64_t kTaskRows = 8;                       // panels of a in a task, at most
constexpr int64_t kTaskColumns = 16;                   // panels of b in a task, at least, where there are as many

// The plain set stays free of the library, which chooses instructions by itself.
#if defined(__AVX2__)
constexpr bool kLibraryProducts = true;
#else
constexpr bool kLibraryProducts = false;
#endif

constexpr int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
  return divide_up(a, b) * b;
}
constexpr int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
constexpr int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : smaller(x, high);
}

// n cut into equal parts of at most `most`, each a multiple of `unit`.
int64_t even_part(int64_t n, int64_t most, int64_t unit) {
  return round_up(divide_up(n, divide_up(n, most)), unit);
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
        b_source_{b.row_stride(), args.transpose_b} {}

  void run() {
    if (m_ == 0 || n_ == 0) return;
    words_ = divide_up(k_, kPerWord);
    stretch_ = even_part(words_ > 0 ? words_ : 1, clamp(kResidentWords / m_, 256, kStretch), 16);
    bool waiting_sums = !kDirect && words_ > stretch_;  // in memory, for a whole result
    if (m_ * stretch_ <= kResidentWords && (!waiting_sums || m_ * n_ <= kSlabWords))
      run_resident();
    else
      run_slabs();
  }

 private:
  using PackerA = Packer<kPairs, kMR, In>;
  using PackerB = Packer<kPairs, kNR, In>;
  static constexpr int64_t kPerWord = kPairs ? 2 : 1;
  static constexpr bool kDirect = sizeof(Out) == sizeof(float);  // sums are kept in c itself

  // Columns n0 .. n0 + n of b over words k0 .. k0 + words of K.
  struct Slab {
    int64_t n0, k0, n, words;
    bool first, last;  // of the slabs along K
  };
  // Panels of rows of a, by panels of the slab.
  struct Task {
    int64_t i, i_end, j, j_end;
  };
  // A stretch of K within a slab.
  struct Stretch {
    int64_t k, words;
    bool first, last;  // of the whole product
  };
  struct Tile {
    int64_t row, column, rows, columns;
  };

  static uint32_t* words(ScratchSlot slot, int64_t count) {
    return static_cast<uint32_t*>(scratch(slot, static_cast<size_t>(count) * sizeof(uint32_t)));
  }

  void fill_bias(float* to) {
    if (bias_ == nullptr) return;
    for_vectors(0, n_, [&](int64_t i, int64_t n) { store_n(to + i, load_n(bias_ + i, n), n); });
    bias_words_ = to;
  }

  // Packs lanes lane0 .. lane0 + lanes over `count` words of K from word k0.
  template <class Packer>
  Packer packer_for(uint32_t* to, int64_t lane0, int64_t lanes, int64_t k0, int64_t count) const {
    int64_t k = k0 * kPerWord;
    const In* from = std::is_same_v<Packer, PackerA> ? a_ : b_;
    PanelSource source = std::is_same_v<Packer, PackerA> ? a_source_ : b_source_;
    const In* begin = source.along_k ? from + lane0 * source.stride + k : from + k * source.stride + lane0;
    return {to, begin, source, lanes, smaller(count * kPerWord, k_ - k)};
  }

  bool wakes_threads() const { return m_ * n_ * (k_ + 1) > 8 * kGrain; }

  void run_slabs() {
    int64_t some = words_ > 0 ? words_ : 1, wide = round_up(n_, kNR);
    slab_k_ = even_part(some, clamp(kSlabWords / wide, kMinSlabK, kMaxSlabK), 16);
    slab_n_ = smaller(wide, even_part(n_, kSlabWords / slab_k_ / kNR * kNR, kNR));
    stretch_ = even_part(smaller(slab_k_, some), kStretch, 16);
    int64_t blocks_k = divide_up(some, slab_k_);
    int64_t packed_words = slab_n_ / kNR * PackerB::stride(slab_k_);
    auto* packed_b = words(ScratchSlot::kMatmulB, packed_words + wide);
    fill_bias(reinterpret_cast<float*>(packed_b + packed_words));
    if (!kDirect && blocks_k > 1) sums_ = reinterpret_cast<float*>(words(ScratchSlot::kMatmulSums, m_ * slab_n_));

#pragma omp parallel if (wakes_threads())
    for (int64_t n0 = 0; n0 < n_; n0 += slab_n_)
      for (int64_t block = 0; block < blocks_k; ++block) {
        Slab slab{n0, block * slab_k_, smaller(slab_n_, n_ - n0), 0, block == 0, block + 1 == blocks_k};
        slab.words = smaller(slab_k_, words_ - slab.k0);
        pack_b(packed_b, slab);
        work(packed_b, slab);
      }
  }

  // The second cache holds a stretch of all of a, packed together, and every thread packs a panel of b just before it
  // uses it, while the next one is on its way.
  void run_resident() {
    slab_n_ = round_up(n_, kNR);
    int64_t blocks_k = words_ > stretch_ ? divide_up(words_, stretch_) : 1, rows = divide_up(m_, kMR);
    int64_t packed_words = rows * PackerA::stride(stretch_);
    auto* packed_a = words(ScratchSlot::kMatmulA, packed_words + slab_n_);
    fill_bias(reinterpret_cast<float*>(packed_a + packed_words));
    if (!kDirect && blocks_k > 1)
      sums_ = reinterpret_cast<float*>(words(ScratchSlot::kMatmulSums, rows * kMR * slab_n_));

#pragma omp parallel if (wakes_threads())
    for (int64_t block = 0; block < blocks_k; ++block) {
      int64_t k0 = block * stretch_;
      Stretch part{0, smaller(stretch_, words_ - k0), block == 0, block + 1 == blocks_k};
      auto packer = packer_for<PackerA>(packed_a, 0, m_, k0, part.words);
#pragma omp for schedule(static)
      for (int64_t p = 0; p < packer.parts(); ++p) packer.run(p);
      auto* packed_b = words(ScratchSlot::kMatmulB, PackerB::stride(stretch_));
      // Panels of b are taken whole, but where few are left over at the end, threads share each of those by rows.
      int64_t threads = omp_get_num_threads(), columns = divide_up(n_, kNR);
      int64_t shared = columns < 16 * threads ? columns % threads : 0, whole = columns - shared;
      int64_t shares = clamp(rows / 4, 1, threads);
#pragma omp for schedule(dynamic)
      for (int64_t t = 0; t < whole + shared * shares; ++t) {
        int64_t share = t < whole ? 0 : (t - whole) % shares, of = t < whole ? 1 : shares;
        Task task{rows * share / of, rows * (share + 1) / of, t < whole ? t : whole + (t - whole) / shares, 0};
        column_of_tiles(packed_a, packed_b, k0, part, task);
      }
    }
  }

  // The panels of rows of a task by its one panel of b.
  void column_of_tiles(const uint32_t* packed_a, uint32_t* packed_b, int64_t k0, const Stretch& part,
                       const Task& task) const {
    int64_t n = task.j * kNR, columns = smaller(kNR, n_ - n), next = n + kNR * omp_get_num_threads();
    auto packer = packer_for<PackerB>(packed_b, n, columns, k0, part.words);
    for (int64_t p = 0; p < packer.parts(); ++p) packer.run(p);
    Prefetcher ahead;
    if (next < n_) ahead = packer_for<PackerB>(packed_b, next, smaller(kNR, n_ - next), k0, part.words).prefetcher();
    int64_t lines = divide_up(ahead.lines(), task.i_end - task.i);
    for (int64_t i = task.i; i < task.i_end; ++i) {
      ahead.run(lines);
      one_tile(part, packed_a + i * PackerA::stride(part.words), packed_b,
               {i * kMR, n, smaller(kMR, m_ - i * kMR), columns},
               sums_ == nullptr ? nullptr : sums_ + i * kMR * slab_n_ + n);
    }
  }

  void pack_b(uint32_t* to, const Slab& slab) const {
    auto packer = packer_for<PackerB>(to, slab.n0, slab.n, slab.k0, slab.words);
    int64_t parts = packer.parts();
#pragma omp for schedule(static) nowait
    for (int64_t part = 0; part < parts; ++part) packer.run(part);
  }

  // Hands out panels of rows, fewer at a time towards the end, so that threads finish together.
  void work(const uint32_t* packed_b, const Slab& slab) {
    int64_t rows = divide_up(m_, kMR), columns = divide_up(slab.n, kNR), threads = omp_get_num_threads();
    int64_t ranges = clamp(divide_up(48 * threads, rows), 1, clamp(columns / kTaskColumns, 1, columns));
    int64_t total = rows * ranges;
#pragma omp single
    next_ = 0;
    while (true) {
      int64_t begin = __atomic_load_n(&next_, __ATOMIC_RELAXED), range, end;
      do {
        if (begin >= total) break;
        range = begin / rows;
        end = begin + clamp((total - begin) / (3 * threads), 1, kTaskRows);
        end = smaller(end, (range + 1) * rows);
      } while (!__atomic_compare_exchange_n(&next_, &begin, end, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
      if (begin >= total) break;
      task(packed_b, slab,
           {begin - range * rows, end - range * rows, columns * range / ranges, columns * (range + 1) / ranges});
    }
#pragma omp barrier
  }

  void task(const uint32_t* packed_b, const Slab& slab, const Task& task) const {
    int64_t row0 = task.i * kMR, rows = smaller(task.i_end * kMR, m_) - row0;
    auto* packed_a = words(ScratchSlot::kMatmulA, kTaskRows * PackerA::stride(stretch_));
    float* sums = sums_ == nullptr ? nullptr : sums_ + row0 * slab_n_;
    if (!kDirect && sums == nullptr && slab.words > stretch_)
      sums = reinterpret_cast<float*>(words(ScratchSlot::kMatmulSums, kTaskRows * kMR * slab_n_));
    int64_t k = 0;
    do {
      Stretch part{k, smaller(stretch_, slab.words - k), slab.first && k == 0, false};
      part.last = slab.last && k + part.words >= slab.words;
      auto packer = packer_for<PackerA>(packed_a, row0, rows, slab.k0 + k, part.words);
      for (int64_t p = 0; p < packer.parts(); ++p) packer.run(p);
      Prefetcher ahead = next_rows(slab, task, k + part.words);
      int64_t lines = divide_up(ahead.lines(), (task.i_end - task.i) * (task.j_end - task.j));
      for (int64_t j = task.j; j < task.j_end; ++j)
        for (int64_t i = task.i; i < task.i_end; ++i) {
          int64_t row = i * kMR - row0, column = j * kNR;
          ahead.run(lines);
          one_tile(part, packed_a + (i - task.i) * PackerA::stride(part.words),
                   packed_b + j * PackerB::stride(slab.words) + k * kNR,
                   {row0 + row, slab.n0 + column, smaller(kMR, rows - row), smaller(kNR, slab.n - column)},
                   sums == nullptr ? nullptr : sums + row * slab_n_ + column);
        }
      k += part.words;
    } while (k < slab.words);
  }

  // What this thread will probably pack next: the same rows from word k of the slab on, or, at the end of the slab, the
  // rows that follow those which the other threads took meanwhile.
  Prefetcher next_rows(const Slab& slab, const Task& task, int64_t k) const {
    int64_t count = task.i_end - task.i, i = task.i;
    if (k >= slab.words) {
      k = 0;
      i += count * omp_get_num_threads();
    }
    int64_t row0 = i * kMR, rows = smaller(row0 + count * kMR, m_) - row0;
    if (rows <= 0) return {};
    return packer_for<PackerA>(nullptr, row0, rows, slab.k0 + k, smaller(stretch_, slab.words - k)).prefetcher();
  }

  // The sums of a tile over one stretch of K, added to those of earlier stretches, and put where they belong. `sums`:
  // where a bf16 result waits for its last stretch, in rows of slab_n_.
  void one_tile(const Stretch& part, const uint32_t* a, const uint32_t* b, const Tile& at, float* sums) const {
    TileFunction multiply = kTiles<kPairs>[static_cast<size_t>(at.rows - 1)];
    const float* bias = part.first && bias_words_ != nullptr ? bias_words_ + at.column : nullptr;
    Out* c = c_ + at.row * ldc_ + at.column;
    alignas(64) float tile[kMR * kNR];
    bool add = accumulate_;
    if constexpr (kDirect) {
      add = add || !part.first;
      if (at.columns == kNR) return multiply(part.words, a, b, c, ldc_, add ? c : bias, add ? ldc_ : 0);
      multiply(part.words, a, b, tile, kNR, bias, 0);
    } else {
      const float* before = part.first ? bias : sums;
      int64_t ld_before = part.first ? 0 : slab_n_;
      if (!part.last) return multiply(part.words, a, b, sums, slab_n_, before, ld_before);
      multiply(part.words, a, b, tile, kNR, before, ld_before);
    }
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
  int64_t words_ = 0, slab_k_ = 0, slab_n_ = 0, stretch_ = 0;
  const float* bias_words_ = nullptr;  // fp32
  float* sums_ = nullptr;              // [m, slab_n] when a bf16 result needs several slabs along K
  int64_t next_ = 0;                   // the first panel that no thread has taken
};

}  // namespace

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args) {
  int64_t k = args.transpose_a ? a.rows() : a.cols();
  // Measured on two cores, as a share of the peak: the library 0.95 and ours 0.9 for gradients; for the forward form
  // (b transposed) both 0.91 on average, but the library 0.6 where the result is narrow and shared by two threads.
  bool gradient_form = !args.transpose_b && args.bias == nullptr;
  if (kLibraryProducts && gradient_form && a.dtype() == DType::kF32 && c.rows() > 0 && c.cols() > 0 && k > 0)
    return library_matmul({c.rows(), c.cols(), k, args.transpose_a, args.transpose_b, ptr<float>(a), a.row_stride(),
                           ptr<float>(b), b.row_stride(), ptr<float>(c), c.row_stride(), args.accumulate});
  with_type(a, [&](auto in) {
    using In = decltype(in);
    constexpr bool kPairs = kBf16Products && sizeof(In) == 2;
    with_type(c, [&](auto out) { Product<In, decltype(out), kPairs>(c, a, b, args).run(); });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA
