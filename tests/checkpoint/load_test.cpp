#include "checkpoint/load.h"

#include <cmath>
#include <limits>

#include "checkpoint/convert.h"
#include "checkpoint/hf_model_dir.h"
#include "core/rng.h"
#include "support.h"

using namespace automodel;
using namespace automodel::checkpoint;
using namespace automodel::checkpoint::test;

namespace {

struct Filled {
  TensorSpec spec;
  std::vector<float> values;  // converted to the spec's type when written
};

// Values 0, 1, 2, ... are exact in every floating type up to 256.
Filled counted(const std::string& name, std::vector<int64_t> shape, DType dtype = DType::kF32, float from = 0) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  Filled tensor{{name, dtype, std::move(shape)}, {}};
  for (int64_t i = 0; i < n; ++i) tensor.values.push_back(from + static_cast<float>(i));
  return tensor;
}

fs::path write(const fs::path& path, const std::vector<Filled>& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& tensor : tensors) specs.push_back(tensor.spec);
  FileLayout layout = plan_file(specs, {});
  OutputFile out(path);
  out.resize(layout.file_size);
  out.write_at(0, std::as_bytes(std::span(layout.header.data(), layout.header.size())));
  for (const auto& tensor : tensors) {
    std::vector<std::byte> bytes(tensor.values.size() * size_of(tensor.spec.dtype));
    convert({std::as_bytes(std::span(tensor.values)).data(), DType::kF32}, {bytes.data(), tensor.spec.dtype},
            static_cast<int64_t>(tensor.values.size()));
    out.write_at(layout.tensors.find(tensor.spec.name)->begin, bytes);
  }
  return path;
}

std::vector<float> load_region(const TensorSet& set, const Region& region, const LoadOptions& options = {}) {
  std::vector<float> values(static_cast<size_t>(count_of(region)), -1);
  load(set, std::vector<LoadSlice>{{region, DType::kF32, values.data()}}, options);
  return values;
}

}  // namespace

TEST_CASE("every floating type converts into fp32 and bf16 while loading") {
  TempDir dir;
  for (DType stored : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    TensorSet set = TensorSet::open(write(dir / name_of(stored), {counted("a", {5, 7}, stored)}));
    CHECK(load_region(set, {.name = "a", .shape = {5, 7}}) == counted("", {35}).values);
    std::vector<bf16> halves(35);
    load(set, std::vector<LoadSlice>{{{.name = "a", .shape = {5, 7}}, DType::kBF16, halves.data()}});
    for (size_t i = 0; i < 35; ++i) CHECK(to_float(halves[i]) == static_cast<float>(i));
  }
}

TEST_CASE("conversion rounds to nearest even and keeps infinities and NaN") {
  float from[4] = {1.00390625f, 1.01171875f, std::numeric_limits<float>::infinity(),
                   std::numeric_limits<float>::quiet_NaN()};
  bf16 to[4];
  convert({std::as_bytes(std::span(from)).data(), DType::kF32},
          {std::as_writable_bytes(std::span(to)).data(), DType::kBF16}, 4);
  CHECK(to_float(to[0]) == 1.0f);       // halfway between 1 and 1.0078125: to the even one
  CHECK(to_float(to[1]) == 1.015625f);  // halfway between 1.0078125 and 1.015625
  CHECK(std::isinf(to_float(to[2])));
  CHECK(std::isnan(to_float(to[3])));
  CHECK(!convertible(DType::kI64, DType::kF32));
  CHECK(convertible(DType::kI64, DType::kI64));
}

