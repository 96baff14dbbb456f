#include "checkpoint/resume.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace automodel::checkpoint {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr size_t kNamesShown = 5;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// "; there are epoch_0_step_9, ..." with the latest few.
std::string available(const fs::path& root) {
  auto entries = complete_checkpoints(root);
  std::string text;
  for (size_t i = 0; i < std::min(entries.size(), kNamesShown); ++i)
    text += (i ? ", " : "") + entries[entries.size() - 1 - i].name;
  return text.empty() ? "; there is no complete checkpoint in " + root.string() : "; there are " + text;
}

struct Choice {
  fs::path folder;
  bool named = false;  // by restore_from, not found by itself
};

std::optional<Choice> choose_latest(const fs::path& root, std::vector<std::string>& warnings) {
  auto target = read_pointer(root, kLatest);
  if (target && is_complete(*target)) return Choice{*target};
  auto entries = complete_checkpoints(root);
  if (entries.empty()) return std::nullopt;
  if (target)
    warnings.push_back(fmt::format("{} points to {}, which is {}; continuing from {}", (root / kLatest).string(),
                                   target->filename().string(), is_there(*target) ? "incomplete" : "missing",
                                   entries.back().name));
  return Choice{root / entries.back().name};
}

std::optional<Choice> choose(const ResumeRequest& request, std::vector<std::string>& warnings) {
  const std::string& from = request.restore_from;
  if (from.empty()) return choose_latest(request.root, warnings);
  std::string upper = from;
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return std::toupper(c); });
  if (upper == kLatest) {
    auto latest = choose_latest(request.root, warnings);
    if (!latest)
      warnings.push_back(
          fmt::format("checkpoint.restore_from is LATEST but {} holds no complete checkpoint; starting "
                      "afresh",
                      request.root.string()));
    return latest;
  }
  bool bare = from.find('/') == std::string::npos;
  fs::path folder = bare ? request.root / from : fs::path(from).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (auto target = read_pointer(folder.parent_path(), folder.filename().string())) folder = *target;
  AM_CHECK(is_there(folder), Fault::kCheckpoint, "checkpoint.restore_from '{}': {} does not exist{}", from,
           folder.string(), available(bare ? request.root : folder.parent_path()));
  AM_CHECK(is_complete(folder), Fault::kCheckpoint, "checkpoint.restore_from '{}': {} is {}{}", from, folder.string(),
           is_there(folder / kIncompleteMarker) ? "incomplete: its save did not finish" : "no folder",
           available(bare ? request.root : folder.parent_path()));
  return Choice{folder, true};
}

json read_manifest(const fs::path& folder) {
  fs::path path = folder / kManifestFile;
  AM_CHECK(is_there(path), Fault::kCheckpoint,
           "{}: has no {}; it is no checkpoint of this program. To start from its weights alone, name it as "
           "model.pretrained_model_name_or_path and choose another checkpoint.checkpoint_dir",
           folder.string(), kManifestFile);
  json manifest = json::parse(read_file(path), nullptr, false);
  bool ours = manifest.is_object() && manifest.value("format", json()) == "automodel-checkpoint" &&
              manifest.value("version", json()).is_number_integer();
  AM_CHECK(ours, Fault::kCheckpoint, "{}: is damaged or not ours", path.string());
  auto version = manifest["version"].get<int64_t>();
  AM_CHECK(version == kVersion, Fault::kCheckpoint, "{}: has format version {}, this program reads version {}",
           path.string(), version, kVersion);
  bool whole = manifest.value("epoch", json()).is_number_integer() &&
               manifest.value("step", json()).is_number_integer() && manifest.value("files", json()).is_array() &&
               manifest.value("model_signature", json()).is_object();
  for (const auto& file : manifest.value("files", json::array()))
    whole = whole && file.is_object() && file.value("name", json()).is_string() &&
            file.value("bytes", json()).is_number_unsigned();
  AM_CHECK(whole, Fault::kCheckpoint, "{}: lacks a field of format version {}; it is damaged", path.string(), version);
  return manifest;
}

void check_files(const fs::path& folder, const json& manifest) {
  std::string problems;
  for (const auto& file : manifest["files"]) {
    fs::path path = folder / file["name"].get<std::string>();
    auto expected = file["bytes"].get<uint64_t>();
    std::error_code error;
    uint64_t bytes = fs::file_size(path, error);
    if (error) {
      problems += "\n  " + path.filename().string() + " is missing";
    } else if (bytes != expected) {
      problems += fmt::format("\n  {} has {} bytes, {} were saved", path.filename().string(), bytes, expected);
    }
  }
  AM_CHECK(problems.empty(), Fault::kCheckpoint,
           "{}: the checkpoint is damaged:{}\nRemove it, or name another one with checkpoint.restore_from",
           folder.string(), problems);
}

void check_model(const Choice& choice, const json& manifest, const Signature& now, std::vector<std::string>& warnings) {
  Signature saved;
  for (const auto& [field, value] : manifest["model_signature"].items()) saved[field] = value.dump();
  std::string lines;
  for (const auto& line : differences(saved, now)) {
    if (choice.named && line.starts_with("model_id:")) {
      warnings.push_back(choice.folder.string() + ": " + line);
    } else {
      lines += "\n  " + line;
    }
  }
  AM_CHECK(lines.empty(), Fault::kCheckpoint, "{}: is a checkpoint of another model:{}\n{}", choice.folder.string(),
           lines,
           choice.named ? "Name a checkpoint of this model with checkpoint.restore_from"
                        : "Choose another checkpoint.checkpoint_dir for this model; nothing was changed");
}

}  // namespace

ResumeResult find_resume(const ResumeRequest& request) {
  ResumeResult result;
  auto choice = choose(request, result.warnings);
  if (!choice) return result;
  json manifest = read_manifest(choice->folder);
  check_model(*choice, manifest, request.signature, result.warnings);
  check_files(choice->folder, manifest);
  result.point = {choice->folder, manifest["epoch"].get<int64_t>(), manifest["step"].get<int64_t>(),
                  read_file(choice->folder / kTrainerStateFile)};
  AM_CHECK(json::accept(result.point->trainer_state), Fault::kCheckpoint, "{}: is not valid JSON; it is damaged",
           (choice->folder / kTrainerStateFile).string());
  return result;
}

}  // namespace automodel::checkpoint
