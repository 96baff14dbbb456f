// Datasets: numbered training samples. Everything here is map-style: sample i is a function of the description and i
// alone, so that any rank can make any sample and an epoch can be entered anywhere.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace automodel::data {

inline constexpr int32_t kIgnoredLabel = -100;

// Labels are next-token aligned already: labels[t] is what the model must say after input_ids[t], kIgnoredLabel where
// nothing is asked. Neither the loader nor the loss shifts.
struct Sample {
  std::vector<int32_t> input_ids;
  std::vector<int32_t> labels;
  // Lengths of the documents packed into the sample, in order, summing to its length; empty: it is one document.
  // Positions restart with each document, and attention must not look across.
  std::vector<int32_t> document_lengths;
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  // Sample `index`, 0 <= index < size(). May be called by several threads at once.
  virtual Sample at(int64_t index) const = 0;
  // One more than the largest token id in it; nothing where finding that out means reading a large file.
  virtual std::optional<int64_t> id_bound() const = 0;
  // One line for the log: what it is and how large.
  virtual std::string summary() const = 0;
};

// The regular files that the patterns name. A pattern is a file, a folder (its files that end in `suffix` and are not
// hidden) or a glob; one that names nothing in the working folder is looked for in the program's home (core/home.h), so
// that the recipes there run from any folder. Sorted within each pattern; a file is listed once. Throws Error(kData)
// for a pattern that names nothing.
std::vector<std::string> match_files(const std::vector<std::string>& patterns, const std::string& suffix = "");

// The window of seq_len + 1 tokens as a sample: inputs are all but the last, labels all but the first.
Sample sample_of_window(std::vector<int32_t> window);

}  // namespace automodel::data
