// The order of the stages is the safety argument. The folder is marked incomplete before it has its name; files are
// made durable before the marker goes; LATEST moves before the marker goes, and readers take a marked folder for
// absent.
#include "checkpoint/save.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/write.h"
#include "core/error.h"
#include "core/log.h"

namespace automodel::checkpoint {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kIndexFile = "model.safetensors.index.json";

ordered_json finite_or_null(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

uint64_t elements_of(const std::vector<TensorSpec>& tensors) {
  uint64_t total = 0, bytes = 0;
  for (const auto& tensor : tensors)
    if (byte_size(tensor.shape, DType::kU8, bytes)) total += bytes;
  return total;
}

// Names that a Hugging Face file must not have: they are ours, or no plain names.
void check_hf_names(const std::map<std::string, std::string>& files) {
  for (const auto& [name, content] : files) {
    bool ours = name == kManifestFile || name == kTrainerStateFile || name == kLossesFile || name == kRecipeFile ||
                name == kIncompleteMarker || name == kIndexFile || name == "model" || name.ends_with(".safetensors");
    AM_CHECK(!name.empty() && !ours && name != ".." && fs::path(name).filename() == name, Fault::kBug,
             "'{}' cannot be a file of the model's own in a checkpoint", name);
  }
}

// The same file under a second name; a link by name where the file system has no hard links.
void link_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_hard_link(from, to, error);
  if (!error) return;
  fs::create_symlink(fs::path("..") / ".." / from.filename(), to, error);
  AM_CHECK(!error, Fault::kIo, "{}: cannot link it: {}", to.string(), error.message());
}

}  // namespace

struct CheckpointWriter::Plan {
  std::string name;
  fs::path folder;
  std::vector<PlannedFile> model;
  std::vector<PlannedFile> optimizer;

  // The files that make the folder one of Hugging Face's.
  std::vector<std::string> hf_names(const SaveRequest& request) const {
    std::vector<std::string> names;
    for (const auto& [name, content] : request.hf_files) names.push_back(name);
    for (const auto& file : model) names.push_back(file.name);
    if (model.size() > 1) names.push_back(kIndexFile);
    return names;
  }
};

CheckpointWriter::CheckpointWriter(WriterOptions options, Ranks ranks)
    : options_(std::move(options)), ranks_(std::move(ranks)) {
  AM_CHECK(!options_.max_recent_checkpoints || *options_.max_recent_checkpoints >= 1, Fault::kConfig,
           "checkpoint.max_recent_checkpoints is {}; it must be at least 1", *options_.max_recent_checkpoints);
}

fs::path CheckpointWriter::save(const SaveRequest& request) {
  Plan plan;
  together(ranks_, [&] {
    plan = this->plan(request);
    if (ranks_.rank == 0) begin(request, plan);
  });
  uint64_t written[2] = {0, 0};
  together(ranks_, [&] {
    if (ranks_.rank == 0) options_.on_stage("tensors");
    written[0] = write_slices(plan.folder, plan.model, request.model.slices);
    written[1] = write_slices(plan.folder, plan.optimizer, request.optimizer.slices);
  });
  uint64_t planned[2] = {elements_of(request.model.tensors), elements_of(request.optimizer.tensors)};
  for (int i = 0; i < 2; ++i) written[i] = ranks_.sum(written[i]);
  together(ranks_, [&] {
    for (int i = 0; i < 2; ++i)
      AM_CHECK(written[i] == planned[i], Fault::kBug, "{}: the ranks wrote {} elements of the {}, it has {}",
               plan.folder.string(), written[i], i == 0 ? "model" : "optimizer state", planned[i]);
    if (ranks_.rank != 0) return;
    finish(request, plan);
    publish(request, plan);
  });
  return plan.folder;
}

CheckpointWriter::Plan CheckpointWriter::plan(const SaveRequest& request) const {
  AM_CHECK(request.epoch >= 0 && request.step >= 0, Fault::kBug, "epoch {} and step {} name no checkpoint",
           request.epoch, request.step);
  Plan plan;
  plan.name = checkpoint_name(request.epoch, request.step);
  plan.folder = options_.root / plan.name;
  plan.model = plan_model_files(request.model.tensors, options_.max_shard_bytes);
  plan.optimizer.push_back({kOptimizerFile, plan_file(request.optimizer.tensors, {{"format", "pt"}})});
  return plan;
}

