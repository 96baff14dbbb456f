// The checkpoint directory of a run: names, completeness, pointers, reservation and retention. One process at a time
// changes it (rank 0); any number may read. FORMAT.md says what each step guarantees after a crash.
// Failures of the file system are Error(kIo).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace automodel::checkpoint {

inline constexpr const char* kIncompleteMarker = ".incomplete";
inline constexpr const char* kLatest = "LATEST";
inline constexpr const char* kLowestVal = "LOWEST_VAL";
inline constexpr const char* kManifestFile = "automodel_checkpoint.json";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kTrainerStateFile = "trainer_state.json";
inline constexpr const char* kLossesFile = "losses.json";
inline constexpr const char* kRecipeFile = "config.yaml";

struct CheckpointEntry {
  std::string name;  // epoch_<epoch>_step_<step>
  int64_t epoch = 0;
  int64_t step = 0;
};

std::string checkpoint_name(int64_t epoch, int64_t step);
// Nothing for other names.
std::optional<CheckpointEntry> parse_checkpoint_name(std::string_view name);

// A folder that carries no marker of an unfinished save.
bool is_complete(const fs::path& folder);

// The complete checkpoints of a run, lowest step first; none when the directory does not exist.
std::vector<CheckpointEntry> complete_checkpoints(const fs::path& root);

// Where a pointer points, whether or not that exists: the symbolic link `root/name`, else the name in `root/name.txt`.
std::optional<fs::path> read_pointer(const fs::path& root, const std::string& name);

// Replaces a pointer atomically: a relative symbolic link, or NAME.txt where links are not to be had (or not wanted).
void write_pointer(const fs::path& root, const std::string& name, const std::string& target, bool symlinks = true);

// Makes the run's directory and proves that files can be written into it; call it before training starts.
void prepare_root(const fs::path& root);

// Makes an empty folder `root/name` that is marked incomplete from the moment it has that name. An incomplete folder of
// the name is replaced; a complete one is Error(kCheckpoint).
fs::path reserve(const fs::path& root, const std::string& name);

// Removes the marker: the checkpoint is complete from here on.
void mark_complete(const fs::path& folder);

// Keeps the `keep` complete checkpoints with the highest steps and every one that a pointer in `root` names; removes
// the other checkpoints, incomplete ones too, and pointers to checkpoints that do not exist.
void retain(const fs::path& root, int64_t keep);

}  // namespace automodel::checkpoint
