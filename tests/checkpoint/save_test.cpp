#include "checkpoint/save.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "checkpoint/hf_model_dir.h"
#include "checkpoint/resume.h"
#include "checkpoint/write.h"
#include "support.h"
#include "thread_ranks.h"
#include "toy_model.h"

using namespace automodel;
using namespace automodel::checkpoint;
using namespace automodel::checkpoint::test;

namespace {

// Every file below a folder with its content.
std::map<std::string, std::string> snapshot(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder).string()] = read_file(entry.path());
  return files;
}

// Files may not grow beyond `bytes` while it lives: writing more fails as on a full disk.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    rlimit small{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallDisk() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  void (*handler_)(int) = nullptr;
};

}  // namespace

TEST_CASE("a saved checkpoint reads back bit for bit, with everything beside it") {
  TempDir dir;
  ToyModel model;
  auto request = model.request(0, 4);
  request.val_losses = {{"default", 1.25}};
  CheckpointWriter writer({.root = dir / "run"});
  fs::path folder = writer.save(request);
  CHECK(folder == dir.path() / "run" / "epoch_0_step_4");
  CHECK(is_complete(folder));
  HfModelDir saved(folder);
  CHECK(model.read(saved.tensors(), "") == model.values);
  CHECK(model.read(TensorSet::open(folder / kOptimizerFile), "exp_avg/") == model.values);
  CHECK(saved.config_text() == ToyModel::config());
  CHECK(read_file(folder / "config.yaml") == "seed: 1\n");
  CHECK(read_file(folder / "losses.json") == "{\"train_loss\":2.5,\"val_loss\":1.25}\n");
  CHECK(fs::read_symlink(dir.path() / "run" / "LATEST") == "epoch_0_step_4");
  CHECK(fs::read_symlink(dir.path() / "run" / "LOWEST_VAL") == "epoch_0_step_4");

  auto point = find_resume({dir / "run", "", ToyModel::signature()}).point;
  REQUIRE(point);
  CHECK(point->folder == folder);
  CHECK(point->step == 4);
  CHECK(point->trainer_state == request.trainer_state);
  CHECK(model.read(point->optimizer(), "exp_avg/") == model.values);
  auto manifest = nlohmann::json::parse(read_file(folder / kManifestFile));
  CHECK(manifest["model_dtypes"]["float32"] == 3);
  CHECK(manifest["files"].size() == 7);
}

TEST_CASE("ranks that write their own pieces make the very files that one rank makes") {
  TempDir dir;
  ToyModel model;
  CheckpointWriter({.root = dir / "one"}).save(model.request(1, 9));
  for (int size : {2, 3, 8}) {
    ThreadRanks ranks(size);
    fs::path root = dir / ("many" + std::to_string(size));
    ranks.run([&](const Ranks& r) { CheckpointWriter({.root = root}, r).save(model.request(1, 9, r.rank, r.size)); });
    CHECK(snapshot(root / "epoch_1_step_9") == snapshot(dir.path() / "one" / "epoch_1_step_9"));
  }
}

TEST_CASE("tensor-parallel boxes, transposed storage and a narrower type are written in place") {
  TempDir dir;
  // The model has w [6, 8]; the file has its transpose in bf16. Columns belong to rank 0 and 1, 3 and 5 of them.
  std::vector<float> whole(48);
  for (size_t i = 0; i < 48; ++i) whole[i] = static_cast<float>(i);
  for (bool transposed : {false, true}) {
    fs::path root = dir / (transposed ? "t" : "n");
    ThreadRanks ranks(2);
    ranks.run([&](const Ranks& r) {
      int64_t start = r.rank == 0 ? 0 : 3, width = r.rank == 0 ? 3 : 5;
      std::vector<float> mine;
      for (int64_t row = 0; row < 6; ++row)
        for (int64_t col = start; col < start + width; ++col) mine.push_back(whole[static_cast<size_t>(row * 8 + col)]);
      Region region{.name = "w",
                    .shape = {6, 8},
                    .box_start = {0, start},
                    .box_extent = {6, width},
                    .stored_transposed = transposed};
      // In two flat pieces that cut a row.
      Region head = region, tail = region;
      head.end = tail.begin = 2 * width + 1;
      SaveRequest request = toy().request(0, 0);
      request.optimizer = {};
      request.model = {{{"w", DType::kBF16, stored_shape(region)}},
                       {{head, DType::kF32, mine.data()}, {tail, DType::kF32, mine.data() + head.end}}};
      CheckpointWriter({.root = root}, r).save(request);
    });
    std::vector<float> read(48);
    TensorSet set = TensorSet::open(root / "epoch_0_step_0" / "model.safetensors");
    load(set, std::vector<LoadSlice>{
                  {{.name = "w", .shape = {6, 8}, .stored_transposed = transposed}, DType::kF32, read.data()}});
    CHECK(read == whole);
  }
}

