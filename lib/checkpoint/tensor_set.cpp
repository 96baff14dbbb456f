#include "checkpoint/tensor_set.h"

#include "core/error.h"

namespace automodel::checkpoint {

TensorSet TensorSet::open(const fs::path& file) {
  std::error_code ignored;
  AM_CHECK(fs::exists(file, ignored), Fault::kCheckpoint, "{}: there is no such file", file.string());
  TensorSet set(file);
  set.add_file(file);
  return set;
}

const SafetensorsFile& TensorSet::add_file(const fs::path& file) {
  auto opened = std::make_unique<SafetensorsFile>(file);
  for (const StoredTensor& tensor : opened->tensors()) {
    auto [at, added] = tensors_.emplace(tensor.name, SourceTensor{opened.get(), &tensor});
    AM_CHECK(added, Fault::kCheckpoint, "{}: tensor '{}' is already in {}", file.string(), tensor.name,
             at->second.file->path().string());
    names_.push_back(tensor.name);
  }
  files_.push_back(std::move(opened));
  return *files_.back();
}

const SourceTensor* TensorSet::find(const std::string& name) const {
  auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace automodel::checkpoint
