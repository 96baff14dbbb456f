#include "data/dataset.h"

#include <glob.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/home.h"

namespace automodel::data {
namespace {

std::vector<std::string> files_of_folder(const fs::path& folder, const std::string& suffix) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && !name.starts_with('.') && name.ends_with(suffix))
      files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> files_of_glob(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> files;
  if (::glob(pattern.c_str(), GLOB_TILDE, nullptr, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc; ++i)
      if (fs::is_regular_file(found.gl_pathv[i])) files.emplace_back(found.gl_pathv[i]);
  ::globfree(&found);
  std::sort(files.begin(), files.end());
  return files;
}

// A path as a glob that matches it alone.
std::string escaped(const std::string& path) {
  std::string out;
  for (char c : path) {
    if (c == '*' || c == '?' || c == '[' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// A folder's, the file itself, or what a glob matches. `start`: where the pattern starts, if not in the working folder.
std::vector<std::string> files_of(const fs::path& start, const std::string& pattern, const std::string& suffix) {
  fs::path path = start / pattern;
  if (fs::is_directory(path)) return files_of_folder(path, suffix);
  if (fs::is_regular_file(path)) return {path.string()};
  return files_of_glob(start.empty() ? pattern : escaped(start.string()) + "/" + pattern);
}

}  // namespace

std::vector<std::string> match_files(const std::vector<std::string>& patterns, const std::string& suffix) {
  std::vector<std::string> all;
  for (const auto& pattern : patterns) {
    bool is_folder = fs::is_directory(pattern);
    std::vector<std::string> files = files_of("", pattern, suffix);
    if (files.empty() && !is_folder && !in_home(pattern).empty()) files = files_of(program_home(), pattern, suffix);
    AM_CHECK(!files.empty(), Fault::kData, "{}: {}; relative paths start at {}", pattern,
             is_folder ? "the folder holds no file" + (suffix.empty() ? std::string() : " *" + suffix)
                       : std::string("no file matches"),
             fs::current_path().string());
    for (auto& file : files)
      if (std::find(all.begin(), all.end(), file) == all.end()) all.push_back(std::move(file));
  }
  return all;
}

Sample sample_of_window(std::vector<int32_t> window) {
  Sample sample;
  sample.labels.assign(window.begin() + 1, window.end());
  window.pop_back();
  sample.input_ids = std::move(window);
  return sample;
}

}  // namespace automodel::data