void CheckpointWriter::begin(const SaveRequest& request, const Plan& plan) {
  check_hf_names(request.hf_files);
  AM_CHECK(json::accept(request.trainer_state), Fault::kBug, "the trainer state is not JSON");
  options_.on_stage("reserve");
  reserve(options_.root, plan.name);
  options_.on_stage("files");
  write_file_atomically(plan.folder / kLossesFile, losses_text(request.train_loss, request.val_losses));
  write_file_atomically(plan.folder / kTrainerStateFile, request.trainer_state);
  write_file_atomically(plan.folder / kRecipeFile, request.recipe);
  for (const auto& [name, content] : request.hf_files) write_file_atomically(plan.folder / name, content);
  if (plan.model.size() > 1) write_file_atomically(plan.folder / kIndexFile, index_text(plan.model));
  for (const auto& file : plan.model) create_file(plan.folder, file);
  for (const auto& file : plan.optimizer) create_file(plan.folder, file);
}

void CheckpointWriter::finish(const SaveRequest& request, const Plan& plan) {
  options_.on_stage("manifest");
  std::error_code error;
  if (request.consolidated) {
    fs::path consolidated = plan.folder / "model" / "consolidated";
    fs::create_directories(consolidated, error);
    AM_CHECK(!error, Fault::kIo, "{}: cannot make the folder: {}", consolidated.string(), error.message());
    for (const auto& name : plan.hf_names(request)) link_file(plan.folder / name, consolidated / name);
    sync_folder(consolidated);
    sync_folder(plan.folder / "model");
  }
  ordered_json manifest{
      {"format", "automodel-checkpoint"}, {"version", 1}, {"epoch", request.epoch}, {"step", request.step}};
  manifest["model_signature"] = json::object();
  for (const auto& [field, value] : request.signature) manifest["model_signature"][field] = json::parse(value);
  json types = json::object();
  for (const auto& tensor : request.model.tensors)
    types[name_of(tensor.dtype)] = types.value(name_of(tensor.dtype), 0) + 1;
  manifest["model_dtypes"] = types;

  std::vector<std::string> names = plan.hf_names(request);
  for (const char* name : {kLossesFile, kTrainerStateFile, kRecipeFile, kOptimizerFile}) names.emplace_back(name);
  manifest["files"] = json::array();
  for (const auto& name : names) {
    uint64_t bytes = fs::file_size(plan.folder / name, error);
    AM_CHECK(!error, Fault::kIo, "{}: cannot be found again: {}", (plan.folder / name).string(), error.message());
    manifest["files"].push_back(ordered_json{{"name", name}, {"bytes", bytes}});
  }
  write_file_atomically(plan.folder / kManifestFile, manifest.dump(2) + "\n");
  sync_folder(plan.folder);
}

void CheckpointWriter::publish(const SaveRequest& request, const Plan& plan) {
  options_.on_stage("latest");
  write_pointer(options_.root, kLatest, plan.name, options_.symlinks);
  options_.on_stage("complete");
  mark_complete(plan.folder);

  options_.on_stage("lowest_val");
  auto loss = deciding_loss(request.val_losses, options_.best_metric_key);
  if (!loss && !request.val_losses.empty())
    log::warning("checkpoint.best_metric_key is '{}', which is no validation set; LOWEST_VAL stays where it is",
                 options_.best_metric_key);
  if (loss && std::isfinite(*loss)) {
    auto best_folder = read_pointer(options_.root, kLowestVal);
    std::optional<double> best;
    if (best_folder) best = read_val_loss(*best_folder / kLossesFile, options_.best_metric_key);
    if (!best || *loss < *best) write_pointer(options_.root, kLowestVal, plan.name, options_.symlinks);
  }

  options_.on_stage("retention");
  try {
    if (options_.max_recent_checkpoints) retain(options_.root, *options_.max_recent_checkpoints);
  } catch (const Error& error) {
    // The checkpoint is published; an old one that cannot be removed is no reason to stop a run.
    log::warning("old checkpoints stay: {}", error.what());
  }
}

std::optional<double> deciding_loss(const std::vector<std::pair<std::string, double>>& losses, const std::string& key) {
  if (losses.size() == 1) return losses.front().second;
  for (const auto& [name, loss] : losses)
    if (name == key) return loss;
  return std::nullopt;
}

std::string losses_text(std::optional<double> train_loss,
                        const std::vector<std::pair<std::string, double>>& val_losses) {
  ordered_json losses = ordered_json::object();
  if (train_loss) losses["train_loss"] = finite_or_null(*train_loss);
  for (const auto& [name, loss] : val_losses) losses[val_losses.size() == 1 ? "val_loss" : name] = finite_or_null(loss);
  return losses.dump() + "\n";
}

std::optional<double> read_val_loss(const fs::path& losses_file, const std::string& key) {
  std::error_code ignored;
  if (!fs::exists(losses_file, ignored)) return std::nullopt;
  json losses = json::parse(read_file(losses_file), nullptr, false);
  if (!losses.is_object()) return std::nullopt;
  for (const std::string& name : {key, std::string("val_loss"), std::string("default")})
    if (losses.contains(name) && losses[name].is_number()) return losses[name].get<double>();
  return std::nullopt;
}

}  // namespace automodel::checkpoint
