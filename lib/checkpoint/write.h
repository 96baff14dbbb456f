// Writing one planned file from many ranks.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "checkpoint/save.h"

namespace automodel::checkpoint {

struct PlannedFile {
  std::string name;
  FileLayout layout;
};

// model.safetensors, or model-0000i-of-0000N.safetensors when the tensors take more than `max_bytes`: tensors fill the
// files in the order given; one that is larger than the limit has a file of its own.
std::vector<PlannedFile> plan_model_files(const std::vector<TensorSpec>& tensors, uint64_t max_bytes);

// The content of model.safetensors.index.json.
std::string index_text(const std::vector<PlannedFile>& files);

// Gives the file its size and its header.
void create_file(const fs::path& folder, const PlannedFile& file);

// Writes slices into the files that hold their tensors, and makes them durable. Returns the number of elements written.
// A slice of an unknown tensor, of another shape or of an inconvertible type is Error(kBug).
uint64_t write_slices(const fs::path& folder, std::span<const PlannedFile> files, std::span<const SaveSlice> slices);

}  // namespace automodel::checkpoint
