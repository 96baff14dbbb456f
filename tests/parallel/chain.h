// A pipeline small enough to be computed by hand: stage s is y = weight * x + bias, the loss the sum of y * y / 2.
#pragma once

#include <array>
#include <chrono>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "parallel/pipeline.h"
#include "tensor/allocator.h"

namespace automodel::test {

constexpr int kChainWidth = 3;
using Row = std::array<float, kChainWidth>;

inline float chain_weight(int stage) {
  return 0.7F + 0.13F * static_cast<float>(stage);
}
inline float chain_bias(int stage) {
  return 0.11F - 0.07F * static_cast<float>(stage);
}
inline Row chain_sample(int microbatch) {
  const float m = static_cast<float>(microbatch);
  return {0.3F + 0.37F * m, -1.1F + 0.21F * m, 1.0F / (1.0F + m)};
}

// What microbatch m does on stage s, on one rank.
struct ChainReference {
  ChainReference(int stages, int microbatches) {
    for (int m = 0; m < microbatches; ++m) {
      std::vector<Row> inputs{chain_sample(m)};
      for (int s = 0; s < stages; ++s) {
        Row y;
        for (int i = 0; i < kChainWidth; ++i) y[i] = chain_weight(s) * inputs.back()[i] + chain_bias(s);
        inputs.push_back(y);
      }
      outputs.push_back(inputs.back());
      Row dy = inputs.back();
      for (int s = stages - 1; s >= 0; --s) {
        float of_weight = 0, of_bias = 0;
        for (int i = 0; i < kChainWidth; ++i) {
          of_weight += dy[i] * inputs[static_cast<size_t>(s)][i];
          of_bias += dy[i];
        }
        gradients[{s, m}] = {of_weight, of_bias};
        for (float& d : dy) d *= chain_weight(s);
      }
    }
  }

  std::vector<Row> outputs;                                       // of each microbatch
  std::map<std::pair<int, int>, std::array<float, 2>> gradients;  // (stage, microbatch): of weight and bias
};

struct ChainOptions {
  std::chrono::microseconds forward{0}, half{0};  // how long the work takes; a whole backward takes two halves
  parallel::Action fails{-1};                     // the action that throws
};

// The stages of one rank. On the meta device it computes nothing.
class Chain {
 public:
  explicit Chain(int stages, Allocator& allocator, ChainOptions options = {})
      : stages_(stages), allocator_(allocator), options_(options) {}

  parallel::StageCalls calls() {
    return {[this](int s, int m, Tensor x) { return forward(s, m, std::move(x)); },
            [this](int s, int m, Tensor dy, parallel::Work work) { return backward(s, m, std::move(dy), work); },
            [this](int s, int m) { weights(s, m, parallel::Work::kWeight); }, [this](int, int, bool) { return row(); }};
  }

  std::vector<parallel::Action> done;
  std::map<int, Row> outputs;                     // of the last stage, by microbatch
  std::map<int, std::array<float, 2>> gradients;  // by stage: of weight and bias
  std::map<int, std::vector<int>> order;          // by stage: the microbatches as their gradients were added
  int peak_alive = 0;

 private:
  using Key = std::pair<int, int>;

  Tensor row() { return Tensor::empty({kChainWidth}, DType::kF32, allocator_); }
  bool counts_only() const { return allocator_.device().is_meta(); }
  static float* at(const Tensor& t) { return t.data<float>(); }

  void work(parallel::Action action) {
    done.push_back(action);
    if (action == options_.fails) fail(Fault::kData, "the work {} went wrong", to_string(action));
    const bool forward = action.work == parallel::Work::kForward, whole = action.work == parallel::Work::kBackward;
    std::this_thread::sleep_for(forward ? options_.forward : whole ? 2 * options_.half : options_.half);
  }

  Tensor forward(int s, int m, Tensor x) {
    work({s, parallel::Work::kForward, m});
    peak_alive = std::max(peak_alive, ++alive_);
    if (s == 0) {
      x = row();
      const Row sample = chain_sample(m);
      if (!counts_only()) std::copy(sample.begin(), sample.end(), at(x));
    }
    inputs_[{s, m}] = x;
    Tensor y = row();
    if (!counts_only())
      for (int i = 0; i < kChainWidth; ++i) at(y)[i] = chain_weight(s) * at(x)[i] + chain_bias(s);
    if (s + 1 < stages_) return y;
    if (!counts_only()) std::copy(at(y), at(y) + kChainWidth, outputs[m].begin());
    gradients_[{s, m}] = y;
    return {};
  }

  Tensor backward(int s, int m, Tensor dy, parallel::Work kind) {
    if (s + 1 < stages_) gradients_[{s, m}] = dy;
    dy = gradients_[{s, m}];
    Tensor dx;
    if (s > 0) {
      dx = row();
      if (!counts_only())
        for (int i = 0; i < kChainWidth; ++i) at(dx)[i] = chain_weight(s) * at(dy)[i];
    }
    if (kind == parallel::Work::kBackward)
      weights(s, m, kind);
    else
      work({s, kind, m});
    return dx;
  }

  void weights(int s, int m, parallel::Work kind) {
    work({s, kind, m});
    const Tensor x = inputs_.extract({s, m}).mapped(), dy = gradients_.extract({s, m}).mapped();
    if (!counts_only()) {
      float of_weight = 0, of_bias = 0;
      for (int i = 0; i < kChainWidth; ++i) {
        of_weight += at(dy)[i] * at(x)[i];
        of_bias += at(dy)[i];
      }
      gradients[s][0] += of_weight;
      gradients[s][1] += of_bias;
    }
    order[s].push_back(m);
    --alive_;
  }

  int stages_;
  Allocator& allocator_;
  ChainOptions options_;
  std::map<Key, Tensor> inputs_, gradients_;
  int alive_ = 0;
};

}  // namespace automodel::test
