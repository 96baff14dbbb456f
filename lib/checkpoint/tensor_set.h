// The tensors of one file or of many, under one roof.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/safetensors.h"

namespace automodel::checkpoint {

struct SourceTensor {
  const SafetensorsFile* file = nullptr;
  const StoredTensor* tensor = nullptr;
  std::span<const std::byte> bytes() const { return file->bytes(*tensor); }
};

class TensorSet {
 public:
  // `origin` is what messages call the whole: a folder or a file.
  explicit TensorSet(fs::path origin) : origin_(std::move(origin)) {}

  // One file on its own. Throws Error(kCheckpoint) when it is missing or damaged.
  static TensorSet open(const fs::path& file);

  // Maps `file` and takes its tensors; a name that is already there is Error(kCheckpoint).
  const SafetensorsFile& add_file(const fs::path& file);

  const SourceTensor* find(const std::string& name) const;
  // In the order of files, then of offsets.
  const std::vector<std::string>& names() const { return names_; }
  const fs::path& origin() const { return origin_; }
  size_t size() const { return names_.size(); }

 private:
  fs::path origin_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, SourceTensor> tensors_;
};

}  // namespace automodel::checkpoint
