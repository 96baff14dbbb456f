#include "checkpoint/directory.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <random>
#include <set>
#include <tuple>

#include "core/error.h"

namespace automodel::checkpoint {
namespace {

constexpr uintmax_t kLongestPointer = 4096;  // other text files may lie beside the pointers

std::string random_hex() {
  std::random_device device;
  return fmt::format("{:08x}", device());
}

void check(const std::error_code& error, const fs::path& path, const char* what) {
  AM_CHECK(!error, Fault::kIo, "{}: cannot {}: {}", path.string(), what, error.message());
}

void move_to(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  check(error, to, "put it in place");
}

// All digits and within int64.
std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || text.front() == '-' || error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return value;
}

std::vector<fs::path> entries_of(const fs::path& root) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end; it.increment(error))
    entries.push_back(it->path());
  std::ranges::sort(entries);
  return entries;
}

// A checkpoint leaves its name in one step, so that one whose removal is cut short is never taken for complete.
void remove_checkpoint(const fs::path& folder) {
  fs::path doomed = folder;
  doomed += ".removing-" + random_hex();
  move_to(folder, doomed);
  std::error_code error;
  fs::remove_all(doomed, error);
  check(error, doomed, "remove it");
}

bool is_link(const fs::path& path) {
  std::error_code ignored;
  return fs::is_symlink(fs::symlink_status(path, ignored));
}

// A pointer that was made but not yet put in place.
std::string pointer_draft(const std::string& name) {
  return "." + name + "-";
}

// What interrupted reservations, removals and pointer changes of an earlier run left behind.
void sweep(const fs::path& root) {
  for (const auto& path : entries_of(root)) {
    std::string name = path.filename().string();
    std::error_code draft_ignored;
    if (is_link(path) && (name.starts_with(pointer_draft(kLatest)) || name.starts_with(pointer_draft(kLowestVal))))
      fs::remove(path, draft_ignored);
    for (const char* mark : {".reserving-", ".removing-"}) {
      auto at = name.find(mark);
      if (at == std::string::npos || !parse_checkpoint_name(name.substr(0, at))) continue;
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  }
}

std::string trimmed_content(const fs::path& path) {
  std::string text = read_file(path);
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  return text;
}

}  // namespace

std::string checkpoint_name(int64_t epoch, int64_t step) {
  return fmt::format("epoch_{}_step_{}", epoch, step);
}

std::optional<CheckpointEntry> parse_checkpoint_name(std::string_view name) {
  constexpr std::string_view kEpoch = "epoch_", kStep = "_step_";
  auto at = name.find(kStep);
  if (!name.starts_with(kEpoch) || at == std::string_view::npos || at < kEpoch.size()) return std::nullopt;
  auto epoch = number(name.substr(kEpoch.size(), at - kEpoch.size()));
  auto step = number(name.substr(at + kStep.size()));
  if (!epoch || !step) return std::nullopt;
  return CheckpointEntry{std::string(name), *epoch, *step};
}

bool is_complete(const fs::path& folder) {
  std::error_code ignored;
  return fs::is_directory(folder, ignored) && !fs::exists(fs::symlink_status(folder / kIncompleteMarker, ignored));
}

std::vector<CheckpointEntry> complete_checkpoints(const fs::path& root) {
  std::vector<CheckpointEntry> found;
  for (const auto& path : entries_of(root)) {
    auto entry = parse_checkpoint_name(path.filename().string());
    if (entry && !is_link(path) && is_complete(path)) found.push_back(*entry);
  }
  std::ranges::sort(found, [](const auto& a, const auto& b) {
    return std::tie(a.step, a.epoch, a.name) < std::tie(b.step, b.epoch, b.name);
  });
  return found;
}

