// A model of a few tensors with known values, saved whole or in pieces.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "checkpoint/load.h"
#include "checkpoint/save.h"

namespace automodel::checkpoint::test {

struct ToyModel {
  std::map<std::string, std::vector<int64_t>> shapes = {{"wte.weight", {6, 4}}, {"h.0.w", {5, 3}}, {"norm", {7}}};
  std::map<std::string, std::vector<float>> values;

  explicit ToyModel(float seed = 1) {
    float next = seed;
    for (const auto& [name, shape] : shapes) {
      int64_t count = 1;
      for (int64_t d : shape) count *= d;
      for (int64_t i = 0; i < count; ++i) values[name].push_back(next += 0.37f);
    }
  }

  std::vector<TensorSpec> specs(const std::string& prefix, DType dtype) const {
    std::vector<TensorSpec> result;
    for (const auto& [name, shape] : shapes) result.push_back({prefix + name, dtype, shape});
    return result;
  }

  // The flat share of rank `rank` of `size`: elements are dealt in contiguous pieces.
  std::vector<SaveSlice> slices(const std::string& prefix, int rank = 0, int size = 1) const {
    std::vector<SaveSlice> result;
    for (const auto& [name, shape] : shapes) {
      const auto& data = values.at(name);
      auto count = static_cast<int64_t>(data.size());
      int64_t begin = count * rank / size, end = count * (rank + 1) / size;
      result.push_back(
          {{.name = prefix + name, .shape = shape, .begin = begin, .end = end}, DType::kF32, data.data() + begin});
    }
    return result;
  }

  // Points into the model.
  SaveRequest request(int64_t epoch, int64_t step, int rank = 0, int size = 1) const&& = delete;
  SaveRequest request(int64_t epoch, int64_t step, int rank = 0, int size = 1) const& {
    SaveRequest r;
    r.epoch = epoch;
    r.step = step;
    r.model = {specs("", DType::kF32), slices("", rank, size)};
    r.optimizer = {specs("exp_avg/", DType::kF32), slices("exp_avg/", rank, size)};
    r.hf_files = {{"config.json", config()}, {"tokenizer.json", "{}"}};
    r.recipe = "seed: 1\n";
    r.trainer_state = R"({"step": 4, "seed": 1})";
    r.train_loss = 2.5;
    r.signature = signature();
    return r;
  }

  static std::string config(int hidden = 4) {
    return fmt::format(R"({{"model_type": "toy", "hidden_size": {}, "vocab_size": 6}})", hidden);
  }
  static Signature signature() { return make_signature(config(), "org/toy", false); }

  // What a file holds under a prefix, as the map that `values` is.
  std::map<std::string, std::vector<float>> read(const TensorSet& set, const std::string& prefix) const {
    std::map<std::string, std::vector<float>> result;
    std::vector<LoadSlice> to;
    for (const auto& [name, shape] : shapes) {
      result[name].resize(values.at(name).size());
      to.push_back({{.name = prefix + name, .shape = shape}, DType::kF32, result[name].data()});
    }
    load(set, to);
    return result;
  }
};

// For tests that care little about values.
inline const ToyModel& toy() {
  static const ToyModel model;
  return model;
}

}  // namespace automodel::checkpoint::test
