// What a run tells: one JSON object a line for programs, one line for people. Field names and their order are those of
// the reference's training.jsonl and validation.jsonl.
#pragma once

#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>

namespace automodel::train {

struct TrainingRecord {
  int64_t step = 0;   // from 0
  int64_t epoch = 0;  // from 0
  double loss = 0;
  double grad_norm = 0;       // before clipping
  double lr = 0;              // after the schedule has advanced: that of the next step
  double mem_gib = 0;         // peak of the allocator since the last record, 2^30 bytes, main rank
  double tps = 0;             // tokens of all ranks per second, each token counted once, without validation and saving
  double tps_per_gpu = 0;     // tps / ranks
  std::optional<double> mfu;  // percent; only where the peak is known
  int64_t num_tokens_per_step = 0;
  int64_t num_label_tokens = 0;
};

struct ValidationRecord {
  int64_t step = 0;
  int64_t epoch = 0;
  double val_loss = 0;
  double lr = 0;
  int64_t num_label_tokens = 0;
  double mem_gib = 0;
};

// One JSON object without a newline; numbers that are not finite are null, the timestamp is now (UTC, milliseconds).
std::string to_json(const TrainingRecord& record);
std::string to_json(const ValidationRecord& record);

// The console's lines, as the reference words them.
std::string to_text(const TrainingRecord& record);
std::string to_text(const ValidationRecord& record, const std::string& name);

// Appends lines to a file and flushes each: a crash loses nothing that was logged. Throws Error(kIo).
class JsonlFile {
 public:
  JsonlFile() = default;  // writes nothing (all ranks but the main one)
  explicit JsonlFile(const std::filesystem::path& path);
  JsonlFile(JsonlFile&& other) noexcept;
  JsonlFile& operator=(JsonlFile&& other) noexcept;
  ~JsonlFile();
  void append(const std::string& line);

 private:
  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
};

// A bar with loss, speed and time left on a terminal; nothing elsewhere (the console's lines tell the progress there).
// Ranks that were started from a terminal do not see it: AUTOMODEL_TERMINAL in their environment says so.
class ProgressBar {
 public:
  // Steps done before and in all; `shown` is false on all ranks but the main one.
  ProgressBar(int64_t done, int64_t total, bool shown);
  ~ProgressBar();
  void update(int64_t done, const TrainingRecord& record);
  // Takes the bar off the screen, so that a line can be printed; the next update draws it again.
  void clear();

 private:
  int64_t first_;
  int64_t total_;
  bool shown_;
  double started_;
};

}  // namespace automodel::train
