// Finds what a run continues from, and refuses what does not belong to it. Reading only; every rank may call it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/directory.h"
#include "checkpoint/signature.h"
#include "checkpoint/tensor_set.h"

namespace automodel::checkpoint {

struct ResumeRequest {
  fs::path root;             // checkpoint.checkpoint_dir
  std::string restore_from;  // empty: by itself; LATEST; a pointer or checkpoint name in `root`; else a path
  Signature signature;       // of the model about to train
};

struct ResumePoint {
  fs::path folder;
  int64_t epoch = 0;
  int64_t step = 0;
  std::string trainer_state;  // JSON, as it was saved

  // The optimizer's tensors; the model's weights are read with HfModelDir(folder).
  TensorSet optimizer() const { return TensorSet::open(folder / kOptimizerFile); }
};

struct ResumeResult {
  std::optional<ResumePoint> point;  // nothing: a fresh start
  std::vector<std::string> warnings;
};

// By itself (or with LATEST): the LATEST pointer's target when it is complete, else the complete checkpoint with the
// highest step, else a fresh start. Throws Error(kCheckpoint) when what restore_from names is missing or incomplete,
// when the checkpoint is damaged (files missing or of another size, unknown version), and when it is of another model:
// every differing field is named. A checkpoint named outright may come from a model of another id; that is a warning.
ResumeResult find_resume(const ResumeRequest& request);

}  // namespace automodel::checkpoint
