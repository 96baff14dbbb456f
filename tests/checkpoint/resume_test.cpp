#include "checkpoint/resume.h"

#include "support.h"
#include "toy_model.h"

using namespace automodel;
using namespace automodel::checkpoint;
using namespace automodel::checkpoint::test;

namespace {

struct Run {
  TempDir dir;
  Signature signature = ToyModel::signature();

  void save(int64_t epoch, int64_t step) { CheckpointWriter({.root = dir.path()}).save(toy().request(epoch, step)); }
  ResumeResult find(const std::string& from = "") { return find_resume({dir.path(), from, signature}); }
  std::string refusal(const std::string& from = "") {
    Error error = error_of([&] { find(from); });
    CHECK(error.fault() == Fault::kCheckpoint);
    CHECK(exit_code(error.fault()) == 2);
    return error.what();
  }
  void leave_incomplete(const std::string& name) { write_text(dir / name / ".incomplete", ""); }
};

}  // namespace

TEST_CASE("names of checkpoints are epoch_<n>_step_<n> and nothing else") {
  auto entry = parse_checkpoint_name("epoch_3_step_120");
  REQUIRE(entry);
  CHECK(entry->epoch == 3);
  CHECK(entry->step == 120);
  CHECK(checkpoint_name(3, 120) == "epoch_3_step_120");
  for (const char* name :
       {"", "epoch_", "epoch_1_step_", "epoch__step_1", "epoch_1_step_-1", "epoch_1_step_1 ", "epoch_1_step_1x",
        "xepoch_1_step_1", "epoch_1_step_99999999999999999999", "epoch_1_step_2.removing-ab", "epoch_+1_step_1"})
    CHECK(!parse_checkpoint_name(name));
}

TEST_CASE("a run without checkpoints starts afresh") {
  Run run;
  CHECK(!run.find().point);
  CHECK(run.find().warnings.empty());
  CHECK(!find_resume({run.dir / "absent", "", run.signature}).point);
  auto latest = run.find("latest");
  CHECK(!latest.point);
  REQUIRE(latest.warnings.size() == 1);
  CHECK(contains(latest.warnings[0], "starting afresh"));
}

TEST_CASE("LATEST decides, else the complete checkpoint with the highest step") {
  Run run;
  run.save(0, 9);
  run.save(0, 10);
  CHECK(run.find().point->step == 10);
  write_pointer(run.dir.path(), kLatest, "epoch_0_step_9");
  CHECK(run.find().point->step == 9);
  CHECK(run.find("Latest").point->step == 9);
  run.leave_incomplete("epoch_0_step_11");
  write_pointer(run.dir.path(), kLatest, "epoch_0_step_11");
  auto found = run.find();
  CHECK(found.point->step == 10);
  CHECK(contains(found.warnings.at(0), "incomplete"));
  write_pointer(run.dir.path(), kLatest, "epoch_0_step_12");
  CHECK(contains(run.find().warnings.at(0), "missing"));
  fs::remove(run.dir / "LATEST");
  CHECK(run.find().point->step == 10);
}

TEST_CASE("restore_from takes a name, a pointer or a path") {
  Run run, other;
  for (int64_t step = 1; step <= 7; ++step) run.save(0, step);
  CHECK(run.find("epoch_0_step_3").point->step == 3);
  CHECK(other.find((run.dir / "epoch_0_step_2").string()).point->step == 2);
  CHECK(other.find((run.dir / "epoch_0_step_2").string() + "/").point->step == 2);
  CHECK(other.find((run.dir / "LATEST").string()).point->step == 7);
  write_pointer(run.dir.path(), "BEST", "epoch_0_step_5");
  CHECK(run.find("BEST").point->step == 5);

  run.leave_incomplete("epoch_0_step_8");
  CHECK(contains(run.refusal("epoch_0_step_8"), "did not finish"));
  std::string missing = run.refusal("epoch_0_step_99");
  CHECK(contains(missing, "does not exist"));
  CHECK(contains(missing, "there are epoch_0_step_7, epoch_0_step_6, epoch_0_step_5, epoch_0_step_4, epoch_0_step_3"));
  CHECK(missing.find("epoch_0_step_2") == std::string::npos);
  CHECK(contains(other.refusal("LOWEST_VAL"), "no complete checkpoint"));
  CHECK(contains(run.refusal("/no/such/checkpoint"), "/no/such/checkpoint"));
}

