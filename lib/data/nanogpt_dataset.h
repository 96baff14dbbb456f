// Token files of the nanoGPT family (".bin"), mapped into memory. Three forms, little-endian:
//
//   new       int32[256] header: [0] 278895051, [1] version 1, [2] token count, [3] bytes per token (2 or 4);
//             then the tokens, unsigned, at byte 1024
//   legacy    int32[256] header: [0] 20240520, [1] version 1, [2] token count; then uint16 tokens at byte 1024
//   headerless  uint16 tokens from byte 0 (nanoGPT's own prepare scripts); taken when neither number stands in front
//
// Beside <stem>.bin there may be <stem>.bos.idx: int32 positions (in tokens) at which a document begins.
#pragma once

#include "config/schema.h"
#include "data/dataset.h"
#include "data/tokenizer_config.h"

namespace automodel::data {

struct NanogptConfig {
  std::vector<std::string> file_pattern;
  int64_t seq_len = 1024;
  std::optional<int64_t> bos_token;
  bool align_to_bos = false;
  std::optional<TokenizerConfig> tokenizer;
};
void describe(config::Fields<NanogptConfig>&);

// One pass over all files. In each, windows of seq_len + 1 tokens stand one after the other: the token that ends a
// window is no input of the next. With align_to_bos each window begins at the first document begin at or after the end
// of the window before. A tail that is too short is not used, and no window crosses files.
// Throws Error(kData) when nothing matches, a file is damaged, or no window fits in any.
std::unique_ptr<Dataset> make_nanogpt_dataset(const NanogptConfig& config);

}  // namespace automodel::data
