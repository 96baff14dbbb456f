#include "cuda/architectures.h"

#include <algorithm>
#include <charconv>

namespace automodel::cuda {
namespace {

bool runs(std::string_view entry, int major, int minor) {
  int number = 0;
  auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), number);
  if (error != std::errc()) return false;
  std::string_view rest(end, static_cast<size_t>(entry.data() + entry.size() - end));
  bool exact = rest.starts_with('a'), family = rest.starts_with('f');
  if (exact || family) rest.remove_prefix(1);
  if (exact) return number == 10 * major + minor;
  bool real = number / 10 == major && number % 10 <= minor;
  // An entry without a kind is both.
  bool later = !family && rest != "-real" && number <= 10 * major + minor;
  return rest == "-virtual" && !family ? later : real || later;
}

}  // namespace

bool has_code(std::string_view architectures, int major, int minor) {
  while (!architectures.empty()) {
    size_t end = std::min(architectures.find(','), architectures.size());
    if (runs(architectures.substr(0, end), major, minor)) return true;
    architectures.remove_prefix(std::min(end + 1, architectures.size()));
  }
  return false;
}

}  // namespace automodel::cuda
