// Which algorithm of cuBLASLt a product of a certain shape goes to. The choice is made by measuring once, and kept in a
// file of the user's cache, so that a job that is repeated sums in the same order and starts without measuring.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace automodel::ops::cuda {

// cublasLtMatmulAlgo_t as the numbers it consists of, which the library lets one keep.
using AlgorithmWords = std::array<uint64_t, 8>;

class AlgorithmStore {
 public:
  // Reads what is in the file, which need not exist; lines that are not understood are skipped. An empty path: nothing
  // is kept.
  explicit AlgorithmStore(std::string path);

  std::optional<AlgorithmWords> find(const std::string& key) const;
  // The first choice for a key stays. A file that cannot be written is no error: the choice is then for this run.
  void add(const std::string& key, const AlgorithmWords& words);

 private:
  std::string path_;
  std::map<std::string, AlgorithmWords> words_;
};

// $XDG_CACHE_HOME/automodel/NAME, or under $HOME/.cache; empty when neither is set.
std::string cache_path(const std::string& name);

}  // namespace automodel::ops::cuda