TEST_CASE("elements that no rank writes, or that two ranks write, are found before publication") {
  TempDir dir;
  ToyModel model;
  for (bool twice : {false, true}) {
    ThreadRanks ranks(2);
    std::vector<std::string> errors;
    ranks.run(
        [&](const Ranks& r) {
          auto request = model.request(0, 1, r.rank, r.size);
          if (r.rank == 1 && twice) request.model.slices.push_back(request.model.slices.front());
          if (r.rank == 1 && !twice) request.model.slices.pop_back();
          CheckpointWriter({.root = dir.path()}, r).save(request);
        },
        &errors);
    CHECK(contains(errors[0], fmt::format("wrote {} elements of the model, it has 46", twice ? 46 + 8 : 46 - 12)));
    CHECK(errors[0] == errors[1]);
    CHECK(!read_pointer(dir.path(), kLatest));
  }
  auto request = model.request(0, 2);
  request.model.slices[0].region.name = "stranger";
  CHECK(error_of([&] { CheckpointWriter({.root = dir.path()}).save(request); }).fault() == Fault::kBug);
}

TEST_CASE("a failure on one rank is raised by all ranks with its message, and earlier checkpoints stay") {
  TempDir dir;
  ToyModel model;
  CheckpointWriter({.root = dir.path()}).save(model.request(0, 1));
  auto before = snapshot(dir / "epoch_0_step_1");
  ThreadRanks ranks(3);
  std::vector<std::string> errors;
  ranks.run(
      [&](const Ranks& r) {
        auto request = model.request(0, 2, r.rank, r.size);
        if (r.rank == 2) request.model.slices[0].dtype = DType::kI64;
        CheckpointWriter({.root = dir.path()}, r).save(request);
      },
      &errors);
  for (const auto& error : errors) CHECK(contains(error, "rank 2: tensor 'h.0.w'"));
  CHECK(!is_complete(dir / "epoch_0_step_2"));
  CHECK(read_pointer(dir.path(), kLatest) == dir / "epoch_0_step_1");
  CHECK(snapshot(dir / "epoch_0_step_1") == before);
}

TEST_CASE("a full disk is an io error that leaves everything written before") {
  TempDir dir;
  ToyModel model;
  CheckpointWriter writer({.root = dir.path()});
  writer.save(model.request(0, 1));
  auto before = snapshot(dir.path());
  {
    SmallDisk disk(300);
    Error error = error_of([&] { writer.save(model.request(0, 2)); });
    CHECK(error.fault() == Fault::kIo);
    CHECK(contains(error.what(), "safetensors"));
    // Where not even the marker or a pointer can be written, too.
    SmallDisk full(0);
    CHECK(error_of([&] { writer.save(model.request(0, 3)); }).fault() == Fault::kIo);
  }
  CHECK(!is_complete(dir / "epoch_0_step_2"));
  CHECK(read_pointer(dir.path(), kLatest) == dir / "epoch_0_step_1");
  auto point = find_resume({dir.path(), "", ToyModel::signature()}).point;
  REQUIRE(point);
  CHECK(point->step == 1);
  for (const auto& [name, content] : before) CHECK(read_file(dir / name) == content);
  // With room again the same name is saved over the incomplete one.
  writer.save(model.request(0, 2));
  CHECK(is_complete(dir / "epoch_0_step_2"));
}

TEST_CASE("a directory that cannot be made or written is an io error that names it") {
  TempDir dir;
  write_text(dir / "file", "");
  for (const fs::path& root : {dir / "file" / "run", fs::path("/proc/self/automodel")}) {
    Error error = error_of([&] { CheckpointWriter({.root = root}).save(toy().request(0, 1)); });
    CHECK(error.fault() == Fault::kIo);
    CHECK(contains(error.what(), root.string()));
    CHECK(error_of([&] { prepare_root(root); }).fault() == Fault::kIo);
  }
  if (::geteuid() != 0) {
    fs::permissions(dir.path(), fs::perms::owner_read | fs::perms::owner_exec);
    CHECK(error_of([&] { prepare_root(dir.path()); }).fault() == Fault::kIo);
    fs::permissions(dir.path(), fs::perms::owner_all);
  }
  prepare_root(dir / "fresh" / "run");
  CHECK(fs::is_empty(dir.path() / "fresh" / "run"));
}

