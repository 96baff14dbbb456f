// Microbatches: samples side by side in rows of one length.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"

namespace automodel::data {

// All matrices are row-major [rows, cols].
struct Batch {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<int32_t> input_ids;
  std::vector<int32_t> labels;        // next-token aligned; kIgnoredLabel where nothing is asked
  std::vector<int32_t> position_ids;  // 0, 1, ... within each document
  // Where documents begin in the rows read one after the other, and rows * cols at the end; padding belongs to the
  // document before it. Empty when each row is one document.
  std::vector<int32_t> document_bounds;
  std::vector<int64_t> samples;  // of each row: the sample's number in the dataset
  std::vector<int64_t> lengths;  // of each row: its tokens without padding; 0: a filler

  int64_t sample_count = 0;  // real samples; 0 for a filler row (see make_filler)
  int64_t label_count = 0;   // labels that are not ignored
  int64_t token_count = 0;   // over the rows: length less the run of ignored labels at its end
};

struct CollateOptions {
  int64_t pad_seq_len_divisible = 1;  // rows are padded to a multiple of this
  int32_t pad_id = 0;
  int64_t vocab_size = 0;  // ids at or above are refused; 0: not checked
};

// Pads the samples on the right, labels with kIgnoredLabel, to the longest length rounded up. `indices` name the
// samples in errors. Throws Error(kData) for a malformed sample or an id outside vocab_size.
Batch collate(const std::vector<Sample>& samples, const std::vector<int64_t>& indices, const CollateOptions& options);

// The microbatch of a rank that has no sample left while others have: a row of the usual shape that asks nothing, so
// that it takes part in all communication and adds nothing to loss or gradients.
Batch make_filler(const Sample& shape, const CollateOptions& options);

}  // namespace automodel::data