TEST_CASE("any range of any box gives the elements that indexing gives") {
  TempDir dir;
  TensorSet set = TensorSet::open(write(dir / "f", {counted("t", {3, 4, 5}), counted("m", {7, 6}, DType::kF32, 1000)}));
  Random random(1, "boxes");
  uint64_t draw = 0;
  auto pick = [&](int64_t bound) { return static_cast<int64_t>(random.below(static_cast<uint64_t>(bound), draw++)); };
  for (int round = 0; round < 400; ++round) {
    bool transposed = round % 2 == 1;
    // "m" is stored [7, 6]; the model has it as [6, 7].
    Region region{.name = transposed ? "m" : "t",
                  .shape = transposed ? std::vector<int64_t>{6, 7} : std::vector<int64_t>{3, 4, 5}};
    region.stored_transposed = transposed;
    int64_t count = 1;
    for (int64_t extent : region.shape) {
      int64_t start = pick(extent);
      region.box_start.push_back(start);
      region.box_extent.push_back(1 + pick(extent - start));
      count *= region.box_extent.back();
    }
    region.begin = pick(count + 1);
    region.end = region.begin + pick(count - region.begin + 1);

    std::vector<float> expected;
    for (int64_t e = region.begin; e < region.end; ++e) {
      int64_t rest = e, place = 0, stride = 1;
      std::vector<int64_t> index(region.shape.size());
      for (size_t d = region.shape.size(); d-- > 0;) {
        index[d] = region.box_start[d] + rest % region.box_extent[d];
        rest /= region.box_extent[d];
      }
      if (transposed) {
        place = index[1] * 6 + index[0];
      } else {
        for (size_t d = index.size(); d-- > 0; stride *= region.shape[d]) place += index[d] * stride;
      }
      expected.push_back(static_cast<float>(place) + (transposed ? 1000 : 0));
    }
    LoadOptions options;
    options.expected = {{"t", {3, 4, 5}}, {"m", {7, 6}}};
    CHECK(load_region(set, region, options) == expected);
  }
}

TEST_CASE("a transposed matrix larger than the copy's tiles is turned without losing an element") {
  TempDir dir;
  TensorSet set = TensorSet::open(write(dir / "f", {counted("m", {133, 201})}));
  Region region{.name = "m", .shape = {201, 133}, .begin = 50, .end = 201 * 133 - 7, .stored_transposed = true};
  auto values = load_region(set, region);
  size_t wrong = 0;
  for (int64_t e = region.begin; e < region.end; ++e)
    wrong += values[static_cast<size_t>(e - region.begin)] != static_cast<float>((e % 133) * 201 + e / 133);
  CHECK(wrong == 0);
}

TEST_CASE("regions that do not lie inside their tensor are bugs of the caller") {
  for (Region bad : std::vector<Region>{{.name = "a", .shape = {4}, .begin = 0, .end = 5},
                                        {.name = "a", .shape = {4}, .begin = 3, .end = 2},
                                        {.name = "a", .shape = {4}, .box_start = {2}, .box_extent = {3}},
                                        {.name = "a", .shape = {4, 4}, .box_start = {2}, .box_extent = {1}},
                                        {.name = "a", .shape = {4}, .stored_transposed = true}})
    CHECK(error_of([&] { count_of(bad); }).fault() == Fault::kBug);
  CHECK(count_of({.name = "s", .shape = {}}) == 1);
  CHECK(count_of({.name = "z", .shape = {0, 3}}) == 0);
}

TEST_CASE("missing, surplus, misshapen and mistyped tensors come in one error and nothing is written") {
  TempDir dir;
  TensorSet set = TensorSet::open(
      write(dir / "f", {counted("a", {2}), counted("b", {3}), counted("extra", {1}), counted("i", {4}, DType::kF32)}));
  std::vector<float> to(8, 9);
  std::vector<int64_t> ints(4);
  std::vector<LoadSlice> slices{{{.name = "a", .shape = {2}}, DType::kF32, to.data()},
                                {{.name = "b", .shape = {1, 3}}, DType::kF32, to.data() + 2},
                                {{.name = "c", .shape = {1}}, DType::kF32, to.data() + 5},
                                {{.name = "i", .shape = {4}}, DType::kI64, ints.data()}};
  Error error = error_of([&] { load(set, slices); });
  CHECK(error.fault() == Fault::kCheckpoint);
  CHECK(contains(error.what(), "1 missing:\n  c [1]"));
  CHECK(contains(error.what(), "1 surplus:\n  extra [1]"));
  CHECK(contains(error.what(), "b is [3], the model has [1, 3]"));
  CHECK(contains(error.what(), "i is float32, the model has int64"));
  CHECK(to == std::vector<float>(8, 9));
}

