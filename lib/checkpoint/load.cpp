// Two passes: first every tensor is accounted for, then the pieces are copied by all threads. The copy cannot fail, so
// no exception has to leave a parallel region.
#include "checkpoint/load.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "checkpoint/convert.h"
#include "core/error.h"

namespace automodel::checkpoint {
namespace {

constexpr int64_t kRun = int64_t{1} << 20;     // elements one thread copies at a time
constexpr int64_t kRows = 64;                  // rows and columns of a transposed tile
constexpr size_t kListed = 40;                 // names per class in a message
constexpr size_t kStaged = size_t{256} << 20;  // bytes on their way to a device at a time

// How the model's names become the file's.
struct Naming {
  std::string strip, add;

  std::string stored(const std::string& name) const {
    if (!strip.empty() && name.starts_with(strip)) return name.substr(strip.size());
    return add + name;
  }
  std::string describe() const {
    if (!strip.empty()) return "stored names lack '" + strip + "'";
    return add.empty() ? "" : "stored names begin with '" + add + "'";
  }
};

Naming choose_naming(const TensorSet& source, const std::vector<ExpectedTensor>& expected,
                     const std::vector<std::string>& prefixes) {
  std::vector<Naming> candidates{{}};
  for (const auto& prefix : prefixes) {
    candidates.push_back({.strip = prefix, .add = ""});
    candidates.push_back({.strip = "", .add = prefix});
  }
  auto hits = [&](const Naming& naming) {
    return std::ranges::count_if(expected,
                                 [&](const auto& t) { return source.find(naming.stored(t.name)) != nullptr; });
  };
  // The first of equals wins: names as they are.
  return *std::ranges::max_element(candidates, {}, hits);
}

struct Problems {
  std::vector<std::string> missing, surplus, misshapen, mistyped, untied;

  std::string text() const {
    std::string text;
    auto list = [&text](const char* title, const std::vector<std::string>& entries) {
      if (entries.empty()) return;
      text += fmt::format("\n{} {}:", entries.size(), title);
      for (size_t i = 0; i < std::min(entries.size(), kListed); ++i) text += "\n  " + entries[i];
      if (entries.size() > kListed) text += fmt::format("\n  and {} more", entries.size() - kListed);
    };
    list("missing", missing);
    list("surplus", surplus);
    list("of another shape", misshapen);
    list("of a type that cannot be converted", mistyped);
    list("that should equal their tied tensor", untied);
    return text;
  }
};

class Loader {
 public:
  Loader(const TensorSet& source, const LoadOptions& options, std::vector<ExpectedTensor> expected)
      : source_(source), options_(options), expected_(std::move(expected)) {
    naming_ = choose_naming(source, expected_, options.prefixes);
  }

  const SourceTensor* resolve(const std::string& name) const {
    if (const auto* found = source_.find(naming_.stored(name))) return found;
    auto alias = options_.aliases.find(name);
    return alias == options_.aliases.end() ? nullptr : source_.find(naming_.stored(alias->second));
  }

  LoadSummary account(std::span<const LoadSlice> slices) {
    LoadSummary summary;
    summary.renamed = naming_.describe();
    std::unordered_set<std::string> used;
    for (const auto& tensor : expected_) {
      const SourceTensor* found = resolve(tensor.name);
      if (found == nullptr) {
        problems_.missing.push_back(tensor.name + " " + shape_text(tensor.shape));
        continue;
      }
      used.insert(found->tensor->name);
      if (found->tensor->shape != tensor.shape)
        problems_.misshapen.push_back(tensor.name + " is " + shape_text(found->tensor->shape) + ", the model has " +
                                      shape_text(tensor.shape));
    }
    for (const auto& name : source_.names())
      if (!used.contains(name)) account_surplus(name, summary);
    for (const auto& slice : slices) {
      const SourceTensor* found = resolve(slice.region.name);
      if (found != nullptr && !convertible(found->tensor->dtype, slice.dtype))
        problems_.mistyped.push_back(slice.region.name + " is " + name_of(found->tensor->dtype) + ", the model has " +
                                     name_of(slice.dtype));
    }
    std::string text = problems_.text();
    AM_CHECK(text.empty(), Fault::kCheckpoint,
             "{}: the weights do not fit the model that the config describes.{}\nDoes config.json, with the overrides "
             "of the recipe, belong to these weights?{}",
             source_.origin().string(), text, summary.renamed.empty() ? "" : " (" + summary.renamed + ")");
    return summary;
  }

