// A decoder-only language model: embedding, blocks, final norm, head. Made by a family from its config.json without any
// memory: names, shapes and initial values only. Memory comes to the Params from whoever places the model.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/block.h"
#include "nn/layers.h"
#include "ops/head.h"

namespace automodel::models {

// What the rest of the program needs to know of a config.json.
struct ModelInfo {
  std::string model_type;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t experts = 0;  // routed experts of a layer; 0: the MLPs are dense
  int64_t experts_per_token = 0;
  int64_t expert_size = 0;    // inner width of an expert
  int64_t expert_layers = 0;  // layers that have experts
  int64_t max_positions = 0;
  bool absolute_positions = false;  // learned positions: a longer sequence is impossible, not only untrained
  bool tied_head = false;
  // What tensor-parallel ranks share out (TensorCuts): the heads of some layer, the MLP of some layer, the embedding or
  // the head.
  bool cuts_heads = true;
  bool cuts_mlps = true;
  bool cuts_vocabulary = true;
  std::vector<std::string> notes;  // what the config asks for and this program does otherwise, in plain sentences
};

// What a family makes of its config; CausalLM runs it.
struct Parts {
  ModelInfo info;
  nn::Param token_embedding;
  std::optional<nn::Param> position_embedding;
  std::unique_ptr<nn::Rope> rope;  // the blocks refer to it
  std::vector<std::unique_ptr<nn::Block>> blocks;
  nn::Norm final_norm;
  std::optional<nn::Param> head;  // empty: tied to the token embedding
  nn::Dropout embedding_dropout{};
  // Tensor-parallel ranks share the vocabulary out; the same for both when they are one weight.
  bool cut_embedding = true;
  bool cut_head = true;
};

class CausalLM {
 public:
  explicit CausalLM(Parts parts);

  const ModelInfo& info() const { return parts_.info; }
  int layers() const { return static_cast<int>(parts_.blocks.size()); }

  // Gives every Param the part of a tensor-parallel rank.
  void place(int tp_rank, int tp_size);

  // ids -> [T, hidden], or the rank's rows of it (nn::Parallel). Needs the embedding_params().
  autograd::Var embed(autograd::Tape& tape, const nn::Tokens& tokens);
  // Needs the Params of layer i.
  autograd::Var layer(int i, const autograd::Var& x, const nn::Tokens& tokens);
  // The experts of layer i; null: it has none.
  nn::MoeMlp* experts(int i) { return parts_.blocks[static_cast<size_t>(i)]->experts(); }
  // nn::Block::ends_in_sum of layer i.
  bool layer_ends_in_sum(int i) const { return parts_.blocks[static_cast<size_t>(i)]->ends_in_sum(); }
  // Final norm, head and cross entropy; see ops::head_loss. Needs the head_params().
  ops::HeadLoss loss(const autograd::Var& x, const nn::Tokens& tokens, float grad_scale);
  // f32 [rows, vocab] of the rows x [rows, hidden], which all ranks have; on a tape that does not record.
  Tensor logits(const autograd::Var& x, const nn::Parallel& ranks);

  // Drops what the model keeps in an engine's memory besides its Params.
  void release_memory();

  std::vector<nn::Param*> embedding_params();
  std::vector<nn::Param*> head_params();  // final norm and head; a tied one is among the embedding's too
  // Everything outside of the blocks, once: embeddings, final norm, head.
  std::vector<nn::Param*> root_params();
  std::vector<nn::Param*> layer_params(int i);
  // Root first, then layer by layer.
  std::vector<nn::Param*> params();

 private:
  nn::Param& head() { return parts_.head ? *parts_.head : parts_.token_embedding; }
  ops::VocabularyPart vocabulary_part(const nn::Parallel& ranks);

  Parts parts_;
};

}  // namespace automodel::models
