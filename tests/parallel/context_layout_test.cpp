#include "parallel/context_layout.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/error.h"

using namespace automodel;
using namespace automodel::parallel;

namespace {

using List = std::vector<int64_t>;

Tensor numbers(Shape shape, const std::vector<int32_t>& values, Allocator& allocator) {
  Tensor t = Tensor::empty(shape, DType::kI32, allocator);
  if (!t.device().is_meta()) std::memcpy(t.raw(), values.data(), t.bytes());
  return t;
}

std::vector<int32_t> values(const Tensor& t) {
  return {t.data<int32_t>(), t.data<int32_t>() + t.numel()};
}

// Two rows of five tokens: documents of 5, and of 2 and 3.
nn::Tokens sample(Allocator& allocator) {
  nn::Tokens tokens;
  tokens.batch = 2;
  tokens.sequence = 5;
  tokens.ids = numbers({10}, {10, 11, 12, 13, 14, 20, 21, 22, 23, 24}, allocator);
  tokens.positions = numbers({10}, {0, 1, 2, 3, 4, 0, 1, 0, 1, 2}, allocator);
  tokens.labels = numbers({10}, {11, 12, 13, 14, -100, 21, -100, 23, 24, 25}, allocator);
  tokens.document_start = numbers({2, 5}, {0, 0, 0, 0, 0, 0, 0, 2, 2, 2}, allocator);
  tokens.dropout_key = 7;
  return tokens;
}

}  // namespace

TEST_CASE("a rank of a context layout has a chunk from either end of the row") {
  CHECK(ContextLayout(16, 2, 0).positions() == List{0, 1, 2, 3, 12, 13, 14, 15});
  CHECK(ContextLayout(16, 2, 1).positions() == List{4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(ContextLayout(16, 4, 0).positions() == List{0, 1, 14, 15});
  CHECK(ContextLayout(16, 4, 1).positions() == List{2, 3, 12, 13});
  CHECK(ContextLayout(16, 4, 2).positions() == List{4, 5, 10, 11});
  CHECK(ContextLayout(16, 4, 3).positions() == List{6, 7, 8, 9});
  CHECK(ContextLayout(5, 2, 1).positions() == List{2, 3, 4, 5});
}

TEST_CASE("the ranks of a context layout have every position of the padded row once, and as much causal work each") {
  for (int ranks : {1, 2, 3, 4, 8})
    for (int64_t sequence : {1, 2, 15, 16, 17, 97}) {
      ContextLayout first(sequence, ranks, 0);
      CHECK(first.padded_sequence() >= sequence);
      CHECK(first.padded_sequence() < sequence + (ranks == 1 ? 1 : 2 * ranks));
      CHECK((ranks == 1 || first.padded_sequence() % (2 * ranks) == 0));
      List all, order = first.gathered_order();
      int64_t work = -1;
      for (int rank = 0; rank < ranks; ++rank) {
        ContextLayout layout(sequence, ranks, rank);
        CHECK(layout.gathered_order() == order);
        List positions = layout.positions();
        CHECK(static_cast<int64_t>(positions.size()) == layout.local_sequence());
        int64_t sum = std::accumulate(positions.begin(), positions.end(), int64_t{0});
        CHECK((work == -1 || work == sum));
        work = sum;
        all.insert(all.end(), positions.begin(), positions.end());
      }
      REQUIRE(all.size() == order.size());
      for (size_t p = 0; p < order.size(); ++p) CHECK(all[static_cast<size_t>(order[p])] == static_cast<int64_t>(p));
    }
}

TEST_CASE("a context layout takes a rank's tokens of every row and pads the rows") {
  auto allocator = make_cpu_allocator();
  nn::Tokens part = ContextLayout(5, 2, 0).local(sample(*allocator), *allocator);
  CHECK(part.batch == 2);
  CHECK(part.sequence == 4);
  CHECK(part.dropout_key == 7);
  // Positions 0, 1, and 6, 7, which are padding.
  CHECK(values(part.ids) == std::vector<int32_t>{10, 11, 0, 0, 20, 21, 0, 0});
  part = ContextLayout(5, 2, 1).local(sample(*allocator), *allocator);
  // Positions 2, 3, and 4, 5.
  CHECK(values(part.ids) == std::vector<int32_t>{12, 13, 14, 0, 22, 23, 24, 0});
  CHECK(values(part.positions) == std::vector<int32_t>{2, 3, 4, 0, 0, 1, 2, 0});
  CHECK(values(part.labels) == std::vector<int32_t>{13, 14, -100, -100, 23, 24, 25, -100});
  CHECK(values(part.document_start) == std::vector<int32_t>{0, 0, 0, 5, 2, 2, 2, 5});
  CHECK(part.document_start.shape() == Shape{2, 4});
}

TEST_CASE("a context layout leaves what is not there undefined, and one rank's tokens alone") {
  auto allocator = make_cpu_allocator();
  nn::Tokens whole = sample(*allocator);
  whole.labels = whole.document_start = {};
  nn::Tokens part = ContextLayout(5, 4, 2).local(whole, *allocator);
  CHECK(!part.labels.defined());
  CHECK(!part.document_start.defined());
  nn::Tokens same = ContextLayout(5, 1, 0).local(whole, *allocator);
  CHECK(same.sequence == 5);
  CHECK(same.ids.raw() == whole.ids.raw());
  CHECK_THROWS_AS(ContextLayout(6, 2, 0).local(whole, *allocator), Error);
}

TEST_CASE("a context layout of tokens without memory has the same shapes") {
  auto allocator = make_meta_allocator();
  nn::Tokens part = ContextLayout(5, 2, 1).local(sample(*allocator), *allocator);
  CHECK(part.ids.shape() == Shape{8});
  CHECK(part.labels.shape() == Shape{8});
  CHECK(part.document_start.shape() == Shape{2, 4});
}
