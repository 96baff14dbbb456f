#include "data/batch.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace automodel::data {
namespace {

void check_sample(const Sample& sample, int64_t index, const CollateOptions& options) {
  size_t length = sample.input_ids.size();
  AM_CHECK(length > 0 && sample.labels.size() == length, Fault::kData,
           "sample {}: {} input ids and {} labels; both must be of one length above 0", index, length,
           sample.labels.size());
  int64_t documents = std::accumulate(sample.document_lengths.begin(), sample.document_lengths.end(), int64_t{0});
  AM_CHECK(sample.document_lengths.empty() || documents == static_cast<int64_t>(length), Fault::kData,
           "sample {}: its documents have {} tokens, but it has {}", index, documents, length);
  if (options.vocab_size <= 0) return;
  for (size_t i = 0; i < length; ++i) {
    int64_t id = sample.input_ids[i];
    int64_t label = sample.labels[i];
    AM_CHECK(
        id >= 0 && id < options.vocab_size, Fault::kData,
        "sample {}: the token id {} at position {} is outside the model's vocabulary of {}; was the data made with "
        "another tokenizer?",
        index, id, i, options.vocab_size);
    AM_CHECK(label == kIgnoredLabel || (label >= 0 && label < options.vocab_size), Fault::kData,
             "sample {}: the label {} at position {} is outside the model's vocabulary of {}", index, label, i,
             options.vocab_size);
  }
}

void append_row(const Sample& sample, int32_t pad_id, Batch& batch) {
  auto length = static_cast<int64_t>(sample.input_ids.size());
  auto padding = static_cast<size_t>(batch.cols - length);
  auto row_begin = static_cast<int32_t>(batch.input_ids.size());
  batch.input_ids.insert(batch.input_ids.end(), sample.input_ids.begin(), sample.input_ids.end());
  batch.input_ids.insert(batch.input_ids.end(), padding, pad_id);
  batch.labels.insert(batch.labels.end(), sample.labels.begin(), sample.labels.end());
  batch.labels.insert(batch.labels.end(), padding, kIgnoredLabel);

  std::vector<int32_t> lengths = sample.document_lengths;
  if (lengths.empty()) lengths.push_back(static_cast<int32_t>(length));
  lengths.back() += static_cast<int32_t>(padding);
  int32_t begin = row_begin;
  for (int32_t document : lengths) {
    batch.document_bounds.push_back(begin);
    begin += document;
    for (int32_t t = 0; t < document; ++t) batch.position_ids.push_back(t);
  }

  batch.lengths.push_back(length);
  for (int32_t label : sample.labels) batch.label_count += label != kIgnoredLabel;
  auto last = std::find_if(sample.labels.rbegin(), sample.labels.rend(), [](int32_t x) { return x != kIgnoredLabel; });
  batch.token_count += sample.labels.rend() - last;
  ++batch.rows;
}

}  // namespace

Batch collate(const std::vector<Sample>& samples, const std::vector<int64_t>& indices, const CollateOptions& options) {
  Batch batch;
  bool packed = false;
  for (size_t i = 0; i < samples.size(); ++i) {
    check_sample(samples[i], indices[i], options);
    batch.cols = std::max(batch.cols, static_cast<int64_t>(samples[i].input_ids.size()));
    packed |= samples[i].document_lengths.size() > 1;
  }
  int64_t multiple = options.pad_seq_len_divisible;
  batch.cols = (batch.cols + multiple - 1) / multiple * multiple;
  for (const auto& sample : samples) append_row(sample, options.pad_id, batch);
  batch.sample_count = batch.rows;
  batch.samples = indices;
  if (packed) {
    batch.document_bounds.push_back(static_cast<int32_t>(batch.rows * batch.cols));
  } else {
    batch.document_bounds.clear();
  }
  return batch;
}

Batch make_filler(const Sample& shape, const CollateOptions& options) {
  Sample row = shape;
  std::fill(row.labels.begin(), row.labels.end(), kIgnoredLabel);
  Batch batch = collate({row}, {0}, options);
  batch.sample_count = 0;
  batch.lengths = {0};
  return batch;
}

}  // namespace automodel::data