TEST_CASE("killed at any stage, the run continues from a complete checkpoint and saves again") {
  ToyModel model;
  for (const char* stage :
       {"reserve", "files", "tensors", "manifest", "latest", "complete", "lowest_val", "retention"}) {
    CAPTURE(stage);
    TempDir dir;
    WriterOptions options{.root = dir.path(), .max_recent_checkpoints = 1};
    CheckpointWriter(options).save(model.request(0, 1));
    auto before = snapshot(dir / "epoch_0_step_1");
    pid_t child = ::fork();
    if (child == 0) {
      options.on_stage = [stage](const char* at) {
        if (std::strcmp(stage, at) == 0) ::_exit(77);
      };
      CheckpointWriter(options).save(model.request(0, 2));
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    REQUIRE(WEXITSTATUS(status) == 77);

    bool published = std::strcmp(stage, "lowest_val") == 0 || std::strcmp(stage, "retention") == 0;
    auto found = find_resume({dir.path(), "", ToyModel::signature()});
    REQUIRE(found.point);
    CHECK(found.point->step == (published ? 2 : 1));
    CHECK(model.read(HfModelDir(found.point->folder).tensors(), "") == model.values);
    CHECK(snapshot(dir / "epoch_0_step_1") == before);
    // LATEST moves before the marker goes: between the two it names a folder that counts as absent, and says so.
    CHECK(found.warnings.size() == (std::strcmp(stage, "complete") == 0 ? 1 : 0));

    CheckpointWriter(options).save(model.request(0, published ? 3 : 2));
    CHECK(complete_checkpoints(dir.path()).size() == 1);
    CHECK(find_resume({dir.path(), "", ToyModel::signature()}).warnings.empty());
  }
}

TEST_CASE("a complete checkpoint is never overwritten") {
  TempDir dir;
  CheckpointWriter writer({.root = dir.path()});
  ToyModel first(1), second(2);
  writer.save(first.request(0, 1));
  auto before = snapshot(dir.path());
  Error error = error_of([&] { writer.save(second.request(0, 1)); });
  CHECK(error.fault() == Fault::kCheckpoint);
  CHECK(contains(error.what(), "already exists"));
  CHECK(snapshot(dir.path()) == before);
}

TEST_CASE("LOWEST_VAL moves only to a finite and strictly lower loss, also after a restart") {
  TempDir dir;
  auto save = [&](int64_t step, std::vector<std::pair<std::string, double>> losses,
                  const std::string& key = "default") {
    auto request = toy().request(0, step);
    request.val_losses = std::move(losses);
    CheckpointWriter({.root = dir.path(), .best_metric_key = key}).save(request);
    auto target = read_pointer(dir.path(), kLowestVal);
    return target ? target->filename().string() : "";
  };
  CHECK(save(0, {}) == "");
  CHECK(save(1, {{"a", 2.0}}) == "epoch_0_step_1");
  CHECK(save(2, {{"a", 2.0}}) == "epoch_0_step_1");
  CHECK(save(3, {{"a", std::nan("")}}) == "epoch_0_step_1");
  CHECK(save(4, {{"a", -INFINITY}}) == "epoch_0_step_1");
  CHECK(save(5, {{"a", 1.0}, {"b", 1.5}}, "b") == "epoch_0_step_5");
  CHECK(save(6, {{"a", 0.5}, {"b", 1.6}}, "b") == "epoch_0_step_5");
  CHECK(save(7, {{"a", 0.5}, {"b", 0.6}}) == "epoch_0_step_5");
  CHECK(read_file(dir / "epoch_0_step_5" / "losses.json") == "{\"train_loss\":2.5,\"a\":1.0,\"b\":1.5}\n");
  CHECK(read_file(dir / "epoch_0_step_3" / "losses.json") == "{\"train_loss\":2.5,\"val_loss\":null}\n");
}

TEST_CASE("retention keeps the newest and whatever a pointer names") {
  TempDir dir;
  WriterOptions options{.root = dir.path(), .max_recent_checkpoints = 2};
  auto save = [&](int64_t epoch, int64_t step, double loss) {
    auto request = toy().request(epoch, step);
    request.val_losses = {{"default", loss}};
    CheckpointWriter(options).save(request);
    std::string names;
    for (const auto& entry : complete_checkpoints(dir.path())) names += entry.name + " ";
    return names;
  };
  fs::create_directories(dir / "epoch_0_step_x");
  fs::create_directories(dir / "epoch_0_step_2.removing-12ab");
  fs::create_directory_symlink("epoch_0_step_77", dir / "GONE");
  write_text(dir / "notes.txt", "keep me");
  save(0, 9, 1.0);
  CHECK(save(0, 10, 2.0) == "epoch_0_step_9 epoch_0_step_10 ");
  fs::create_directories(dir / "epoch_0_step_11");
  write_text(dir / "epoch_0_step_11" / ".incomplete", "");
  CHECK(save(1, 100, 3.0) == "epoch_0_step_9 epoch_0_step_10 epoch_1_step_100 ");
  CHECK(save(1, 101, 3.0) == "epoch_0_step_9 epoch_1_step_100 epoch_1_step_101 ");
  CHECK(save(1, 102, 0.5) == "epoch_1_step_101 epoch_1_step_102 ");
  CHECK(!fs::exists(dir / "epoch_0_step_11"));
  CHECK(!fs::exists(dir / "epoch_0_step_2.removing-12ab"));
  CHECK(!fs::is_symlink(dir / "GONE"));
  CHECK(fs::exists(dir / "epoch_0_step_x"));
  CHECK(fs::exists(dir / "notes.txt"));
  CHECK(error_of([&] { CheckpointWriter({.root = dir.path(), .max_recent_checkpoints = 0}); }).fault() ==
        Fault::kConfig);
}

TEST_CASE("pointers are text files where links are not to be had") {
  TempDir dir;
  CheckpointWriter writer({.root = dir.path(), .max_recent_checkpoints = 1, .symlinks = false});
  for (int64_t step : {1, 2}) {
    auto request = toy().request(0, step);
    request.val_losses = {{"default", static_cast<double>(step)}};
    writer.save(request);
  }
  CHECK(read_file(dir / "LATEST.txt") == "epoch_0_step_2\n");
  CHECK(read_file(dir / "LOWEST_VAL.txt") == "epoch_0_step_1\n");
  CHECK(!fs::is_symlink(dir / "LATEST"));
  CHECK(complete_checkpoints(dir.path()).size() == 2);
  CHECK(find_resume({dir.path(), "LOWEST_VAL", ToyModel::signature()}).point->step == 1);
  CHECK(find_resume({dir.path(), (dir / "LOWEST_VAL").string(), ToyModel::signature()}).point->step == 1);
  // A run that can make links takes over.
  CheckpointWriter({.root = dir.path()}).save(toy().request(0, 3));
  CHECK(!fs::exists(dir / "LATEST.txt"));
  CHECK(find_resume({dir.path(), "", ToyModel::signature()}).point->step == 3);
}

TEST_CASE("a large model is split into shards with an index, and the consolidated folder holds the same files") {
  TempDir dir;
  ToyModel model;
  auto request = model.request(0, 1);
  request.consolidated = true;
  fs::path folder = CheckpointWriter({.root = dir.path(), .max_shard_bytes = 100}).save(request);
  CHECK(fs::exists(folder / "model-00001-of-00002.safetensors"));
  for (const fs::path& place : {folder, folder / "model" / "consolidated"}) {
    HfModelDir saved(place);
    CHECK(saved.tensors().size() == 3);
    CHECK(model.read(saved.tensors(), "") == model.values);
    CHECK(saved.companion_files().size() == 1);
  }
  auto index = nlohmann::json::parse(read_file(folder / "model.safetensors.index.json"));
  CHECK(index["metadata"]["total_size"] == 46 * 4);
  CHECK(!fs::exists(folder / "model" / "consolidated" / kOptimizerFile));
  CHECK(plan_model_files(model.specs("", DType::kF32), 1).size() == 3);
  CHECK(find_resume({dir.path(), "", ToyModel::signature()}).point);
}

TEST_CASE("files that would shadow ours or leave the folder are refused") {
  TempDir dir;
  for (const char* name : {"automodel_checkpoint.json", "../x", "a/b", "", "..", "model.safetensors", ".incomplete"}) {
    auto request = toy().request(0, 1);
    request.hf_files[name] = "x";
    CHECK(error_of([&] { CheckpointWriter({.root = dir.path()}).save(request); }).fault() == Fault::kBug);
  }
  auto request = toy().request(0, 1);
  request.trainer_state = "{";
  CHECK(error_of([&] { CheckpointWriter({.root = dir.path()}).save(request); }).fault() == Fault::kBug);
}