std::optional<fs::path> read_pointer(const fs::path& root, const std::string& name) {
  std::error_code error;
  if (fs::path link = root / name; is_link(link)) {
    fs::path target = fs::read_symlink(link, error);
    if (!error) return (root / target).lexically_normal();
  }
  fs::path file = root / (name + ".txt");
  if (!fs::is_regular_file(file, error) || fs::file_size(file, error) > kLongestPointer) return std::nullopt;
  std::string target = trimmed_content(file);
  if (target.empty()) return std::nullopt;
  return (root / target).lexically_normal();
}

void write_pointer(const fs::path& root, const std::string& name, const std::string& target, bool symlinks) {
  fs::path link = root / name, file = root / (name + ".txt");
  std::error_code error, ignored;
  if (symlinks) {
    fs::path fresh = root / (pointer_draft(name) + random_hex());
    fs::create_symlink(target, fresh, error);
    if (!error) {
      fs::rename(fresh, link, error);
      if (error) fs::remove(fresh, ignored);
      check(error, link, "replace the pointer");
      fs::remove(file, ignored);
      sync_folder(root);
      return;
    }
    // A full or read-only disk is no lack of links: the text file will fail as well and say so.
  }
  write_file_atomically(file, target + "\n");
  if (is_link(link)) fs::remove(link, ignored);
}

void prepare_root(const fs::path& root) {
  std::error_code error;
  fs::create_directories(root, error);
  check(error, root, "make the checkpoint directory");
  fs::path probe = root / (".probe-" + random_hex());
  write_file_atomically(probe, "automodel\n");
  fs::remove(probe, error);
  check(error, probe, "remove a file again");
}

fs::path reserve(const fs::path& root, const std::string& name) {
  std::error_code error;
  fs::path folder = root / name;
  fs::create_directories(root, error);
  check(error, root, "make the checkpoint directory");
  sweep(root);
  if (fs::exists(fs::symlink_status(folder, error))) {
    AM_CHECK(!is_complete(folder) && fs::is_directory(folder, error), Fault::kCheckpoint,
             "{}: already exists and is not overwritten; continue from it, remove it, or choose another "
             "checkpoint.checkpoint_dir",
             folder.string());
    remove_checkpoint(folder);
  }
  fs::path fresh = root / (name + ".reserving-" + random_hex());
  fs::create_directory(fresh, error);
  check(error, fresh, "make the folder");
  try {
    write_file_atomically(fresh / kIncompleteMarker, "");
    move_to(fresh, folder);
  } catch (...) {
    fs::remove_all(fresh, error);
    throw;
  }
  sync_folder(root);
  return folder;
}

void mark_complete(const fs::path& folder) {
  std::error_code error;
  fs::remove(folder / kIncompleteMarker, error);
  check(error, folder / kIncompleteMarker, "remove it");
  sync_folder(folder);
}

void retain(const fs::path& root, int64_t keep) {
  AM_CHECK(keep >= 1, Fault::kBug, "at least one checkpoint must be kept, not {}", keep);
  std::set<std::string> kept;
  auto complete = complete_checkpoints(root);
  for (size_t i = complete.size(); i-- > 0 && kept.size() < static_cast<size_t>(keep);) kept.insert(complete[i].name);
  for (const auto& path : entries_of(root)) {
    std::string name = path.filename().string();
    bool text = name.ends_with(".txt");
    if (name.starts_with('.') || (!text && !is_link(path))) continue;
    auto target = read_pointer(root, text ? name.substr(0, name.size() - 4) : name);
    if (!target || !parse_checkpoint_name(target->filename().string())) continue;
    std::error_code ignored;
    if (fs::exists(*target, ignored)) {
      kept.insert(target->filename().string());
    } else {
      fs::remove(path, ignored);
    }
  }
  for (const auto& path : entries_of(root)) {
    std::string name = path.filename().string();
    std::error_code ignored;
    if (parse_checkpoint_name(name) && !is_link(path) && fs::is_directory(path, ignored) && !kept.contains(name))
      remove_checkpoint(path);
  }
}

}  // namespace automodel::checkpoint
