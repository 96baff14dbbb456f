// Elements go to disk straight from memory where type and order agree, else through a buffer. Ranks write disjoint
// bytes of files whose layout each of them planned alone, so nothing is gathered anywhere.
#include "checkpoint/write.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoint/convert.h"
#include "core/error.h"

namespace automodel::checkpoint {
namespace {

constexpr int64_t kBuffer = int64_t{1} << 20;  // elements converted at a time

struct Target {
  OutputFile& file;
  const StoredTensor& tensor;
};

void write_piece(const Target& target, const SaveSlice& slice, const Piece& piece, std::vector<std::byte>& buffer) {
  auto from_size = static_cast<int64_t>(size_of(slice.dtype));
  auto to_size = static_cast<int64_t>(size_of(target.tensor.dtype));
  const auto* source = static_cast<const std::byte*>(slice.source) + piece.memory * from_size;
  auto place = [&](int64_t element) { return target.tensor.begin + static_cast<uint64_t>(element * to_size); };
  if (slice.dtype == target.tensor.dtype && piece.cols == 1 && piece.memory_stride == 1) {
    target.file.write_at(place(piece.file), {source, static_cast<size_t>(piece.rows * from_size)});
    return;
  }
  // Columns that follow each other in the file are written together.
  int64_t together =
      piece.file_stride == piece.rows ? std::max<int64_t>(1, kBuffer / std::max<int64_t>(1, piece.rows)) : 1;
  for (int64_t c = 0; c < piece.cols; c += together) {
    int64_t columns = std::min(together, piece.cols - c);
    buffer.resize(static_cast<size_t>(columns * piece.rows * to_size));
    for (int64_t i = 0; i < columns; ++i)
      convert({source + (c + i) * from_size, slice.dtype, piece.memory_stride},
              {buffer.data() + i * piece.rows * to_size, target.tensor.dtype}, piece.rows);
    target.file.write_at(place(piece.file + c * piece.file_stride), buffer);
  }
}

// The slice in host memory, which may be `copy`.
SaveSlice on_host(const SaveSlice& slice, std::vector<std::byte>& copy) {
  if (slice.device == nullptr) return slice;
  copy.resize(static_cast<size_t>(count_of(slice.region)) * size_of(slice.dtype));
  if (!copy.empty()) slice.device->download(copy.data(), slice.source, copy.size());
  return {slice.region, slice.dtype, copy.data()};
}

}  // namespace

std::vector<PlannedFile> plan_model_files(const std::vector<TensorSpec>& tensors, uint64_t max_bytes) {
  std::vector<std::vector<TensorSpec>> groups(1);
  uint64_t filled = 0;
  for (const auto& tensor : tensors) {
    uint64_t bytes = 0;
    AM_CHECK(byte_size(tensor.shape, tensor.dtype, bytes), Fault::kBug, "tensor '{}' cannot be stored with shape {}",
             tensor.name, shape_text(tensor.shape));
    if (filled > 0 && filled + bytes > max_bytes) {
      groups.emplace_back();
      filled = 0;
    }
    groups.back().push_back(tensor);
    filled += bytes;
  }
  std::vector<PlannedFile> files;
  for (size_t i = 0; i < groups.size(); ++i) {
    std::string name = groups.size() == 1 ? "model.safetensors"
                                          : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, groups.size());
    files.push_back({std::move(name), plan_file(groups[i], {{"format", "pt"}})});
  }
  return files;
}

std::string index_text(const std::vector<PlannedFile>& files) {
  nlohmann::json index;
  uint64_t total = 0;
  for (const auto& file : files) {
    for (const auto& tensor : file.layout.tensors.all()) {
      index["weight_map"][tensor.name] = file.name;
      total += tensor.end - tensor.begin;
    }
  }
  index["metadata"]["total_size"] = total;
  return index.dump(2) + "\n";
}

void create_file(const fs::path& folder, const PlannedFile& file) {
  OutputFile out(folder / file.name);
  out.resize(file.layout.file_size);
  out.write_at(0, std::as_bytes(std::span(file.layout.header.data(), file.layout.header.size())));
  out.sync();
}

uint64_t write_slices(const fs::path& folder, std::span<const PlannedFile> files, std::span<const SaveSlice> slices) {
  uint64_t written = 0;
  std::vector<std::byte> buffer, downloaded;
  std::map<std::string, OutputFile> open;
  for (const auto& slice : slices) {
    const StoredTensor* tensor = nullptr;
    const PlannedFile* holder = nullptr;
    for (const auto& file : files)
      if (const auto* found = file.layout.tensors.find(slice.region.name)) tensor = found, holder = &file;
    AM_CHECK(tensor != nullptr, Fault::kBug, "tensor '{}' is to be written but was not planned", slice.region.name);
    AM_CHECK(tensor->shape == stored_shape(slice.region) && convertible(slice.dtype, tensor->dtype), Fault::kBug,
             "tensor '{}' is {} of {} and was planned as {} of {}", slice.region.name, name_of(slice.dtype),
             shape_text(stored_shape(slice.region)), name_of(tensor->dtype), shape_text(tensor->shape));
    auto [out, fresh] = open.try_emplace(holder->name, folder / holder->name);
    SaveSlice here = on_host(slice, downloaded);
    for (const Piece& piece : pieces_of(slice.region, kBuffer, INT64_MAX))
      write_piece({out->second, *tensor}, here, piece, buffer);
    written += static_cast<uint64_t>(count_of(slice.region));
  }
  for (auto& [name, out] : open) out.sync();
  return written;
}

}  // namespace automodel::checkpoint
