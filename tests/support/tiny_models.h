// Models with everything that is hard to cut, small enough to train a mesh of them in milliseconds.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace automodel::test {

// Grouped heads, tied head, a vocabulary that does not divide.
inline const char* const kTinyLlama = R"({"model_type": "llama", "vocab_size": 61, "hidden_size": 32,
  "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
  "tie_word_embeddings": true, "max_position_embeddings": 64, "initializer_range": 0.2})";

// Biases, learned positions, one fused projection, tied head.
inline const char* const kTinyGpt2 = R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 32, "n_layer": 4,
  "n_head": 8, "n_positions": 32, "initializer_range": 0.2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0})";

// Normed heads of a width of their own, biases, a head that is not tied.
inline const char* const kTinyQwen3 = R"({"model_type": "qwen3", "vocab_size": 59, "hidden_size": 24,
  "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 6,
  "attention_bias": true, "tie_word_embeddings": false, "max_position_embeddings": 64, "initializer_range": 0.2})";

// Eight experts a layer, of which each token takes two.
inline const char* const kTinyMixtral = R"({"model_type": "mixtral", "vocab_size": 61, "hidden_size": 32,
  "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
  "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 64, "initializer_range": 0.2})";

inline std::vector<std::pair<std::string, std::string>> tiny_models() {
  return {{"llama", kTinyLlama}, {"gpt2", kTinyGpt2}, {"qwen3", kTinyQwen3}, {"mixtral", kTinyMixtral}};
}

}  // namespace automodel::test
