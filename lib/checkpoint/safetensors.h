// The safetensors file format (huggingface.co/docs/safetensors): an 8-byte little-endian header length, a JSON header,
// then the tensors' bytes without gaps. Reading trusts nothing: a header is checked completely before any tensor is
// handed out. Errors are Error(kCheckpoint) with the file and, where there is one, the tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/dtype.h"
#include "core/file.h"

namespace automodel::checkpoint {

// What a file is to hold: a tensor's name, element type and global shape (no dims: a scalar).
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

// A tensor of a file; `begin` and `end` are byte offsets from the start of the file.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// The tensors of one file in the order of their offsets, findable by name.
class TensorTable {
 public:
  // False, and nothing added, when the name is taken.
  bool add(StoredTensor tensor);
  const std::vector<StoredTensor>& all() const { return tensors_; }
  const StoredTensor* find(std::string_view name) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string, size_t, Hash, std::equal_to<>> index_;
};

struct SafetensorsHeader {
  TensorTable tensors;
  std::map<std::string, std::string> metadata;
};

// Reads and checks the header of a whole file given as bytes; `path` is for messages.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const fs::path& path);

// A mapped file. Bytes live as long as the object; they may be unaligned.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& path);

  const fs::path& path() const { return path_; }
  const std::vector<StoredTensor>& tensors() const { return header_.tensors.all(); }
  const StoredTensor* find(std::string_view name) const { return header_.tensors.find(name); }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  std::span<const std::byte> bytes(const StoredTensor& tensor) const {
    return map_.bytes().subspan(tensor.begin, tensor.end - tensor.begin);
  }
  // Throws when the file has no such tensor.
  std::span<const std::byte> bytes(std::string_view name) const;

 private:
  fs::path path_;
  MappedFile map_;
  SafetensorsHeader header_;
};

// Where everything of a file to be written goes.
struct FileLayout {
  std::string header;  // the first bytes of the file, the length included
  TensorTable tensors;
  uint64_t file_size = 0;
};

// A pure function of its arguments (the order of `tensors` does not matter), so that every rank plans the same file
// alone. Tensors are ordered by element size (largest first), then by name; the header is padded to a multiple of 8
// bytes, so every tensor is aligned to its element size. Throws Error(kBug) for a repeated name or an impossible shape.
FileLayout plan_file(std::vector<TensorSpec> tensors, const std::map<std::string, std::string>& metadata);

// "[2, 3]"
std::string shape_text(std::span<const int64_t> shape);

// Number of bytes; false when the product does not fit 63 bits or a dim is negative.
bool byte_size(std::span<const int64_t> shape, DType dtype, uint64_t& bytes);

}  // namespace automodel::checkpoint
