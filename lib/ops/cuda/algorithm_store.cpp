#include "ops/cuda/algorithm_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace automodel::ops::cuda {
namespace {

// "KEY word word ...", the key without spaces.
std::string line_of(const std::string& key, const AlgorithmWords& words) {
  std::ostringstream line;
  line << key << std::hex;
  for (uint64_t word : words) line << ' ' << word;
  line << '\n';
  return line.str();
}

}  // namespace

AlgorithmStore::AlgorithmStore(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  std::ifstream file(path_);
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string key, more;
    AlgorithmWords words{};
    fields >> key >> std::hex;
    for (uint64_t& word : words) fields >> word;
    if (fields && !(fields >> more)) words_.emplace(key, words);
  }
}

std::optional<AlgorithmWords> AlgorithmStore::find(const std::string& key) const {
  auto found = words_.find(key);
  if (found == words_.end()) return std::nullopt;
  return found->second;
}

void AlgorithmStore::add(const std::string& key, const AlgorithmWords& words) {
  if (!words_.emplace(key, words).second || path_.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
  int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return;
  // One write, so that lines of several ranks do not mix.
  std::string line = line_of(key, words);
  [[maybe_unused]] ssize_t written = write(file, line.data(), line.size());
  close(file);
}

std::string cache_path(const std::string& name) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache != nullptr && *cache != '\0') return std::string(cache) + "/automodel/" + name;
  if (home != nullptr && *home != '\0') return std::string(home) + "/.cache/automodel/" + name;
  return "";
}

}  // namespace automodel::ops::cuda
