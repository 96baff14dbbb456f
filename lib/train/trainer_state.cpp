#include "train/trainer_state.h"

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace automodel::train {

using nlohmann::json;

std::string to_json(const TrainerState& s, const optim::LrSchedule& schedule) {
  json out{{"step", s.at.step},
           {"epoch", s.at.epoch},
           {"updates", s.updates},
           {"loader", {{"epoch", s.loader.epoch}, {"batch", s.loader.batch}}},
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
    s.seed = in.at("seed");
    s.global_batch_size = in.at("global_batch_size");
  } catch (const json::exception& e) {
    fail(Fault::kCheckpoint, "{}: damaged: {}; resume from another checkpoint", file, e.what());
  }
  auto restored = schedule.load(in.value("lr_scheduler", json::object()));
  warnings.insert(warnings.end(), restored.warnings.begin(), restored.warnings.end());
  return s;
}

}  // namespace automodel::train