 private:
  void account_surplus(const std::string& name, LoadSummary& summary) {
    if (std::ranges::any_of(options_.ignorable, [&](const auto& end) { return name.ends_with(end); })) {
      summary.ignored.push_back(name);
      return;
    }
    for (const auto& [alias, target] : options_.aliases) {
      if (naming_.stored(alias) != name) continue;
      const SourceTensor* twin = source_.find(naming_.stored(target));
      if (twin == nullptr) break;
      auto a = source_.find(name)->bytes(), b = twin->bytes();
      if (a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0) {
        summary.ignored.push_back(name);
      } else {
        problems_.untied.push_back(name + " differs from " + naming_.stored(target) +
                                   " (set tie_word_embeddings: false in the config?)");
      }
      return;
    }
    problems_.surplus.push_back(name + " " + shape_text(source_.find(name)->tensor->shape));
  }

  const TensorSet& source_;
  const LoadOptions& options_;
  std::vector<ExpectedTensor> expected_;
  Naming naming_;
  Problems problems_;
};

// Every tensor named by a slice, once.
std::vector<ExpectedTensor> named_by(std::span<const LoadSlice> slices) {
  std::vector<ExpectedTensor> tensors;
  std::unordered_set<std::string> seen;
  for (const auto& slice : slices)
    if (seen.insert(slice.region.name).second) tensors.push_back({slice.region.name, stored_shape(slice.region)});
  return tensors;
}

struct Work {
  const std::byte* from;
  DType from_dtype;
  std::byte* to;
  DType to_dtype;
  Piece piece;
};

// Rectangles go through a tile that stays in the cache: both sides then touch whole cache lines, whatever their
// strides.
void copy(const Work& work) {
  auto from_size = static_cast<int64_t>(size_of(work.from_dtype)),
       to_size = static_cast<int64_t>(size_of(work.to_dtype));
  const Piece& piece = work.piece;
  const std::byte* from = work.from + piece.file * from_size;
  std::byte* to = work.to + piece.memory * to_size;
  if (piece.cols == 1) {
    convert({from, work.from_dtype}, {to, work.to_dtype, piece.memory_stride}, piece.rows);
    return;
  }
  std::byte tile[kRows * kRows * sizeof(double)];
  for (int64_t col = 0; col < piece.cols; col += kRows) {
    int64_t cols = std::min(kRows, piece.cols - col);
    for (int64_t c = 0; c < cols; ++c)
      convert({from + (col + c) * piece.file_stride * from_size, work.from_dtype},
              {tile + c * to_size, work.to_dtype, kRows}, piece.rows);
    for (int64_t r = 0; r < piece.rows; ++r)
      std::memcpy(to + (r * piece.memory_stride + col) * to_size, tile + r * kRows * to_size,
                  static_cast<size_t>(cols * to_size));
  }
}

void copy(const std::vector<Work>& work) {
  auto count = static_cast<int64_t>(work.size());
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) copy(work[static_cast<size_t>(i)]);
}

// The copies that fill one slice, at `to` in host memory.
void add_work(std::vector<Work>& work, const SourceTensor& source, const LoadSlice& slice, void* to) {
  for (const Piece& piece : pieces_of(slice.region, kRun, kRows))
    work.push_back({source.bytes().data(), source.tensor->dtype, static_cast<std::byte*>(to), slice.dtype, piece});
}

// Slices in the memory of a device, by way of the host's, some at a time.
class DeviceLoad {
 public:
  void add(const SourceTensor& source, const LoadSlice& slice) {
    size_t bytes = static_cast<size_t>(count_of(slice.region)) * size_of(slice.dtype);
    if (bytes == 0) return;
    if (!parts_.empty() && bytes_ + bytes > kStaged) flush();
    parts_.push_back({std::vector<std::byte>(bytes), slice.device, slice.destination});
    bytes_ += bytes;
    add_work(work_, source, slice, parts_.back().host.data());
  }
  void flush() {
    copy(work_);
    for (Part& part : parts_) part.device->upload(part.destination, part.host.data(), part.host.size());
    work_.clear();
    parts_.clear();
    bytes_ = 0;
  }

 private:
  struct Part {
    std::vector<std::byte> host;
    Allocator* device;
    void* destination;
  };
  std::vector<Part> parts_;
  std::vector<Work> work_;
  size_t bytes_ = 0;
};

}  // namespace

LoadSummary load(const TensorSet& source, std::span<const LoadSlice> slices, const LoadOptions& options) {
  Loader loader(source, options, options.expected.empty() ? named_by(slices) : options.expected);
  LoadSummary summary = loader.account(slices);

  std::vector<Work> work;
  DeviceLoad device;
  for (const auto& slice : slices) {
    const SourceTensor* found = loader.resolve(slice.region.name);
    AM_CHECK(found != nullptr && found->tensor->shape == stored_shape(slice.region), Fault::kBug,
             "'{}' of shape {} is not among the tensors expected", slice.region.name, shape_text(slice.region.shape));
    summary.bytes += static_cast<uint64_t>(count_of(slice.region)) * size_of(slice.dtype);
    if (slice.device != nullptr)
      device.add(*found, slice);
    else
      add_work(work, *found, slice, slice.destination);
  }
  copy(work);
  device.flush();
  return summary;
}

}  // namespace automodel::checkpoint
