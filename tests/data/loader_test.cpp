#include "data/loader.h"

#include <doctest/doctest.h>

#include "support.h"

using namespace automodel;
using namespace automodel::data;

namespace {

using Ids = std::vector<int32_t>;

// Sample i is i+1 tokens long and made of the id i.
class Counting : public Dataset {
 public:
  explicit Counting(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  Sample at(int64_t index) const override {
    if (index == bad) fail(Fault::kData, "sample {} is bad", index);
    auto length = static_cast<size_t>(index + 1);
    return {Ids(length, static_cast<int32_t>(index)), Ids(length, static_cast<int32_t>(index)), {}};
  }
  std::optional<int64_t> id_bound() const override { return size_; }
  std::string summary() const override { return "counting"; }
  int64_t bad = -1;

 private:
  int64_t size_;
};

bool same(const Batch& a, const Batch& b) {
  return a.rows == b.rows && a.cols == b.cols && a.input_ids == b.input_ids && a.labels == b.labels &&
         a.position_ids == b.position_ids && a.sample_count == b.sample_count;
}

LoaderOptions options(int64_t local_batch, bool shuffle = false) {
  LoaderOptions o;
  o.sampler.local_batch = local_batch;
  o.sampler.shuffle = shuffle;
  o.sampler.seed = 11;
  return o;
}

}  // namespace

TEST_CASE("rows are padded on the right to the longest, rounded up") {
  std::vector<Sample> samples{{{1, 2, 3}, {2, 3, 4}, {}}, {{7}, {8}, {}}};
  auto batch = collate(samples, {0, 1}, {.pad_seq_len_divisible = 4, .pad_id = 9});
  CHECK(batch.rows == 2);
  CHECK(batch.cols == 4);
  CHECK(batch.input_ids == Ids{1, 2, 3, 9, 7, 9, 9, 9});
  CHECK(batch.labels == Ids{2, 3, 4, -100, 8, -100, -100, -100});
  CHECK(batch.position_ids == Ids{0, 1, 2, 3, 0, 1, 2, 3});
  CHECK(batch.document_bounds.empty());
  CHECK(batch.sample_count == 2);
  CHECK(collate(samples, {0, 1}, {}).cols == 3);
}

TEST_CASE("labels and tokens are counted as the objective needs them") {
  std::vector<Sample> samples{{{0, 0, 0, 0, 0}, {-100, 5, 6, -100, -100}, {}},
                              {{0, 0, 0, 0, 0}, {7, 8, 9, 10, -100}, {}}};
  auto batch = collate(samples, {0, 1}, {});
  CHECK(batch.label_count == 6);
  CHECK(batch.token_count == 7);
}

TEST_CASE("packed documents keep their bounds and restart their positions") {
  std::vector<Sample> samples{{{1, 2, 3, 4, 5}, {2, -100, 4, 5, -100}, {2, 3}}, {{6, 7}, {7, -100}, {}}};
  auto batch = collate(samples, {0, 1}, {.pad_seq_len_divisible = 6});
  CHECK(batch.document_bounds == Ids{0, 2, 6, 12});
  CHECK(batch.position_ids == Ids{0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5});
}

TEST_CASE("a sample the model cannot take is refused by number and place") {
  CollateOptions vocabulary{.vocab_size = 10};
  auto message = [&](const Sample& sample) {
    return error_of(Fault::kData, [&] { collate({sample}, {42}, vocabulary); });
  };
  CHECK(message({{9}, {9}, {}}) == "");
  CHECK(contains(message({{1, 10}, {1, 1}, {}}), "sample 42: the token id 10 at position 1"));
  CHECK(contains(message({{1}, {-1}, {}}), "the label -1"));
  CHECK(contains(message({{1, 2}, {1}, {}}), "2 input ids and 1 labels"));
  CHECK(contains(message({{}, {}, {}}), "0 input ids"));
  CHECK(contains(message({{1, 2}, {1, 2}, {1}}), "documents have 1 tokens"));
}

TEST_CASE("a loader goes through epoch after epoch") {
  Loader loader(std::make_shared<Counting>(5), options(2));
  CHECK(loader.batches_per_epoch() == 3);
  CHECK(loader.next().input_ids == Ids{0, 0, 1, 1});
  CHECK(loader.state() == LoaderState{0, 1});
  CHECK(loader.next().rows == 2);
  auto last = loader.next();
  CHECK(last.rows == 1);
  CHECK(last.input_ids == Ids{4, 4, 4, 4, 4});
  CHECK(loader.state() == LoaderState{1, 0});
  CHECK(loader.next().input_ids == Ids{0, 0, 1, 1});
}

TEST_CASE("a loader that is sent to a place continues as one that came there") {
  auto dataset = std::make_shared<Counting>(23);
  std::vector<Batch> batches;
  std::vector<LoaderState> states;
  Loader whole(dataset, options(3, true));
  for (int i = 0; i < 20; ++i) {
    states.push_back(whole.state());
    batches.push_back(whole.next());
  }
  for (size_t start : {size_t{0}, size_t{5}, size_t{8}, size_t{13}}) {
    Loader loader(dataset, options(3, true));
    loader.next();
    loader.seek(states[start]);
    CHECK(loader.state() == states[start]);
    for (size_t i = start; i < batches.size(); ++i) CHECK(same(loader.next(), batches[i]));
  }
  Loader loader(dataset, options(3, true));
  loader.seek({0, loader.batches_per_epoch()});
  CHECK(loader.state() == LoaderState{1, 0});
  CHECK(contains(error_of(Fault::kData, [&] { loader.seek({0, 99}); }), "batch 99 of epoch 0"));
}

TEST_CASE("a rank without samples in the last microbatch gets a row that asks nothing") {
  auto o = options(2);
  o.sampler.data_rank = 1;
  o.sampler.data_world = 2;
  Loader loader(std::make_shared<Counting>(5), o);
  CHECK(loader.batches_per_epoch() == 2);
  CHECK(loader.next().sample_count == 2);
  auto filler = loader.next();
  CHECK(filler.rows == 1);
  CHECK(filler.sample_count == 0);
  CHECK(filler.label_count == 0);
  CHECK(filler.token_count == 0);
  CHECK(filler.labels == Ids{-100});
}

TEST_CASE("what goes wrong while reading ahead comes out of next") {
  auto dataset = std::make_shared<Counting>(6);
  dataset->bad = 3;
  Loader loader(dataset, options(2));
  loader.next();
  CHECK(contains(error_of(Fault::kData, [&] { loader.next(); }), "sample 3 is bad"));
  CHECK(loader.state() == LoaderState{0, 1});
}