TEST_CASE("a checkpoint of another model is refused with every field that differs") {
  Run run;
  run.save(0, 1);
  run.signature = make_signature(R"({"model_type": "gpt2", "n_embd": 8, "vocab_size": "6"})", "org/toy", true);
  for (const char* from : {"", "epoch_0_step_1"}) {
    std::string message = run.refusal(from);
    CHECK(contains(message, "another model"));
    CHECK(contains(message, "hidden_size: 4 in the checkpoint, 8 now"));
    CHECK(contains(message, "model_type: \"toy\" in the checkpoint, \"gpt2\" now"));
    CHECK(contains(message, "peft: false in the checkpoint, true now"));
    CHECK(message.find("vocab_size") == std::string::npos);
  }
  run.signature = make_signature(ToyModel::config(), "org/other", false);
  CHECK(contains(run.refusal(), "model_id"));
  auto named = run.find("epoch_0_step_1");
  CHECK(named.point->step == 1);
  CHECK(contains(named.warnings.at(0), "org/other"));
}

TEST_CASE("signatures compare numbers by value and know the families' names for fields") {
  auto a = make_signature(R"({"n_embd": 768, "n_layer": 12, "rope_theta": 10000, "rope_scaling": {"factor": "8"}})",
                          "m/", false);
  auto b = make_signature(
      R"({"hidden_size": 768.0, "num_hidden_layers": "12", "rope_theta": 1e4, "rope_scaling": {"factor": 8.0}})", "m",
      false);
  CHECK(differences(a, b).empty());
  auto c = make_signature(
      R"({"hidden_size": 768, "num_hidden_layers": 12, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}})",
      "m", false);
  CHECK(differences(b, c).size() == 1);  // the scaling
  CHECK(error_of([] { make_signature("[]", "m", false); }).fault() == Fault::kCheckpoint);
}

TEST_CASE("damaged checkpoints are refused with what is wrong") {
  Run run;
  run.save(0, 1);
  fs::path folder = run.dir / "epoch_0_step_1";
  std::string weights = read_file(folder / "model.safetensors");
  write_text(folder / "model.safetensors", weights.substr(0, weights.size() - 1));
  fs::remove(folder / "optimizer.safetensors");
  std::string message = run.refusal();
  CHECK(contains(message, "model.safetensors has"));
  CHECK(contains(message, "optimizer.safetensors is missing"));

  run.save(0, 2);
  folder = run.dir / "epoch_0_step_2";
  std::string manifest = read_file(folder / kManifestFile), state = read_file(folder / kTrainerStateFile);
  write_text(folder / kTrainerStateFile, std::string(state.size(), '{'));
  CHECK(contains(run.refusal(), "trainer_state.json"));
  write_text(folder / kTrainerStateFile, state);
  auto with = [&](std::string from, const std::string& to) {
    std::string changed = manifest;
    changed.replace(changed.find(from), from.size(), to);
    write_text(folder / kManifestFile, changed);
    return run.refusal();
  };
  CHECK(contains(with("\"version\": 1", "\"version\": 2"), "version 2"));
  CHECK(contains(with("\"version\": 1", "\"version\": \"1\""), "damaged or not ours"));
  CHECK(contains(with("\"step\": 2", "\"step\": null"), "lacks a field"));
  CHECK(contains(with("\"bytes\"", "\"size\""), "lacks a field"));
  CHECK(contains(with("{", "["), "damaged or not ours"));
  fs::remove(folder / kManifestFile);
  CHECK(contains(run.refusal(), "no checkpoint of this program"));
}
