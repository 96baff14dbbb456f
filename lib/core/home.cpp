#include "core/home.h"

namespace automodel {
namespace {

// What tells a home from any other folder.
constexpr const char* kMark = "recipes/quickstart.yaml";
// A clone's program is at most this far below its top (build/KIND/bin).
constexpr int kLevels = 3;

}  // namespace

fs::path home_of(const fs::path& folder) {
  std::error_code error;
  fs::path shared = folder.parent_path() / "share" / "automodel";
  if (fs::is_regular_file(shared / kMark, error)) return shared;
  fs::path above = folder;
  for (int level = 0; level < kLevels && above.has_relative_path(); ++level) {
    above = above.parent_path();
    if (fs::is_regular_file(above / kMark, error)) return above;
  }
  return {};
}

const fs::path& program_home() {
  static const fs::path home = [] {
    std::error_code error;
    fs::path program = fs::read_symlink("/proc/self/exe", error);
    return error ? fs::path() : home_of(program.parent_path());
  }();
  return home;
}

fs::path in_home(const fs::path& path) {
  if (path.is_absolute() || program_home().empty()) return {};
  return program_home() / path;
}

}  // namespace automodel
