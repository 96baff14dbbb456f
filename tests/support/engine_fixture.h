// A model from a folder on one rank with its engine, and tokens from plain vectors.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/hf_model_dir.h"
#include "comm/world.h"
#include "config/config.h"
#include "engine/engine.h"
#include "models/registry.h"
#include "train/weights.h"

namespace automodel::support {

inline void fill(const Tensor& tensor, const std::vector<int32_t>& values) {
  std::memcpy(tensor.raw(), values.data(), values.size() * sizeof(int32_t));
}

// Tensors of tokens live outside of any engine's accounting.
inline Allocator& token_memory() {
  static std::unique_ptr<Allocator> allocator = make_cpu_allocator();
  return *allocator;
}

inline Tensor int_tensor(Shape shape, const std::vector<int32_t>& values) {
  Tensor t = Tensor::empty(shape, DType::kI32, token_memory());
  fill(t, values);
  return t;
}

inline nn::Tokens make_tokens(int64_t batch, int64_t sequence, const std::vector<int32_t>& ids,
                              const std::vector<int32_t>& labels) {
  std::vector<int32_t> positions(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) positions[i] = static_cast<int32_t>(static_cast<int64_t>(i) % sequence);
  nn::Tokens tokens;
  tokens.batch = batch;
  tokens.sequence = sequence;
  tokens.ids = int_tensor({batch * sequence}, ids);
  tokens.labels = int_tensor({batch * sequence}, labels);
  tokens.positions = int_tensor({batch * sequence}, positions);
  return tokens;
}

// fp32 by default.
inline engine::EngineOptions in_fp32(engine::EngineOptions options) {
  options.unit.param_dtype = DType::kF32;
  return options;
}

struct EngineFixture {
  EngineFixture(const std::string& folder, const engine::EngineOptions& options)
      : dir(folder),
        model(models::build(config::parse_json(dir.config_text(), folder + "/config.json"))),
        world(comm::World::single()),
        allocator(make_cpu_allocator()),
        engine(*model, world.global(), *allocator, in_fp32(options)) {
    train::load_weights(engine, *model, dir.tensors());
  }

  checkpoint::HfModelDir dir;
  std::unique_ptr<models::CausalLM> model;
  comm::World world;
  std::unique_ptr<Allocator> allocator;
  engine::Engine engine;
};

}  // namespace automodel::support
