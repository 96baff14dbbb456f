// The small ones are for CPUs; llama1b, llama8b and qwen0.5b have the shapes of Llama-3.2-1B, Llama-3.1-8B and
// Qwen2.5-0.5B, as their published configs say.
#include "train/bench_shapes.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"

namespace automodel::train {
namespace {

struct Shape {
  const char* name;
  const char* config;
};

constexpr Shape kShapes[] = {
    {"llama15m", R"({"model_type": "llama", "vocab_size": 32000, "hidden_size": 288, "num_hidden_layers": 6,
       "num_attention_heads": 6, "intermediate_size": 768, "tie_word_embeddings": true, "rms_norm_eps": 1e-5})"},
    {"llama110m", R"({"model_type": "llama", "vocab_size": 32000, "hidden_size": 768, "num_hidden_layers": 12,
       "num_attention_heads": 12, "intermediate_size": 2048, "tie_word_embeddings": true, "rms_norm_eps": 1e-5})"},
    {"gpt2", R"({"model_type": "gpt2", "vocab_size": 50304, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0})"},
    {"qwen0.5b", R"({"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24,
       "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864, "tie_word_embeddings": true,
       "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 32768})"},
    {"llama1b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16,
       "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
       "tie_word_embeddings": true, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072})"},
    {"llama8b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
       "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
       "tie_word_embeddings": false, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072})"},
};

}  // namespace

std::vector<std::string> bench_models() {
  std::vector<std::string> out;
  for (const Shape& shape : kShapes) out.emplace_back(shape.name);
  return out;
}

std::string bench_models_text() {
  std::string out;
  std::vector<std::string> names = bench_models();
  for (size_t i = 0; i < names.size(); ++i) out += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  return out;
}

std::string bench_config(const std::string& model) {
  const Shape* found = std::ranges::find_if(kShapes, [&](const Shape& shape) { return shape.name == model; });
  AM_CHECK(found != std::end(kShapes), Fault::kUsage, "bench: unknown model '{}'; known are {}", model,
           bench_models_text());
  return found->config;
}

}  // namespace automodel::train