TEST_CASE("tensors of the whole model are accounted for, whatever this rank holds") {
  TempDir dir;
  TensorSet set = TensorSet::open(write(dir / "f", {counted("a", {2}), counted("b", {3})}));
  LoadOptions options;
  options.expected = {{"a", {2}}, {"b", {3}}};
  CHECK(load_region(set, {.name = "b", .shape = {3}, .begin = 1, .end = 3}, options) == std::vector<float>{1, 2});
  options.expected.push_back({"c", {1}});
  CHECK(contains(error_of([&] { load_region(set, {.name = "b", .shape = {3}}, options); }).what(), "c [1]"));
}

TEST_CASE("names may lack or have the wrapper's prefix throughout") {
  TempDir dir;
  TensorSet bare = TensorSet::open(
      write(dir / "bare", {counted("wte.weight", {2}), counted("h.0.attn.bias", {1}), counted("h.0.ln.bias", {3})}));
  LoadOptions options;
  options.expected = {{"transformer.wte.weight", {2}}, {"transformer.h.0.ln.bias", {3}}, {"lm_head.weight", {2}}};
  options.aliases = {{"lm_head.weight", "transformer.wte.weight"}};
  std::vector<float> to(2);
  auto summary =
      load(bare, std::vector<LoadSlice>{{{.name = "lm_head.weight", .shape = {2}}, DType::kF32, to.data()}}, options);
  CHECK(to == std::vector<float>{0, 1});
  CHECK(contains(summary.renamed, "lack 'transformer.'"));
  CHECK(summary.ignored == std::vector<std::string>{"h.0.attn.bias"});
  CHECK(summary.bytes == 8);

  TensorSet wrapped = TensorSet::open(write(dir / "wrapped", {counted("model.x", {2})}));
  CHECK(load_region(wrapped, {.name = "x", .shape = {2}}) == std::vector<float>{0, 1});
  TensorSet mixed = TensorSet::open(write(dir / "mixed", {counted("transformer.a", {1}), counted("b", {1})}));
  options = {};
  options.expected = {{"transformer.a", {1}}, {"transformer.b", {1}}};
  CHECK(contains(error_of([&] { load_region(mixed, {.name = "transformer.a", .shape = {1}}, options); }).what(),
                 "missing"));
}

TEST_CASE("a second copy of a tied tensor is allowed only when it is the same") {
  TempDir dir;
  LoadOptions options;
  options.expected = {{"e", {2}}};
  options.aliases = {{"head", "e"}};
  TensorSet same = TensorSet::open(write(dir / "same", {counted("e", {2}), counted("head", {2})}));
  CHECK(load_region(same, {.name = "e", .shape = {2}}, options).size() == 2);
  TensorSet other = TensorSet::open(write(dir / "other", {counted("e", {2}), counted("head", {2}, DType::kF32, 5)}));
  CHECK(contains(error_of([&] { load_region(other, {.name = "e", .shape = {2}}, options); }).what(),
                 "tie_word_embeddings"));
}

TEST_CASE("a published GPT-2 folder loads: buffers ignored, projections transposed") {
  fs::path folder = fs::path(AUTOMODEL_SHARED_DIR) / "data" / "nano-sort-gpt2";
  if (!fs::exists(folder)) {
    MESSAGE("skipped: " << folder.string() << " is absent");
    return;
  }
  HfModelDir model(folder);
  CHECK(model.torch_dtype() == DType::kF32);
  LoadOptions options;
  for (const auto& name : model.tensors().names())
    if (!name.ends_with(".attn.bias")) options.expected.push_back({name, model.tensors().find(name)->tensor->shape});
  std::vector<float> plain(48 * 144), turned(48 * 144);
  const std::string name = "transformer.h.1.attn.c_attn.weight";
  std::vector<LoadSlice> slices{
      {{.name = name, .shape = {48, 144}}, DType::kF32, plain.data()},
      {{.name = name, .shape = {144, 48}, .stored_transposed = true}, DType::kF32, turned.data()}};
  auto summary = load(model.tensors(), slices, options);
  CHECK(summary.ignored.size() == 3);
  CHECK(summary.renamed.empty());
  size_t different = 0;
  for (size_t r = 0; r < 48; ++r)
    for (size_t c = 0; c < 144; ++c) different += plain[r * 144 + c] != turned[c * 48 + r];
  CHECK(different == 0);
  CHECK(plain[0] != plain[1]);
}
