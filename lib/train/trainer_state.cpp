#include "train/trainer_state.h"

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace automodel::train {

using nlohmann::json;

std::string to_json(const TrainerState& s, const optim::LrSchedule& schedule) {
  json out{
      {"step", s.at.step},
      {"epoch", s.at.epoch},
      {"updates", s.updates},
      {"loader", {{"epoch", s.loader.epoch}, {"batch", s.loader.batch}, {"samples_per_batch", s.samples_per_batch}}},
      {"seed", s.seed},
      {"global_batch_size", s.global_batch_size},
      {"lr_scheduler", schedule.state(s.at.step)}};
  return out.dump(2) + "\n";
}

TrainerState read_trainer_state(const std::string& text, const std::string& file, optim::LrSchedule& schedule,
                                std::vector<std::string>& warnings) {
  TrainerState s;
  json in = json::parse(text, nullptr, false);
  AM_CHECK(in.is_object(), Fault::kCheckpoint, "{}: damaged: it is no JSON object; resume from another checkpoint",
           file);
  try {
    s.at.step = in.at("step");
    s.at.epoch = in.at("epoch");
    s.updates = in.at("updates");
    s.loader.epoch = in.at("loader").at("epoch");
    s.loader.batch = in.at("loader").at("batch");
    s.samples_per_batch = in.at("loader").value("samples_per_batch", int64_t{0});
    s.seed = in.at("seed");
    s.global_batch_size = in.at("global_batch_size");
  } catch (const json::exception& e) {
    fail(Fault::kCheckpoint, "{}: damaged: {}; resume from another checkpoint", file, e.what());
  }
  auto restored = schedule.load(in.value("lr_scheduler", json::object()));
  warnings.insert(warnings.end(), restored.warnings.begin(), restored.warnings.end());
  return s;
}

data::LoaderState loader_place(const TrainerState& state, int64_t samples_per_batch,
                               std::vector<std::string>& warnings) {
  if (state.samples_per_batch <= 0 || state.samples_per_batch == samples_per_batch) return state.loader;
  int64_t read = state.loader.batch * state.samples_per_batch;
  int64_t again = read % samples_per_batch;
  if (again > 0)
    warnings.push_back(
        fmt::format("{} samples of epoch {} were read when the checkpoint was saved, which is no whole number of "
                    "microbatches of {} samples: the last {} are read again",
                    read, state.loader.epoch, samples_per_batch, again));
  return {state.loader.epoch, read / samples_per_batch};
}

}  // namespace automodel::train
